"""Addresses and ports: reading them, seeing whether they are free, and who holds one."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HIGHEST: Final = 65535
LISTENING: Final = "0A"  # TCP_LISTEN in /proc/net/tcp
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name or IP address, IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`host:port`, `1.2.3.4:port` or `[::1]:port`. Raises ValueError that says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or not 1 <= int(port) <= HIGHEST:
        raise ValueError("write it as host:port, for example 127.0.0.1:8000")
    if host.startswith("[") and host.endswith("]"):
        host = parse_ip(host[1:-1])
    elif not _NAME.fullmatch(host):
        raise ValueError("the part before the port is not a host name or an IP address")
    return Address(host, int(port))


def parse_ip(text: str) -> str:
    """An IP address in its usual spelling; `localhost` is 127.0.0.1. Raises ValueError."""
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("not an IP address; write 127.0.0.1, or 0.0.0.0 for all") from None


def is_loopback(ip: str) -> bool:
    """Whether only this machine can reach a socket bound to `ip`."""
    return ipaddress.ip_address(ip).is_loopback


def reach(ip: str) -> str:
    """Where this machine reaches a socket bound to `ip`: the wildcards become loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(ip, ip)  # noqa: S104 -- read, not bound


def public_face(ip: str) -> str:
    """The address that others would use for a socket bound to `ip`.

    For a wildcard it is the one that this machine's default route leaves from, else loopback.
    """
    if reach(ip) == ip:
        return ip
    family, somewhere = (
        (socket.AF_INET6, "2001:db8::1") if ":" in ip else (socket.AF_INET, "192.0.2.1")
    )
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((somewhere, 9))  # a route is looked up; nothing is sent
        return str(probe.getsockname()[0])
    return reach(ip)


def free_port(ip: str) -> int:
    """A port that was free a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


def why_not(address: Address) -> str | None:
    """Why nothing can listen there, in words (with who does, where that can be seen), or None."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is no fault
            probe.bind((address.host, address.port))
            probe.listen(1)  # another socket may be bound with SO_REUSEADDR, and listen
    except PermissionError:
        return "only root may listen on it"
    except OSError as fault:
        if fault.errno == errno.EADDRINUSE:
            who = holder(address.port)
            return f"taken by {who}" if who else "taken by another program"
        return (fault.strerror or str(fault)).lower()
    return None


def holder(port: int) -> str | None:
    """`name (pid N)` of a process that listens on the TCP port, if this user may see it."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        name = (process / "comm").read_text().strip()
                        return f"{name} (pid {process.name})"
    return None


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for row in Path(table).read_text().splitlines()[1:]:
                cells = row.split()
                if cells[3] == LISTENING and int(cells[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{cells[9]}]")
    return found
