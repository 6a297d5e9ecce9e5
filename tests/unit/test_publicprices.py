"""Prices of public names: as the data has them, the dearest of each, and never by a network."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, time
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices import data, types

from store import publicprices
from store.catalog import Catalog
from store.errors import ConfigError
from store.publicprices import _Data, load
from store.records import Price

ROOT = Path(__file__).parents[2]
REST = "plans: {free: {}}\ndefault_plan: free\n"
TODAY = date(2026, 11, 23)


def catalog(text: str) -> Catalog:
    return Catalog.parse(f"{text}\n{REST}", "test")


def shipped(provider: str, name: str) -> types.ModelInfo:
    (found,) = (each for each in data.providers if each.id == provider)
    model = found.find_model(name)
    assert model is not None
    return model


def priced(model: types.ModelInfo) -> Price | None:
    """What a model of some data costs on `TODAY`."""
    provider = types.Provider(id="p", name="P", api_pattern="", models=[model])
    row = _Data("0", {"p": provider}, TODAY).row("p", model.id)
    return None if row is None else row.price


def model(prices: object, **more: object) -> types.ModelInfo:
    made = {"context_window": 1000, "prices": prices, **more}
    return types.ModelInfo(id="m", match=types.ClauseEquals("m"), **made)  # type: ignore[arg-type]


def usd(**prices: object) -> types.ModelPrice:
    given = {k: Decimal(v) if isinstance(v, str) else v for k, v in prices.items()}
    return types.ModelPrice(**given)  # type: ignore[arg-type]


def test_a_public_name_costs_what_the_data_says() -> None:
    name = "claude-haiku-4-5"
    said = shipped("anthropic", name)
    assert isinstance(said.prices, types.ModelPrice)
    offer = catalog("public_prices: true").resolve(name)
    assert offer is not None
    assert offer.name == name
    assert offer.model.price.input == said.prices.input_mtok * 10**9
    assert offer.model.price.cached_input == said.prices.cache_read_mtok * 10**9
    assert offer.model.price.output == said.prices.output_mtok * 10**9
    assert offer.model.context_tokens == said.context_window
    assert offer.model.max_output_tokens is None
    assert offer.model.upstream is None
    assert offer.model.origin.startswith("genai-prices 0.2.3, anthropic")


def test_of_tiers_hours_kinds_and_choices_the_dearest_counts() -> None:
    tiers = types.TieredPrices(Decimal(3), [types.Tier(200, Decimal(6)), types.Tier(9, Decimal(4))])
    hours = types.TimeOfDateConstraint(time(1), time(2))
    first = usd(input_mtok=tiers, output_mtok="15", output_reasoning_mtok="16")
    cheap = usd(input_mtok="1", cache_read_mtok="0.1", cache_write_mtok="2")
    cheap.cache_write_1h_mtok = Decimal(7)  # type: ignore[attr-defined]
    choice = types.PriceVariant({"processing": "priority"}, usd(output_mtok="20"))
    prices = [
        types.ConditionalPrice(prices=first),
        types.ConditionalPrice(hours, prices=cheap),
    ]
    assert priced(model(prices, price_variants=[choice])) == Price(
        6 * 10**9, 10**8, 7 * 10**9, 20 * 10**9
    )
    pictures = usd(input_mtok="1", input_image_mtok="8", output_mtok="2", requests_kcount="5")
    assert priced(model(pictures)) == Price(
        8 * 10**9, 8 * 10**9, 8 * 10**9, 2 * 10**9, per_request=5 * 10**6
    )


def test_a_price_that_has_begun_takes_the_place_of_those_before_it_and_those_to_come_count() -> (
    None
):
    def since(day: date, price: str) -> types.ConditionalPrice:
        start = types.StartDateConstraint(day)
        return types.ConditionalPrice(start, prices=usd(input_mtok=price, output_mtok="1"))

    old = types.ConditionalPrice(prices=usd(input_mtok="10", output_mtok="1"))
    begun, to_come = since(TODAY, "2"), since(date(2027, 1, 1), "3")
    for prices, expected in (([old, begun], 2), ([old, begun, to_come], 3), ([old, to_come], 10)):
        found = priced(model(prices))
        assert found is not None
        assert found.input == expected * 10**9


@pytest.mark.parametrize("key", ["audio_hours", "input_mchars", "input_document_kpages", "new"])
def test_what_is_not_counted_in_tokens_or_calls_is_not_priced(key: str) -> None:
    assert priced(model(usd(input_mtok="1", output_mtok="1", web_searches_kcount="9")))
    assert priced(model(usd(input_mtok="1", output_mtok="1", **{key: "1"}))) is None
    assert priced(model(usd(web_searches_kcount="9"))) is None


def test_without_a_context_a_name_is_not_priced() -> None:
    assert shipped("google", "gemini-2.5-pro").context_window is None
    assert priced(model(usd(input_mtok="1"), context_window=None)) is None
    default = "default: {price: {input: 1}, context_tokens: 7}\npublic_prices: true"
    offer = catalog(default).resolve("gemini-2.5-pro")
    assert offer is not None
    assert offer.model.context_tokens == 7


@pytest.mark.parametrize(
    "name", ["my-claude-haiku-4-5", "claude-haiku-4-5-cheap", "claude", "gpt-4o-2031-01-01", "x"]
)
def test_a_name_that_a_client_makes_up_is_no_public_name(name: str) -> None:
    assert load(None).find(name) is None


def test_a_name_with_a_date_that_the_data_knows_is_one() -> None:
    prices = load(None)
    assert prices.find("claude-haiku-4-5-20251001") == prices.find("claude-haiku-4-5")
    assert prices.find("claude-haiku-4-5@20251001") == prices.find("claude-haiku-4-5")


def test_another_way_to_write_a_public_name_does_not_lead_to_the_default() -> None:
    asked = catalog("default: {price: {input: 0}, context_tokens: 7}\npublic_prices: true")
    first = asked.resolve("claude-haiku-4-5")
    assert first is not None
    for name in ("CLAUDE-Haiku-4-5", "claude-haiku-4-5:latest", "library/claude-haiku-4-5"):
        offer = asked.resolve(name)
        assert offer is not None
        assert (offer.name, offer.model.price) == (name, first.model.price)


def test_the_catalogs_own_rows_come_first_and_the_default_last() -> None:
    text = """
models:
  gpt-4o: {price: {input: 1}, context_tokens: 7}
  mine: {price: {input: 2}, context_tokens: 7, aliases: [gpt-4]}
  "gpt-5*": {price: {input: 3}, context_tokens: 7}
default: {price: {input: 4}, context_tokens: 7}
public_prices: {providers: [openai]}
"""
    prices = {"gpt-4o": 1, "gpt-4": 2, "gpt-5-mini": 3, "claude-haiku-4-5": 4}
    for name, price in prices.items():
        offer = catalog(text).resolve(name)
        assert offer is not None
        assert offer.model.price.input == price * 10**9
        assert offer.model.origin == ""
    offer = catalog(text).resolve("gpt-4o-mini")
    assert offer is not None
    assert offer.model.origin.endswith(", openai")


def test_of_several_providers_the_first_that_has_a_name_counts_and_resellers_only_when_asked() -> (
    None
):
    name = "deepseek/deepseek-r1"
    assert load(None).find(name) is None
    for providers in (("openrouter", "novita"), ("novita", "openrouter")):
        row = load(providers).find(name)
        assert row is not None
        assert row.provider == providers[0]


def test_an_output_bound_counts_for_the_names_that_have_room_for_it() -> None:
    asked = catalog("public_prices: {providers: [openai], max_output_tokens: 16384}")
    found = {name: asked.resolve(name) for name in ("gpt-4o", "gpt-4")}
    assert {n: o.model.max_output_tokens for n, o in found.items() if o} == {
        "gpt-4o": 16384,
        "gpt-4": None,  # its context is 8192
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "public_prices:\n  providers:\n    - openai\n    - opnai",
            "line 4: public_prices.providers.1: there is no such provider; there are ",
        ),
        ("public_prices: {providers: []}", "line 1: public_prices.providers: "),
        (
            "public_prices: {provider: [openai]}",
            "line 1: public_prices.provider: nothing is called",
        ),
        ("\npublic_prices: 3", "line 2: public_prices: a mapping of names"),
    ],
)
def test_a_fault_has_its_line(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        catalog(text)
    assert caught.value.faults[0].startswith(fault)


def test_false_asks_for_none() -> None:
    assert catalog("public_prices: false").public is None


def test_without_the_extra_the_fault_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    publicprices._load.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "genai_prices"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(ConfigError) as caught:
        catalog("models: {}\npublic_prices: true")
    assert caught.value.faults == (
        "line 2: public_prices: its data is not installed; install `tensorgate[prices]`, or take "
        "this out",
    )


def test_no_network_is_reached_and_nothing_runs_that_would() -> None:
    script = """
import json, sys, threading
reached = []
sys.addaudithook(lambda event, _: reached.append(event) if event.startswith("socket.") else None)
from store.publicprices import load
found = [load(None).find(name) is not None for name in ("gpt-4o", "claude-haiku-4-5-20251001", "x")]
from genai_prices import data_snapshot
threads = [each.name for each in threading.enumerate()]
print(json.dumps([found, reached, threads, data_snapshot._custom_snapshot]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    found, reached, threads, updated = json.loads(done.stdout)
    assert found == [True, True, False]
    assert threads == ["MainThread"]
    assert updated is None
    assert reached == []


def test_what_is_not_asked_for_is_not_imported() -> None:
    script = "import sys, store.catalog; sys.exit('genai_prices' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
