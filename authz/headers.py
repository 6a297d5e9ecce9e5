"""The headers that tell a client how its limits stand, in the spellings that clients read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from authz.denial import Headers
from authz.model import Dialect
from store.counters.model import Standing
from store.records import DAY_US, SECOND_US, KeyRecord
from store.text import rfc3339

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
    dialect: Dialect, key: KeyRecord, standings: Sequence[Standing], now_us: int
) -> Headers:
    """How the minute stands, and the key's expiry in its last 14 days.

    `reset` is when `remaining` next grows: the window slides, so it never resets as a whole.
    """
    headers: list[tuple[str, str]] = []
    for standing in standings:
        limit, left = str(standing.limit.max_requests), str(standing.remaining)
        reset_us = standing.grows_in_us
        headers += (
            ("x-ratelimit-limit-requests", limit),
            ("x-ratelimit-remaining-requests", left),
            ("x-ratelimit-reset-requests", duration(reset_us)),
            ("ratelimit-policy", f'"rpm";q={limit};w=60'),
            ("ratelimit", f'"rpm";r={left};t={-(-reset_us // SECOND_US)}'),
        )
        if dialect is Dialect.ANTHROPIC:
            headers += (
                ("anthropic-ratelimit-requests-limit", limit),
                ("anthropic-ratelimit-requests-remaining", left),
                ("anthropic-ratelimit-requests-reset", rfc3339(now_us + reset_us + SECOND_US - 1)),
            )
    if key.expires_us - now_us <= EXPIRY_NOTICE_US:
        headers.append(("x-key-expires", rfc3339(key.expires_us)))
    return tuple(headers)
