"""What a take asks and answers, the same for every backend.

A limit has a kind and a scope. The scopes of one `take` all belong to one account.
Times are microseconds of the counters' own clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MinuteLimit:
    """At most `max_requests` (1 or more) in any 60 seconds of `scope`: a key, or a key's lane."""

    scope: str
    max_requests: int


Limit = MinuteLimit


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands: `used` now; `remaining` next grows in `grows_in_us` (0: it is whole)."""

    limit: Limit
    used: int
    grows_in_us: int

    @property
    def remaining(self) -> int:
        return max(0, self.limit.max_requests - self.used)


@dataclass(frozen=True, slots=True)
class Taken:
    """All limits had room and all were taken, or had been by this request id before.

    `standings` are in the order of the limits, after the take.
    """

    now_us: int
    hold_id: str
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was taken. `limit` is the first without room; all have room in `retry_us`."""

    now_us: int
    limit: Limit
    retry_us: int
    standings: tuple[Standing, ...]
