"""What may be chosen when Envoy's configuration is rendered, read and validated. No file is read.

Everything that goes into the configuration passes through here: an address is parsed, a path is
absolute and printable, a number lies in its range.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from authz.endpoints import BUILT_IN
from authz.model import Endpoint
from authz.sockets import MOST_WORKERS
from store.catalog import DEFAULT_UPSTREAM, Upstream
from store.catalogfile import UPSTREAM_NAME, url_path
from store.errors import ConfigError
from store.keyformat import KeyForm
from tensorgate.ports import HIGHEST, Address, parse_address, parse_ip

SYSTEM_CA: Final = Path("/etc/ssl/certs/ca-certificates.crt")
LONGEST_SOCKET: Final = 107  # bytes of sockaddr_un.sun_path, without its closing NUL
MOST_CONCURRENCY: Final = 256  # authz has room for so many log streams (authz.meter.LOG_STREAMS)
_HTTPS_PORT: Final = 443

_ORIGIN: Final = re.compile(
    r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::\d{1,5})?"
)
# What Python's expressions can and RE2, which Envoy uses, cannot: looking around, references
# back, conditions, groups and repeats that never give back, \Z.
_NOT_RE2: Final = re.compile(r"\(\?(?:[=!>(]|<[=!]|P=)|\\[1-9Z]|[*+?}]\+")


class Door(NamedTuple):
    """Where a model server is reached by one protocol: a cluster of Envoy's.

    `health` is the path that says whether it is well; without one, taking connections does.
    """

    cluster: str
    address: Address
    tls: bool
    http2: bool
    health: str | None

    @property
    def is_name(self) -> bool:
        """Whether its host must be looked up."""
        return not is_ip(self.address.host)

    @property
    def authority(self) -> str:
        """What the server is called in `Host`: its own name, never the client's choice."""
        plain = self.address.port == (_HTTPS_PORT if self.tls else 80)
        return str(self.address).rpartition(":")[0] if plain else str(self.address)


class Server(NamedTuple):
    """A model server: its doors, and whose credential it gets."""

    name: str
    http: Door
    grpc: Door
    credential_file: Path | None

    @property
    def secret(self) -> str:
        """What Envoy calls its credential."""
        return f"model-{self.name}"


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """All that can be chosen; the defaults are those of the `envoy.yaml` that is checked in.

    `upstream` is `host:port`, `https://host[:port]` or `http://host[:port]`, and `upstream_grpc`,
    of the same form, where it speaks gRPC if that is elsewhere; `upstream_health` is a path that
    says whether it is well; `upstreams` has these by name: the service says which of them a call
    goes to. `endpoints` are the rows that it knows: there, long bodies are taken. `cors_origins`
    is ("*",), origins such as `https://chat.example`, or () for no browser at all. `ops_listen` is
    `IP:port`, where probes and Prometheus see Envoy, and nobody else should. `tls_sds` is a file of
    Envoy's own (SDS) that names certificate and key, and is watched: for those that are renewed.
    `tracing` is who takes spans by OTLP over gRPC, host:port.
    """

    upstream: str = "127.0.0.1:8000"
    upstream_grpc: str | None = None
    upstream_health: str | None = None
    upstreams: Mapping[str, Upstream] = field(default_factory=lambda: MappingProxyType({}))
    endpoints: tuple[Endpoint, ...] = BUILT_IN.rows
    credential_files: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    upstream_ca_file: Path = SYSTEM_CA
    listen: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_sds: Path | None = None
    cors_origins: tuple[str, ...] = ("*",)
    runtime: Path = Path("/run/tensorgate")
    admin_socket: Path | None = None
    ops_listen: str | None = None
    workers: int = 1
    concurrency: int = 2
    key_form: KeyForm = field(default_factory=KeyForm)
    body_limit_mib: int = 32
    heap_mib: int = 4096
    max_connections: int = 1024
    max_streams: int = 16
    request_seconds: int = 60
    idle_seconds: int = 900
    stream_seconds: int = 3600
    check_seconds: float = 2.0
    heartbeat_seconds: float = 15.0
    tracing: str | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """The options after validation: parsed addresses, every path absolute."""

    gate: Address
    ops: Address | None
    servers: tuple[Server, ...]  # the default one first
    admin_socket: Path
    tracing: Address | None
    options: RenderOptions

    @property
    def tracing_is_name(self) -> bool:
        """Whether the host that takes spans must be looked up."""
        return self.tracing is not None and not is_ip(self.tracing.host)

    @property
    def credentials(self) -> tuple[Server, ...]:
        """The servers that get a credential of ours."""
        return tuple(server for server in self.servers if server.credential_file)

    def socket(self, name: str) -> str:
        """The path of one of the sockets that the processes meet at."""
        return str(self.options.runtime / name)


@dataclass(slots=True)
class _Faults:
    found: list[str] = field(default_factory=list)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """A ValueError inside becomes one line that begins with `what`."""
        try:
            yield
        except ValueError as fault:
            self.found.append(f"{what}: {fault}")


def is_ip(host: str) -> bool:
    """Whether a host is an address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check(options: RenderOptions) -> Checked:
    """Validate all options. Raises ConfigError that lists everything wrong."""
    faults = _Faults()
    listen = options.listen
    with faults.of(f"--listen {options.listen}"):
        listen = parse_ip(options.listen)
    ops = None
    with faults.of(f"--ops-listen {options.ops_listen}"):
        ops = _ops(options)
    with faults.of(f"--upstream-health {options.upstream_health}"):
        if options.upstream_health is not None:
            url_path(options.upstream_health)
    _numbers(options, faults)
    _files(options, faults)
    _origins(options, faults)
    with faults.of("TENSORGATE_FOREIGN_KEYS"):
        _re2(options.key_form.foreign)
    admin = options.admin_socket or options.runtime / "envoy-admin.sock"
    with faults.of(f"socket {admin}"):
        _socket(admin)
    if options.admin_socket is not None:  # else it has the longest name in the folder
        with faults.of(f"--runtime {options.runtime}"):
            _socket(options.runtime / "upstreams.sock")
    tracing = None
    with faults.of(f"--tracing {options.tracing}"):
        tracing = None if options.tracing is None else parse_address(options.tracing)
    servers = _servers(options, faults)
    names = {server.name for server in servers}
    for name in sorted(options.credential_files.keys() - names):
        faults.found.append(f"--upstream-credential-file: there is no upstream {name!r}")
    if faults.found:
        raise ConfigError("Envoy's configuration cannot be rendered:", tuple(faults.found))
    return Checked(Address(listen, options.port), ops, tuple(servers), admin, tracing, options)


def _ops(options: RenderOptions) -> Address | None:
    if options.ops_listen is None:
        return None
    address = parse_address(options.ops_listen)
    if address == Address(options.listen, options.port):
        raise ValueError("the gate itself listens there; choose another port")
    return Address(parse_ip(address.host), address.port)


def _numbers(options: RenderOptions, faults: _Faults) -> None:
    for flag, value, least, most in (
        ("--port", options.port, 1, HIGHEST),
        ("--workers", options.workers, 1, MOST_WORKERS),
        ("--concurrency", options.concurrency, 1, MOST_CONCURRENCY),
        ("--body-limit-mib", options.body_limit_mib, 1, 1024),
        ("--heap-mib", options.heap_mib, 1, 1024 * 1024),
        ("--max-connections", options.max_connections, 1, 1_000_000),
        ("--max-streams", options.max_streams, 1, 1000),
        ("--request-seconds", options.request_seconds, 1, 3600),
        ("--idle-seconds", options.idle_seconds, 1, 86_400),
        ("--stream-seconds", options.stream_seconds, 1, 86_400),
        ("--check-seconds", options.check_seconds, 0.1, 60),
        ("--heartbeat-seconds", options.heartbeat_seconds, 0.25, 900),
    ):
        if not least <= value <= most:
            faults.found.append(f"{flag} {value}: choose a number from {least} to {most}")


def _files(options: RenderOptions, faults: _Faults) -> None:
    if (options.tls_cert is None) != (options.tls_key is None):
        faults.found.append("--tls-cert and --tls-key: give both or neither")
    if options.tls_sds is not None and options.tls_cert is not None:
        faults.found.append(
            "--tls-sds: it says where certificate and key are; name them only there"
        )
    named = (options.tls_cert, options.tls_key, options.tls_sds, options.upstream_ca_file)
    for path in (*named, *options.credential_files.values()):
        if path is not None:
            with faults.of(f"file {path}"):
                _absolute(path)


def _absolute(path: Path) -> None:
    if not path.is_absolute():
        raise ValueError("name it by its whole path, from / on")
    if not str(path).isprintable():
        raise ValueError("a path with control characters cannot be used")


def _socket(path: Path) -> None:
    _absolute(path)
    if len(str(path).encode()) > LONGEST_SOCKET:
        raise ValueError(
            f"a socket's path has at most {LONGEST_SOCKET} bytes; choose a shorter one"
        )


def _origins(options: RenderOptions, faults: _Faults) -> None:
    if "*" in options.cors_origins and len(options.cors_origins) > 1:
        faults.found.append("--cors-origins: `*` already allows all; name it alone")
    for origin in options.cors_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            faults.found.append(
                f"--cors-origins {origin}: write it as browsers do, such as https://chat.example"
            )


def _re2(foreign: str | None) -> None:
    if foreign is not None and (unknown := _NOT_RE2.search(foreign)):
        raise ValueError(f"Envoy cannot evaluate {unknown[0]!r}; write the expression without it")


def _servers(options: RenderOptions, faults: _Faults) -> list[Server]:
    servers = []
    default = Upstream(options.upstream, options.upstream_grpc, options.upstream_health)
    for name, given in {DEFAULT_UPSTREAM: default, **options.upstreams}.items():
        with faults.of(f"upstream {name}: {given.address}"):
            if not UPSTREAM_NAME.fullmatch(name):
                raise ValueError("its name looks like 'gpu-a'")
            address, tls = _parse_upstream(given.address)
            http = Door(f"model-{name}", address, tls, http2=False, health=given.health)
            elsewhere = given.grpc or given.address
            with faults.of(f"upstream {name}, its gRPC: {elsewhere}"):
                address, tls = _parse_upstream(elsewhere)
                grpc = Door(f"model-{name}-grpc", address, tls, http2=True, health=None)
                file = options.credential_files.get(name)
                servers.append(Server(name, http, grpc, file))
    return servers


def _parse_upstream(text: str) -> tuple[Address, bool]:
    """`host:port`, `http://host[:port]` or `https://host[:port]` → where, and whether by TLS."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return parse_address(text), False
    if scheme not in {"http", "https"}:
        raise ValueError("write it as host:port or https://host[:port]")
    rest = rest.removesuffix("/")
    tls = scheme == "https"
    has_port = re.search(r":\d+\Z", rest.rpartition("]")[2])
    return parse_address(rest if has_port else f"{rest}:{_HTTPS_PORT if tls else 80}"), tls
