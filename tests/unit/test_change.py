"""From one catalog to the next: what is said to change, and what Envoy would have to know."""

from __future__ import annotations

import pytest

from authz.change import changes, frame
from authz.endpoints import table_of
from store.catalog import Catalog

PLANS = "plans: {free: {max_keys: 2}, pro: {}}\ndefault_plan: free\n"
UPSTREAMS = 'upstreams: {gpu-a: "10.0.0.7:8000", gpu-b: "10.0.0.8:8000"}\n'
ROW = "{price: {input: 1, output: 2}, context_tokens: 1000"
A, B = f"{ROW}, upstream: gpu-a}}", f"{ROW}, upstream: gpu-b}}"
PLAIN = f"{ROW}}}"


def catalog(models: dict[str, str], more: str = UPSTREAMS, plans: str = PLANS) -> Catalog:
    rows = "".join(f'  "{name}": {row}\n' for name, row in models.items())
    return Catalog.parse(f"models:{rows and chr(10)}{rows or ' {}'}\n{more}{plans}", "test")


def differ(old: Catalog, new: Catalog) -> list[str]:
    """The members that Envoy was started with and that the new one has otherwise."""
    faults = frame(old, table_of(old)).faults(frame(new, table_of(new)))
    marks = {frame(each, table_of(each)).mark for each in (old, new)}
    assert (len(marks) == 2) is bool(faults)
    assert all("stop the gate and start it again" in fault for fault in faults)
    return [fault.partition(":")[0] for fault in faults]


def test_models_come_and_go_and_move_from_server_to_server() -> None:
    for new in ({}, {"x": PLAIN}, {"x": A, "y*": B}, {"x": B, "y*": A}):
        assert differ(catalog({"x": A}), catalog(new)) == []


@pytest.mark.parametrize(
    "more",
    [
        'upstreams: {gpu-a: "10.0.0.7:8001"}\n',
        'upstreams: {gpu-b: "10.0.0.7:8000"}\n',
        'upstreams: {gpu-a: {address: "10.0.0.7:8000", health: /health}}\n',
        "",
    ],
)
def test_another_server_needs_a_restart(more: str) -> None:
    assert differ(catalog({}, 'upstreams: {gpu-a: "10.0.0.7:8000"}\n'), catalog({}, more)) == [
        "upstreams"
    ]


def test_another_path_needs_a_restart_and_another_reading_of_it_none() -> None:
    row = "endpoints: [{name: own, path: /own, input: text%s}]\n"
    old, new = catalog({}, row % ""), catalog({}, row % ", output: [most]")
    assert differ(old, new) == []
    assert differ(old, catalog({}, (row % "").replace("/own", "/other"))) == [
        "endpoints, native_model"
    ]
    assert differ(old, catalog({}, "")) == ["endpoints, native_model"]
    native = catalog({"m": PLAIN}, "native_model: m\n")
    assert differ(catalog({"m": PLAIN}, ""), native) == ["endpoints, native_model"]
    assert differ(native, catalog({"n": PLAIN}, "native_model: n\n")) == []


def test_a_listing_is_nothing_to_envoy() -> None:
    listing = "endpoints: [{name: own, path: /own, method: GET, model: none, lane: listing}]\n"
    assert differ(catalog({}, ""), catalog({}, listing)) == []


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert differ(catalog({}), catalog({}, "endpoints: [{name: o, path: /own}]\n")) == [
        "upstreams",
        "endpoints, native_model",
    ]


def test_what_changed_is_told_row_by_row() -> None:
    old = catalog(
        {"same": PLAIN, "dear": PLAIN, "gone": PLAIN, "else": PLAIN}, f"default: {PLAIN}\n"
    )
    new = catalog(
        {
            "else": PLAIN.replace("1000", "2000"),
            "same": PLAIN,
            "dear": PLAIN.replace("input: 1", "input: 3"),
            "new": PLAIN,
        },
        f"default: {PLAIN.replace('output: 2', 'output: 4')}\n",
        "plans: {free: {max_keys: 3}, big: {}}\ndefault_plan: big\n",
    )
    price = {
        "input": 10**9,
        "cached_input": 10**9,
        "cache_write": 10**9,
        "output": 2 * 10**9,
        "per_request": 0,
        "per_second": 0,
    }
    dear = {"input": 3 * 10**9, "cached_input": 3 * 10**9, "cache_write": 3 * 10**9}
    assert changes(old, new) == [
        {"what": "model", "name": "else", "change": "changed"},
        {
            "what": "model",
            "name": "dear",
            "change": "repriced",
            "before": price,
            "after": price | dear,
        },
        {"what": "model", "name": "new", "change": "added"},
        {
            "what": "default",
            "name": "default",
            "change": "repriced",
            "before": price,
            "after": price | {"output": 4 * 10**9},
        },
        {"what": "model", "name": "gone", "change": "removed"},
        {"what": "plan", "name": "free", "change": "changed"},
        {"what": "plan", "name": "big", "change": "added"},
        {"what": "plan", "name": "pro", "change": "removed"},
        {"what": "default_plan", "name": "default_plan", "change": "changed"},
    ]
    assert changes(new, new) == []


def test_a_row_may_be_repriced_and_changed() -> None:
    old, new = catalog({"x": PLAIN}), catalog({"x": PLAIN.replace("1", "3")})
    assert [each["change"] for each in changes(old, new)] == ["repriced", "changed"]


def test_endpoints_the_native_model_and_public_prices_are_told() -> None:
    more = "native_model: m\npublic_prices: true\nendpoints: [{name: own, path: /own}]\n"
    found = changes(catalog({"m": PLAIN}), catalog({"m": PLAIN}, more))
    assert [(each["what"], each["name"], each["change"]) for each in found] == [
        ("endpoint", "own", "added"),
        ("native_model", "native_model", "changed"),
        ("public_prices", "public_prices", "changed"),
    ]
    fewer = more.replace("true", "{max_output_tokens: 5}")
    (told,) = changes(catalog({"m": PLAIN}, more), catalog({"m": PLAIN}, fewer))
    assert told["what"] == "public_prices"
