"""How money and time are written, for programs and for people. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final

from store.records import NANOUSD, SECOND_US

_DOUBLE_DIGITS: Final = 15  # what a double holds exactly


def usd(nanousd: int) -> str:
    """`$5.00`, with more decimals only where they are needed."""
    whole, nano = divmod(nanousd, NANOUSD)
    decimals = f"{nano:09d}".rstrip("0").ljust(2, "0")
    return f"${whole:,}.{decimals}"


def usd_plain(nanousd: int) -> str:
    """`5`, `0.25`: exact, for headers."""
    whole, nano = divmod(nanousd, NANOUSD)
    return f"{whole}.{nano:09d}".rstrip("0").rstrip(".")


def usd_rounded(nanousd: int, *, up: bool) -> str:
    """`$1.08`, to the cent from a dollar on, to a hundredth of a cent below it."""
    quantum = NANOUSD // 100 if nanousd >= NANOUSD else NANOUSD // 10_000
    rounded = -(-nanousd // quantum) if up else nanousd // quantum
    return usd(rounded * quantum)


def usd_json(nanousd: int | None) -> int | float | str | None:
    """USD as a JSON number, as text where a double could not hold it exactly, None for none."""
    if nanousd is None:
        return None
    exact = Decimal(nanousd) / NANOUSD
    if exact == exact.to_integral_value():
        return int(exact)
    return float(exact) if len(exact.as_tuple().digits) <= _DOUBLE_DIGITS else str(exact)


def rfc3339(us: int) -> str:
    """`2026-11-20T09:14:05Z`, whole seconds."""
    return _rfc3339(us // SECOND_US)


@lru_cache(4096)  # the same few moments stand in the headers of many answers
def _rfc3339(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def utc_time(us: int) -> str:
    """`09:14:05 UTC`, rounded up to the second: a moment by which something is done."""
    return f"{datetime.fromtimestamp(-(-us // SECOND_US), UTC):%H:%M:%S} UTC"


def utc(us: int) -> str:
    """`2026-11-20 09:14 UTC`."""
    return f"{datetime.fromtimestamp(us // SECOND_US, UTC):%Y-%m-%d %H:%M} UTC"
