"""What the model servers say they serve, read through Envoy every 30 s.

OpenAI's listing is asked for, and where there is none Ollama's; a server that has neither, as
those of the open inference protocol, lists nothing. The last good listing of each server is kept
while it is down; one that never answered is asked every second. Everything but the models' names
is ignored, and names that could not stand in a request are dropped: a server's listing is input
like any other. A name counts only at the server that the catalog sends its calls to.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from authz.body import is_model_name
from store.background import Background

REFRESH_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 5.0
MAX_BYTES: Final = 4 << 20
MAX_MODELS: Final = 10_000
LISTING_PATHS: Final = ("/v1/models", "/api/tags")
_HTTP_OK: Final = 200
_REFUSED: Final = range(400, 500)  # by the server itself: it is there, and has no such listing

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


class _Tag(msgspec.Struct):
    name: str


class _Tags(msgspec.Struct):
    models: list[_Tag]


def _openais(raw: bytes) -> list[str]:
    listing = msgspec.json.decode(raw, type=_Listing)
    return [model.id for model in listing.data[:MAX_MODELS]]


def _ollamas(raw: bytes) -> list[str]:
    listing = msgspec.json.decode(raw, type=_Tags)
    return [tag.name for tag in listing.models[:MAX_MODELS]]


_READERS: Final = tuple(zip(LISTING_PATHS, (_openais, _ollamas), strict=True))


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("tensorgate", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


class Listings(Background):
    """The servers' models, refreshed in a thread of its own. Calling it never waits.

    `upstream_of` says to which server the calls of a model go. Once stopped, the thread may still
    wait for a server.
    """

    def __init__(
        self, envoy: Path, upstreams: Sequence[str], upstream_of: Callable[[str], str]
    ) -> None:
        super().__init__("listings")
        self._envoy = envoy
        self._upstream_of = upstream_of
        self._names: dict[str, tuple[str, ...]] = dict.fromkeys(upstreams, ())
        self._missing = set(upstreams)

    def __call__(self) -> list[str]:
        return [name for names in tuple(self._names.values()) for name in names]

    def refresh(self) -> None:
        """Ask every server once; one that does not answer keeps its last good listing."""
        self._ask(tuple(self._names))

    def _ask(self, upstreams: Sequence[str]) -> None:
        for upstream in upstreams:
            try:
                names = self._names_of(upstream)
            except _NO_LISTING as fault:
                _log.debug("no listing from %s: %s", upstream, type(fault).__name__)
            else:
                if names is not None:
                    self._names[upstream] = names
                self._missing.discard(upstream)

    def _names_of(self, upstream: str) -> tuple[str, ...] | None:
        """What a server lists in the first of the ways that it knows, None where it knows none."""
        for path, read in _READERS:
            raw = self._get(f"/{upstream}{path}")
            if raw is not None:
                names = (name for name in read(raw) if is_model_name(name))
                return tuple(name for name in names if self._upstream_of(name) == upstream)
        return None

    def _get(self, path: str) -> bytes | None:
        """The answer's body, None where the server has no such thing."""
        connection = _UnixConnection(self._envoy)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            raw = answer.read(MAX_BYTES + 1)
        finally:
            connection.close()
        if answer.status in _REFUSED:
            return None
        if answer.status != _HTTP_OK or len(raw) > MAX_BYTES:
            raise ValueError(f"status {answer.status}, {len(raw)} bytes")
        return raw

    def _run(self) -> None:
        wait, due = 0.0, monotonic()
        while not self._rest(wait):
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
