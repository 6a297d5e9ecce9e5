"""What people give is read strictly; what is refused says how to write it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin import inputs
from store.errors import InputError


def refused(code: str, call: object, *args: object) -> str:
    assert callable(call)
    with pytest.raises(InputError) as caught:
        call(*args)
    assert caught.value.code == code
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("good", ["a", "laptop", "ci-runner-2", "0", "a" * 63, "a-b-c"])
def test_aliases(good: str) -> None:
    assert inputs.alias(good) == good


@pytest.mark.parametrize(
    "bad",
    ["", "-", "a-", "-a", "a--b", "A", "a_b", "a b", "a.b", "ä", "a" * 64, "a\n", "\na", "٣", "K"],
)
def test_aliases_that_are_none(bad: str) -> None:
    refused("invalid_alias", inputs.alias, bad)


@pytest.mark.parametrize(
    ("text", "email"),
    [
        ("Anna@Example.ORG ", "anna@example.org"),
        ("a+b.c@sub.example.co", "a+b.c@sub.example.co"),
        ("admin@localhost", "admin@localhost"),
    ],
)
def test_emails_are_lower_case(text: str, email: str) -> None:
    assert inputs.email(text) == email


@pytest.mark.parametrize(
    "bad",
    ["", "anna", "@x", "a@", "a b@x", "a@b@c", "a@-x", "ä@x.org", "a@x.org,b@x.org", "a@x\r\nX: 1",
     "<a@x.org>", f"{'a' * 250}@x.org", "a@x..org", "a@\u0131x"],
)  # fmt: skip
def test_emails_that_name_nobody(bad: str) -> None:
    assert bad not in refused("invalid_email", inputs.email, bad) or not bad


@given(st.text())
def test_an_accepted_email_can_stand_in_a_header(text: str) -> None:
    try:
        email = inputs.email(text)
    except InputError:
        return
    assert email.isascii()
    assert email.isprintable()
    assert not set(email) & set(' ,";\\')
    assert inputs.email(email) == email


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("*", None),
        (" * ", None),
        ("a", ("a",)),
        ("b, a ,b", ("b", "a")),
        ("org/Model-1.5:latest", ("org/Model-1.5:latest",)),
        ("a" * 256, ("a" * 256,)),
        ("two words,ünïcode", ("two words", "ünïcode")),
    ],
)
def test_models(text: str, names: tuple[str, ...] | None) -> None:
    assert inputs.models(text) == names


@pytest.mark.parametrize(
    "bad",
    ["", ",", "a,", ",a", "a,,b", "a,*", "*,*,a", "qwen*", "a" * 257, "a\x00b", "a\nb", "\x7f",
     "a\u202eb", "\udcff", ",".join(f"m{n}" for n in range(257))],
)  # fmt: skip
def test_models_that_are_none(bad: str) -> None:
    said = refused("invalid_models", inputs.models, bad)
    assert said.isprintable()


@pytest.mark.parametrize(
    ("text", "nanousd"),
    [
        ("none", None),
        ("0", 0),
        ("0.000000001", 1),
        ("10", 10_000_000_000),
        (" 0.50 ", 500_000_000),
        ("007.10", 7_100_000_000),
        ("1000000", 10**15),
        ("999999.999999999", 10**15 - 1),
    ],
)
def test_budgets_are_exact(text: str, nanousd: int | None) -> None:
    assert inputs.budget_nanousd(text) == nanousd


@given(st.integers(0, 10**15))
def test_every_budget_comes_back(nanousd: int) -> None:
    assert inputs.budget_nanousd(f"{Decimal(nanousd).scaleb(-9):f}") == nanousd


@pytest.mark.parametrize(
    "bad",
    ["", "-1", "+1", "1e3", "1,000", "$5", "5.", ".5", "0.0000000001", "NaN", "Infinity", "None",
     "1000000.000000001", "10000000", "1_0", "٣", "0x10"],
)  # fmt: skip
def test_budgets_that_are_none(bad: str) -> None:
    refused("invalid_budget", inputs.budget_nanousd, bad)


def test_whole_numbers_have_bounds() -> None:
    assert [inputs.rpm(n) for n in (1, 1_000_000)] == [1, 1_000_000]
    assert [inputs.expiry_days(n) for n in (1, 365)] == [1, 365]
    for bad in (0, -1, 1_000_001, 2**80):
        refused("invalid_rpm", inputs.rpm, bad)
    for bad in (0, -1, 366, 2**80):
        refused("invalid_expiry", inputs.expiry_days, bad)


def test_teams_and_passwords() -> None:
    assert inputs.team(None) is None
    assert inputs.team(" red team ") == "red team"
    for bad in ("", "  ", "a\nb", "a" * 65, "\x1b[31m"):
        refused("invalid_team", inputs.team, bad)
    assert inputs.password(" spaces are kept ") == " spaces are kept "
    for bad in ("", "short", "x" * 1025):
        assert bad not in refused("invalid_password", inputs.password, bad) or not bad
