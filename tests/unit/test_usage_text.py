"""What the pages of usage and keys work out and write, without a store."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin import costs, samples
from admin.web import keyforms, texts
from admin.web.csvfile import safe_cell
from admin.web.usagetext import Burn, burn_down, days_of
from store.catalog import Catalog
from store.errors import PlanLimitError
from store.records import DAY_US, NANOUSD, WINDOW_US, Price
from store.usagereads import Window

CREATED = 20_000 * DAY_US + DAY_US // 2  # noon
CATALOG = Catalog.parse(
    """
models:
  dear: {price: {input: 1, output: 4}, context_tokens: 1000}
  cheap: {price: {input: 0.5, cached_input: 0.6, output: 0, per_request: 0.001},
          context_tokens: 3}
  timed: {price: {input: 0, output: 0, per_second: 0.1}, context_tokens: 10}
  "qwen*": {price: {input: 9, output: 9}, context_tokens: 1000000}
plans: {free: {max_keys: 1, max_budget_usd: 5, max_rpm: 60}, open: {}}
default_plan: free
""",
    "test",
)
FREE, OPEN = CATALOG.plans["free"], CATALOG.plans["open"]


# -- moments, money, counts


@pytest.mark.parametrize(
    ("us", "words"),
    [
        (0, "just now"),
        (-59_999_999, "just now"),
        (-60_000_000, "1 min ago"),
        (-2 * DAY_US, "2 d ago"),
        (1, "in 0 s"),
        (6 * DAY_US + 5, "in 6 d"),
        (90 * DAY_US - 5, "in 90 d"),
        (89 * DAY_US + DAY_US // 2 - 5, "in 89 d"),
        (365 * DAY_US - 5, "in 1 y"),
        (2 * DAY_US - 5, "in 1 d"),
        (800 * DAY_US, "in 2 y"),
    ],
)
def test_moments_are_told_from_now(us: int, words: str) -> None:
    assert texts.relative(CREATED + us, CREATED) == words


@pytest.mark.parametrize(
    ("nanousd", "words"),
    [
        (0, "$0"),
        (1, "$0.0001"),  # something is never nothing
        (5 * NANOUSD, "$5"),
        (3_100_000_000, "$3.10"),
        (3_100_000_001, "$3.11"),
        (1_234_567 * NANOUSD, "$1,234,567"),
    ],
)
def test_money_is_tidy_and_never_less_than_it_is(nanousd: int, words: str) -> None:
    assert texts.usd_tidy(nanousd) == words


def test_counts_are_rounded_down() -> None:
    found = [texts.count(n) for n in (0, 999_999, 1_000_000, 1_999_999, 10**12, 12_345 * 10**12)]
    assert found == ["0", "999,999", "1.0 M", "1.9 M", "1.0 T", "12,345.0 T"]


@given(st.integers(0, 10**18), st.integers(0, 10**18))
def test_a_share_is_a_whole_percent(part: int, of: int) -> None:
    share = texts.share(part, of)
    assert 0 <= share <= 100
    assert (share == 0) == (part == 0)


@given(st.text())
def test_code_between_backticks_is_all_that_is_ever_markup(text: str) -> None:
    made = str(texts.code(text))
    assert re.sub("</?code>", "", made).count("<") == 0
    assert "<script" not in str(texts.code(f"`<script>`{text}"))


# -- ranges and cells


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        ("2026-11-01", "2026-11-03", (20758, 20760)),
        ("2026-11-03", "", (20760, 20760)),
        ("", "2026-11-03", (20760, 20760)),
        ("2026-11-01", "2030-01-01", (20758, 20770)),  # what is not here yet
        ("2026-11-14", "2026-11-14", None),  # nothing of it is here yet
        ("2026-11-03", "2026-11-01", None),
        ("2025-11-12", "2026-11-13", None),  # 367 days
        ("1969-12-31", "1970-01-02", None),
        ("2026-02-30", "2026-03-01", None),
        ("x", "2026-03-01", None),
        ("9999999-01-01", "2026-03-01", None),
    ],
)
def test_two_dates_are_a_range_or_none(
    first: str, last: str, found: tuple[int, int] | None
) -> None:
    assert days_of(first, last, 20770) == found


def test_no_cell_is_a_formula() -> None:
    hostile = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\n=1", "＝1", "＋1", "－1", "＠x"]  # noqa: RUF001  as a client names it
    assert [safe_cell(text)[0] for text in hostile] == ["'"] * 11
    assert safe_cell("llama-3.1=8b") == "llama-3.1=8b"


# -- the burn-down of a budget


def burnt(nanousd: int, by_day: dict[int, int], days: float, budget: int = 1000) -> Burn:
    window = Window(CREATED, CREATED + WINDOW_US, nanousd, by_day)
    return burn_down("key", budget, window, CREATED + int(days * DAY_US))


def test_a_budget_that_is_used_up_before_its_reset_has_a_day() -> None:
    burn = burnt(400, {20_000 + day: 100 for day in range(4)}, 4)
    assert burn.left == {20_000: 900, 20_001: 800, 20_002: 700, 20_003: 600, 20_004: 600}
    assert burn.pace_nanousd == 100
    assert burn.empty_us == CREATED + 10 * DAY_US
    assert burn.ahead[20_004] == 600
    assert burn.ahead[20_010] == 0
    assert list(burn.ahead)[-1] == 20_030


def test_a_budget_that_lasts_has_none() -> None:
    assert burnt(100, {20_000: 100}, 10).empty_us is None  # nothing was spent lately
    assert burnt(0, {}, 0).empty_us is None
    assert burnt(40, {20_000 + day: 10 for day in range(4)}, 4).empty_us is None


def test_a_budget_that_is_used_up_is_so_now() -> None:
    burn = burnt(1200, {20_000: 1200}, 1)
    assert (burn.left_nanousd, burn.empty_us) == (0, CREATED + DAY_US)
    assert set(burn.ahead.values()) == {0}


def test_what_the_window_before_spent_on_the_first_day_is_not_counted() -> None:
    burn = burnt(50, {20_000: 900, 20_001: 50}, 1)
    assert burn.left == {20_000: 1000, 20_001: 950}
    assert burn.pace_nanousd == 50


@given(
    st.dictionaries(st.integers(20_000, 20_030), st.integers(0, 10**12), max_size=31),
    st.floats(0, 29.9),
    st.integers(1, 10**12),
)
def test_a_burn_down_never_leaves_its_bounds(
    by_day: dict[int, int], days: float, budget: int
) -> None:
    passed = {day: sum_ for day, sum_ in by_day.items() if day * DAY_US <= CREATED + days * DAY_US}
    burn = burnt(sum(passed.values()), passed, days, budget)
    for line in (burn.left, burn.ahead):
        assert all(0 <= left <= budget for left in line.values())
        assert sorted(line.values(), reverse=True) == list(line.values())
    if burn.empty_us is not None:
        assert CREATED + int(days * DAY_US) <= burn.empty_us < burn.ends_us


# -- what a call can cost


def test_a_call_costs_at_most_its_whole_context_at_its_dearest() -> None:
    most = {each.name: each.most_nanousd for each in costs.offered(CATALOG, ())}
    assert most == {"dear": 4_000_000, "cheap": 1_001_800, "timed": 0}


def test_what_servers_list_is_offered_where_it_has_a_price() -> None:
    names = [each.name for each in costs.offered(CATALOG, ("qwen3", "dear", "unknown", "Qwen2"))]
    assert names == ["cheap", "dear", "Qwen2", "qwen3", "timed"]


def test_the_dearest_is_of_what_was_chosen() -> None:
    def name(*names: str) -> str | None:
        found = costs.dearest(CATALOG, frozenset(names))
        return None if found is None else found.name

    assert name("cheap", "dear") == "dear"
    assert name("cheap", "qwen9") == "qwen9"
    assert name("unknown") is name() is None
    everything = costs.dearest(CATALOG, None)
    assert everything is not None
    assert everything.name == "dear"


def test_a_first_call_fits_its_model() -> None:
    assert samples.first_to_try(["bge-m3", "llama"]) == "llama"
    assert samples.first_to_try(["bge-m3", "whisper-1"]) == "bge-m3"
    assert samples.first_to_try([]) is None
    assert samples.path("bge-m3") == "/v1/embeddings"
    assert samples.body("bge-m3")["input"]
    assert samples.path("llama") == "/v1/chat/completions"
    assert samples.body("llama")["messages"]


# -- the form of a key


def judged(**fields: str) -> dict[str, str]:
    form = keyforms.KeyForm(
        **({"alias": "a", "scope": "all", "budget": "5", "rpm": "60", "days": "90"} | fields)  # type: ignore[arg-type]
    )
    form.judge(CATALOG, FREE, expiry=True)
    return form.errors


def test_every_field_is_judged_by_itself() -> None:
    assert judged() == {}
    wrong = judged(alias="A b", scope="some", budget="5.01", rpm="61", days="366")
    assert wrong.keys() == {"alias", "models", "budget", "rpm", "days"}


@pytest.mark.parametrize("rpm", ["", "0", "-1", "1.5", "1e2", "٣", "9" * 400, "six"])
def test_what_is_no_number_is_refused_beside_its_field(rpm: str) -> None:
    assert judged(rpm=rpm).keys() == {"rpm"}
    assert judged(days=rpm).keys() == {"days"}


def test_an_empty_budget_is_no_limit_and_only_where_the_plan_has_none() -> None:
    assert judged(budget=" ").keys() == {"budget"}
    assert judged(budget="$ 4.50") == {}
    form = keyforms.KeyForm(alias="a", scope="all", budget="", rpm="1")
    form.judge(CATALOG, OPEN, expiry=True)
    assert form.errors == {}
    assert form.budget_usd == "none"


def test_what_belongs_to_no_field_is_said_above_them() -> None:
    form = keyforms.KeyForm()
    form.refuse(PlanLimitError("You hold 1 of 1.", code="plan_limit_keys"))
    assert form.errors == {keyforms.WHOLE: "You hold 1 of 1."}


def test_models_are_those_chosen_and_those_typed() -> None:
    form = keyforms.KeyForm(chosen=("a", "b"), more=" c,, d ")
    assert form.models == "a,b,c,d"
    assert form.names() == frozenset("abcd")
    form.scope = keyforms.ALL
    assert (form.models, form.names()) == ("*", None)


@pytest.mark.parametrize(
    ("alias", "taken", "free"),
    [
        ("a", set(), "a-2"),
        ("a-2", {"a-2"}, "a-3"),
        ("a", {"a-2", "a-3"}, "a-4"),
        ("2", set(), "2-2"),
        ("x" * 63, set(), "x" * 61 + "-2"),
    ],
)
def test_a_duplicate_gets_a_free_alias(alias: str, taken: set[str], free: str) -> None:
    assert keyforms.free_alias(alias, frozenset(taken)) == free


def test_a_price_that_is_nothing_is_free() -> None:
    assert texts.price(0) == "free"
    assert texts.price(Price(input=50_000_000).input) == "$0.05"
