"""What the model servers say they serve, read through Envoy every 30 s.

The last good listing of each server is kept while it is down; one that never answered is asked
every second. Everything but the models' names is ignored, and names that could not stand in a
request are dropped: a server's listing is input like any other.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Final

import msgspec

from authz.body import is_model_name

REFRESH_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 5.0
MAX_BYTES: Final = 4 << 20
MAX_MODELS: Final = 10_000
_HTTP_OK: Final = 200

_NO_LISTING: Final = (
    OSError,
    HTTPException,
    msgspec.MsgspecError,
    ValueError,
    RecursionError,  # msgspec's, for what is nested too deeply
)

_log = logging.getLogger(__name__)


class _Model(msgspec.Struct):
    id: str


class _Listing(msgspec.Struct):
    data: list[_Model]


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("tensorgate", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


class Listings:
    """The servers' models, refreshed in a thread of its own. Calling it never waits."""

    def __init__(self, envoy: Path, upstreams: Sequence[str]) -> None:
        self._envoy = envoy
        self._names: dict[str, tuple[str, ...]] = dict.fromkeys(upstreams, ())
        self._missing = set(upstreams)
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="listings", daemon=True)

    def __call__(self) -> list[str]:
        return [name for names in tuple(self._names.values()) for name in names]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it may still be waiting for a server."""
        self._stopped.set()

    def refresh(self) -> None:
        """Ask every server once; one that does not answer keeps its last good listing."""
        self._ask(tuple(self._names))

    def _ask(self, upstreams: Sequence[str]) -> None:
        for upstream in upstreams:
            try:
                names = self._read(upstream)
            except _NO_LISTING as fault:
                _log.debug("no listing from %s: %s", upstream, type(fault).__name__)
            else:
                self._names[upstream] = names
                self._missing.discard(upstream)

    def _read(self, upstream: str) -> tuple[str, ...]:
        connection = _UnixConnection(self._envoy)
        try:
            connection.request("GET", f"/{upstream}/v1/models")
            answer = connection.getresponse()
            raw = answer.read(MAX_BYTES + 1)
        finally:
            connection.close()
        if answer.status != _HTTP_OK or len(raw) > MAX_BYTES:
            raise ValueError(f"status {answer.status}, {len(raw)} bytes")
        listing = msgspec.json.decode(raw, type=_Listing)
        names = (m.id for m in listing.data[:MAX_MODELS])
        return tuple(name for name in names if is_model_name(name))

    def _run(self) -> None:
        wait, due = 0.0, monotonic()
        while not self._stopped.wait(wait):
            missing, now = sorted(self._missing), monotonic()
            try:
                if now >= due:
                    due = now + REFRESH_SECONDS
                    self.refresh()
                else:
                    self._ask(missing)
            except Exception:  # noqa: BLE001  a defect of ours: the next listing may do
                _log.exception("reading the servers' listings failed")
            wait = RETRY_SECONDS if self._missing else max(0.0, due - monotonic())
