"""The pages of usage: sums, charts, a budget's burn-down, CSV, and the last calls.

Everybody sees their own, auditors and admins anybody's. A chart is drawn from the table that
stands beneath it, so what is read out to one person is what another one sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from admin.web.csvfile import csv_answer
from admin.web.desk import Access, Page, desk
from admin.web.pages import error_page, render
from admin.web.usageasked import ALL, MINE, Whose, anybodys, asked_of, has_key, mine
from admin.web.usagetext import Burn, burn_down
from store.control import Control
from store.errors import InputError, StoreError
from store.keylist import KeyLine, KeyList, Show
from store.ledgerreader import EXPORTED, exported
from store.ledgersums import day_text
from store.records import DAY_US
from store.rollups import usd_exact
from store.usagereads import MAX_DAYS, By, Of, Place, Series, Sums, UsageReader, place_of

CALLS_SHOWN: Final = 10
CALLS_A_PAGE: Final = 50
USERS_SUGGESTED: Final = 200
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
_SUMS_OF_ALL: Final = ("day", "user", *_SUMS[1:])  # FROZEN FORMAT: append only


def _usage(request: Request, whose: Whose) -> Response:
    """Sums and charts of a range, and the last few calls."""
    each = desk(request)
    now_us = each.clock()
    asked = asked_of(request, whose, now_us)
    if asked is None:
        return _no_such_usage(request)
    reader = each.usage
    of, today = asked.of, now_us // DAY_US
    refused = reader.refused(of, today)
    series = reader.series(of, asked.by, today)
    calls = reader.calls(whose.account_id, key_id=of.key_id, limit=CALLS_SHOWN)
    shown = {call.row.key_id for call in calls}
    if asked.by is By.KEY:
        shown |= {one.name for one in series if one.name is not None}
    called = each.key_list.called(whose.account_id, shown)
    return render(
        request,
        "usage.html",
        asked=asked,
        **_choices(request, whose),
        total=_together(series),
        before=_before(reader, of, today),
        refused_calls=sum(calls for _, _, calls in refused),
        series=_named(request, series, asked.by, called),
        refusals=_reasons(refused),
        took=reader.took(of, today),
        burn=_burn(request, whose, reader, of.key_id, now_us),
        days=list(of.days),
        day_text=day_text,
        calls=calls,
        aliases={key_id: alias for key_id, (alias, _) in called.items()},
    )


def _calls(request: Request, whose: Whose) -> Response:
    """The calls that are over, the last first; one of them by its request id."""
    each = desk(request)
    asked = request.query_params
    key_id = asked.get("key") or None
    if key_id and not has_key(request, whose, key_id):
        return _no_such_usage(request)
    request_id = asked.get("q", "").strip()[:ID_CHARS]
    found = each.usage.calls(
        whose.account_id,
        key_id=key_id,
        request_id=request_id or None,
        behind=_place(asked.get("behind")),
        limit=CALLS_A_PAGE + 1,
    )
    calls = found[:CALLS_A_PAGE]
    called = each.key_list.called(whose.account_id, {call.row.key_id for call in calls})
    last = place_of(calls[-1], whose.account_id) if len(found) > CALLS_A_PAGE else None
    return render(
        request,
        "calls.html",
        **_choices(request, whose),
        calls=calls,
        aliases={one: alias for one, (alias, _) in called.items()},
        key_id=key_id,
        search=request_id,
        behind=last and whose.address("/calls", key=key_id, behind=f"{last.at_us}.{last.seq}"),
        begins="behind" not in asked,
        refusal=_refusal(request, whose, request_id) if request_id and not calls else None,
    )


def _sums_csv(request: Request, whose: Whose) -> Response:
    """The sums by day of the range, as CSV: exact, for a spreadsheet."""
    each = desk(request)
    asked = asked_of(request, whose, each.clock())
    if asked is None:
        return _no_such_usage(request)
    lines = each.usage.lines(asked.of)
    rows = ((day_text(line[0]), *line[1:-1], *_numbers(line[-1])) for line in lines)
    head = _SUMS_OF_ALL if whose.account is None else _SUMS
    return csv_answer(_file("usage", asked.of), head, rows)


def _calls_csv(request: Request, whose: Whose) -> Response:
    """Every call that began in the range, as CSV: the ledger's rows, the last first.

    Everybody's: every call that ended in it.
    """
    each = desk(request)
    asked = asked_of(request, whose, each.clock())
    if asked is None:
        return _no_such_usage(request)
    reader = each.usage

    def rows() -> Iterator[Sequence[Any]]:
        for call in reader.every_call(asked.of):
            yield list(exported(call.row).values())

    return csv_answer(_file("calls", asked.of), EXPORTED, rows())


def _file(what: str, of: Of) -> str:
    return f"{what}-{day_text(of.first_day)}-{day_text(of.last_day)}.csv"


def _no_such_usage(request: Request) -> Response:
    return error_page(
        request,
        404,
        "There is no such usage",
        f"Choose an account and a key that you may see, and 1 to {MAX_DAYS} days that have begun.",
    )


# -- what is shown


def _choices(request: Request, whose: Whose) -> dict[str, Any]:
    """Whose, and what the fields of a page offer to choose from."""
    each = desk(request)
    account = whose.account
    return {
        "whose": whose,
        "names": [] if account is None else each.key_list.names(account.id),
        "emails": each.account_list.emails(USERS_SUGGESTED) if whose.all else [],
    }


def _together(series: Sequence[Series]) -> Sums:
    total = Sums()
    for each in series:
        total = total.plus(each.total)
    return total


def _before(reader: UsageReader, of: Of, today: int) -> Sums | None:
    """What as many days before it add up to; None where there are none before."""
    earlier = of.before()
    return None if earlier.first_day < 0 else reader.total(earlier, today)


def _named(
    request: Request, series: list[Series], by: By, keys: Mapping[str, tuple[str, str]]
) -> list[tuple[str, Series]]:
    """Each with what people call it."""
    names: Mapping[str, str] = {}
    if by is By.KEY:
        names = {key_id: f"{alias} ({hint[-4:]})" for key_id, (alias, hint) in keys.items()}
    elif by is By.USER:
        names = desk(request).account_list.called({each.name for each in series if each.name})

    def called(name: str | None) -> str:
        if name is None:
            return "all others"
        return names.get(name, name) or "no team"

    return [(called(each.name), each) for each in series]


def _reasons(refused: list[tuple[int, str, int]]) -> list[tuple[str, dict[int, int], int]]:
    """(reason, calls by day, calls), the commonest first."""
    found: dict[str, dict[int, int]] = {}
    for day, reason, calls in refused:
        found.setdefault(reason, {})[day] = calls
    reasons = ((reason, days, sum(days.values())) for reason, days in found.items())
    return sorted(reasons, key=lambda each: (-each[2], each[0]))


def _burn(
    request: Request, whose: Whose, reader: UsageReader, key_id: str | None, now_us: int
) -> Burn | None:
    """The burn-down of the key that was chosen; None where it has no budget.

    Where none was chosen, of the account's own budget, else of the key that is nearest to its end.
    Everybody together has no budget.
    """
    account = whose.account
    if account is None:
        return None
    each = desk(request)
    if key_id is None:
        budget = each.catalog().plan_of(account.plan).account_budget_nanousd
        if budget is not None:
            window = reader.window(account.id, account.id, account.created_us, now_us)
            return burn_down("the account" if whose.all else "your account", budget, window, now_us)
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


def _refusal(request: Request, whose: Whose, request_id: str) -> dict[str, Any] | None:
    """What a running authz on this machine knows of a call of theirs that it refused."""
    try:
        found = Control.of(desk(request).settings).ask(
            "refusal", id=request_id, seconds=REFUSAL_SECONDS
        )
    except (StoreError, InputError):
        return None
    if not isinstance(found, dict):
        return None
    theirs = whose.account is None or found.get("user") == whose.account.email
    return found if theirs else None


def _numbers(sums: Sums) -> tuple[int | str, ...]:
    return (
        sums.calls,
        sums.input_tokens,
        sums.cached_input_tokens,
        sums.cache_write_tokens,
        sums.output_tokens,
        usd_exact(sums.nanousd),
    )


# -- the same pages for two


def _pages(below: str, shown: Callable[[Request, Whose], Response]) -> tuple[Page, Page]:
    """One of one's own usage, and one of anybody's for those who may see it."""

    def own(request: Request) -> Response:
        return shown(request, mine(request))

    def all_(request: Request) -> Response:
        whose = anybodys(request)
        return _no_such_usage(request) if whose is None else shown(request, whose)

    return (
        Page("GET", f"{MINE}{below}", own),
        Page("GET", f"{ALL}{below}", all_, Access.AUDITOR),
    )


PAGES: Final = (
    *_pages("", _usage),
    *_pages(".csv", _sums_csv),
    *_pages("/calls", _calls),
    *_pages("/calls.csv", _calls_csv),
)
