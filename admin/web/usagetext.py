"""What the pages of usage work out: ranges, and the burn-down of a budget. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from store.records import DAY_US
from store.usagereads import MAX_DAYS, Window

PACE_DAYS: Final = 7
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Burn:
    """How a budget goes down in its present window.

    `left` is what was left at the end of each day so far, `ahead` what will be at the pace of the
    last days, from today on; both by day, in nano-USD. `empty_us` is when nothing will be left,
    None where the window ends before that (or nothing is spent).
    """

    name: str
    budget_nanousd: int
    spent_nanousd: int
    starts_us: int
    ends_us: int
    left: dict[int, int]
    ahead: dict[int, int]
    pace_nanousd: int
    empty_us: int | None

    @property
    def days(self) -> list[int]:
        """All of the window's, those of `left` and then those of `ahead`."""
        return sorted(self.left.keys() | self.ahead.keys())

    @property
    def left_nanousd(self) -> int:
        return max(0, self.budget_nanousd - self.spent_nanousd)


def burn_down(name: str, budget_nanousd: int, window: Window, now_us: int) -> Burn:
    """The burn-down at a moment of the window.

    It is reckoned back from what is left now, as the sums of the window's first day may have
    a part of the window before in them. The pace is that of the last PACE_DAYS days, or of the
    window where it is younger.
    """
    today, first = now_us // DAY_US, window.starts_us // DAY_US
    left: dict[int, int] = {}
    remaining = budget_nanousd - window.nanousd
    for day in range(today, first - 1, -1):
        left[day] = max(0, min(budget_nanousd, remaining))
        remaining += window.by_day.get(day, 0)
    since_us = max(window.starts_us, now_us - PACE_DAYS * DAY_US)
    recent = sum(
        nanousd for day, nanousd in window.by_day.items() if day * DAY_US > since_us - DAY_US
    )
    recent = min(recent, window.nanousd)
    elapsed_us = max(DAY_US, now_us - since_us)
    pace = recent * DAY_US // elapsed_us
    here = max(0, budget_nanousd - window.nanousd)
    empty_us = now_us + here * elapsed_us // recent if recent else None
    if empty_us is not None and empty_us >= window.ends_us:
        empty_us = None
    ahead = {
        day: max(0, here - pace * (day - today))
        for day in range(today, (window.ends_us - 1) // DAY_US + 1)
    }
    return Burn(
        name,
        budget_nanousd,
        window.nanousd,
        window.starts_us,
        window.ends_us,
        dict(sorted(left.items())),
        ahead,
        pace,
        empty_us,
    )


def days_of(first: str, last: str, today: int) -> tuple[int, int] | None:
    """(first day, last day) of two dates as a browser sends them; None if they are no range.

    One that is missing is the same as the other; a last day that is not here yet is today.
    """
    try:
        ends = [
            (datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date() - _EPOCH).days
            for text in (first or last, last or first)
        ]
    except ValueError:
        return None
    since, until = ends[0], min(ends[1], today)
    return (since, until) if since >= 0 and 0 <= until - since < MAX_DAYS else None
