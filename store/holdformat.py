"""How holds and charges are kept as bytes: in the journal, and in the table of open holds.

FROZEN FORMAT. A hold is a JSON array of the fields of `store.records.Hold` in their order, its
price and its windows likewise; a charge is an object of the fields of `Charge` by name. What was
once written is read for ever: fields are appended, with a default, and none changes its meaning.
"""

from __future__ import annotations

from typing import Final

import msgspec

from store.records import Charge, Hold

_encode: Final = msgspec.json.Encoder().encode
_decode_hold: Final = msgspec.json.Decoder(Hold).decode
_decode_charge: Final = msgspec.json.Decoder(Charge).decode


def pack_hold(hold: Hold) -> bytes:
    """A hold as one line of JSON. Raises ValueError for text that no store can keep."""
    packed = _encode(hold)
    if b"\\u0000" in packed:  # PostgreSQL keeps no NUL; a lone surrogate has failed above
        raise ValueError("a hold has a text with a NUL")
    return packed


def unpack_hold(packed: bytes | str) -> Hold:
    """The hold of `pack_hold`. Raises ValueError."""
    return _decode_hold(packed)


def pack_charge(charge: Charge) -> bytes:
    """A charge as one line of JSON."""
    return _encode(charge)


def unpack_charge(packed: bytes | str) -> Charge:
    """The charge of `pack_charge`. Raises ValueError."""
    return _decode_charge(packed)
