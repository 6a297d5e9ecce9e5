"""Looking at running parts from outside, by HTTP (authz/health.py has gRPC's way).

Every look is one bounded question and answers with a value; none raises.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Final

from tensorgate.ports import Address

SECONDS: Final = 1.0
LARGEST: Final = 256 * 1024
OK: Final = 200
UNAUTHORIZED: Final = 401


def http_status(
    address: Address, method: str, path: str, seconds: float = SECONDS
) -> tuple[int, str] | None:
    """Status and `server` header of one request without a body, or None without an answer."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=seconds)
    try:
        connection.request(
            method, path, headers={"content-length": "0"} if method == "POST" else {}
        )
        response = connection.getresponse()
    except (OSError, http.client.HTTPException):
        return None
    else:
        return response.status, response.getheader("server", "")
    finally:
        connection.close()


def ask_admin(admin: Path, method: str, path: str, seconds: float = SECONDS) -> bytes | None:
    """One request to Envoy's admin socket; the body of a 200, else None."""
    connection = _UnixConnection(admin, seconds)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read(LARGEST)
    except (OSError, http.client.HTTPException):
        return None
    else:
        return body if response.status == http.client.OK else None
    finally:
        connection.close()


def in_flight(admin: Path) -> int:
    """Requests that Envoy is serving now, by its own gauges; 0 where it does not say."""
    stats = ask_admin(admin, "GET", "/stats?format=json&filter=downstream_rq_active")
    rows = json_member(stats, "stats")
    return sum(
        row["value"]
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
        and isinstance(row.get("value"), int)
        # not those that ask how it is: this very question is one; `rq_active` names a histogram too
        and str(row.get("name")).startswith("http.gate.")
    )


def json_member(raw: bytes | None, name: str) -> object:
    """A member of a JSON object, None where there is no such thing."""
    try:
        value = json.loads(raw or b"")
    except ValueError:
        return None
    return value.get(name) if isinstance(value, dict) else None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
