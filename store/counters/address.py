"""Where Redis or Valkey is: `TENSORGATE_REDIS_URL`, read once and strictly.

redis://[user:password@]host[:6379][/db]           rediss:// is the same with TLS
unix:///path/to/socket[?db=0]                      or unix://[user:password@]/path
redis+sentinel://host:26379,host:26379/master[/db] rediss+sentinel:// likewise
redis+cluster://host:6379,host:6379                rediss+cluster:// likewise

A name or a password is percent-encoded; what stands before the `@` is for the data nodes. Behind
`?`: `sentinel_username`, `sentinel_password`, and for TLS `ca` (a file of certificates that are
trusted, otherwise the system's), `cert` and `key` (ours, where the server asks for one). The name
or number of each host has to be in its certificate, as Sentinels or a cluster tell it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from store.counters.tls import Tls
from store.errors import ConfigError

Kind = Literal["single", "sentinel", "cluster"]

_SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: Final = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_TLS: Final = ("ca", "cert", "key")
_MAX_PORT: Final = 65535
_HEADLINE: Final = "TENSORGATE_REDIS_URL cannot be used."


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password, in no `repr`."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """One node (`path`, or the first of `hosts`), Sentinels and their master's name, or a cluster.

    `tls` is None where nothing is encrypted.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    master: str = ""
    db: int = 0
    data: Credentials = Credentials()
    sentinel: Credentials = Credentials()
    tls: Tls | None = None

    def __str__(self) -> str:
        """For people: without a password."""
        if self.path is not None:
            return self.path
        hosts = ",".join(f"{_bracketed(host)}:{port}" for host, port in self.hosts)
        return f"{self.master} by {hosts}" if self.kind == "sentinel" else hosts


def parse(url: str) -> Address:
    """Read an address. Raises ConfigError, which names no password."""
    try:
        split = urlsplit(url)
        options = dict(_pairs(split.query))
    except ValueError:
        raise _fault("it is no URL") from None
    if split.fragment:
        raise _fault("it has a '#'; percent-encode it where it is a part of a password")
    credentials, at, place = split.netloc.rpartition("@")
    data = _credentials(credentials) if at else Credentials()
    if split.scheme == "unix":
        return _socket(place, split.path, data, options)
    if split.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in ("unix", *_SCHEMES))
        raise _fault(f"it has to begin with one of {known}")
    kind, secure = _SCHEMES[split.scheme]
    hosts = tuple(_host(each, _PORTS[kind]) for each in place.split(","))
    if kind == "single" and len(hosts) > 1:
        raise _fault("it names several hosts: use redis+cluster:// or redis+sentinel://")
    master, db = _behind(kind, [unquote(part) for part in split.path.split("/") if part])
    sentinel = Credentials(
        options.pop("sentinel_username", None), options.pop("sentinel_password", None)
    )
    tls = None
    if secure:
        tls = Tls(**{name: options.pop(name) for name in _TLS if name in options})
        if tls.key is not None and tls.cert is None:
            raise _fault("it names a key without its certificate: add cert=")
    _no_more(options)
    return Address(kind, hosts, None, master, db, data, sentinel, tls)


def _socket(place: str, path: str, data: Credentials, options: dict[str, str]) -> Address:
    if place or not path:
        raise _fault("a unix socket is unix:///path/to/socket")
    db = _number(options.pop("db", "0"), "db")
    _no_more(options)
    return Address("single", path=unquote(path), db=db, data=data)


def _behind(kind: Kind, path: list[str]) -> tuple[str, int]:
    """What stands behind the hosts: a master's name, a database's number."""
    master = ""
    if kind == "sentinel":
        if not path:
            raise _fault("a Sentinel URL names its master: redis+sentinel://host:26379/mymaster")
        master = path.pop(0)
    if kind == "cluster" and path:
        raise _fault("a cluster has no databases: leave out what stands behind the hosts")
    if len(path) > 1:
        raise _fault("it has more than the number of a database behind the hosts")
    return master, _number(path[0], "the database") if path else 0


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []


def _credentials(text: str) -> Credentials:
    username, colon, password = text.partition(":")
    if not colon:
        raise _fault("before the '@' stands a password behind a colon: redis://:password@host")
    return Credentials(unquote(username) or None, unquote(password))


def _host(text: str, default: int) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        if port and not port.startswith(":"):
            raise _fault("an IPv6 address is written as [::1]:6379")
        port = port[1:]
    elif ":" in text:
        host, _, port = text.partition(":")
    number = _number(port, "a port") if port else default
    if not 0 < number <= _MAX_PORT or not _can_be_looked_up(host):
        raise _fault("a host or its port is missing or none")
    return host, number


def _can_be_looked_up(host: str) -> bool:
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(_MAX_PORT)):
        raise _fault(f"{what} is a number")
    return int(text)


def _no_more(options: dict[str, str]) -> None:
    if options:
        raise _fault(f"it has an option that is none: {min(options)}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _fault(text: str) -> ConfigError:
    return ConfigError(_HEADLINE, (text,))
