"""Every GET page of the router, as everybody who may see it: how long it takes, and what it asks.

A new page is walked as soon as it is in the table of routes. One whose path has a new kind of
parameter fails here until it is said what that could name.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from load.pagebooks import INVITE, PASSWORD, Books
from sqlalchemy import Connection, Engine, event

from admin.settings import AdminSettings
from admin.signins import SignIns, Visitor
from admin.web.app import make_app
from admin.web.desk import Desk, access_of
from admin.web.routes import PAGES
from store.clock import wall_us
from store.records import Account
from store.sessions import SignInRepository

TIMES: Final = 12
BIG: Final = frozenset({"ledger", "daily"})
"""What no page may look through from end to end."""

_ABSENT: Final = frozenset({"/sign-in/oidc", "/sign-in/oidc/callback", "/register"})
"""Not there, as no provider is configured and nobody may register."""

_RANGES: Final = ("?days=365", "?days=90", "?days=7", "?from=2026-01-01&to=2026-12-01")
_QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "/keys": ("?q=99", "?q=nothing-has-this", "?page=40", "?show=revoked", "?show=expired&q=1"),
    "/keys/new": ("?from={key}",),
    "/keys/cost": ("?scope=all", "?model=llama-3.1-8b"),
    "/usage": (
        *_RANGES,
        "?by=key&days=365",
        "?by=key",
        "?by=team&days=90",
        "?key={key}&days=365",
        "?key={key}&by=key",
    ),
    "/usage.csv": ("?days=365", "?key={key}&days=365"),
    "/usage/calls": ("?q={request}", "?q=nothing-has-this", "?key={key}", "?behind={behind}"),
    "/usage/calls.csv": ("?days=365", "?key={key}&days=365"),
    "/admin/usage": (
        *_RANGES,
        "?by=team&days=90",
        "?by=user",
        "?by=user&days=365",
        "?user={user}",
        "?user={user}&by=key&days=365",
        "?user={user}&key={key}&days=90",
    ),
    "/admin/usage.csv": ("?days=7", "?user={user}&days=365"),
    "/admin/usage/calls": (
        "?q={request}",
        "?q=nothing-has-this",
        "?user={user}&key={key}",
        "?user={user}&behind={behind}",
        "?behind={behind}",
    ),
    "/admin/usage/calls.csv": ("?days=7", "?user={user}&days=7"),
    "/admin/users": ("?page=3", "?q=user-1", "?q=nothing-has-this"),
    "/admin/users/{account}": ("?page=9", "?show=revoked"),
    "/admin/teams": ("?months=12", "?months=3"),
    "/admin/audit": ("?q=heavy", "?q=nothing-has-this", "?action=key.mint", "?before=20000"),
}
"""What a page is asked beside its plain address: the longest ranges, filters, a search."""


@dataclass
class Times:
    """Of one address, in ms. `whole` is until the last byte of an export had come."""

    who: str
    address: str
    each: list[float] = field(default_factory=list)
    whole: float | None = None
    kilobytes: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.each)


def addresses(books: Books, account: Account | None) -> Iterator[str]:
    """All that somebody can ask for by GET."""
    named = {
        "key": books.key.id,
        "key_id": books.key.id,
        "account": books.heavy.id,
        "user": books.heavy.email,
        "request": books.request_id,
        "behind": f"{wall_us() - 40 * 86_400_000_000}.1",
        "token": INVITE,
    }
    mine = access_of(account)
    for page in PAGES:
        if page.method != "GET" or page.access > mine or page.path in _ABSENT:
            continue
        if account is not books.heavy and page.path.startswith("/keys/{"):
            continue  # the key is not theirs
        unknown = set(re.findall(r"{(\w+)}", page.path)) - named.keys()
        assert not unknown, f"{page.path}: say in this file what {unknown} could name"
        for question in (*_QUESTIONS.get(page.path, ()), ""):
            of_anybody = "{user}" in question
            if "{key}" in question and account is not books.heavy and not of_anybody:
                continue
            yield (page.path + question).format_map(named)


def known_questions() -> bool:
    """Whether every page that has questions here is still there."""
    return {page.path for page in PAGES if page.method == "GET"} >= _QUESTIONS.keys() | _ABSENT


# -- by HTTP, of the real process


def timed(url: str, books: Books, times: int = TIMES) -> list[Times]:
    """Each address so often, each account having signed in by its password."""
    found: list[Times] = []
    for account in (None, books.heavy, books.auditor, books.admin):
        headers = {"sec-fetch-site": "same-origin"}
        with httpx2.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
            if account is not None:
                form = {"email": account.email, "password": PASSWORD}
                assert client.post("/sign-in", data=form).status_code == 303
            who = "nobody" if account is None else account.email.partition("@")[0]
            rows = [Times(who, address) for address in addresses(books, account)]
            for number in range(times):  # in rounds: a moment's other work is not one page's
                for row in rows:
                    _time(client, row, whole=number == 0)
            found += rows
    return found


def _time(client: httpx2.Client, row: Times, *, whole: bool) -> None:
    """Until all is there; of an export until it begins, and if asked until it ends."""
    begun = time.perf_counter()
    with client.stream("GET", row.address) as answer:
        assert answer.status_code in {200, 303}, (row.address, answer.status_code)
        if ".csv" not in row.address:
            row.kilobytes = len(answer.read()) >> 10
            row.each.append((time.perf_counter() - begun) * 1000)
            return
        parts = answer.iter_bytes()
        first = next(parts, b"")
        row.each.append((time.perf_counter() - begun) * 1000)
        if whole:
            row.kilobytes = (len(first) + sum(map(len, parts))) >> 10
            row.whole = (time.perf_counter() - begun) * 1000


def table(found: Sequence[Times]) -> str:
    """For people: the slowest first."""
    lines = ["  median  slowest    first  who      page"]
    for row in sorted(found, key=lambda row: -row.median):
        whole = "" if row.whole is None else f"  ({row.kilobytes:,} KiB in {row.whole:,.0f} ms)"
        lines.append(
            f"{row.median:8.1f} {max(row.each):8.1f} {row.each[0]:8.1f}  "
            f"{row.who:8} {row.address}{whole}"
        )
    return "\n".join(lines)


# -- in this process, to see what is asked of the database


@dataclass(frozen=True)
class Asked:
    """One address's statements, with what was bound to them."""

    address: str
    statements: tuple[tuple[str, Any], ...]


def asked_of(engine: Engine, settings: AdminSettings, books: Books) -> list[Asked]:
    """The statements of each address, the first time that it is asked for."""
    seen: list[tuple[str, Any]] = []

    def note(_: Connection, __: Any, statement: str, parameters: Any, *___: object) -> None:
        seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    desk = Desk(settings, engine, wall_us, lambda: ())
    try:
        return asyncio.run(_walked(desk, books, seen))
    finally:
        event.remove(engine, "before_cursor_execute", note)
        desk.keys.close()


async def _walked(desk: Desk, books: Books, seen: list[tuple[str, Any]]) -> list[Asked]:
    found = []
    transport = httpx2.ASGITransport(make_app(desk))
    base = f"http://{desk.settings.admin_listen}"
    for account in (None, books.heavy, books.auditor, books.admin):
        cookies = {} if account is None else {"tensorgate_session": _signed_in(desk, account)}
        async with httpx2.AsyncClient(
            transport=transport, base_url=base, cookies=cookies
        ) as client:
            for address in addresses(books, account):
                seen.clear()
                answer = await client.get(address)
                assert answer.status_code in {200, 303}, (address, answer.status_code)
                found.append(Asked(address, tuple(seen)))
    return found


def _signed_in(desk: Desk, account: Account) -> str:
    people = SignIns(SignInRepository(desk.engine), desk.settings, wall_us)
    return people.by_password(account.email, PASSWORD, Visitor("127.0.0.1", "a test")).token


def read_through(engine: Engine, asked: Sequence[Asked], *, small: bool) -> list[str]:
    """A line for each statement that would look through one of the BIG tables.

    `small`: where so few rows are there that PostgreSQL would rather read all of them, it is told
    to do so only where no index helps.
    """
    found: dict[str, str] = {}
    with engine.connect() as held:
        connection = held.execution_options(
            **({"isolation_level": "AUTOCOMMIT"} if engine.dialect.name == "postgresql" else {})
        )
        if small and engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET enable_seqscan = off")
        for each in asked:
            for statement, parameters in each.statements:
                if statement in found or not any(name in statement for name in BIG):
                    continue
                fault = _fault(connection, statement, parameters)
                found[statement] = f"{each.address}: {fault}\n{statement}" if fault else ""
        held.invalidate()
    return [line for line in found.values() if line]


def _fault(connection: Connection, statement: str, parameters: Any) -> str | None:
    if not statement.lstrip().upper().startswith(("SELECT", "WITH")):
        return None
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        scans = [str(row[3]) for row in plan if str(row[3]).startswith("SCAN ")]
        return next((scan for scan in scans if scan.split()[1] in BIG), None)
    (plan,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).one()
    return next(_scans(plan[0]["Plan"]), None)


def _scans(node: dict[str, Any], *, limited: bool = False) -> Iterator[str]:
    """Nodes of a plan that read a big table without an index, or an index from end to end.

    `limited`: only the first few rows of this node are taken.
    """
    kind = node["Node Type"]
    by_index = kind in {"Index Scan", "Index Only Scan"}
    whole = kind == "Seq Scan" or (by_index and "Index Cond" not in node and not limited)
    if whole and node.get("Relation Name") in BIG:
        yield f"{kind} of {node['Relation Name']}"
    for below in node.get("Plans", ()):
        yield from _scans(below, limited=kind == "Limit")
