"""Usage in every event of a stream, from a server that the catalog says can count as it goes. Pure.

What a server has counted with each event is exact wherever the stream ends, so a cut stream of
such a server is charged for what it was. It is asked for beside `include_usage`, of one answer
only: vLLM's events carry the usage of their own answer, not of all. A client's own word on it
stands.

The usage stays in the events, also for a client that did not ask: taking a member out would be
writing each event anew, and an error there would break answers, where it is otherwise at most a
charge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import simdjson

from authz.ask import in_place
from authz.content import FaultError
from authz.model import Ask, Edit

_MEMBER: Final = "continuous_usage_stats"
_TRUE: Final = f'true,"{_MEMBER}":true'
_PLACE: Final = rb'"stream_options"@:@\{()'
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Counting:
    """That the server counts as it goes, and the edit for that: in place of `Ask.usage_edit`."""

    edit: Edit | None


def counting(raw: bytes, ask: Ask) -> Counting | None:
    """How the server is made to count as it goes; None where it is not.

    `raw` is the body of a stream's request, of which `ask` was read and is in order.
    """
    if ask.prompts * ask.repeats != 1:
        return None
    try:
        said = b"stream_options" in raw  # most bodies need not be parsed once more
        wanted = _wanted(simdjson.Parser().parse(raw)) if said else _ABSENT
        if wanted is not _ABSENT:
            return Counting(ask.usage_edit) if wanted is True else None
        if ask.usage_edit is not None:
            written = ask.usage_edit.text.replace("true", _TRUE, 1)
            return Counting(Edit(ask.usage_edit.offset, ask.usage_edit.removed, written))
        edit = _beside_the_clients(raw)
    except (ValueError, RuntimeError):  # what only a mended copy of could be read: see body.py
        return None
    return None if edit is None else Counting(edit)


def _wanted(document: Any) -> Any:
    """What a body says of it."""
    options = document.get("stream_options")
    return options.get(_MEMBER, _ABSENT) if isinstance(options, simdjson.Object) else _ABSENT


def _beside_the_clients(raw: bytes) -> Edit | None:
    """Into the options of a client that asked for usage itself; None where they cannot be found."""

    def holds(edited: Any) -> bool:
        return _wanted(edited) is True

    try:
        return in_place(raw, _PLACE, f'"{_MEMBER}":true,', "stream_options", holds)
    except FaultError:
        return None
