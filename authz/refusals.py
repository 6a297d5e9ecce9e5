"""The last refusals, for `tensorgate explain`: in memory, of this process, bounded.

Kept are the answer and who asked for what; never a body, a credential or a digest. Calls without
a key that counts have a room of their own: whoever sends nonsense pushes out nobody's refusal.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from threading import Lock
from typing import Final

import msgspec

from authz.denial import Answer
from authz.words import Occasion
from store.clock import Clock
from store.keyformat import KeyForm
from store.text import rfc3339

WITH_KEY: Final = 9_000
WITHOUT_KEY: Final = 1_000
_TEXT_CHARS: Final = 200
_BODY_BYTES: Final = 4096


class _Kept(msgspec.Struct, frozen=True, gc=False):
    at_us: int
    reason: str
    status: int
    body: bytes
    key_id: str | None
    user: str | None
    team: str | None
    alias: str | None
    hint: str | None
    method: str
    path: str
    endpoint: str | None
    model: str | None


class Refusals:
    """By request id; the oldest is forgotten first. Thread-safe."""

    def __init__(self, clock: Clock, form: KeyForm) -> None:
        self._clock = clock
        self._keys = re.compile("|".join(f"{re.escape(p)}[0-9A-Za-z]+" for p in form.prefixes))
        self._lock = Lock()
        self._with_key: OrderedDict[str, _Kept] = OrderedDict()
        self._without: OrderedDict[str, _Kept] = OrderedDict()

    def note(self, occasion: Occasion, answer: Answer) -> None:
        """Keep what was answered. On the path of a refusal: nothing is formed here."""
        request, key = occasion.request, occasion.key
        if not request.id or len(request.id) > _TEXT_CHARS:
            return
        kept = _Kept(
            self._clock(),
            occasion.fault.reason.value,
            answer.status,
            answer.body if len(answer.body) <= _BODY_BYTES else b"",
            None if key is None else key.id,
            None if key is None else key.user,
            None if key is None else key.team,
            None if key is None else key.alias,
            None if key is None else key.hint,
            request.method[:_TEXT_CHARS],
            request.path[:_TEXT_CHARS],
            None if request.endpoint is None else request.endpoint.name,
            None if request.model is None else request.model[:_TEXT_CHARS],
        )
        room, most = (self._without, WITHOUT_KEY) if key is None else (self._with_key, WITH_KEY)
        with self._lock:
            room[request.id] = kept
            room.move_to_end(request.id)
            if len(room) > most:
                room.popitem(last=False)

    def find(self, request_id: str) -> dict[str, str | int | None] | None:
        """What is known of a refused call, with `message` as the client read it; None for none."""
        with self._lock:
            kept = self._with_key.get(request_id) or self._without.get(request_id)
        if kept is None:
            return None
        found = msgspec.structs.asdict(kept)
        del found["body"], found["at_us"]
        found |= {"message": _message(kept.body), "at": rfc3339(kept.at_us)}
        return {name: self._clean(value) for name, value in found.items()}

    def _clean(self, value: str | int | None) -> str | int | None:
        """A key that somebody gave as a model's name, or in a path, is not repeated."""
        return self._keys.sub("(a key)", value) if isinstance(value, str) else value


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return ""
