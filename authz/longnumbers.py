"""Numbers that take a JSON parser long: more than 18 digits, and an exponent. Pure.

simdjson reads up to 18 digits of a fraction at once. Of more it shifts a decimal by the exponent,
bit by bit: up to 10 µs for 25 bytes, 0.4 s for a MiB of them. No client writes many: 17 digits say
all that a double holds. What stands inside of texts is no number, and may be as long as it likes.

Cost: nothing for bodies below 12 KB; one look at every tenth byte, 0.2 ms a MiB; 1 ms more where
there are many numbers, and some more where there are many long ones.
"""

from __future__ import annotations

from typing import Final

MAX_LONG_A_MIB: Final = 250
"""So many a MiB of the body, and in one of less than a MiB."""

_FREE_BYTES: Final = 12_000  # what is shorter cannot hold so many that it would take long
_MAX_LOOKS_A_MIB: Final = 4_000  # at texts with such a number in them
_MIB: Final = 1 << 20
_STEP: Final = 10  # of 20 bytes in a row, two stand so far apart
_SHORT_STEP: Final = 5  # of 19 bytes in a row, three
_MANTISSA: Final = bytes(
    48 if byte in b"0123456789." else 101 if byte in b"eE" else 1 for byte in range(256)
)
_LONG: Final = b"0" * 20 + b"e"


def one_too_many(raw: bytes) -> int | None:
    """The byte at which there is one such number too many, if there are."""
    size = len(raw)
    if size <= _FREE_BYTES:
        return None
    most = MAX_LONG_A_MIB * max(size, _MIB) // _MIB
    if raw[::_STEP].translate(_MANTISSA).count(b"00") <= most:
        return None
    mantissas = raw.translate(_MANTISSA)
    return None if mantissas.count(_LONG) <= most else _walk(raw, mantissas, most)


def may_hold_digits(raw: bytes) -> bool:
    """Whether there may be 19 digits in a row; false only where there are none."""
    return b"000" in raw[::_SHORT_STEP].translate(_MANTISSA)


def _walk(raw: bytes, mantissas: bytes, most: int) -> int | None:
    """Count those that stand outside of texts, one by one.

    Whether a byte stands in a text is told by the quotes before it that are not escaped.
    """
    plain = raw.replace(rb"\\", b"__").replace(rb"\"", b"__") if b"\\" in raw else raw
    looks = _MAX_LOOKS_A_MIB * max(len(raw), _MIB) // _MIB
    done, inside = 0, False
    at = mantissas.find(_LONG)
    while at >= 0:
        if plain.count(b'"', done, at) % 2:
            inside = not inside
        done = at
        if inside:
            looks -= 1
            done = plain.find(b'"', at) + 1
            if not done:
                return None  # a text without an end: the parser stops there too
            inside = False
        else:
            most -= 1
            done = at + len(_LONG)
        if most < 0 or looks < 0:
            return at
        at = mantissas.find(_LONG, done)
    return None
