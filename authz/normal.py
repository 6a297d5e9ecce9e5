"""How much longer a text can get where a tokenizer normalises it first. Pure.

Byte-level tokenizers make no more tokens than bytes, but some (Qwen's) make NFC of the text before.
NFC takes some ninety characters apart for good, and the longest of them is then three times as
long; a mark below takes a letter from the mark above that it had. Written as escapes they are at
least as long as what comes of them.

Cost: 0.1 to 0.6 ms for 100 KB that is not ASCII; 4 µs where it is.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

FACTOR: Final = 3  # times as long, at most
_GROWTH: Final = 8  # bytes that one of them adds, at most
_MOST_COUNTED: Final = 1000  # of more, all that is not ASCII is taken for such
_ASCII: Final = bytes(range(0x80))

# By their first bytes, for which there is a fast search; some neighbours are among them.
_INDIC: Final = rb"\xa5[\x98-\x9f]|\xa7[\x9c-\x9f]|\xa8[\xb3-\xb6]|\xa9[\x99-\x9e]|\xad[\x9c\x9d]"
_PARTED: Final = tuple(
    (lead, re.compile(lead + b"(?:" + rest + b")"))
    for lead, rest in (
        (b"\xcc", rb"[\x9b\xa3-\xa8\xad\xae\xb0\xb1]"),  # the marks
        (b"\xcd", rb"\x84"),
        (b"\xe0", _INDIC + rb"|[\xbd\xbe]"),  # and Tibetan
        (b"\xe2", rb"\xab\x9c"),
        (b"\xef", rb"\xa9\xac|\xab[\x8f-\x97]|\xac[\x9d-\xbe]|\xad[\x80-\x8e]"),
        (b"\xf0", rb"\x9d(?:\x85[\x9e-\xa4]|\x86[\xbb-\xbf]|\x87\x80)"),
    )
)


def growth(raw: bytes) -> int:
    """How many bytes more than these, which are UTF-8, their NFC can have at most."""
    if raw.isascii():
        return 0
    found = 0
    for lead, pattern in _PARTED:
        if lead in raw:
            found += sum(1 for _ in islice(pattern.finditer(raw), _MOST_COUNTED))
    everything = (FACTOR - 1) * len(raw.translate(None, _ASCII)) if found else 0
    return everything if found >= _MOST_COUNTED else min(everything, _GROWTH * found)
