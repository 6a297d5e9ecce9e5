"""What we answer ourselves: the models of a key, and the key about itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from support import CATALOG, NOW_US, key_record

from authz import ours
from authz.denial import Answer
from store.counters.model import MinuteLimit, MoneyLimit, MoneyStanding, Standing
from store.records import DAY_US, KeyRecord

LLAMA, DEEP = "llama-3.1-8b", "org/deep/model"
LISTED = ["qwen3-coder", "qwen3", LLAMA, "unheard-of", "claude-x", "qwen3"]


def content(answer: Answer | None) -> Any:
    assert answer is not None
    assert answer.status == 200
    assert answer.headers == (("content-type", "application/json"),)
    return json.loads(answer.body)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (key_record(), ["claude-x", LLAMA, DEEP, "qwen3", "qwen3-coder", "unheard-of"]),
        (key_record(budget_nanousd=0), ["claude-x", LLAMA, DEEP, "qwen3", "qwen3-coder"]),
        (key_record(models=[LLAMA]), ["claude-x", LLAMA]),
        (key_record(models=["qwen3", "unheard-of"]), ["qwen3", "unheard-of"]),
        (key_record(models=["unheard-of"], budget_nanousd=1), []),
        (key_record(models=["qwen*"]), []),
    ],
)
def test_names_are_what_the_key_may_call_and_is_priced_for(
    key: KeyRecord, expected: list[str]
) -> None:
    assert ours.callable_names(key, CATALOG, LISTED) == expected
    for name in {*LISTED, DEEP, *expected}:
        found = ours.find_model(key, CATALOG, LISTED, name)
        assert found == (name if name in expected else None)


def test_a_budget_of_the_account_wants_a_price_as_well() -> None:
    plans = {"free": replace(CATALOG.plans["free"], account_budget_nanousd=0)}
    catalog = replace(CATALOG, plans=plans)
    assert "unheard-of" in ours.callable_names(key_record(), CATALOG, LISTED)
    assert "unheard-of" not in ours.callable_names(key_record(), catalog, LISTED)
    assert ours.find_model(key_record(), catalog, LISTED, "unheard-of") is None
    assert ours.find_model(key_record(), catalog, LISTED, "qwen3") == "qwen3"


def test_without_any_listing_the_catalogs_exact_names_are_left() -> None:
    assert ours.callable_names(key_record(), CATALOG, []) == [LLAMA, DEEP]


@pytest.mark.parametrize("wanted", ["qwen*", "claude-*", "default", "", "qwen9", "Llama-3.1-8b"])
def test_what_is_not_listed_is_not_found(wanted: str) -> None:
    assert ours.find_model(key_record(), CATALOG, [], wanted) is None


@pytest.mark.parametrize("wanted", [DEEP, "org%2Fdeep%2Fmodel", "org%2fdeep/model"])
def test_a_name_with_slashes_is_found_as_it_stands_or_escaped(wanted: str) -> None:
    assert ours.find_model(key_record(), CATALOG, [], wanted) == DEEP


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b/c"]])
def test_a_page_of_models(names: list[str]) -> None:
    page = content(ours.models(names))
    assert page["object"] == "list"
    assert page["has_more"] is False
    assert (page["first_id"], page["last_id"]) == ((names[0], names[-1]) if names else (None, None))
    assert [row["id"] for row in page["data"]] == names
    assert [content(ours.model(name)) for name in names] == page["data"]


def test_the_models_in_ollamas_shape() -> None:
    assert content(ours.tags([])) == {"models": []}
    listed = content(ours.tags(["a", "b:8b"]))["models"]
    assert [(row["name"], row["model"]) for row in listed] == [("a", "a"), ("b:8b", "b:8b")]
    for row in listed:
        assert set(row) == {"name", "model", "modified_at", "size", "digest", "details"}
        assert isinstance(row["details"]["families"], list)


def test_a_key_about_itself() -> None:
    key = key_record(models=["b", "a"], budget_nanousd=12_500_000_000)
    minute = Standing(MinuteLimit("key_1", 60), used=18, grows_in_us=1)
    resets_us = NOW_US + 20 * DAY_US
    own = MoneyLimit("key_1", key.created_us, key.budget_nanousd)
    of_account = MoneyLimit("acc_1", key.account_created_us, 99_000_000_000)
    standings = (
        minute,
        MoneyStanding(own, 1_250_000_001, 400_000_000, 0, resets_us),
        MoneyStanding(of_account, 77_000_000_000, 66_000_000_000, 0, resets_us + DAY_US),
    )
    assert content(ours.key(key, standings)) == {
        "object": "key",
        "id": "key_1",
        "alias": "laptop",
        "hint": "sk-tg_…x4Qz",
        "models": ["a", "b"],
        "rpm": 60,
        "requests_remaining": 42,
        "budget_usd": 12.5,
        "spent_usd": 1.250000001,
        "held_usd": 0.4,
        "budget_reset": "2026-12-08T11:06:40Z",
        "created_at": "2026-11-08T11:06:40Z",
        "expires_at": "2027-02-06T11:06:40Z",
    }


def test_a_key_without_limits() -> None:
    said = content(ours.key(key_record(rpm=None, expires_us=NOW_US), ()))
    assert said["models"] == ["*"]
    assert (said["rpm"], said["requests_remaining"], said["budget_usd"]) == (None, None, None)
    assert (said["spent_usd"], said["held_usd"], said["budget_reset"]) == (None, None, None)


def test_a_key_without_a_budget_still_hears_what_it_spent() -> None:
    limit = MoneyLimit("key_1", NOW_US - 10 * DAY_US, None)
    said = content(ours.key(key_record(), (MoneyStanding(limit, 10**9, 2, 0, NOW_US),)))
    assert (said["budget_usd"], said["spent_usd"], said["held_usd"]) == (None, 1, 2e-9)
    assert said["budget_reset"] == "2026-11-18T11:06:40Z"
