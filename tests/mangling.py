"""Samples of bytes, spoilt a little."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


def mangled(random: Random, raw: bytes, at: int, size: int, bits: Sequence[bytes]) -> bytes:
    """So many bytes at a place replaced by one of `bits`, by any byte, or doubled, or moved."""
    put = random.choice((b"", random.choice(bits), bytes([random.randrange(256)])))
    match random.randrange(8):
        case 0:  # doubled
            put = raw[at : at + size]
            size = 0
        case 1:  # moved
            moved, raw = raw[at : at + size], raw[:at] + raw[at + size :]
            at, size, put = random.randrange(len(raw) + 1), 0, moved
    return raw[:at] + put + raw[at + size :]
