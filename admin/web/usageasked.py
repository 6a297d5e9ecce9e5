"""What a page of usage is asked: whose, of which days and which key, told apart by what.

One's own usage is under MINE, for everybody who has an account; anybody's under ALL, for those
who may read everybody's spend. A page of the former takes no name of another account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request

from admin.web.desk import Access, access_of, current_account, desk
from admin.web.keyforms import number
from admin.web.usagetext import days_of
from store.ledgersums import day_text
from store.records import DAY_US, Account
from store.usagereads import By, Of

MINE: Final = "/usage"
ALL: Final = "/admin/usage"
RANGES: Final = (7, 30, 90, 365)
DEFAULT_DAYS: Final = 30
EMAIL_CHARS: Final = 254

Views = list[tuple[str, str, None, bool]]
"""Links that choose one of several views, as parts/ui.html draws them."""


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose usage the pages under `root` show; no account is everybody's."""

    root: str
    account: Account | None

    @property
    def account_id(self) -> str | None:
        return None if self.account is None else self.account.id

    @property
    def all(self) -> bool:
        """Whether it may be another's than that of whoever looks."""
        return self.root == ALL

    @property
    def ways(self) -> tuple[By, ...]:
        """What the spend of a day can be told apart by."""
        if self.account is None:
            return (By.MODEL, By.TEAM, By.USER)
        return (By.MODEL, By.KEY, By.TEAM)

    def address(self, below: str = "", **query: str | None) -> str:
        """Of a page of theirs; what is None or empty is left out."""
        user = self.account.email if self.all and self.account is not None else None
        kept = {name: value for name, value in ({"user": user} | query).items() if value}
        return f"{self.root}{below}{f'?{urlencode(kept)}' if kept else ''}"


def mine(request: Request) -> Whose:
    """Of whoever is signed in."""
    return Whose(MINE, current_account(request))


def anybodys(request: Request) -> Whose | None:
    """Everybody's, or that of the account that is named; None where there is none of that name.

    Only for pages of `Access.AUDITOR`.
    """
    if access_of(current_account(request)) < Access.AUDITOR:
        raise RuntimeError("a page of everybody's usage was served to somebody who may not see it")
    email = request.query_params.get("user", "").strip().lower()
    if not email:
        return Whose(ALL, None)
    account = desk(request).keys.account(email) if len(email) <= EMAIL_CHARS else None
    return None if account is None else Whose(ALL, account)


def has_key(request: Request, whose: Whose, key_id: str) -> bool:
    """Whether it is a key of the account; everybody has none."""
    if whose.account is None:
        return False
    parts = desk(request)
    return parts.key_list.line(whose.account.id, key_id, parts.clock()) is not None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page of usage is about."""

    whose: Whose
    of: Of
    by: By
    preset: int | None  # of RANGES

    def address(self, below: str = "", **other: str | None) -> str:
        """Of a page that is asked the same, but for `other`."""
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
        return self.whose.address(below, **(mine | other))

    @property
    def ranges(self) -> Views:
        return [
            (
                self.address(days=None if days == DEFAULT_DAYS else str(days)),
                "1 year" if days == RANGES[-1] else f"{days} days",
                None,
                days == self.preset,
            )
            for days in RANGES
        ]

    @property
    def groups(self) -> Views:
        return [
            (
                self.address(by=None if by is By.MODEL else by.value),
                by.value.capitalize(),
                None,
                by is self.by,
            )
            for by in self.whose.ways
        ]


def asked_of(request: Request, whose: Whose, now_us: int) -> Asked | None:
    """None for a range or a key that there is not."""
    query: Mapping[str, str] = request.query_params
    key_id = query.get("key") or None
    if key_id is not None and not has_key(request, whose, key_id):
        return None
    by = next((each for each in whose.ways if each.value == query.get("by")), By.MODEL)
    today = now_us // DAY_US
    if query.get("from") or query.get("to"):
        range_ = days_of(query.get("from", ""), query.get("to", ""), today)
        if range_ is None:
            return None
        return Asked(whose, Of(whose.account_id, *range_, key_id), by, None)
    days = number(query.get("days", ""))
    preset = days if days in RANGES else DEFAULT_DAYS
    of = Of(whose.account_id, max(0, today - preset + 1), today, key_id)
    return Asked(whose, of, by, preset)
