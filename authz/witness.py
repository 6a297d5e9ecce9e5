"""Who watches decisions: the log of them, and their spans. Only where somebody asked for that.

What is told of a decision is who asked for which model at which endpoint, and what came of it:
never a key, a body or a header. A model's name is the client's own text; one that has the form of
an imported key is not told.
"""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter, time_ns
from typing import Final, Protocol

import msgspec

from authz.model import Request
from authz.pb.auth_pb2 import CheckRequest
from store.keyformat import KeyForm
from store.logform import FIELDS
from store.records import Hold, KeyRecord

ERROR: Final = "error"
MODEL_CHARS: Final = 256
_ALL: Final = 1 << 32

_log = logging.getLogger("authz.decisions")

Metadata = Iterable[tuple[str, str | bytes]]


class Decided(msgspec.Struct, frozen=True, gc=False):
    """What came of a check: `outcome` and `reason` as in the metric."""

    outcome: str
    reason: str
    request: Request
    key: KeyRecord | None
    model: str
    hold: Hold | None


class Checks(Protocol):
    """What is watched."""

    def check(self, message: CheckRequest, is_active: Callable[[], bool]) -> bytes: ...


class Spans(Protocol):
    """Where spans go (authz/tracing.py)."""

    def span(
        self,
        parent: Mapping[str, str],
        start_ns: int,
        fields: Mapping[str, str | int | float],
    ) -> None: ...


class Witness:
    """Thread-safe. `share` of the decisions is logged, None for no log; errors always are.

    Which share is told by the request's id alone, so that all processes of a gate agree, and a
    call that was checked twice is logged twice or not at all.
    """

    def __init__(self, form: KeyForm, share: float | None, spans: Spans | None) -> None:
        self._form = form
        self._spans = spans
        self._below = None if share is None else int(share * _ALL)
        self._local = threading.local()

    def note(self, decided: Decided) -> None:
        """What came of the check that this thread is at."""
        self._local.decided = decided

    def check(
        self,
        checks: Checks,
        message: CheckRequest,
        is_active: Callable[[], bool],
        metadata: Callable[[], Metadata],
    ) -> bytes:
        """A check, watched. `metadata` gives what came beside the message."""
        start_ns, started = time_ns(), perf_counter()
        self._local.decided = None
        answer = checks.check(message, is_active)
        decided: Decided | None = self._local.decided
        if decided is not None:
            seconds = perf_counter() - started
            logged = self._is_logged(decided)
            if logged or self._spans is not None:
                fields = self._fields(decided, seconds)
                if logged:
                    _tell(decided, fields)
                if self._spans is not None:
                    self._spans.span(_parent(message, metadata()), start_ns, fields)
        return answer

    def _is_logged(self, decided: Decided) -> bool:
        if self._below is None:
            return False
        return decided.outcome == ERROR or zlib.crc32(decided.request.id.encode()) < self._below

    def _fields(self, decided: Decided, seconds: float) -> dict[str, str | int | float]:
        request, key, hold = decided.request, decided.key, decided.hold
        model = decided.model or request.model or ""
        if self._form.is_foreign(model):
            model = "(not told)"
        found: dict[str, str | int | float | None] = {
            "request_id": request.id,
            "outcome": decided.outcome,
            "reason": decided.reason,
            "key_id": None if key is None else key.id,
            "account_id": None if key is None else key.account_id,
            "model": model[:MODEL_CHARS],
            "endpoint": None if request.endpoint is None else request.endpoint.name,
            "duration_ms": round(seconds * 1000, 3),
            "hold_id": None if hold is None else hold.id,
            "hold_nanousd": None if hold is None else hold.nanousd,
        }
        return {name: value for name, value in found.items() if value not in {None, ""}}


def _tell(decided: Decided, fields: Mapping[str, str | int | float]) -> None:
    level = logging.ERROR if decided.outcome == ERROR else logging.INFO
    text = " ".join(f"{name}={json.dumps(value)}" for name, value in fields.items())
    _log.log(level, "decision %s", text, extra={FIELDS: {**fields, "event": "decision"}})


def _parent(message: CheckRequest, metadata: Metadata) -> dict[str, str]:
    """The trace that the check belongs to: Envoy's span of it, else the request's own."""
    sent = {name: str(value) for name, value in metadata if name in {"traceparent", "tracestate"}}
    if "traceparent" in sent:
        return sent
    headers = message.attributes.request.http.headers
    return {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
