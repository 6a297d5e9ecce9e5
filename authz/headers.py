"""The headers that tell a client how its limits stand, in the spellings that clients read. Pure."""

from __future__ import annotations

import math
from typing import Final

from authz.denial import Headers
from authz.model import Dialect
from store.counters.model import MoneyStanding, Standing, Standings
from store.records import DAY_US, SECOND_US, KeyRecord
from store.text import rfc3339, usd_plain

EXPIRY_NOTICE_US: Final = 14 * DAY_US


def duration(us: int) -> str:
    """As OpenAI writes them: `0s`, `12ms`, `1s`, `59.5s`, `1m0s`."""
    millis = -(-us // 1000)
    if 0 < millis < 1000:  # noqa: PLR2004  below a second
        return f"{millis}ms"
    minutes, rest = divmod(millis, 60_000)
    tail = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{tail}" if minutes else tail


def standing_headers(
    dialect: Dialect, key: KeyRecord, standings: Standings, now_us: int
) -> Headers:
    """How the limits stand, and the key's expiry in its last 14 days."""
    headers: list[tuple[str, str]] = []
    tightest: MoneyStanding | None = None
    for standing in standings:
        if isinstance(standing, Standing):
            headers += _minute(dialect, standing, now_us)
        elif _left(standing) < _left(tightest):
            tightest = standing
    if tightest is not None:
        headers += (
            ("x-budget-limit-usd", usd_plain(tightest.limit.budget_nanousd or 0)),
            ("x-budget-remaining-usd", usd_plain(int(_left(tightest)))),
            ("x-budget-reset", rfc3339(tightest.resets_us)),
        )
    if key.expires_us - now_us <= EXPIRY_NOTICE_US:
        headers.append(("x-key-expires", rfc3339(key.expires_us)))
    return tuple(headers)


def _minute(dialect: Dialect, standing: Standing, now_us: int) -> Headers:
    """`reset` is when `remaining` next grows: the window slides, it never resets as a whole."""
    limit, left = str(standing.limit.max_requests), str(standing.remaining)
    reset_us = standing.grows_in_us
    headers = (
        ("x-ratelimit-limit-requests", limit),
        ("x-ratelimit-remaining-requests", left),
        ("x-ratelimit-reset-requests", duration(reset_us)),
        ("ratelimit-policy", f'"rpm";q={limit};w=60'),
        ("ratelimit", f'"rpm";r={left};t={-(-reset_us // SECOND_US)}'),
    )
    if dialect is not Dialect.ANTHROPIC:
        return headers
    return (
        *headers,
        ("anthropic-ratelimit-requests-limit", limit),
        ("anthropic-ratelimit-requests-remaining", left),
        ("anthropic-ratelimit-requests-reset", rfc3339(now_us + reset_us + SECOND_US - 1)),
    )


def _left(standing: MoneyStanding | None) -> float:
    """What is left of a budget, in nano-USD; without one, without end."""
    left = None if standing is None else standing.remaining_nanousd
    return math.inf if left is None else left
