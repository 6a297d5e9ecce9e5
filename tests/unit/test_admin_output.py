"""How money, times, tables and records look."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin import inputs, output
from admin.passwords import hash_password, make_password, password_matches
from store import text as written


@pytest.mark.parametrize(
    ("nanousd", "text", "number"),
    [
        (0, "$0.00", 0),
        (5_000_000_000, "$5.00", 5),
        (500_000_000, "$0.50", 0.5),
        (1_234_567_890_123, "$1,234.567890123", 1234.567890123),
        (1, "$0.000000001", 1e-9),
        (10**15, "$1,000,000.00", 1_000_000),
    ],
)
def test_usd(nanousd: int, text: str, number: float) -> None:
    assert written.usd(nanousd) == text
    assert written.usd_json(nanousd) == number


def test_no_budget_is_null() -> None:
    assert written.usd_json(None) is None
    assert output.budget_text(None) == "no limit"


@given(st.integers(0, 2**62))
def test_usd_in_json_is_exact_for_any_reader(nanousd: int) -> None:
    """A number only where a double holds it; the text otherwise."""
    value = json.loads(json.dumps(written.usd_json(nanousd)))
    assert Decimal(repr(value) if isinstance(value, float) else value) * 10**9 == nanousd


@given(st.integers(0, inputs.BUDGET_MAX_USD * 10**6))
def test_budgets_in_whole_millionths_are_numbers(microusd: int) -> None:
    assert isinstance(written.usd_json(microusd * 1000), int | float)


def test_times() -> None:
    at = 1_795_425_299_999_999
    assert written.rfc3339(at) == "2026-11-23T09:14:59Z"
    assert written.utc(at) == "2026-11-23 09:14 UTC"


def test_table_is_aligned_and_has_no_blanks_at_the_end() -> None:
    assert output.table(("a", "bb", "c"), [("xxx", "y", "long last"), ("x", "", "")]) == (
        "A    BB  C\nxxx  y   long last\nx"
    )


def test_made_passwords_are_long_and_match_only_themselves() -> None:
    first, second = make_password(), make_password()
    assert first != second
    assert inputs.password(first) == first
    assert len(first.replace("-", "")) == 24
    stored = hash_password(first)
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert hash_password(first) != stored, "each has a salt of its own"
    assert password_matches(stored, first)
    assert not password_matches(stored, second)
    assert not password_matches("no hash", first)
    assert not password_matches(stored, "x" * 2_000_000)
