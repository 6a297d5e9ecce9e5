"""Settings of the data path, on top of those that every process shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from authz.sockets import MOST_WORKERS
from store.settings import StoreSettings

MAX_SOCKET_PATH_BYTES: Final = 107
_LONGEST_SOCKET: Final = "envoy-admin.sock"
_MAX_PORT: Final = 65535
DEFAULT_STREAM_SECONDS: Final = 3600


class AuthzSettings(StoreSettings):
    """What `tensorgate authz` reads from the environment."""

    metrics_listen: str = "127.0.0.1:9464"
    health_listen: str | None = None  # grpc.health.v1 over TCP, for an orchestrator's probes
    key_stale_seconds: Annotated[float, Field(ge=0, le=300)] = 5
    key_cache_size: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    hold_deadline_seconds: Annotated[float, Field(ge=1, le=3600)] = 60
    heartbeat_seconds: Annotated[float, Field(ge=0.25, le=900)] = 15
    idle_seconds: Annotated[int, Field(ge=1, le=86_400)] = 900  # SDKs wait 600 s for an answer
    stream_seconds: Annotated[int, Field(ge=1, le=86_400)] = DEFAULT_STREAM_SECONDS
    body_limit_mib: Annotated[int, Field(ge=1, le=1024)] = 32
    ledger_retention_days: Annotated[int | None, Field(ge=62, le=36_500)] = None
    one_core: bool = False
    envoy_mark: str | None = None  # `up` says so: what of the catalog Envoy was rendered from
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1
    worker: Annotated[int | None, Field(ge=0, lt=MOST_WORKERS)] = None  # its supervisor says so
    log_decisions: Annotated[float | None, Field(ge=0, le=1)] = None
    redis_timeout_ms: Annotated[int | None, Field(ge=5, le=5000)] = None  # store.counters.node's
    on_counter_outage: Literal["deny", "local"] = "deny"

    @field_validator("runtime")
    @classmethod
    def _fits_in_a_socket_path(cls, value: Path) -> Path:
        longest = str(value.absolute() / _LONGEST_SOCKET)
        if len(longest.encode()) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(f"{value} is too long for a socket's path; choose a shorter one")
        return value.absolute()

    @field_validator("metrics_listen", "health_listen")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > _MAX_PORT:
            raise ValueError("write it as host:port, for example 127.0.0.1:9464")
        return value

    @model_validator(mode="after")
    def _hears_before_it_sweeps(self) -> Self:
        if self.heartbeat_seconds > self.hold_deadline_seconds / 4:
            raise ValueError(
                "HEARTBEAT_SECONDS must be at most a quarter of HOLD_DEADLINE_SECONDS, "
                "or calls that still run would be swept"
            )
        return self

    @model_validator(mode="after")
    def _counts_where_all_can(self) -> Self:
        if self.redis_url is None and (self.workers > 1 or self.worker is not None):
            raise ValueError(
                f"{self.workers} workers count together in Redis or Valkey: name it in REDIS_URL, "
                "as in redis://127.0.0.1:6379 (`tensorgate up --workers N` starts one by itself)"
            )
        return self

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Where `/metrics` listens: host (without brackets) and port."""
        host, _, port = self.metrics_listen.rpartition(":")
        return host.strip("[]"), int(port)
