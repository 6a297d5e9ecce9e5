"""What the real Envoy says itself: in our shape, in the dialect of the path, with our words."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from edge_support import (
    CHAT,
    GOOD,
    MESSAGES,
    MIB,
    Edge,
    Got,
    allow,
    deny,
    edge,
    head,
)
from peers.ports import free_port
from peers.recorder import Abort, Hangup, Pause, Reply

from authz.pb.auth_pb2 import CheckRequest, CheckResponse

OPENAI_TYPES = {401: "authentication_error"}
ANTHROPIC_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
}
NO_KEY = ("authorization", "Bearer not-one-of-ours")

both_dialects = pytest.mark.parametrize("path", [CHAT, MESSAGES])


@pytest.fixture(scope="module")
def shared() -> Iterator[Edge]:
    with edge() as made:
        yield made


@pytest.fixture
def gate(shared: Edge) -> Edge:
    shared.reset()
    return shared


def assert_refusal(got: Got, path: str, status: int, code: str, *, early: bool = False) -> str:
    """It has the whole shape of a refusal; returns its words.

    What is refused before Envoy has made a request of it (`early`) has no `request-id` yet.
    """
    error = got.json["error"]
    words = error["message"]
    server_error = status >= 500
    if path == MESSAGES:
        kind = "api_error" if server_error else "invalid_request_error"
        shape = {"type": ANTHROPIC_TYPES.get(status, kind), "message": words, "code": code}
        request_id = got.one("x-request-id")
        assert got.json == {"type": "error", "error": shape, "request_id": request_id}
        assert got.one("request-id") == (None if early else request_id)
    else:
        kind = "server_error" if server_error else "invalid_request_error"
        shape = {"message": words, "type": OPENAI_TYPES.get(status, kind), "param": None}
        shape |= {"code": code, "request_id": got.one("x-request-id")}
        assert got.json == {"error": shape}
        assert got.one("request-id") is None
    assert got.one("x-request-id")
    assert (got.status, got.one("x-tensorgate-reason")) == (status, code)
    assert 1 <= words.count(". ") + words.endswith(".") <= 2
    return str(words)


# ── Before the check ─────────────────────────────────────────────────────────────────────────────


@both_dialects
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Basic dXNlcjpwYXNz")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "")],
        [("x-api-key", ""), ("api-key", ""), ("x-goog-api-key", "")],
    ],
)
def test_no_credential_is_told_so_before_the_body_is_read(
    gate: Edge, path: str, headers: list[tuple[str, str]]
) -> None:
    with gate.connect() as wire:
        wire.send(head("POST", path, [*headers, ("content-length", str(10 * MIB))]))
        got = wire.got()
    words = assert_refusal(got, path, 401, "missing_api_key")
    assert words == "No API key was sent. Send it as the header `Authorization: Bearer sk-tg_…`."
    assert got.one("www-authenticate") == 'Bearer realm="tensorgate"'
    assert gate.service.checks == []


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "bearer x")],
        [("authorization", "BEARER  x")],
        [("x-api-key", "x")],
        [("api-key", "x")],
        [("x-goog-api-key", "x")],
        [("authorization", "Basic x"), ("x-api-key", "x")],
    ],
)
def test_any_value_is_for_the_service_to_judge(gate: Edge, headers: list[tuple[str, str]]) -> None:
    assert gate.call("POST", CHAT, headers, b"{}").status == 200
    assert len(gate.service.checks) == 1


@pytest.mark.parametrize(
    "query",
    ["key=x", "a=1&key=x", "a;key=x", f"token={GOOD[1][7:]}"],
    ids=["key", "later", "semicolon", "ours"],
)
def test_of_a_key_in_the_url_the_service_says_so(gate: Edge, query: str) -> None:
    gate.service.script = lambda _: deny(400, "{}")
    assert gate.call("GET", f"/v1/models?{query}").status == 400
    assert gate.service.checks[0].path == f"/v1/models?{query}"


@pytest.mark.parametrize("query", ["key=", "monkey=x", "a=key", "keys=x"])
def test_other_queries_do_not_stand_for_a_credential(gate: Edge, query: str) -> None:
    assert gate.call("GET", f"/v1/models?{query}").code == "missing_api_key"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/healthz?probe=1"])
def test_the_gate_says_that_it_is_there(gate: Edge, method: str, path: str) -> None:
    got = gate.call(method, path)
    assert (got.status, got.body) == (200, b"")
    assert got.one("x-request-id")
    assert gate.service.checks == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/"), ("GET", "/healthz/"), ("GET", "/healthzz"), ("GET", "/health")],
)
def test_nothing_else_goes_without_a_key(gate: Edge, method: str, path: str) -> None:
    assert gate.call(method, path).code == "missing_api_key"


@both_dialects
@pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "spdy/3.1"])
def test_an_upgrade_is_refused(gate: Edge, path: str, protocol: str) -> None:
    upgrade = [("connection", "Upgrade"), ("upgrade", protocol)]
    for headers in (upgrade, [GOOD, *upgrade]):
        assert_refusal(gate.call("GET", path, headers), path, 426, "upgrade_not_supported")
    assert gate.service.checks == gate.upstream.requests == []


@both_dialects
def test_what_no_route_can_name_is_not_found(gate: Edge, path: str) -> None:
    upgrade = [("connection", "Upgrade"), ("upgrade", "connect-udp"), GOOD]
    assert_refusal(gate.call("GET", path, upgrade), path, 404, "not_found", early=True)
    assert_refusal(gate.call("CONNECT", "gate.test:443", [GOOD]), CHAT, 404, "not_found")


def test_http_1_0_is_refused(gate: Edge) -> None:
    with gate.connect() as wire:
        wire.send(b"GET /v1/models HTTP/1.0\r\nhost: gate\r\n\r\n")
        assert_refusal(wire.got(), CHAT, 426, "upgrade_not_supported")


@both_dialects
def test_header_faults(gate: Edge, path: str) -> None:
    for target in (f"{path}%2f", f"{path}/%5c"):
        got = gate.call("GET", target, [GOOD])
        words = assert_refusal(got, path, 400, "malformed_request", early=True)
        assert "path_normalization_failed" in words
    # what never became a request has no path yet
    for headers in (
        [(f"x-{number}", "x") for number in range(101)],
        [("x-long", "x" * 40_000)],
    ):
        assert_refusal(gate.call("GET", path, headers), CHAT, 431, "malformed_request")
    with gate.connect() as wire:
        wire.send(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        assert_refusal(wire.got(), path, 400, "malformed_request", early=True)


def test_what_a_client_sent_cannot_break_the_json(gate: Edge) -> None:
    hostile = 'x"},"error":null,\\\x7e'
    got = gate.call("GET", "/v1/%2f", [GOOD, ("x-request-id", hostile)])
    assert got.json["error"]["code"] == "malformed_request"
    # a fault of the path is found before Envoy gives the request an id of its own
    assert got.json["error"]["request_id"] == got.one("x-request-id") == hostile


# ── The body ─────────────────────────────────────────────────────────────────────────────────────


@both_dialects
def test_a_body_above_its_limit_is_told_which(gate: Edge, path: str) -> None:
    for headers, target, size, limit in (
        ([NO_KEY], path, 64 * 1024, "64 KiB"),
        ([GOOD], path + "/other", MIB, "1 MiB"),
        ([GOOD], path, 32 * MIB, "32 MiB"),
    ):
        got = gate.call("POST", target, headers, b"x" * (size + 1))
        assert limit in assert_refusal(got, path, 413, "body_too_large")
    assert gate.service.checks == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_only_a_post_may_be_long(gate: Edge, method: str) -> None:
    got = gate.call(method, CHAT, [GOOD], b"x" * 65_537)
    assert "64 KiB" in assert_refusal(got, CHAT, 413, "body_too_large")


@both_dialects
def test_a_stalled_upload_is_given_up(path: str) -> None:
    with edge(request_seconds=1) as gate, gate.connect() as wire:
        began = time.monotonic()
        wire.send(head("POST", path, [GOOD, ("content-length", "100")]) + b"begun")
        words = assert_refusal(wire.got(), path, 408, "request_timeout")
        assert "1 s" in words
        assert 0.9 < time.monotonic() - began < 3
        assert gate.service.checks == []


# ── The check ────────────────────────────────────────────────────────────────────────────────────


@both_dialects
def test_what_the_service_says_passes_as_it_is(gate: Edge, path: str) -> None:
    ours = [("x-tensorgate-reason", "its_own"), ("x-ratelimit-limit-requests", "60")]
    for status in (200, 400, 401, 403, 404, 413, 426, 429, 503):
        gate.service.script = lambda _, status=status: deny(status, '{"as": "it is"}', ours)
        got = gate.call("POST", path, [GOOD], b"{}")
        assert (got.status, got.body) == (status, b'{"as": "it is"}')
        assert got.one("content-type") == "application/json"
        assert [got.one(name) for name, _ in ours] == [value for _, value in ours]
        assert got.one("x-request-id")
        assert got.one("request-id") == (got.one("x-request-id") if path == MESSAGES else None)
    assert gate.upstream.requests == []


def fail(_: CheckRequest) -> CheckResponse:
    raise RuntimeError("as the test wants it")


def wrong_header(_: CheckRequest) -> CheckResponse:
    return allow([("x-tensorgate-alias", "a\r\nb: c")])


def undecided(_: CheckRequest) -> CheckResponse:
    return CheckResponse(status={"code": 16})


@both_dialects
@pytest.mark.parametrize("script", [fail, wrong_header, undecided])
def test_a_service_that_fails_is_503_and_nothing_passes(
    gate: Edge, path: str, script: object
) -> None:
    gate.service.script = script  # type: ignore[assignment] # one of the three above
    got = gate.call("POST", path, [GOOD], b"{}")
    words = assert_refusal(got, path, 503, "authorization_unavailable")
    assert words == (
        "The gate cannot check keys right now, so nothing was passed on. Try again in a second."
    )
    assert got.one("retry-after") == "1"
    assert gate.upstream.requests == []


@both_dialects
def test_no_service_is_503_at_once_and_200_again_when_it_is_back(path: str) -> None:
    with edge(serve=False) as gate:
        for _ in range(2):
            with gate.service.serving():
                _until(gate, 200)
            began = time.monotonic()
            got = gate.call("POST", path, [GOOD], b"{}")
            assert time.monotonic() - began < 1
            assert_refusal(got, path, 503, "authorization_unavailable")


def test_a_service_that_is_too_slow_is_503() -> None:
    with edge(check_seconds=0.3) as gate:
        gate.service.script = lambda _: time.sleep(1) or allow()  # type: ignore[func-returns-value]
        began = time.monotonic()
        got = gate.call("POST", CHAT, [GOOD], b"{}")
        assert_refusal(got, CHAT, 503, "authorization_unavailable")
        assert time.monotonic() - began < 0.9
        assert gate.upstream.requests == []


def test_a_service_that_drains_gets_no_more_checks_and_soon_gets_them_again(gate: Edge) -> None:
    time.sleep(1)  # whatever Envoy saw of its health before must not blur what follows
    gate.service.health = 2  # type: ignore[assignment] # NOT_SERVING
    try:
        _until(gate, 503)
        gate.service.checks.clear()
        assert gate.call("POST", CHAT, [GOOD], b"{}").code == "authorization_unavailable"
        assert gate.service.checks == []
    finally:
        gate.service.health = 1  # type: ignore[assignment] # SERVING
    # a fifth of a second apart, and not a second later in one go, as is Envoy's default
    _until(gate, 200, seconds=0.6)


def _until(gate: Edge, status: int, seconds: float = 1) -> None:
    """Envoy looks every half second while all is well."""
    deadline = time.monotonic() + seconds
    while gate.call("POST", CHAT, [GOOD], b"{}").status != status:
        assert time.monotonic() < deadline, f"no {status} in {seconds} s"
        time.sleep(0.02)


# ── The model server ─────────────────────────────────────────────────────────────────────────────


@both_dialects
def test_a_server_that_is_not_there(path: str) -> None:
    with edge(upstream=f"127.0.0.1:{free_port()}") as gate:
        gate.service.script = lambda _: allow(client=[("x-ratelimit-limit-requests", "60")])
        got = gate.call("POST", path, [GOOD], b"{}")
        assert_refusal(got, path, 503, "upstream_unavailable")
        assert got.one("x-ratelimit-limit-requests") == "60"


@both_dialects
def test_a_server_that_breaks_off_is_asked_once(gate: Edge, path: str) -> None:
    for before in (Hangup(), Abort()):
        gate.upstream.requests.clear()
        gate.upstream.answer = Reply(before=[before])
        got = gate.call("POST", path, [GOOD], b"{}")
        assert_refusal(got, path, 503, "upstream_unavailable")
        assert len(gate.upstream.requests) == 1, "a generation was done twice"


@both_dialects
def test_a_server_that_talks_nonsense(gate: Edge, path: str) -> None:
    gate.upstream.answer = Reply(before=[b"this is not HTTP\r\n\r\n", Hangup()])
    got = gate.call("POST", path, [GOOD], b"{}")
    assert_refusal(got, path, 502, "upstream_unavailable")


@both_dialects
def test_a_server_that_is_slower_than_the_service_allows(gate: Edge, path: str) -> None:
    gate.upstream.answer = Reply(before=[Pause(1)])
    gate.service.script = lambda _: allow(
        [("x-envoy-upstream-rq-timeout-ms", "200")], [("x-ratelimit-limit-requests", "60")]
    )
    got = gate.call("POST", path, [GOOD], b"{}")
    assert_refusal(got, path, 504, "upstream_timeout")
    assert got.one("x-ratelimit-limit-requests") == "60"


@pytest.mark.parametrize("limit", ["idle_seconds", "stream_seconds"])
def test_a_server_that_never_answers(limit: str) -> None:
    with edge(**{limit: 1}) as gate:
        gate.upstream.answer = Reply(before=[Pause(3)])
        got = gate.call("POST", CHAT, [GOOD], b"{}")
        assert_refusal(got, CHAT, 504, "upstream_timeout")
