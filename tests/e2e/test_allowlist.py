"""What no key may reach, through the real Envoy, and which server a call goes to.

The key may call every model; two model servers and one that is down stand behind the gate.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import pytest
from peers.client import Answer, call
from peers.ports import free_port
from peers.recorder import Recorder
from peers.stack import Stack, StartStack
from unit.test_endpoints import CONTROLS
from waiting import until

CATALOG = """\
models:
  near: {price: {input: 1, output: 1}, context_tokens: 4096, max_output_tokens: 64}
  far: {price: {input: 1, output: 1}, context_tokens: 4096, max_output_tokens: 64, upstream: other}
  "far:*": {price: {input: 1, output: 1}, context_tokens: 4096, upstream: other}
  kept: {price: {input: 1, output: 1}, context_tokens: 4096, upstream: other, controls: [priority]}
  gone: {price: {input: 1, output: 1}, context_tokens: 4096, upstream: down}
default: {price: {input: 0.5, output: 1.5}, context_tokens: 4096, max_output_tokens: 64}
native_model: far
upstreams: {other: "OTHER", down: "DOWN"}
plans:
  test: {}
default_plan: test
"""


@dataclass(frozen=True)
class Site:
    """A gate, a key that may call everything, one for an adapter, and the two servers behind."""

    gate: Stack
    key: str
    poet: str
    default: Recorder
    other: Recorder

    def call(self, path: str, body: Any = None, **more: Any) -> Answer:
        """A call after which both servers have forgotten what came before."""
        for server in (self.default, self.other):
            server.requests.clear()
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return call(self.gate, path, **{"key": self.key, "body": raw, "method": "POST", **more})

    def reached(self) -> list[str]:
        """Which servers the last call came to."""
        servers = {"default": self.default, "other": self.other}
        return [name for name, server in servers.items() for _ in server.requests]


@pytest.fixture(scope="module")
def site(start_stack: StartStack) -> Iterator[Site]:
    default, other = Recorder(), Recorder()
    try:
        catalog = CATALOG.replace("OTHER", other.address)
        catalog = catalog.replace("DOWN", f"127.0.0.1:{free_port()}")
        default.models = ["near", "roaming", "far:spy", "no\nname", "gone:a"]
        other.models = ["far", "far:bard", "stray"]
        gate = start_stack(default.address, catalog=catalog)
        made = Site(
            gate, gate.mint()["key"], gate.mint(models="far,far:poet")["key"], default, other
        )
        chat = {"messages": []}
        for model in ("near", "far"):
            asked = chat | {"model": model}
            until(lambda a=asked: made.call("/v1/chat/completions", a).status == 200, 10, "a start")
        yield made
    finally:
        default.close()
        other.close()


def raw_call(site: Site, method: str, target: str) -> tuple[int, str, bytes]:
    """Exactly this request target; status, our reason, body."""
    for server in (site.default, site.other):
        server.requests.clear()
    connection = HTTPConnection(site.gate.address, timeout=20)
    try:
        connection.putrequest(method, target, skip_host=False, skip_accept_encoding=True)
        connection.putheader("authorization", f"Bearer {site.key}")
        connection.putheader("content-type", "application/json")
        raw = b"{}" if method not in {"GET", "HEAD"} else b""
        connection.putheader("content-length", str(len(raw)))
        connection.endheaders(raw)
        answer = connection.getresponse()
        return answer.status, answer.getheader("x-tensorgate-reason", ""), answer.read()
    finally:
        connection.close()


# ── What servers do for whoever runs them ────────────────────────────────────────────────────────


@pytest.mark.parametrize("server", CONTROLS)
def test_a_servers_own_controls_are_denied(site: Site, server: str) -> None:
    for path in CONTROLS[server].split():
        for method in ("GET", "POST"):
            if method == "GET" and path.startswith("/v1/models/"):
                continue  # ours, whatever stands there; no server sees it
            status, reason, body = raw_call(site, method, path)
            assert (status, reason) == (403, "endpoint_not_allowed"), (method, path)
            assert json.loads(body)["error"]["code"] == reason
            assert site.reached() == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_other_methods_are_denied(site: Site, method: str) -> None:
    for path in ("/api/delete", "/v1/load_lora_adapter", "/v1/chat/completions", "/v2/models/near"):
        status, reason, _ = raw_call(site, method, path)
        assert (status, reason) == (403, "endpoint_not_allowed"), path
        assert site.reached() == []


TRICKS = [
    *("//metrics", "/./metrics", "/%6detrics", "/metrics/", "/METRICS", "/metrics;x", "/metrics?x"),
    *(
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/v1/%2E%2E%2Fmetrics",
        "/v1/..%2fmetrics",
        "/v1/..;/sleep",
    ),
    *("/v1/chat/completions/../../../sleep", "/v1/chat/completions/..%2f..%2fsleep", "/metrics%00"),
    *(
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat%2fcompletions",
    ),
    *(
        "/v1/chat/completions;x=1",
        "/v1/chat/completions%20",
        "/V1/chat/completions",
        "/v1/chat/Completions",
    ),
    *("/v1\\chat\\completions", "/v1/chat/completions\\..\\..\\sleep", "/v1/chat/completions%2f"),
    *(
        "/v2/models/near%2f..%2ffar/infer",
        "/v2/models/../repository/index",
        "/v2/models/%2e%2f/infer",
    ),
    *(
        "/v2/models/near;far/infer",
        "/v2/models/./infer/x",
        "/v2/models/near/../far/load",
        "/api//pull",
    ),
    *(
        "/openai/deployments/near/chat/completions",
        "/v1/engines/near/completions",
        "/v2//repository//index",
    ),
]


@pytest.mark.parametrize("target", TRICKS)
def test_no_spelling_of_a_path_gets_there(site: Site, target: str) -> None:
    """What Envoy itself refuses it refuses as a bad request; nothing reaches a server."""
    for method in ("GET", "POST"):
        status, reason, _ = raw_call(site, method, target)
        assert site.reached() == [], (method, target)
        assert status in {400, 403}, (method, target)
        assert reason == "endpoint_not_allowed" or status == 400, (method, target, reason)


@pytest.mark.parametrize("target", ["//v2/models/near//infer", "/v2/./models/x/../near/%69nfer"])
def test_a_server_sees_the_path_that_was_judged(site: Site, target: str) -> None:
    assert raw_call(site, "POST", target)[0] in {200, 400, 403}
    for asked in site.default.requests:
        assert asked.target == "/v2/models/near/infer"


# ── Selectors and controls inside what is allowed ────────────────────────────────────────────────

FAMILIES = {
    "OpenAI": ("/v1/chat/completions", {"model": "far", "messages": []}, None),
    "Anthropic": ("/v1/messages", {"model": "far", "messages": []}, None),
    "Gemini": ("/v1beta/models/far:generateContent", {"contents": []}, "generationConfig"),
    "Ollama": ("/api/chat", {"model": "far", "messages": []}, "options"),
    "Triton": ("/v2/models/far/generate", {"text_input": "a"}, "parameters"),
    "KServe": ("/v2/models/far/infer", {"inputs": []}, "parameters"),
    "TF Serving": ("/v1/models/far:predict", {"instances": []}, None),
    "TGI": ("/generate", {"inputs": "a"}, "parameters"),
    "llama.cpp": ("/completion", {"prompt": "a"}, None),
    "SGLang": ("/generate", {"text": "a"}, "sampling_params"),
}
families = pytest.mark.parametrize(("path", "body", "nest"), FAMILIES.values(), ids=list(FAMILIES))


@families
def test_controls_are_denied(site: Site, path: str, body: dict[str, Any], nest: str | None) -> None:
    assert site.call(path, body).status == 200
    for name in ("keep_alive", "kv_transfer_params", "id_slot", "priority", "cache_salt", "models"):
        for members in ({name: 1}, {nest: {name: 1}} if nest else {name: "x"}):
            answer = site.call(path, body | members)
            assert (answer.status, answer.code) == (403, "parameter_not_allowed"), members
            assert name in answer.json()["error"].get("param", name)
            assert site.reached() == []
        assert site.call(path, body | {name: None}).status == 200


@families
def test_an_adapter_is_a_model(
    site: Site, path: str, body: dict[str, Any], nest: str | None
) -> None:
    narrow = site.poet
    for name in ("lora_path", "adapter_id", "lora"):
        for at in (None, nest):
            for adapter, status in (("poet", 200), ("spy", 403)):
                members = {name: adapter} if at is None else {at: {name: adapter}}
                answer = site.call(path, body | members, key=narrow)
                assert answer.status == status, members
                assert site.reached() == (["other"] if status == 200 else [])
                assert status == 200 or answer.code == "model_not_allowed"
        answer = site.call(path, body | {name: ["poet", "spy"]}, key=narrow)
        assert (answer.status, answer.code) == (403, "parameter_not_allowed")


@families
def test_a_query_that_steers_the_server(
    site: Site, path: str, body: dict[str, Any], nest: str | None
) -> None:
    for query in ("autoload=true", "a=b&AutoLoad=0", "auto%6coad"):
        answer = site.call(f"{path}?{query}", body)
        assert (answer.status, answer.code) == (403, "parameter_not_allowed"), query
        assert site.reached() == []


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/tokenize"]
)
def test_another_template_in_the_arguments_of_the_template(site: Site, path: str) -> None:
    body = {"model": "far", "messages": [], "input": "x", "content": "x"}
    plain = body | {"chat_template_kwargs": {"enable_thinking": False}}
    assert site.call(path, plain).status == 200
    for name in ("chat_template", "tokenize", "conversation"):
        answer = site.call(path, body | {"chat_template_kwargs": {name: "{{ x }}"}})
        assert (answer.status, answer.code) == (403, "parameter_not_allowed")
        assert answer.json()["error"].get("param", f"chat_template_kwargs.{name}").endswith(name)
        assert site.reached() == []


def test_a_control_that_the_catalog_allows_passes(site: Site) -> None:
    body = {"model": "kept", "messages": [], "priority": 1}
    assert site.call("/v1/chat/completions", body).status == 200
    assert site.other.requests[0].json()["priority"] == 1
    assert site.call("/v1/chat/completions", body | {"cache_salt": "x"}).status == 403


@families
def test_another_model_in_the_query(
    site: Site, path: str, body: dict[str, Any], nest: str | None
) -> None:
    for query in (
        "model=near",
        "a=b&model=near",
        "MODEL=near",
        "mod%65l=near",
        "model=far&model=near",
    ):
        answer = site.call(f"{path}?{query}", body)
        assert (answer.status, answer.code) == (400, "ambiguous_body"), query
        assert site.reached() == []
    assert site.call(f"{path}?model=far&a=b", body).status == 200


@pytest.mark.parametrize("family", ["Gemini", "Triton", "KServe", "TF Serving", "TGI", "llama.cpp"])
def test_another_model_in_the_body_than_in_the_path(site: Site, family: str) -> None:
    path, body, _ = FAMILIES[family]
    answer = site.call(path, body | {"model": "near"})
    assert (answer.status, answer.code) == (400, "ambiguous_body")
    assert site.reached() == []
    assert site.call(path, body | {"model": "far"}).status == 200


# ── Which server a call goes to ──────────────────────────────────────────────────────────────────


@families
def test_a_call_goes_to_the_server_of_its_model(
    site: Site, path: str, body: dict[str, Any], nest: str | None
) -> None:
    assert site.call(path, body).status == 200
    assert site.reached() == ["other"]
    assert site.other.requests[0].target == path
    if "far" not in path and "model" not in body:
        return  # the server's one model, which the catalog names
    elsewhere = json.loads(json.dumps(body).replace('"far"', '"near"'))
    assert site.call(path.replace("far", "near"), elsewhere).status == 200
    assert site.reached() == ["default"]
    downed = json.loads(json.dumps(body).replace('"far"', '"gone"'))
    answer = site.call(path.replace("far", "gone"), downed)
    assert (answer.status, answer.code) == (503, "upstream_unavailable")
    assert site.reached() == []
    assert site.call(path, body).status == 200


def test_a_key_is_held_to_its_models_wherever_they_are(site: Site) -> None:
    narrow = site.gate.mint(models="near")["key"]
    for path, body, _ in FAMILIES.values():
        answer = site.call(path, body, key=narrow)
        assert (answer.status, answer.code) == (403, "model_not_allowed")
        assert site.reached() == []


def listed(site: Site, key: str) -> set[str]:
    """What a key sees, in either form: the same, and no server is asked for it."""
    models = site.call("/v1/models", method="GET", key=key).json()["data"]
    tags = site.call("/api/tags", method="GET", key=key).json()["models"]
    assert site.reached() == []
    names = [each["id"] for each in models]
    assert sorted(names) == sorted(set(names)) == sorted(each["name"] for each in tags)
    return set(names)


def test_listings_are_joined(site: Site) -> None:
    """A server's word counts for the models that are routed to it; the catalog's own always do.

    `roaming` is the default server's alone, `far:bard` the other's; `far:spy` and `stray` are
    listed by servers that their calls do not go to, and one name is none.
    """
    ours = {"near", "far", "kept", "gone"}
    everything = ours | {"roaming", "far:bard", "gone:a"}
    until(lambda: listed(site, site.key) == everything, 10, "both servers' listings")
    assert listed(site, site.poet) == {"far"}  # no server lists far:poet
    roaming = site.gate.mint(models="roaming,stray,far:spy")["key"]
    assert listed(site, roaming) == {"roaming"}
    for name, status in (("roaming", 200), ("far:bard", 200), ("far:spy", 404), ("stray", 404)):
        assert site.call(f"/v1/models/{name}", method="GET").status == status
    assert all(server.listings for server in (site.default, site.other))
