"""A real Envoy with a rendered configuration between raw clients, a recording model server and a
check service that does as it is told: for what only Envoy does."""

from __future__ import annotations

import json
import shutil
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import grpc
from peers.ports import free_port
from peers.process import Child

from authz.pb import accesslog_pb2_grpc, auth_pb2_grpc, health_pb2_grpc
from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry
from authz.pb.accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from authz.pb.core_pb2 import HeaderValueOption
from authz.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from store import keyformat
from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render

ENVOY = Path(sys.executable).with_name("envoy")
KEY = keyformat.mint()
GOOD = ("authorization", f"Bearer {KEY}")
CHAT = "/v1/chat/completions"

Pairs = Sequence[tuple[str, str]]


# ── A raw HTTP/1.1 client ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, its headers as they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def one(self, name: str) -> str | None:
        """The value of a header that must not come twice."""
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    @property
    def json(self) -> Any:
        assert self.one("content-type") == "application/json", self
        return json.loads(self.body)


def head(method: str, target: str, headers: Pairs = (), host: str | None = "gate.test") -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Wire:
    """One connection on which a test says exactly what is sent."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
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

    def _fill(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)

    def line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            assert self._fill(), f"closed after {self._buffer!r}"
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            assert self._fill(), f"closed after {len(self._buffer)} of {count} bytes"
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def reply(self, method: str = "GET") -> Reply:
        status = int(self.line().split()[1])
        headers = []
        while line := self.line():
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name, value.strip()))
        if status == 100:
            return self.reply(method)
        found = Reply(status, tuple(headers), b"")
        if method == "HEAD" or status in {204, 304}:
            return found
        if found.one("transfer-encoding") == "chunked":
            return replace(found, body=b"".join(self._chunks()))
        length = found.one("content-length")
        if length is None:
            while self._fill():
                pass
            return replace(found, body=self._buffer)
        return replace(found, body=self.exactly(int(length)))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.line(), 16):
            yield self.exactly(size)
            self.line()
        self.line()


# ── The model server ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Seen:
    """What reached the model server."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def names(self) -> set[str]:
        return {name.lower() for name, _ in self.headers}

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


Answer = Callable[[Seen], bytes]


def ok(headers: Pairs = (), body: bytes = b'{"ok":true}', status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    lines += ["content-type: application/json", f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    recorder: Recorder


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        while line := self.rfile.readline().decode("latin-1").strip():
            headers = []
            while raw := self.rfile.readline().decode("latin-1").strip():
                name, _, value = raw.partition(":")
                headers.append((name, value.strip()))
            named = {name.lower(): value for name, value in headers}
            if named.get("transfer-encoding") == "chunked":
                body = b"".join(self._chunks())
            else:
                body = self.rfile.read(int(named.get("content-length", "0")))
            seen = Seen(line, tuple(headers), body)
            self.server.recorder.seen.append(seen)
            data = self.server.recorder.answer(seen)
            if not data:
                return
            self.wfile.write(data)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


@dataclass(slots=True)
class Recorder:
    """A model server that writes down what reaches it, and answers as `answer` says."""

    port: int = field(default_factory=free_port)
    seen: list[Seen] = field(default_factory=list)
    answer: Answer = field(default=lambda _: ok())

    @contextmanager
    def serving(self) -> Iterator[Recorder]:
        with _Server(("127.0.0.1", self.port), _Handler) as server:
            server.recorder = self
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


# ── The check service ────────────────────────────────────────────────────────────────────────────

Script = Callable[[CheckRequest], CheckResponse]


def _set(options: Any, pairs: Pairs) -> None:
    for name, value in pairs:
        option = options.add()
        option.header.key, option.header.value = name, value
        option.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def allow(upstream: Pairs = (), client: Pairs = ()) -> CheckResponse:
    response = CheckResponse()
    response.status.code = 0
    _set(response.ok_response.headers, [("x-tensorgate-key-id", "key_1"), *upstream])
    response.ok_response.headers_to_remove.append("authorization")
    _set(response.ok_response.response_headers_to_add, client)
    response.dynamic_metadata.fields["outcome"].string_value = "allowed"
    return response


def deny(status: int, body: str, headers: Pairs = (), outcome: str = "denied") -> CheckResponse:
    response = CheckResponse()
    response.status.code = 7
    response.denied_response.status.code = status
    response.denied_response.body = body
    _set(response.denied_response.headers, headers)
    response.dynamic_metadata.fields["outcome"].string_value = outcome
    return response


@dataclass(slots=True)
class Service:
    """ext_authz, access log and health on unix sockets, as `tensorgate authz` has them."""

    runtime: Path
    script: Script = field(default=lambda _: allow())
    checks: list[CheckRequest] = field(default_factory=list)
    entries: list[HTTPAccessLogEntry] = field(default_factory=list)

    def Check(self, request: CheckRequest, context: grpc.ServicerContext) -> CheckResponse:  # noqa: N802
        if isinstance(context, grpc.ServicerContext):
            self.checks.append(request)
        return self.script(request)

    @contextmanager
    def serving(self) -> Iterator[Service]:
        whole = [("grpc.max_receive_message_length", 64 * 2**20)]
        with ExitStack() as stack:
            for name, register, servicer in (
                ("authz-0", auth_pb2_grpc.add_AuthorizationServicer_to_server, self),
                ("log", accesslog_pb2_grpc.add_AccessLogServiceServicer_to_server, _Log(self)),
                ("health", health_pb2_grpc.add_HealthServicer_to_server, _Health()),
            ):
                pool = stack.enter_context(ThreadPoolExecutor(8))
                server = grpc.server(pool, options=whole)
                register(servicer, server)
                server.add_insecure_port(f"unix:{self.runtime / name}.sock")
                server.start()
                stack.callback(lambda server=server: server.stop(0).wait())
            yield self


@dataclass(slots=True)
class _Log:
    service: Service

    def StreamAccessLogs(  # noqa: N802  gRPC's spelling
        self, messages: Iterator[StreamAccessLogsMessage], _: grpc.ServicerContext
    ) -> StreamAccessLogsResponse:
        try:
            for message in messages:
                for raw in message.http_logs.log_entry:
                    self.service.entries.append(HTTPAccessLogEntry.FromString(raw))
        except grpc.RpcError:
            pass  # Envoy ended
        return StreamAccessLogsResponse()


class _Health:
    def Check(self, _: HealthCheckRequest, __: grpc.ServicerContext) -> HealthCheckResponse:  # noqa: N802
        return HealthCheckResponse(status=HealthCheckResponse.SERVING)


# ── Envoy ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Edge:
    """Envoy with its neighbours."""

    options: RenderOptions
    upstream: Recorder
    service: Service
    envoy: Child | None = None

    def connect(self, tls: ssl.SSLContext | None = None) -> Wire:
        return Wire(self.options.port, tls=tls)

    def call(
        self, method: str, target: str, headers: Pairs = (), body: bytes = b"", **more: Any
    ) -> Reply:
        """One request on a connection of its own; a body gets its Content-Length."""
        if body:
            headers = [*headers, ("content-length", str(len(body)))]
        with self.connect() as wire:
            wire.send(head(method, target, headers, **more) + body)
            return wire.reply(method)

    def admin(self, path: str, method: str = "GET") -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.options.runtime / "envoy-admin.sock"))
            connection.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n".encode()
            )
            parts = list(iter(lambda: connection.recv(65536), b""))
        return b"".join(parts).decode()

    def stat(self, name: str) -> int:
        """A counter or gauge of Envoy's; 0 where it has none of that name yet."""
        lines = self.admin(f"/stats?filter=^{name}$").splitlines()
        return next((int(line.split(": ")[1]) for line in lines if line.startswith(name)), 0)

    def entry(self, request_id: str, seconds: float = 5) -> HTTPAccessLogEntry:
        """Wait for the access-log entry of a request."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for entry in self.service.entries:
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
        upstream = stack.enter_context(Recorder().serving())
        options = RenderOptions(
            **{
                "upstream": f"127.0.0.1:{upstream.port}",
                "port": free_port(),
                "runtime": runtime,
                "concurrency": 1,
                **changes,
            }
        )
        made = Edge(options, upstream, Service(runtime))
        if serve:
            stack.enter_context(made.service.serving())
        stack.enter_context(_running(made))
        yield made


@contextmanager
def _running(made: Edge) -> Iterator[None]:
    options = made.options
    config = options.runtime / "envoy.yaml"
    config.write_text(render(options))
    argv = [ENVOY, "-c", config, "--concurrency", str(options.concurrency)]
    argv += ["--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "1"]
    child = Child(argv, log=options.runtime / "envoy.log")
    made.envoy = child
    try:
        child.wait_until(lambda: _is_live(made), seconds=15, what="listening port")
        yield
    finally:
        child.end()


def _is_live(made: Edge) -> bool:
    try:
        return "LIVE" in made.admin("/ready")
    except OSError:
        return False
