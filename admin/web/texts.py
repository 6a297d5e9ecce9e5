"""How pages write moments, money and counts. Pure; FILTERS are the templates' filters."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup, escape

from store.ledgersums import day_text
from store.records import DAY_US, MINUTE_US, SECOND_US
from store.text import rfc3339, usd, usd_rounded, utc

HOUR_US: Final = 60 * MINUTE_US
YEAR_US: Final = 365 * DAY_US
_UNITS: Final = ((YEAR_US, "y"), (DAY_US, "d"), (HOUR_US, "h"), (MINUTE_US, "min"))
_THOUSANDS: Final = ((1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"))
_CODE: Final = re.compile("`([^`]+)`")
_IN_FULL: Final = 1_000_000


def span(us: int) -> str:
    """`12 d`, `3 h`, `40 min`, `20 s`: whole units, rounded down."""
    for size, unit in _UNITS:
        if us >= size:
            return f"{us // size} {unit}"
    return f"{us // SECOND_US} s"


def relative(us: int, now_us: int) -> str:
    """`in 6 d`, `3 min ago`, `just now`.

    Days ahead are rounded to the nearest from two on: a key of 90 days is one in its first hour.
    """
    ahead_us = us - now_us
    if ahead_us > 0:
        return f"in {span(ahead_us + (DAY_US // 2 if ahead_us >= 2 * DAY_US else 0))}"
    return "just now" if now_us - us < MINUTE_US else f"{span(now_us - us)} ago"


def day(us: int) -> str:
    """`21 Feb 2027`, in UTC."""
    moment = datetime.fromtimestamp(us // SECOND_US, UTC)
    return f"{moment.day} {moment:%b %Y}"


def usd_tidy(nanousd: int) -> str:
    """`$5`, `$3.10`, `$0.0042`: what was spent; a cent that is not whole is rounded up.

    Below a dollar to a hundredth of a cent, so that a first cheap call is seen; what is exact
    belongs beside it, in a title.
    """
    text = usd_rounded(nanousd, up=True)
    return text.removesuffix(".00")


def count(number: int) -> str:
    """`12,345`, and from a million on `1.2 M`, rounded down."""
    if number >= _IN_FULL:
        for size, unit in _THOUSANDS:
            if number >= size:
                tenths = number * 10 // size
                return f"{tenths // 10:,}.{tenths % 10} {unit}"
    return f"{number:,}"


def whole(number: int) -> str:
    """`1,234,567`."""
    return f"{number:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 key`, `2 keys`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def milliseconds(us: int | None) -> str:
    """`240 ms`, `1.3 s`; nothing for None."""
    if us is None:
        return ""
    if us < SECOND_US:
        return f"{us // 1000} ms"
    return f"{us // 100_000 / 10:.1f} s"


def share(part: int, of: int) -> int:
    """Whole percent, 0 to 100; anything at all is at least 1."""
    if part <= 0 or of <= 0:
        return 0 if part <= 0 else 100
    return min(100, max(1, part * 100 // of))


def price(nanousd: int) -> str:
    """`$0.05`, `$1.50`: of a million tokens."""
    return "free" if nanousd == 0 else usd(nanousd)


def json_text(value: object) -> str:
    """JSON as people write it, also where Python is written."""
    return json.dumps(value, ensure_ascii=False)


def code(text: str) -> Markup:
    """A text of ours as HTML: what stands between backticks is set as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704  escaped just now


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "rfc3339": rfc3339,
    "utc": utc,
    "relative": relative,
    "span": span,
    "day": day,
    "day_number": day_text,
    "usd": usd,
    "usd_tidy": usd_tidy,
    "count": count,
    "whole": whole,
    "plural": plural,
    "milliseconds": milliseconds,
    "price": price,
    "code": code,
    "share": share,
    "json_text": json_text,
    "shell": shlex.quote,
}
