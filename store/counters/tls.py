"""TLS to Redis or Valkey: who is trusted, and connections that take milliseconds to make.

redis-py reads all certificates for each connection, the system's too, where others are named as
well: 20 ms of CPU each time, and more authorities than anybody asked for.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from redis.connection import Connection

_KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM: who is trusted instead of whom the system trusts, and our own certificate.

    Its key may lie in the same file.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """By the files as they are now; read again once one has changed. Raises OSError."""
        stamps = tuple(_stamp(path) for path in (self.ca, self.cert, self.key) if path is not None)
        return _context(self, stamps)

    def unreadable(self) -> str | None:
        """Why no connection can be made, with the file's name; None: they can."""
        for path in (self.ca, self.cert, self.key):
            try:
                if path is not None:
                    Path(path).read_bytes()
            except OSError as fault:
                return f"{path}: {fault.strerror}"
        try:
            self.context()
        except OSError as fault:
            named = ", ".join(path for path in (self.ca, self.cert, self.key) if path is not None)
            return f"{named or 'certificates of the system'}: {fault.strerror or fault}"
        return None


class SecureConnection(Connection):
    """redis-py's connection to a host and a port, by TLS. The host is in its certificate."""

    def __init__(self, *, tls: Tls, **given: Any) -> None:
        self._tls = tls
        super().__init__(**given)  # type: ignore[no-untyped-call]  # redis-py has no type for it

    def _connect(self) -> socket.socket:
        bare: socket.socket = super()._connect()  # type: ignore[no-untyped-call]  # likewise
        try:
            return self._tls.context().wrap_socket(bare, server_hostname=self.host)
        except OSError:
            bare.close()
            raise


def distrust(fault: BaseException | None) -> str | None:
    """Why a server's certificate was not taken, if that is what an error came of."""
    while fault is not None:
        if isinstance(fault, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({fault.verify_message.rstrip('.')})"
        fault = fault.__cause__ or fault.__context__
    return None


def _stamp(path: str) -> tuple[int, int, int]:
    seen = Path(path).stat()
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


@lru_cache(_KEPT)
def _context(tls: Tls, _stamps: tuple[tuple[int, int, int], ...]) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=tls.ca)
    if tls.cert is not None:
        made.load_cert_chain(tls.cert, tls.key)
    return made
