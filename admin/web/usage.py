"""The pages of usage: sums, charts, a budget's burn-down, CSV, and the last calls.

Everybody sees their own. A chart is drawn from the table that stands beneath it, so what is read
out to one person is what another one sees.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from admin.web.desk import Page, current_account, desk
from admin.web.keyforms import number
from admin.web.pages import error_page, render
from admin.web.usagetext import Burn, burn_down, days_of, safe_cell
from store.control import Control
from store.errors import InputError, StoreError
from store.keylist import KeyLine, KeyList, Show
from store.ledgerreader import EXPORTED, exported
from store.ledgersums import day_text
from store.records import DAY_US, Account
from store.rollups import usd_exact
from store.usagereads import MAX_DAYS, By, Call, Of, Place, Series, Sums, UsageReader

RANGES: Final = (7, 30, 90, 365)
DEFAULT_DAYS: Final = 30
CALLS_SHOWN: Final = 10
CALLS_A_PAGE: Final = 50
ID_CHARS: Final = 200
REFUSAL_SECONDS: Final = 0.5

_SUMS: Final = (
    "day",
    "key_id",
    "alias",
    "team",
    "model",
    "calls",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "charge_usd",
)  # FROZEN FORMAT: append only


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page of usage is about."""

    of: Of
    by: By
    preset: int | None  # of RANGES

    def query(self, **other: str | None) -> str:
        """The same question, but for `other`, behind a path."""
        mine: dict[str, str | None] = {
            "by": None if self.by is By.MODEL else self.by.value,
            "key": self.of.key_id,
        }
        if self.preset is not None:
            mine["days"] = None if self.preset == DEFAULT_DAYS else str(self.preset)
        else:
            mine |= {"from": day_text(self.of.first_day), "to": day_text(self.of.last_day)}
        if "days" in other:
            mine |= {"from": None, "to": None}
        kept = {name: value for name, value in (mine | other).items() if value is not None}
        return f"?{urlencode(kept)}" if kept else ""


def usage_page(request: Request) -> Response:
    """Sums and charts of a range, and the last few calls."""
    account = current_account(request)
    each = desk(request)
    now_us = each.clock()
    asked = _asked(request, account, now_us)
    if asked is None:
        return _no_such_range(request)
    reader = each.usage
    of, today = asked.of, now_us // DAY_US
    total = reader.total(of, today)
    refused = reader.refused(of)
    series = reader.series(of, asked.by, today)
    calls = reader.calls(account.id, key_id=of.key_id, limit=CALLS_SHOWN)
    shown = {call.row.key_id for call in calls}
    if asked.by is By.KEY:
        shown |= {one.name for one in series if one.name is not None}
    names = each.key_list.names(account.id)
    called = each.key_list.called(account.id, shown)
    burn = _burn(request, account, reader, of.key_id, now_us)
    return render(
        request,
        "usage.html",
        asked=asked,
        by=asked.by.value,
        names=names,
        total=total,
        before=_before(reader, of, today),
        refused_calls=sum(calls for _, _, calls in refused),
        series=_named(series, asked.by, called),
        refusals=_reasons(refused),
        took=reader.took(of, today),
        burn=burn,
        days=list(of.days),
        day_text=day_text,
        ranges=_ranges(asked),
        groups=_groups(asked),
        calls=calls,
        aliases={key_id: alias for key_id, (alias, _) in called.items()},
        longest=MAX_DAYS,
    )


def calls_page(request: Request) -> Response:
    """The calls that are over, the last first; one of them by its request id."""
    account = current_account(request)
    each = desk(request)
    asked = request.query_params
    key_id = asked.get("key") or None
    if key_id and each.key_list.line(account.id, key_id, each.clock()) is None:
        return _no_such_range(request)
    request_id = asked.get("q", "").strip()[:ID_CHARS]
    found = each.usage.calls(
        account.id,
        key_id=key_id,
        request_id=request_id or None,
        behind=_place(asked.get("behind")),
        limit=CALLS_A_PAGE + 1,
    )
    calls = found[:CALLS_A_PAGE]
    called = each.key_list.called(account.id, {call.row.key_id for call in calls})
    return render(
        request,
        "calls.html",
        calls=calls,
        names=each.key_list.names(account.id),
        aliases={one: alias for one, (alias, _) in called.items()},
        key_id=key_id,
        search=request_id,
        behind=_behind(calls, key_id) if len(found) > CALLS_A_PAGE else None,
        begins="behind" not in asked,
        refusal=_refusal(request, account, request_id) if request_id and not calls else None,
    )


def sums_csv(request: Request) -> Response:
    """The sums by day of the range, as CSV: exact, for a spreadsheet."""
    account = current_account(request)
    each = desk(request)
    asked = _asked(request, account, each.clock())
    if asked is None:
        return _no_such_range(request)
    lines = each.usage.lines(asked.of)
    rows = ((day_text(line[0]), *line[1:5], *_numbers(line[5])) for line in lines)
    name = f"usage-{day_text(asked.of.first_day)}-{day_text(asked.of.last_day)}.csv"
    return csv_answer(name, _SUMS, rows)


def calls_csv(request: Request) -> Response:
    """Every call that began in the range, as CSV: the ledger's rows, the last first."""
    account = current_account(request)
    each = desk(request)
    asked = _asked(request, account, each.clock())
    if asked is None:
        return _no_such_range(request)
    reader = each.usage

    def rows() -> Iterator[Sequence[Any]]:
        for call in reader.every_call(asked.of):
            yield list(exported(call.row).values())

    name = f"calls-{day_text(asked.of.first_day)}-{day_text(asked.of.last_day)}.csv"
    return csv_answer(name, EXPORTED, rows())


# -- what was asked


def _asked(request: Request, account: Account, now_us: int) -> Asked | None:
    """None for a range or a key that there is not."""
    query = request.query_params
    key_id = query.get("key") or None
    if key_id is not None and desk(request).key_list.line(account.id, key_id, now_us) is None:
        return None
    by = next((each for each in By if each.value == query.get("by")), By.MODEL)
    today = now_us // DAY_US
    if query.get("from") or query.get("to"):
        range_ = days_of(query.get("from", ""), query.get("to", ""), today)
        if range_ is None:
            return None
        return Asked(Of(account.id, *range_, key_id), by, None)
    days = number(query.get("days", ""))
    preset = days if days in RANGES else DEFAULT_DAYS
    return Asked(Of(account.id, max(0, today - preset + 1), today, key_id), by, preset)


def _ranges(asked: Asked) -> list[tuple[str, str, None, bool]]:
    return [
        (
            f"/usage{asked.query(days=None if days == DEFAULT_DAYS else str(days))}",
            "1 year" if days == RANGES[-1] else f"{days} days",
            None,
            days == asked.preset,
        )
        for days in RANGES
    ]


def _groups(asked: Asked) -> list[tuple[str, str, None, bool]]:
    return [
        (
            f"/usage{asked.query(by=None if by is By.MODEL else by.value)}",
            by.value.capitalize(),
            None,
            by is asked.by,
        )
        for by in By
    ]


def _no_such_range(request: Request) -> Response:
    return error_page(
        request,
        404,
        "There is no such usage",
        f"Choose one of your keys, and 1 to {MAX_DAYS} days that have begun.",
    )


# -- what is shown


def _before(reader: UsageReader, of: Of, today: int) -> Sums | None:
    """What as many days before it add up to; None where there are none before."""
    earlier = of.before()
    return None if earlier.first_day < 0 else reader.total(earlier, today)


def _named(
    series: list[Series], by: By, keys: Mapping[str, tuple[str, str]]
) -> list[tuple[str, Series]]:
    """Each with what people call it."""
    aliases = {key_id: f"{alias} ({hint[-4:]})" for key_id, (alias, hint) in keys.items()}

    def called(name: str | None) -> str:
        if name is None:
            return "all others"
        if by is By.KEY:
            return aliases.get(name, name)
        return name or "no team"

    return [(called(each.name), each) for each in series]


def _reasons(refused: list[tuple[int, str, int]]) -> list[tuple[str, dict[int, int], int]]:
    """(reason, calls by day, calls), the commonest first."""
    found: dict[str, dict[int, int]] = {}
    for day, reason, calls in refused:
        found.setdefault(reason, {})[day] = calls
    reasons = ((reason, days, sum(days.values())) for reason, days in found.items())
    return sorted(reasons, key=lambda each: (-each[2], each[0]))


def _burn(
    request: Request, account: Account, reader: UsageReader, key_id: str | None, now_us: int
) -> Burn | None:
    """The burn-down of the key that was chosen; None where it has no budget.

    Where none was chosen, of the account's own budget, else of the key that is nearest to its end.
    """
    each = desk(request)
    if key_id is None:
        budget = each.catalog().plan_of(account.plan).account_budget_nanousd
        if budget is not None:
            window = reader.window(account.id, account.id, account.created_us, now_us)
            return burn_down("your account", budget, window, now_us)
        line = _tightest(each.key_list, account.id, now_us)
    else:
        line = each.key_list.line(account.id, key_id, now_us)
    budget = None if line is None else line.record.budget_nanousd
    if line is None or budget is None:
        return None
    window = reader.window(account.id, line.record.id, line.record.created_us, now_us)
    return burn_down(line.record.alias, budget, window, now_us)


def _tightest(key_list: KeyList, account_id: str, now_us: int) -> KeyLine | None:
    lines = key_list.page(account_id, Show.LIVE, now_us).lines
    budgeted = [line for line in lines if line.record.budget_nanousd]
    return max(
        budgeted,
        key=lambda line: line.spent_nanousd * 1000 // (line.record.budget_nanousd or 1),
        default=None,
    )


def _place(text: str | None) -> Place | None:
    at, _, seq = (text or "").partition(".")
    if at.isdecimal() and seq.isdecimal() and len(at) < 19 and len(seq) < 19:  # noqa: PLR2004  digits of 64 bits
        return Place(int(at), int(seq))
    return None


def _behind(calls: list[Call], key_id: str | None) -> str:
    last = calls[-1]
    query = {"behind": f"{last.row.admitted_us}.{last.seq}"} | ({"key": key_id} if key_id else {})
    return f"/usage/calls?{urlencode(query)}"


def _refusal(request: Request, account: Account, request_id: str) -> dict[str, Any] | None:
    """What a running authz on this machine knows of a call of this account that it refused."""
    try:
        found = Control.of(desk(request).settings).ask(
            "refusal", id=request_id, seconds=REFUSAL_SECONDS
        )
    except (StoreError, InputError):
        return None
    mine = isinstance(found, dict) and found.get("user") == account.email
    return found if mine else None


# -- CSV


def _numbers(sums: Sums) -> tuple[int | str, ...]:
    return (
        sums.calls,
        sums.input_tokens,
        sums.cached_input_tokens,
        sums.cache_write_tokens,
        sums.output_tokens,
        usd_exact(sums.nanousd),
    )


def csv_answer(name: str, head: Sequence[str], rows: Iterator[Sequence[Any]]) -> Response:
    """A file to keep. No cell of it is read as a formula."""
    return StreamingResponse(
        _lines(head, rows),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def _lines(head: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    # every text is quoted: left to itself, csv would let a lone carriage return break a row
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(head)
    yield _taken(buffer)  # at once: that it begins is seen before the first row is found
    for row in rows:
        writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in row])
        if buffer.tell() > 1 << 16:
            yield _taken(buffer)
    yield buffer.getvalue()


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


PAGES: Final = (
    Page("GET", "/usage", usage_page),
    Page("GET", "/usage.csv", sums_csv),
    Page("GET", "/usage/calls", calls_page),
    Page("GET", "/usage/calls.csv", calls_csv),
)
