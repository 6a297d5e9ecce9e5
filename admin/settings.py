"""Settings of the dashboard, on top of those that every process shares."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from store.errors import ConfigError
from store.records import SECOND_US
from store.sessions import Lifetimes
from store.settings import PREFIX, Names, StoreSettings, split_names

DEFAULT_LISTEN: Final = "127.0.0.1:8081"
_MAX_PORT: Final = 65535
_DAY_SECONDS: Final = 86_400
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_THIS_MACHINE: Final = ("127.0.0.0/8", "::1")


class AdminSettings(StoreSettings):
    """What `tensorgate admin` reads from the environment.

    `dashboard_url` is where people reach it; behind a proxy that speaks TLS it has to be set.
    `admin_metrics_from` is who may read `/metrics`; not set, this machine, and nobody where
    `dashboard_url` is elsewhere: a proxy on this machine would hand them out to everybody.
    """

    admin_listen: str = DEFAULT_LISTEN
    admin_trusted_proxies: Names = ()
    admin_metrics_from: Names | None = None
    session_idle_seconds: Annotated[int, Field(ge=60, le=30 * _DAY_SECONDS)] = 12 * 3600
    session_seconds: Annotated[int, Field(ge=60, le=30 * _DAY_SECONDS)] = 7 * _DAY_SECONDS
    open_registration: bool = False
    oidc_issuer: str | None = None
    oidc_client_id: str | None = None
    oidc_client_secret_file: Path | None = None
    oidc_name: str = "single sign-on"

    _split_networks = field_validator("admin_trusted_proxies", "admin_metrics_from", mode="before")(
        split_names
    )

    @field_validator("admin_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) <= _MAX_PORT:
            raise ValueError("write it as host:port, for example 127.0.0.1:8081")
        return value

    @field_validator("admin_trusted_proxies", "admin_metrics_from")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for each in value or ():
            try:
                ipaddress.ip_network(each)
            except ValueError:
                raise ValueError(
                    "write addresses or networks with commas between them, as 10.0.0.0/8"
                ) from None
        return value

    @field_validator("oidc_issuer")
    @classmethod
    def _is_safe(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise ValueError("write it as https://…, as the provider's discovery document has it")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        named = (self.oidc_issuer, self.oidc_client_id, self.oidc_client_secret_file)
        if any(named) and not all(named):
            raise ValueError(
                "single sign-on needs OIDC_ISSUER, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET_FILE"
            )
        if all(named) and self.dashboard_url is None:
            raise ValueError("single sign-on needs DASHBOARD_URL: the provider sends people there")
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Where the dashboard listens: host (without brackets) and port."""
        host, _, port = self.admin_listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_local(self) -> bool:
        """Whether it listens to this machine alone."""
        return self.address[0] in _LOOPBACK

    @property
    def hosts(self) -> frozenset[str]:
        """The names by which the dashboard is served. No link is ever made of another one."""
        named = urlsplit(self.dashboard_url or "").hostname
        return frozenset({*_LOOPBACK, self.address[0], *([named] if named else ())})

    def may_read_metrics(self, address: str) -> bool:
        """Whether `/metrics` is there for whoever asks from an IP address."""
        networks = self.admin_metrics_from
        if networks is None:
            named = urlsplit(self.dashboard_url or "").hostname
            networks = _THIS_MACHINE if named is None or named in _LOOPBACK else ()
        try:
            asking = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(asking in ipaddress.ip_network(each) for each in networks)

    @property
    def https(self) -> bool:
        """Whether people reach it by TLS, which a proxy ends."""
        return self.dashboard_url is not None and self.dashboard_url.startswith("https://")

    @property
    def lifetimes(self) -> Lifetimes:
        """When sessions end by themselves."""
        return Lifetimes(self.session_idle_seconds * SECOND_US, self.session_seconds * SECOND_US)

    def oidc_client_secret(self) -> str:
        """The secret that the file has, without white space around it. Raises ConfigError."""
        path = self.oidc_client_secret_file
        why = "it is empty"
        try:
            secret = "" if path is None else path.read_text().strip()
        except OSError as fault:
            secret, why = "", fault.strerror or "it cannot be read"
        except UnicodeDecodeError:
            secret, why = "", "it is no text"
        if not secret:
            what = f"{PREFIX}OIDC_CLIENT_SECRET_FILE ({path}): {why}"
            raise ConfigError("The settings cannot be used:", (what,))
        return secret
