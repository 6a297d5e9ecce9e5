"""What `tensorgate up` was asked to do, checked as a whole before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from pydantic import field_validator, model_validator

from admin.settings import DEFAULT_LISTEN, AdminSettings
from authz.change import frame
from authz.endpoints import table_of
from authz.settings import AuthzSettings
from authz.sockets import MOST_WORKERS
from store.catalog import Catalog
from store.counters.address import parse
from store.errors import ConfigError
from store.settings import PREFIX, Names, load, split_names
from tensorgate import ports, valkey
from tensorgate.binaries import valkey_path
from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render
from tensorgate.machine import spare_processors
from tensorgate.ports import Address, parse_address, parse_ip
from tensorgate.statefolder import StateFolder

DEFAULT_METRICS: Final = "127.0.0.1:9464"

T = TypeVar("T")


class UpSettings(AuthzSettings):
    """What the environment says to `up`: the data path's settings and Envoy's."""

    upstream: str | None = None
    upstream_grpc: str | None = None
    cors_origins: Names = ("*",)
    tracing: str | None = None

    _split_origins = field_validator("cors_origins", mode="before")(split_names)

    @model_validator(mode="after")
    def _counts_where_all_can(self) -> Self:
        return self  # several workers without a Redis get a Valkey of ours


@dataclass(frozen=True, slots=True)
class Asked:
    """The options as given, unchecked; None is "not given" where the environment may speak."""

    upstream: str | None = None
    port: int = 8080
    admin_port: int | None = None
    state: Path | None = None
    workers: int | None = None
    listen: str = "127.0.0.1"
    metrics_listen: str | None = None
    upstream_grpc: str | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """A request that can be carried out.

    `upstream` None asks for the demo server, `upstream_grpc` None for the same address.
    """

    state: StateFolder
    settings: UpSettings
    catalog: Catalog
    gate: Address
    upstream: Address | None
    upstream_grpc: Address | None
    metrics: Address
    admin: Address
    notes: tuple[str, ...]

    @property
    def own_valkey(self) -> bool:
        """Whether the workers count in a Valkey that `up` runs itself."""
        return self.settings.workers > 1 and self.settings.redis_url is None

    @property
    def local(self) -> Address:
        """Where this machine reaches the gate."""
        return Address(ports.reach(self.gate.host), self.gate.port)

    @property
    def url(self) -> str:
        """What clients are told."""
        return f"http://{Address(ports.public_face(self.gate.host), self.gate.port)}"

    @property
    def dashboard(self) -> str:
        """Where people administer it."""
        here = f"http://{Address(ports.public_face(self.admin.host), self.admin.port)}"
        return self.settings.dashboard_url or here

    def envoy(self, runtime: Path, upstream: Address) -> RenderOptions:
        """Envoy's configuration for this gate."""
        return RenderOptions(
            upstream=str(upstream),
            upstream_grpc=str(self.upstream_grpc) if self.upstream_grpc else None,
            upstreams=self.catalog.upstreams,
            endpoints=table_of(self.catalog).rows,
            listen=self.gate.host,
            port=self.gate.port,
            cors_origins=self.settings.cors_origins,
            runtime=runtime,
            workers=self.settings.workers,
            concurrency=spare_processors(self.settings.workers),
            key_form=self.settings.key_form(),
            body_limit_mib=self.settings.body_limit_mib,
            idle_seconds=self.settings.idle_seconds,
            stream_seconds=self.settings.stream_seconds,
            heartbeat_seconds=self.settings.heartbeat_seconds,
            tracing=self.settings.tracing,
        )

    def environ(self, runtime: Path) -> dict[str, str]:
        """The children's environment: ours, and what was settled here."""
        upstream = {f"{PREFIX}UPSTREAM": str(self.upstream)} if self.upstream else {}
        redis = {f"{PREFIX}REDIS_URL": valkey.url(runtime)} if self.own_valkey else {}
        # one that others reach may have any name, which only its owner knows
        local = ports.is_loopback(self.admin.host)
        dashboard = {f"{PREFIX}DASHBOARD_URL": self.dashboard} if local else {}
        return {
            **os.environ,
            **upstream,
            **redis,
            **dashboard,
            f"{PREFIX}ADMIN_LISTEN": str(self.admin),
            f"{PREFIX}STATE": str(self.state.path),
            f"{PREFIX}CATALOG": str(self.settings.catalog.absolute()),
            f"{PREFIX}RUNTIME": str(runtime),
            f"{PREFIX}ENVOY_MARK": frame(self.catalog, table_of(self.catalog)).mark,
            f"{PREFIX}METRICS_LISTEN": str(self.metrics),
            f"{PREFIX}WORKERS": str(self.settings.workers),
        }


@dataclass(slots=True)
class _Faults:
    """Collects everything that is wrong, so that a person mends it in one go."""

    found: list[str] = field(default_factory=list)

    def get(self, what: str, read: Callable[[], T]) -> T | None:
        """What `read` gives; a fault of it becomes lines here, and None."""
        try:
            return read()
        except ConfigError as fault:
            # one fault may stand in several parts' settings
            self.found += [each for each in fault.faults if each not in self.found]
        except ValueError as fault:
            self.found.append(f"{what}: {fault}")
        return None


def _catalog(path: Path) -> Catalog:
    """The catalog, if all of it can be used, its endpoints too."""
    catalog = Catalog.read(path)
    table_of(catalog)
    return catalog


def check(asked: Asked) -> Setup:
    """Check options, settings, catalog, pepper and ports. Raises ConfigError listing all faults.

    Sets TENSORGATE_STATE, so that every part of this process finds the same state.
    """
    if asked.state is not None:
        os.environ[f"{PREFIX}STATE"] = str(asked.state.absolute())
    faults = _Faults()
    settings = faults.get("settings", lambda: load(UpSettings))
    faults.get("settings", lambda: load(AdminSettings))
    catalog = None
    if settings is not None:
        faults.get("pepper", settings.digester)
        catalog = faults.get("catalog", partial(_catalog, settings.catalog))
    gate = _gate(asked, faults)
    admin = _admin(asked, gate, faults)
    workers = asked.workers if asked.workers is not None else settings.workers if settings else 1
    what = f"--workers (make: WORKERS) {workers}"
    if settings is not None and settings.redis_url is not None:
        faults.get(f"{PREFIX}REDIS_URL", partial(parse, settings.redis_url))
    needs_valkey = workers > 1 and settings is not None and settings.redis_url is None
    if faults.get(what, partial(_workers, workers, needs_valkey=needs_valkey)) and settings:
        settings = settings.model_copy(update={"workers": workers})
    given = asked.upstream or (settings.upstream if settings else None)
    upstream = None
    if given:
        what = f"--upstream (make: UPSTREAM) {given}"
        upstream = faults.get(what, lambda: _upstream(given, gate, admin))
    elsewhere = asked.upstream_grpc or (settings.upstream_grpc if settings else None)
    grpc = None
    if elsewhere:
        grpc = faults.get(f"--upstream-grpc {elsewhere}", lambda: _upstream(elsewhere, gate, admin))
    metrics = _metrics(asked, gate, faults)
    if settings and catalog and gate and metrics and admin:
        state = StateFolder(settings.state.absolute())
        notes = (*_exposed(gate), *metrics.notes, *admin.notes, *_bare(admin.address, settings))
        setup = Setup(
            state,
            settings,
            catalog,
            gate,
            upstream,
            grpc,
            metrics.address,
            admin.address,
            notes,
        )
        stand_in = upstream or Address("127.0.0.1", 8000)
        faults.get("envoy", lambda: render(setup.envoy(setup.settings.runtime, stand_in)))
        if not faults.found:
            return setup
    raise ConfigError("`tensorgate up` cannot start:", tuple(faults.found))


def _gate(asked: Asked, faults: _Faults) -> Address | None:
    host = faults.get(f"--listen (make: LISTEN) {asked.listen}", lambda: parse_ip(asked.listen))
    what = f"--port (make: PORT) {asked.port}"
    port = faults.get(what, lambda: _port(asked.port))
    if host is None or port is None:
        return None
    advice = "choose another, or stop that one"
    return faults.get(what, lambda: _free(Address(host, port), advice))


def _upstream(given: str, gate: Address | None, admin: _Place | None) -> Address:
    if given.startswith("https://"):
        raise ValueError(
            "`up` speaks plain HTTP to the model server; "
            "`tensorgate envoy render` makes a configuration that speaks TLS"
        )
    address = parse_address(given.removeprefix("http://").rstrip("/"))
    if gate is not None and address in {gate, Address(ports.reach(gate.host), gate.port)}:
        raise ValueError("that is the gate itself; name the model server's own port")
    dashboard = admin and Address(ports.reach(admin.address.host), admin.address.port)
    if admin is not None and address in {admin.address, dashboard}:
        raise ValueError("that is the dashboard; name the model server's own port")
    return address


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part listens, and what to tell of it."""

    address: Address
    notes: tuple[str, ...] = ()


def _metrics(asked: Asked, gate: Address | None, faults: _Faults) -> _Place | None:
    given = asked.metrics_listen or os.environ.get(f"{PREFIX}METRICS_LISTEN") or None
    what = f"--metrics-listen ({PREFIX}METRICS_LISTEN) {given}"
    address = faults.get(what, lambda: _bindable(given or DEFAULT_METRICS))
    if address is None:
        return None
    return _place(address, "metrics are", what if given else None, gate, faults)


def _admin(asked: Asked, gate: Address | None, faults: _Faults) -> _Place | None:
    """The host is that of TENSORGATE_ADMIN_LISTEN, and so is the port where no option says it."""
    named = os.environ.get(f"{PREFIX}ADMIN_LISTEN") or None
    port = asked.admin_port
    option = "" if port is None else f"--admin-port (make: ADMIN_PORT) {port}"
    listen = "" if named is None else f"{PREFIX}ADMIN_LISTEN {named}"
    if port is not None and faults.get(option, lambda: _port(port)) is None:
        return None
    address = faults.get(listen, lambda: _bindable(named or DEFAULT_LISTEN))
    if address is None:
        return None
    return _place(
        Address(address.host, port or address.port),
        "the dashboard is",
        option or listen or None,
        gate,
        faults,
    )


def _place(
    address: Address, who: str, chosen: str | None, gate: Address | None, faults: _Faults
) -> _Place | None:
    """An address that was chosen must be free; a default one steps aside."""
    taken = "the gate's own" if address == gate else ports.why_not(address)
    if taken is None:
        return _Place(address)
    if chosen is not None:
        faults.found.append(f"{chosen}: {address} is {taken}; choose another")
        return None
    other = Address(address.host, ports.free_port(address.host))
    return _Place(other, (f"{who} at {other}, since port {address.port} is {taken}",))


def _bare(admin: Address, settings: UpSettings) -> tuple[str, ...]:
    """What to say of a dashboard that others reach without TLS."""
    url = settings.dashboard_url or ""
    if ports.is_loopback(admin.host) or url.startswith("https://"):
        return ()
    warning = (
        f"warning: the dashboard listens on {admin} without TLS, so passwords cross the network "
        f"in the clear. Put TLS in front, and name it in {PREFIX}DASHBOARD_URL."
    )
    return (warning,)


def _exposed(gate: Address) -> tuple[str, ...]:
    if ports.is_loopback(gate.host):
        return ()
    warning = (
        f"warning: the gate listens on {gate} without TLS, so keys and prompts cross the network "
        "in the clear. Do this only on a network you trust, or put TLS in front "
        "(`tensorgate envoy render` with a certificate does)."
    )
    return (warning,)


def _bindable(text: str) -> Address:
    address = parse_address(text)
    return Address(parse_ip(address.host), address.port)


def _port(number: int) -> int:
    if not 1 <= number <= ports.HIGHEST:
        raise ValueError(f"a port is a number from 1 to {ports.HIGHEST}")
    return number


def _free(address: Address, otherwise: str) -> Address:
    why = ports.why_not(address)
    if why is not None:
        raise ValueError(f"{address} is {why}; {otherwise}")
    return address


def _workers(number: int, *, needs_valkey: bool) -> int:
    if not 1 <= number <= MOST_WORKERS:
        raise ValueError(f"choose a number from 1 to {MOST_WORKERS}")
    if needs_valkey:
        valkey_path()
    return number
