"""How much memory Envoy can be made to hold, and what is left for long bodies. Pure.

Envoy's ext_authz holds a body back until it is whole, so what strangers can make it hold is
bounded here, and `deploy/lua/body_room.lua` keeps to the bound:

    any stream      its first 64 KiB and its headers
    any connection  buffers and TLS state
    a check         two more copies of such a body, while it is under way
    a longer body   only under a key of our form, only out of its worker's room: a budget of
                    bytes that is taken by Content-Length before the body is read (by the limit of
                    the path where there is none) and given back when the response begins

The sum stays below `SHARE` of the heap limit, at which the overload manager begins to act.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from store.errors import ConfigError

KIB: Final = 1024
MIB: Final = 1024 * KIB

SMALL_BODY: Final = 64 * KIB  # what anybody may send
OTHER_BODY: Final = 1 * MIB  # with a key of our form, where no prompt goes
STREAM_BUFFER: Final = 32 * KIB  # response bytes held for a slow client, each way
HEADERS_KIB: Final = 32
CHECKS: Final = 1024  # under way at once; more are refused
LOG_BUFFER: Final = 16 * MIB  # entries that wait for the log service, a worker

SHARE: Final = 0.9
_BASE: Final = 96 * MIB  # Envoy with this configuration, idle
_CONNECTION: Final = 2 * STREAM_BUFFER + 64 * KIB
_STREAM: Final = SMALL_BODY + HEADERS_KIB * KIB + 16 * KIB
_CHECK_COPIES: Final = 2  # the CheckRequest and its serialised frame
_EDIT_COPIES: Final = 3  # the body as Lua reads it, as it writes it, and the buffer made of that
_COPIES: Final = 1 + _CHECK_COPIES + _EDIT_COPIES


@dataclass(frozen=True, slots=True)
class Capacity:
    """The limits as Envoy needs them, in bytes."""

    heap: int
    prompt_body: int
    room: int  # Content-Length of long bodies held at once, in one of Envoy's workers


def plan(
    *, heap_mib: int, body_limit_mib: int, connections: int, streams: int, concurrency: int
) -> Capacity:
    """Divide the heap limit. Raises ConfigError if one longest body a worker does not fit."""
    everybody = (
        _BASE
        + concurrency * LOG_BUFFER
        + connections * (_CONNECTION + streams * _STREAM)
        + CHECKS * _CHECK_COPIES * SMALL_BODY
    )
    heap, body = heap_mib * MIB, body_limit_mib * MIB
    room = int(heap * SHARE - everybody) // (_COPIES * concurrency)
    if room < body:
        needed = everybody + _COPIES * concurrency * body
        least = int(needed / SHARE / MIB) + 1
        fault = (
            f"--heap-mib {heap_mib} is below {least}, which {connections} connections of "
            f"{streams} streams and a body of {body_limit_mib} MiB in each of {concurrency} "
            "workers need. Raise it, or lower --max-connections, --max-streams, "
            "--body-limit-mib or --concurrency."
        )
        raise ConfigError("Envoy's memory does not suffice:", (fault,))
    return Capacity(heap, body, room)
