"""For auditors: what teams spent, by month. For admins: who changed what, and how the gate is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from admin.web import keyforms
from admin.web.csvfile import csv_answer
from admin.web.desk import Access, Page, desk
from admin.web.pages import render
from admin.web.programs import program
from store.auditlog import AuditLog, Entry
from store.control import Control
from store.errors import StoreError
from store.keys import KeyRepository
from store.records import SECOND_US
from store.replicas import Replicas
from store.rollups import usd_exact
from store.teamspend import MONTHS, MOST_MONTHS, Month, Spent, last_months, month_at
from store.text import usd, utc

SEARCH_CHARS: Final = 100
CONTROL_SECONDS: Final = 0.3
MOST_MODELS: Final = 500
_SPANS: Final = (3, MONTHS, 12)
_CSV: Final = ("month", "team", "calls", "charge_usd")


def teams_page(request: Request) -> Response:
    """Teams by months, with the sums of both."""
    parts = desk(request)
    now_us = parts.clock()
    chosen = keyforms.number(request.query_params.get("months", ""))
    months = last_months(now_us, chosen if chosen in _SPANS else MONTHS)
    found = parts.team_spend.months(months, now_us)
    rows: dict[str | None, dict[Month, Spent]] = {}
    for month, spents in found.items():
        for each in spents:
            rows.setdefault(each.team, {})[month] = each
    teams = sorted(rows, key=lambda team: (team is None, team or ""))
    return render(
        request,
        "teams.html",
        months=months,
        teams=[(team, rows[team], _sum(rows[team].values())) for team in teams],
        totals={month: _sum(spents) for month, spents in found.items()},
        total=_sum(each for spents in found.values() for each in spents),
        spans=_SPANS,
    )


def teams_csv(request: Request) -> Response:
    """The same of every month that there are sums of, for a spreadsheet."""
    parts = desk(request)
    now_us = parts.clock()
    months = [month_at(now_us)]
    first = parts.team_spend.first_month(now_us)
    while months[-1] > first and len(months) < MOST_MONTHS:
        months.append(months[-1].before())
    found = parts.team_spend.months(months, now_us)

    def rows() -> Iterator[tuple[Any, ...]]:
        for month in reversed(months):
            for each in found[month]:
                yield month.text, each.team or "", each.calls, usd_exact(each.nanousd)

    return csv_answer("teams.csv", _CSV, rows())


def audit_page(request: Request) -> Response:
    """Every change, the newest first."""
    asked = request.query_params.get
    search, action = asked("q", "").strip()[:SEARCH_CHARS], asked("action", "")
    log = AuditLog(desk(request).engine)
    before = keyforms.number(asked("before", ""))
    page = log.page(before=before if before > 0 else None, search=search, action=action)
    return render(
        request,
        "audit.html",
        page=page,
        changes={entry.id: _told(entry) for entry in page.entries},
        search=search,
        action=action,
        actions=[("", "Every action"), *((each, each) for each in sorted(log.actions()))],
        older=page.older,
    )


def system_page(request: Request) -> Response:
    """Who runs, the catalog, the counters, and the frame for what is found of each part."""
    parts = desk(request)
    catalog = parts.catalog()
    processes = Replicas(parts.engine)
    return render(
        request,
        "system.html",
        catalog=catalog,
        models=list(catalog.models.items())[:MOST_MODELS],
        counters=_counters(request),
        processes=processes.live(),
        newest=KeyRepository(parts.engine).last_change(),
        now_us=processes.now_us(),
    )


def parts_page(request: Request) -> Response:
    """What `tensorgate doctor` finds, looked at now or some seconds ago."""
    template = "parts/findings.html" if "hx-request" in request.headers else "findings.html"
    return render(request, template, findings=desk(request).found())


def _counters(request: Request) -> dict[str, Any] | None:
    """What a running authz says of open holds and drift; None where none answers."""
    try:
        said = Control.of(desk(request).settings).ask("counters", seconds=CONTROL_SECONDS)
    except StoreError:
        return None
    return said if isinstance(said, dict) else None


def _sum(spents: Any) -> int:
    return sum(each.nanousd for each in spents)


def _told(entry: Entry) -> list[tuple[str, str, str]]:
    """(what, old, new) of an entry, as people read it; empty is "nothing was there"."""
    return [
        (_NAMES.get(name, name), _text(name, entry.before), _text(name, entry.after))
        for name in entry.changed
    ]


_NAMES: Final = {
    "budget_nanousd": "budget",
    "expires_us": "expires",
    "revoked_us": "revoked",
}


def _text(name: str, facts: dict[str, Any]) -> str:
    value = facts.get(name, "")
    if value is None:
        return {"models": "all models", "revoked_us": "no"}.get(name, "none")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    if isinstance(value, int) and name.endswith("_nanousd"):
        return usd(value)
    if isinstance(value, int) and name.endswith("_us") and 0 <= value < _LAST_US:
        return utc(value)
    return program(str(value)) if value and name == "agent" else str(value)


_LAST_US: Final = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * SECOND_US

PAGES: Final = (
    Page("GET", "/admin/teams", teams_page, Access.AUDITOR),
    Page("GET", "/admin/teams.csv", teams_csv, Access.AUDITOR),
    Page("GET", "/admin/audit", audit_page, Access.ADMIN),
    Page("GET", "/admin/system", system_page, Access.ADMIN),
    Page("GET", "/admin/system/parts", parts_page, Access.ADMIN),
)
