"""Frozen records that cross rooms. Money is integer nano-USD, time integer microseconds.

A `*_us` is microseconds since the Unix epoch, UTC. A `*_nanousd` is 1e-9 USD.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
DAY_US: Final = 86_400 * SECOND_US
WINDOW_US: Final = 30 * DAY_US
NANOUSD: Final = 1_000_000_000

DEFAULT_EXPIRY_DAYS: Final = 90
MAX_EXPIRY_DAYS: Final = 365


class Role(StrEnum):
    """What an account may see: its own (user), everybody's spend (auditor), everything (admin)."""

    USER = "user"
    AUDITOR = "auditor"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Account:
    """A user. `team` is a label; a service account has no password and never signs in."""

    id: str
    email: str
    team: str | None
    plan: str
    role: Role
    service: bool
    created_us: int


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key and what it may do, with what is needed of its account. Never the plaintext.

    `models` None means every model, also future ones; `budget_nanousd` and `rpm` None mean no
    limit. `hint` is the prefix and the last four characters.
    """

    id: str
    account_id: str
    user: str
    team: str | None
    plan: str
    account_created_us: int
    alias: str
    hint: str
    models: frozenset[str] | None
    budget_nanousd: int | None
    rpm: int | None
    created_us: int
    expires_us: int
    revoked_us: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change feed: a key (by digest) or a whole account is to be read again."""

    seq: int
    digest: bytes | None
    account_id: str | None
