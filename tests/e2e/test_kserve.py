"""A real mlserver behind the whole gate, called by Triton's own client over HTTP and gRPC."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from load.audit import Row
from moneygate import NANOUSD, booked
from peers.client import call
from peers.kserve import MODELS, Ended, Kserve, TritonClient, kserve_server
from peers.stack import Stack, StartStack
from waiting import until

PER_REQUEST = NANOUSD // 100
CATALOG = """\
models:
  doubling: {price: {per_request: 0.01}, context_tokens: 1024, upstream: models}
  secret: {price: {per_request: 0.01}, context_tokens: 1024, upstream: models}
default: {price: {input: 0.5, output: 1.5}, context_tokens: 131072, max_output_tokens: 4096}
upstreams:
  models: {address: "ADDRESS", grpc: "GRPC", health: /v2/health/ready}
plans:
  test: {}
default_plan: test
"""
INFER = "/inference.GRPCInferenceService/ModelInfer"

both = pytest.mark.parametrize("over", ["http", "grpc"])


@dataclass(frozen=True)
class Site:
    """A gate before an mlserver, Triton's client at the gate, a key for `doubling`."""

    gate: Stack
    server: Kserve
    client: TritonClient
    key: dict[str, Any]

    def call(self, over: str, what: str = "infer", **more: Any) -> Ended:
        return self.client.call(over, what, **{"key": self.key["key"], **more})


@pytest.fixture(scope="module")
def site(start_stack: StartStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with kserve_server(tmp_path_factory.mktemp("mlserver")) as server:
        catalog = CATALOG.replace("ADDRESS", server.address).replace("GRPC", server.grpc)
        # calls that name no model go to the default upstream, over gRPC by its own address
        env = {"TENSORGATE_UPSTREAM_GRPC": server.grpc}
        gate = start_stack(server.address, catalog=catalog, env=env)
        with TritonClient(gate.address) as client:
            key = gate.mint(models="doubling", budget_usd=1)
            server.wait()
            made = Site(gate, server, client, key)
            until(lambda: made.call("grpc").value and made.call("http").value, 5, "a first answer")
            yield made


def assert_refused(ended: Ended, over: str, code: str, status: int, grpc_status: str) -> str:
    """It was refused with this code, in the words of its protocol; returns the sentence."""
    if over == "grpc":
        assert ended.status == f"StatusCode.{grpc_status}", ended
        said, _, words = ended.message.partition(": ")
        assert said == code
        return words
    assert ended.status == str(status), ended
    error = json.loads(ended.message)
    assert error["code"] == code
    return str(error["message"])


def rows_of(site: Site, key: dict[str, Any], count: int) -> list[Row]:
    return sorted(booked(site.gate, key, count), key=lambda row: str(row["admitted_at"]))


# ── What passes, and what it costs ───────────────────────────────────────────────────────────────


def test_allowed_calls_are_answered_and_booked_by_their_price(site: Site) -> None:
    before = rows_of(site, site.key, 2)
    assert site.call("http") == site.call("grpc") == Ended([[2.0, 5.0]])
    rows = rows_of(site, site.key, len(before) + 2)[-2:]
    assert [row["endpoint"] for row in rows] == ["v2.infer", "grpc.infer"]
    for row in rows:
        assert (row["model"], row["basis"], row["status"]) == ("doubling", "metered", 200)
        assert row["charge_nanousd"] == row["hold_nanousd"] == PER_REQUEST


def test_a_models_own_error_is_the_clients_and_costs_nothing(site: Site) -> None:
    before = rows_of(site, site.key, 2)
    for over, status in (("http", "400"), ("grpc", "StatusCode.INVALID_ARGUMENT")):
        ended = site.call(over, numbers=[-1.0])
        assert ended == Ended(status=status, message="it does not take negative numbers")
    for row in rows_of(site, site.key, len(before) + 2)[-2:]:
        assert (row["basis"], row["status"], row["charge_nanousd"]) == ("released", 400, 0)


@both
@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("live", True),
        ("ready", True),
        ("model_ready", True),
        ("metadata", "mlserver"),
        ("model_metadata", "doubling"),
    ],
)
def test_health_and_metadata_pass_and_hold_no_money(
    site: Site, over: str, what: str, value: Any
) -> None:
    assert site.call(over, what) == Ended(value)


def test_models_that_no_server_lists_are_listed_from_the_catalog(site: Site) -> None:
    listed = call(site.gate, "/v1/models", key=site.key["key"]).json()
    assert [each["id"] for each in listed["data"]] == ["doubling"]


# ── What is refused ──────────────────────────────────────────────────────────────────────────────


@both
@pytest.mark.parametrize("what", ["infer", "model_ready", "model_metadata"])
def test_another_model_is_denied(site: Site, over: str, what: str) -> None:
    if (over, what) == ("http", "model_ready"):  # the client makes a bare False of it
        assert site.call(over, what, model=MODELS[1]) == Ended(value=False)
        return
    ended = site.call(over, what, model=MODELS[1])
    words = assert_refused(ended, over, "model_not_allowed", 403, "PERMISSION_DENIED")
    assert words.startswith("This key may not call `secret`; it may call `doubling`.")


@both
def test_no_key(site: Site, over: str) -> None:
    ended = site.call(over, key=None)
    assert_refused(ended, over, "missing_api_key", 401, "UNAUTHENTICATED")


def test_over_the_minute(site: Site) -> None:
    key = site.gate.mint(rpm=2)
    assert all(site.call(over, key=key["key"]).value for over in ("http", "grpc"))
    for over in ("http", "grpc"):
        ended = site.call(over, key=key["key"])
        words = assert_refused(ended, over, "rate_limit_exceeded", 429, "RESOURCE_EXHAUSTED")
        assert words.startswith("2 requests in the last 60 seconds is this key's limit.")


def test_over_the_budget_and_then_expired(site: Site) -> None:
    key = site.gate.mint(budget_usd=0.025)
    assert all(site.call(over, key=key["key"]).value for over in ("http", "grpc"))
    rows_of(site, key, 2)
    for over in ("http", "grpc"):
        ended = site.call(over, key=key["key"])
        assert_refused(ended, over, "budget_exceeded", 429, "RESOURCE_EXHAUSTED")
    site.gate.expire(key["id"])
    # until it shows it is over its budget: no call in between costs anything
    until(lambda: site.call("http", key=key["key"]).status == "401", 10, "the key expired")
    for over in ("http", "grpc"):
        ended = site.call(over, key=key["key"])
        words = assert_refused(ended, over, "api_key_expired", 401, "UNAUTHENTICATED")
        assert words.startswith("This key (sk-tg_")
    assert len(rows_of(site, key, 2)) == 2


@both
@pytest.mark.parametrize(
    "given",
    [
        {"tensor": "lora_task_id"},
        {"options": {"priority": 1}},
        {"options": {"sequence_id": 7, "sequence_start": True}},
    ],
)
def test_what_steers_the_server(site: Site, over: str, given: dict[str, Any]) -> None:
    ended = site.call(over, **given)
    assert_refused(ended, over, "parameter_not_allowed", 403, "PERMISSION_DENIED")


def test_a_stream_both_ways_is_refused_at_once(site: Site) -> None:
    began = time.monotonic()
    ended = site.call("grpc", "stream")
    words = assert_refused(ended, "grpc", "endpoint_not_allowed", 403, "PERMISSION_DENIED")
    assert time.monotonic() - began < 2
    assert "ModelStreamInfer" in words


def test_a_servers_controls_are_refused(site: Site) -> None:
    headers = {"content-type": "application/json"}
    for path in ("index", "models/doubling/unload", "models/doubling/load"):
        answer = call(
            site.gate, f"/v2/repository/{path}", key=site.key["key"], body=b"{}", headers=headers
        )
        assert (answer.status, answer.code) == (403, "endpoint_not_allowed")
    for name in ("RepositoryIndex", "RepositoryModelUnload", "ModelStatistics"):
        status, words = _raw(site, b"", path=f"/inference.GRPCInferenceService/{name}")
        assert status is grpc.StatusCode.PERMISSION_DENIED
        assert words.startswith("endpoint_not_allowed: ")


def _raw(site: Site, message: bytes, path: str = INFER) -> tuple[grpc.StatusCode, str]:
    """How a call of these bytes is refused."""
    metadata = (("authorization", f"Bearer {site.key['key']}"),)
    with (
        grpc.insecure_channel(site.gate.address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(path)(message, metadata=metadata, timeout=10)
    return caught.value.code(), caught.value.details() or ""


DOUBLING = b"\x0a\x08doubling"


def test_a_message_that_could_be_read_in_two_ways(site: Site) -> None:
    for message, code in (
        (DOUBLING + b"\x0a\x06secret", "ambiguous_body"),
        (b"\x0a\x06secret" + DOUBLING, "ambiguous_body"),
        (DOUBLING + b"\x42\x06secret", "malformed_body"),
        (DOUBLING + b"\x0b\x0c", "malformed_body"),
        (DOUBLING[:-1], "malformed_body"),
        (b"\x0a\x88\x00doubling", "malformed_body"),
        (b"", "model_required"),
    ):
        status, words = _raw(site, message)
        assert status is grpc.StatusCode.INVALID_ARGUMENT
        assert words.startswith(f"{code}: ")


def test_a_call_of_grpc_in_another_content_type(site: Site) -> None:
    """A server would read the body in its own way; we read it in one."""
    framed = b"\0" + len(DOUBLING).to_bytes(4) + DOUBLING
    for content_type in ("application/json", "application/grpc+json", "application/grpc-web"):
        headers = {"content-type": content_type}
        answer = call(site.gate, INFER, key=site.key["key"], body=framed, headers=headers)
        reason = answer.headers["x-tensorgate-reason"]
        assert reason in {"malformed_body", "endpoint_not_allowed", "unsupported_encoding"}


# ── The server is down: the last test, for it ends it ────────────────────────────────────────────


def test_a_server_that_is_down_is_told_at_once(site: Site) -> None:
    before = rows_of(site, site.key, 2)
    site.server.child.end()
    for over in ("http", "grpc"):
        began = time.monotonic()
        ended = site.call(over)
        assert_refused(ended, over, "upstream_unavailable", 503, "UNAVAILABLE")
        assert time.monotonic() - began < 2
    rows = rows_of(site, site.key, len(before) + 2)[-2:]
    assert [(row["basis"], row["charge_nanousd"]) for row in rows] == [("released", 0)] * 2
