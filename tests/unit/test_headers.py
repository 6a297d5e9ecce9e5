"""The headers that say how limits stand, read as their formats say they are read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import NOW_US, key_record

from authz.headers import duration, standing_headers
from authz.model import Dialect
from store.counters.model import MinuteLimit, Standing
from store.records import DAY_US, MINUTE_US, SECOND_US

NOW = datetime.fromtimestamp(NOW_US // SECOND_US, UTC)


def said(
    used: int = 0, grows_in_us: int = 0, rpm: int = 60, dialect: Dialect = Dialect.OPENAI
) -> dict[str, str]:
    standing = Standing(MinuteLimit("key", rpm), used, grows_in_us)
    headers = standing_headers(dialect, key_record(), (standing,), NOW_US)
    assert len(dict(headers)) == len(headers)
    return dict(headers)


def structured_item(text: str) -> tuple[str, dict[str, int]]:
    """An RFC 9651 string with integer parameters, which is all that the draft uses here."""
    match = re.fullmatch(r'"([ !#-\[\]-~]*)"((?:; *[a-z*][a-z0-9_.*-]*=-?\d{1,15})*)', text)
    assert match, text
    pairs = (part.strip().split("=") for part in match[2].split(";")[1:])
    return match[1], {name: int(value) for name, value in pairs}


def test_a_minute_in_every_spelling() -> None:
    assert said(used=48, grows_in_us=33_200_000) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "12",
        "x-ratelimit-reset-requests": "33.2s",
        "ratelimit-policy": '"rpm";q=60;w=60',
        "ratelimit": '"rpm";r=12;t=34',
    }


def test_a_grpc_client_reads_what_openais_reads() -> None:
    assert said(used=48, dialect=Dialect.GRPC) == said(used=48, dialect=Dialect.OPENAI)


def test_anthropics_own_on_anthropics_paths() -> None:
    both = said(used=48, grows_in_us=33_200_000, dialect=Dialect.ANTHROPIC)
    own = {name: both[name] for name in both if name.startswith("anthropic-")}
    assert own == {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "12",
        "anthropic-ratelimit-requests-reset": "2026-11-18T11:07:14Z",
    }
    assert both.items() - own.items() == said(used=48, grows_in_us=33_200_000).items()


def test_what_is_whole_resets_at_once() -> None:
    headers = said()
    assert headers["x-ratelimit-remaining-requests"] == "60"
    assert headers["x-ratelimit-reset-requests"] == "0s"
    assert structured_item(headers["ratelimit"]) == ("rpm", {"r": 60, "t": 0})


def test_below_nothing_is_nothing() -> None:
    """A limit that was lowered may have more taken than it allows."""
    assert said(used=9, grows_in_us=1, rpm=2)["x-ratelimit-remaining-requests"] == "0"


@given(used=st.integers(1, 2000), rpm=st.integers(1, 10**9), grows_in_us=st.integers(1, MINUTE_US))
def test_all_spellings_say_the_same(used: int, rpm: int, grows_in_us: int) -> None:
    headers = said(used, grows_in_us, rpm, Dialect.ANTHROPIC)
    left, name = max(0, rpm - used), "anthropic-ratelimit-requests"
    whole_seconds = -(-grows_in_us // SECOND_US)
    assert structured_item(headers["ratelimit-policy"]) == ("rpm", {"q": rpm, "w": 60})
    assert structured_item(headers["ratelimit"]) == ("rpm", {"r": left, "t": whole_seconds})
    assert headers["x-ratelimit-limit-requests"] == headers[f"{name}-limit"] == str(rpm)
    assert headers["x-ratelimit-remaining-requests"] == headers[f"{name}-remaining"] == str(left)
    reset = datetime.fromisoformat(headers[f"{name}-reset"])
    assert reset == NOW + timedelta(seconds=whole_seconds)
    assert 0 <= in_us(headers["x-ratelimit-reset-requests"]) - grows_in_us < 1000


def in_us(text: str) -> int:
    """OpenAI's durations, which are Go's."""
    units = {"m": MINUTE_US, "s": SECOND_US, "ms": 1000}
    parts = re.findall(r"([\d.]+)(ms|m|s)", text)
    assert "".join(number + unit for number, unit in parts) == text
    return round(sum(float(number) * units[unit] for number, unit in parts))


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (12_000, "12ms"),
        (999_000, "999ms"),
        (999_001, "1s"),
        (1_000_000, "1s"),
        (1_000_001, "1.001s"),
        (2_500_000, "2.5s"),
        (20_000_000, "20s"),
        (59_999_000, "59.999s"),
        (59_999_001, "1m0s"),
        (60_000_000, "1m0s"),
        (90_500_000, "1m30.5s"),
        (600_000_000, "10m0s"),
    ],
)
def test_durations_round_up(us: int, text: str) -> None:
    assert duration(us) == text


def test_without_a_minute_nothing_is_said_of_it() -> None:
    assert standing_headers(Dialect.ANTHROPIC, key_record(), (), NOW_US) == ()


@pytest.mark.parametrize(
    ("left_us", "shown"),
    [(14 * DAY_US + 1, False), (14 * DAY_US, True), (DAY_US, True), (1, True)],
)
def test_the_expiry_in_the_last_fourteen_days(left_us: int, shown: bool) -> None:
    key = key_record(expires_us=NOW_US + left_us)
    headers = dict(standing_headers(Dialect.OPENAI, key, (), NOW_US))
    assert ("x-key-expires" in headers) is shown
    if shown:
        expires = datetime.fromisoformat(headers["x-key-expires"])
        assert expires == datetime.fromtimestamp((NOW_US + left_us) // SECOND_US, UTC)
