"""gRPC through the real Envoy: calls pass, refusals are gRPC's own, and nothing waits in vain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from edge_support import GOOD, KEY, MIB, Edge, allow, deny, edge, over_http2
from grpc import StatusCode
from peers.ports import free_port
from peers.recorder import Recorder, Reply, json_reply

from authz.errorshape import grpc_headers, grpc_message
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from store.catalog import Upstream

SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"
METADATA = (("authorization", f"Bearer {KEY}"),)
WHOLE = [
    ("grpc.max_send_message_length", 64 * MIB),
    ("grpc.max_receive_message_length", 64 * MIB),
]


# ── A server and a client that know bytes alone ──────────────────────────────────────────────────


@dataclass
class Model:
    """A gRPC server that answers any unary call with the message turned round."""

    port: int
    calls: list[tuple[str, bytes, dict[str, Any]]] = field(default_factory=list)
    fails: bool = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = dict(context.invocation_metadata())
            self.calls.append((call.method, message, metadata))
            context.set_trailing_metadata((("x-behind", "the answer"),))
            if self.fails:
                context.abort(StatusCode.NOT_FOUND, "no such model")
            return message[::-1]

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def model_server(port: int | None = None) -> Iterator[Model]:
    model = Model(port or free_port())
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[model], options=WHOLE)
        server.add_insecure_port(model.address)
        server.start()
        try:
            yield model
        finally:
            server.stop(0).wait()


@dataclass(frozen=True)
class Refusal:
    """How a call ended that was refused."""

    code: StatusCode
    message: str
    reason: str
    headers: dict[str, Any]


@contextmanager
def channel(gate: Edge) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gate.options.port}", options=WHOLE) as made:
        yield made


def infer(
    gate: Edge, message: bytes = b"\x0a\x01m", path: str = INFER, metadata: Any = METADATA
) -> bytes:
    with channel(gate) as made:
        answer: bytes = made.unary_unary(path)(message, metadata=metadata, timeout=10)
    return answer


def refusal_of(error: grpc.RpcError) -> Refusal:
    headers = {**dict(error.initial_metadata() or ()), **dict(error.trailing_metadata() or ())}
    said = (error.code(), error.details() or "", str(headers["x-tensorgate-reason"]))
    return Refusal(*said, headers)


def refused(gate: Edge, *args: Any, **more: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        infer(gate, *args, **more)
    return refusal_of(caught.value)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with model_server() as made:
        yield made


@pytest.fixture(scope="module")
def shared(model: Model) -> Iterator[Edge]:
    with edge(upstream_grpc=model.address) as made:
        yield made


@pytest.fixture
def gate(shared: Edge, model: Model) -> Edge:
    shared.reset()
    model.calls.clear()
    model.fails = False
    return shared


# ── What passes ──────────────────────────────────────────────────────────────────────────────────


def test_a_call_passes_with_its_trailers_and_without_its_key(gate: Edge, model: Model) -> None:
    with channel(gate) as made:
        answer, call = made.unary_unary(INFER).with_call(b"\x0a\x01m", metadata=METADATA)
    assert answer == b"m\x01\x0a"
    assert dict(call.trailing_metadata())["x-behind"] == "the answer"
    ((method, message, metadata),) = model.calls
    assert (method, message) == (INFER, b"\x0a\x01m")
    assert metadata["x-tensorgate-key-id"] == "key_1"
    assert "authorization" not in metadata
    (check,) = gate.service.checks
    assert check.raw_body == b"\0\0\0\0\x03\x0a\x01m"
    assert gate.upstream.requests == []


def test_a_long_message_passes_whole(gate: Edge, model: Model) -> None:
    message = b"\x3a" + bytes(range(256)) * (20 * 4096)
    assert infer(gate, message) == message[::-1]
    assert gate.service.checks[0].raw_body[5:] == message == model.calls[0][1]


def test_a_servers_own_error_is_the_clients(gate: Edge, model: Model) -> None:
    model.fails = True
    with pytest.raises(grpc.RpcError) as caught:
        infer(gate)
    assert (caught.value.code(), caught.value.details()) == (StatusCode.NOT_FOUND, "no such model")
    trailers = dict(caught.value.trailing_metadata() or ())
    assert "x-tensorgate-reason" not in trailers


def test_http_goes_to_the_one_port_and_grpc_to_the_other(gate: Edge, model: Model) -> None:
    """By the path, which the service judged; the content type is whatever the client says."""
    assert infer(gate)
    assert gate.call("POST", "/v2/models/m/infer", [GOOD], b"{}").status == 200
    grpc_typed = [GOOD, ("content-type", "application/grpc")]
    assert gate.call("POST", "/v2/models/m/infer", grpc_typed, b"{}").status == 200
    assert [method for method, *_ in model.calls] == [INFER]
    assert [each.target for each in gate.upstream.requests] == ["/v2/models/m/infer"] * 2


def test_the_service_chooses_the_server_over_grpc_too(model: Model) -> None:
    with (
        model_server() as other,
        edge(
            upstream_grpc=model.address,
            upstreams={"gpu": Upstream(f"127.0.0.1:{free_port()}", grpc=other.address)},
        ) as gate,
    ):
        for said, there in {"gpu": other, None: model}.items():
            named = [] if said is None else [("x-tensorgate-upstream", said)]
            gate.service.script = lambda _, named=named: allow(named)
            for each in (other, model):
                each.calls.clear()
            infer(gate, metadata=(*METADATA, ("x-tensorgate-upstream", "gpu")))
            ((_, _, metadata),) = there.calls
            assert len(other.calls + model.calls) == 1
            assert "x-tensorgate-upstream" not in metadata


# ── What the service refuses ─────────────────────────────────────────────────────────────────────

CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    413: StatusCode.INVALID_ARGUMENT,
    415: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    503: StatusCode.UNAVAILABLE,
}


def denial(status: int) -> CheckResponse:
    said = grpc_message("a_reason", "Words, 100 % of them: `é模`…")
    headers = [*grpc_headers(status), ("x-tensorgate-reason", "a_reason"), ("retry-after", "3")]
    return deny(status, said, headers)


@pytest.mark.parametrize(("status", "code"), CODES.items())
def test_a_refusal_is_grpcs(gate: Edge, model: Model, status: int, code: StatusCode) -> None:
    gate.service.script = lambda _: denial(status)
    got = refused(gate)
    assert (got.code, got.reason) == (code, "a_reason")
    assert got.message == r"a_reason: Words, 100 % of them: `\xe9\u6a21`..."
    assert got.headers["retry-after"] == "3"
    assert got.headers["x-request-id"]
    assert model.calls == []


# ── What Envoy says itself ───────────────────────────────────────────────────────────────────────


def assert_envoys(got: Refusal, code: StatusCode, reason: str) -> None:
    assert (got.code, got.reason) == (code, reason)
    assert got.message.startswith(f"{reason}: ")
    assert got.message.isascii()
    assert got.headers["x-request-id"]
    assert "\n" not in got.message


def test_no_credential(gate: Edge) -> None:
    got = refused(gate, metadata=())
    assert_envoys(got, StatusCode.UNAUTHENTICATED, "missing_api_key")
    assert got.message.endswith("Send it as the header `Authorization: Bearer sk-tg_...`.")
    assert gate.service.checks == []


def test_a_message_above_the_limit(gate: Edge) -> None:
    got = refused(gate, b"x" * (33 * MIB))
    assert_envoys(got, StatusCode.INVALID_ARGUMENT, "body_too_large")
    assert "32 MiB" in got.message
    assert gate.service.checks == []


def test_a_path_that_envoy_does_not_read(gate: Edge) -> None:
    got = refused(gate, path="/inference.GRPCInferenceService%2fModelInfer")
    assert_envoys(got, StatusCode.INVALID_ARGUMENT, "malformed_request")


def test_the_service_fails(gate: Edge, model: Model) -> None:
    def fail(_: CheckRequest) -> CheckResponse:
        raise RuntimeError("as the test wants it")

    gate.service.script = fail
    got = refused(gate)
    assert_envoys(got, StatusCode.UNAVAILABLE, "authorization_unavailable")
    assert got.headers["retry-after"] == "1"
    assert model.calls == []


def test_the_service_is_down() -> None:
    with edge(serve=False) as gate:
        assert_envoys(refused(gate), StatusCode.UNAVAILABLE, "authorization_unavailable")


def test_a_message_that_never_ends(model: Model) -> None:
    """Also a known call that is used as if it streamed: it is waited for as long as any."""
    with edge(upstream_grpc=model.address, request_seconds=1) as gate, channel(gate) as made:
        began = time.monotonic()
        call = made.stream_stream(INFER)(_one_and_no_end(5), metadata=METADATA, timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        got = refusal_of(caught.value)
        assert_envoys(got, StatusCode.DEADLINE_EXCEEDED, "request_timeout")
        assert 0.9 < time.monotonic() - began < 4
        assert gate.service.checks == []


def _one_and_no_end(seconds: float) -> Iterator[bytes]:
    yield b"\x0a\x01m"
    time.sleep(seconds)


# ── Streams both ways, and what is not known ─────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path", [f"{SERVICE}ModelStreamInfer", f"{SERVICE}RepositoryModelLoad", "/other.Service/Call"]
)
def test_what_is_not_known_is_asked_about_at_once(gate: Edge, model: Model, path: str) -> None:
    gate.service.script = lambda _: denial(403)
    with channel(gate) as made:
        began = time.monotonic()
        call = made.stream_stream(path)(_one_and_no_end(3), metadata=METADATA, timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        took = time.monotonic() - began
    assert refusal_of(caught.value).code is StatusCode.PERMISSION_DENIED
    assert took < 1
    (check,) = gate.service.checks
    assert (check.path, check.raw_body) == (path, b"")
    assert model.calls == []


@pytest.mark.parametrize("name", ["ModelInfer", "ModelReady", "ModelMetadata"])
@pytest.mark.parametrize("query", ["", "?x=1"])
def test_of_known_calls_the_message_is_read(gate: Edge, name: str, query: str) -> None:
    infer(gate, path=f"{SERVICE}{name}{query}")
    assert gate.service.checks[0].raw_body == b"\0\0\0\0\x03\x0a\x01m"


# ── A server that is down ────────────────────────────────────────────────────────────────────────


def test_a_server_that_is_down_is_told_at_once_and_found_again() -> None:
    port = free_port()
    with edge(upstream_grpc=f"127.0.0.1:{port}") as gate:
        began = time.monotonic()
        assert_envoys(refused(gate), StatusCode.UNAVAILABLE, "upstream_unavailable")
        assert time.monotonic() - began < 1
        with model_server(port) as model:
            _until_answered(gate)
            assert model.calls
        refused(gate)


def _until_answered(gate: Edge, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            infer(gate)
        except grpc.RpcError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def test_a_health_path_speaks_for_its_server() -> None:
    """While it says no, the server gets no call, though it takes connections."""
    other = Recorder()
    other.answer = lambda asked: (
        Reply(status=503) if asked.target == "/health" else json_reply({"ok": True})
    )
    try:
        with edge(
            upstreams={"gpu": Upstream(other.address, health="/health")},
        ) as gate:
            gate.service.script = lambda _: allow([("x-tensorgate-upstream", "gpu")])
            got = gate.call("POST", "/v1/chat/completions", [GOOD], b"{}")
            assert (got.status, got.code) == (503, "upstream_unavailable")
            other.answer = json_reply({"ok": True})
            deadline = time.monotonic() + 5
            while gate.call("POST", "/v1/chat/completions", [GOOD], b"{}").status != 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        other.close()


def test_a_client_that_does_not_speak_grpc_is_answered_over_http(gate: Edge) -> None:
    gate.service.script = lambda _: deny(403, "{}")
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", "gate"), (":path", INFER)]
    got = over_http2(gate.options.port, [*headers, GOOD, ("content-length", "2")], b"{}")
    assert got is not None
    assert (got.status, got.one("grpc-status")) == (403, None)
