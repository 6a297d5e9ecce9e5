"""Envoys of others: what the examples for Istio and Envoy Gateway come to, on a real Envoy.

Neither is run here. Their own words for the filter are read from deploy/, and become Envoy's as
Istio's and Envoy Gateway's sources have it; authz, the meter and the model server are real.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from lua_support import _cluster, _grpc_cluster, _listener, _typed
from peers.client import Answer, call
from peers.ports import free_port, listens
from peers.process import Child
from peers.recorder import Recorder, chat_completion, json_reply
from peers.stack import Stack
from peers.venvs import ROOT

from tensorgate.binaries import envoy_path

MESH: Final = yaml.safe_load((ROOT / "deploy/istio/mesh-config.yaml").read_text())
BODY: Final = b'{"model": "recorder", "messages": [{"role": "user", "content": "hi"}]}'
Json = dict[str, Any]


def documents(path: str) -> list[Json]:
    return [each for each in yaml.safe_load_all((ROOT / path).read_text()) if each]


def provider(kind: str) -> Json:
    (found,) = (each[kind] for each in MESH["extensionProviders"] if kind in each)
    assert isinstance(found, dict)
    return found


# -- what Istio makes of its words


def istios_check() -> list[Json]:
    """AuthorizationPolicy CUSTOM: RBAC marks what the rule speaks of, ext_authz asks for that."""
    given = provider("envoyExtAuthzGrpc")
    body = given["includeRequestBodyInCheck"]
    (policy,) = (d for d in documents("deploy/istio/policy.yaml") if d["kind"] != "Telemetry")
    assert policy["spec"]["action"] == "CUSTOM"
    ((operation,),) = ([to["operation"] for to in rule["to"]] for rule in policy["spec"]["rules"])
    open_paths = [{"url_path": {"path": {"exact": path}}} for path in operation["notPaths"]]
    marked = {
        "permissions": [{"not_rule": {"or_rules": {"rules": open_paths}}}],
        "principals": [{"any": True}],
    }
    rbac = _typed(
        "filters.http.rbac.v3.RBAC",
        shadow_rules={"action": "DENY", "policies": {"istio-ext-authz-tensorgate": marked}},
        shadow_rules_stat_prefix="istio_ext_authz_",
    )
    ext_authz = _typed(
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": "authz"}, "timeout": given["timeout"]},
        failure_mode_allow=given["failOpen"],
        status_on_error={"code": int(given["statusOnError"])},
        with_request_body={
            "max_request_bytes": body["maxRequestBytes"],
            "allow_partial_message": body["allowPartialMessage"],
            "pack_as_bytes": body["packAsBytes"],
        },
        filter_enabled_metadata={
            "filter": "envoy.filters.http.rbac",
            "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": "istio-ext-authz"}},
        },
    )
    return [
        {"name": "envoy.filters.http.rbac", "typed_config": rbac},
        {"name": "envoy.filters.http.ext_authz", "typed_config": ext_authz},
    ]


def istios_metering() -> Json:
    """The EnvoyFilter's own filter, as it stands there."""
    (document,) = documents("deploy/istio/metering.yaml")
    filters = [p for p in document["spec"]["configPatches"] if p["applyTo"] == "HTTP_FILTER"]
    found: Json = filters[0]["patch"]["value"]
    return found


# -- what Envoy Gateway makes of its words


def gateways_check() -> Json:
    """SecurityPolicy.extAuth: of the body's settings there is the size alone."""
    (policy,) = (
        d for d in documents("deploy/envoy-gateway/gateway.yaml") if d["kind"] == "SecurityPolicy"
    )
    given = policy["spec"]["extAuth"]
    typed = _typed(
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": "authz"}, "timeout": "10s"},
        failure_mode_allow=given["failOpen"],
        with_request_body={"max_request_bytes": given["bodyToExtAuth"]["maxRequestBytes"]},
    )
    where = policy["metadata"]["namespace"], policy["metadata"]["name"]
    name = "/".join(("envoy.filters.http.ext_authz/securitypolicy", *where))
    return {"name": name, "typed_config": typed}


def patched(check: Json) -> Json:
    """With what the EnvoyPatchPolicy of the example sets."""
    (policy,) = (
        d for d in documents("deploy/envoy-gateway/gateway.yaml") if d["kind"] == "EnvoyPatchPolicy"
    )
    made: Json = json.loads(json.dumps(check))
    for patch in policy["spec"]["jsonPatches"]:
        assert f"@.name=='{check['name']}'" in patch["operation"]["jsonPath"]
        *parents, last = patch["operation"]["path"].strip("/").split("/")
        place = made
        for name in parents:
            place = place[name]
        assert patch["operation"]["op"] == "add"
        place[last] = patch["operation"]["value"]
    return made


# -- an Envoy with these filters


@contextmanager
def envoy(stack: Stack, model: str, *filters: Json, authz: Path | None = None) -> Iterator[str]:
    """Its address. It has the filters, a log to the meter and one route, and nothing else."""
    port = free_port()
    given = provider("envoyHttpAls")
    log = _typed(
        "access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": given["logName"],
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "log"}},
        },
        additional_response_headers_to_log=given["additionalResponseHeadersToLog"],
    )
    listener = _listener(
        "theirs",
        port,
        list(filters),
        {"cluster": "models", "timeout": "0s"},
        access_log=[{"name": "log", "typed_config": log}],
    )
    host, _, number = model.partition(":")
    models = {"socket_address": {"address": host, "port_value": int(number)}}
    clusters = [
        _grpc_cluster("authz", authz or stack.runtime / "authz-0.sock"),
        _grpc_cluster("log", stack.runtime / "log.sock"),
        _cluster("models", models),
    ]
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "envoy.json"
        resources = {"listeners": [listener], "clusters": clusters}
        node = {"id": "theirs", "cluster": "theirs"}
        config.write_text(json.dumps({"node": node, "static_resources": resources}))
        argv = [envoy_path(), "-c", config, "--concurrency", "1", "--use-dynamic-base-id"]
        child = Child([*argv, "--log-level", "error"], log=Path(name) / "log")
        try:
            child.wait_until(lambda: listens(port), seconds=20, what="a listener")
            yield f"127.0.0.1:{port}"
        finally:
            child.end()


def settled(stack: Stack, answer: Answer) -> Json:
    """The row of a call, once it is there."""
    wanted = answer.headers["x-request-id"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        rows = [json.loads(r) for r in stack.run("ledger", "export").stdout.splitlines()]
        for row in rows:
            if row["request_id"] == wanted:
                found: Json = row
                return found
        time.sleep(0.2)
    raise AssertionError("the call has no row")


@pytest.fixture(scope="module")
def istio(stack: Stack, _shared_recorder: Recorder) -> Iterator[str]:
    with envoy(stack, _shared_recorder.address, *istios_check()) as address:
        yield address


def test_istio_our_service_decides(istio: str, stack: Stack, recorder: Recorder) -> None:
    key = stack.mint(models="recorder", rpm=2)["key"]
    served = call(istio, key=key, body=BODY, headers={"cookie": "session=1"})
    assert served.status == 200, served.body
    assert served.headers["x-ratelimit-remaining-requests"] == "1"
    (seen,) = recorder.wait_for(1)
    assert seen.body == BODY, "nothing splices there"
    assert seen.values("authorization") == [], "the key went to the model server"
    assert seen.values("x-tensorgate-model") == ["recorder"]
    assert seen.values("cookie") == []
    assert seen.values("accept-encoding") != [], "the README says that it stays"
    assert call(istio, key=f"{key[:-1]}?", body=BODY).code == "invalid_api_key"
    assert call(istio, body=BODY).status == 401
    other = call(istio, key=key, model="another")
    assert (other.status, other.code) == (403, "model_not_allowed")
    assert call(istio, key=key, body=BODY).status == 200
    limited = call(istio, key=key, body=BODY)
    assert (limited.status, limited.code) == (429, "rate_limit_exceeded")
    assert "retry-after" in limited.headers
    assert len(recorder.wait_for(2)) == 2


def test_istio_only_the_path_of_balancers_is_open(istio: str, recorder: Recorder) -> None:
    assert call(istio, "/healthz", method="GET").status == 200
    assert call(istio, "/healthz/../v1/chat/completions", method="GET").status == 401
    assert [each.target for each in recorder.wait_for(1)] == ["/healthz"]


def test_istio_without_our_script_each_call_costs_its_hold(
    istio: str, stack: Stack, recorder: Recorder
) -> None:
    recorder.answer = lambda _: json_reply(chat_completion(sent=7, said=2))
    key = stack.mint(models="recorder", budget_usd=5)["key"]
    answer = call(istio, key=key, body=BODY)
    row = settled(stack, answer)
    assert row["basis"] == "held"
    assert row["charge_nanousd"] == row["hold_nanousd"] > 0


def test_istio_with_our_script_it_is_metered_and_bounded(stack: Stack, recorder: Recorder) -> None:
    recorder.answer = lambda _: json_reply(chat_completion(sent=7, said=2))
    key = stack.mint(models="recorder", budget_usd=5)["key"]
    with envoy(stack, recorder.address, *istios_check(), istios_metering()) as address:
        answer = call(address, key=key, body=BODY)
        assert answer.status == 200, answer.body
        row = settled(stack, answer)  # an Envoy that ends says nothing more
    assert (row["basis"], row["input_tokens"], row["output_tokens"]) == ("metered", 7, 2)
    (seen,) = recorder.wait_for(1)
    assert seen.json()["max_tokens"] == 4096, "its output has no bound"


def test_istio_a_gate_that_is_out_is_503_and_serves_nobody(
    stack: Stack, recorder: Recorder, tmp_path: Path
) -> None:
    nobody = tmp_path / "nobody.sock"
    with envoy(stack, recorder.address, *istios_check(), authz=nobody) as address:
        assert call(address, key="sk-tg_any", body=BODY).status == 503
    assert recorder.wait_for(0) == []


def test_envoy_gateway_without_the_patch_no_body_is_read(stack: Stack, recorder: Recorder) -> None:
    """Its Envoy mends a body's text before it shows it: that is not what the server would get."""
    key = stack.mint(models="recorder")["key"]
    with envoy(stack, recorder.address, gateways_check()) as address:
        assert call(address, "/v1/models", key=key).status == 200
        refused = call(address, key=key, body=BODY)
    assert refused.status == 400, refused.body
    assert recorder.wait_for(0) == []


def test_envoy_gateway_with_the_patch_our_service_decides(
    stack: Stack, recorder: Recorder, tmp_path: Path
) -> None:
    key = stack.mint(models="recorder", rpm=1)["key"]
    check = patched(gateways_check())
    with envoy(stack, recorder.address, check) as address:
        served = call(address, key=key, body=BODY)
        assert served.status == 200, served.body
        assert call(address, key=key, model="another").code == "model_not_allowed"
        assert call(address, key=key, body=BODY).code == "rate_limit_exceeded"
        assert call(address, key=f"{key[:-1]}?", body=BODY).code == "invalid_api_key"
    with envoy(stack, recorder.address, check, authz=tmp_path / "nobody.sock") as address:
        assert call(address, key=key, body=BODY).status == 503
    assert len(recorder.wait_for(1)) == 1
