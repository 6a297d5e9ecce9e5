"""What is told of LiteLLM's keys: what is not here as it was there, or why one stays. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NAME_CHARS: Final = 256
_SECRET: Final = re.compile(r"sk-[A-Za-z0-9_-]{12,}")


class RefusedError(Exception):
    """A key that cannot be imported; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """Something that is not here as it was there."""

    what: str
    there: str
    here: str


def printable(text: str, chars: int = NAME_CHARS) -> str:
    """Text from elsewhere, fit for a terminal and a page, cut, and without what looks like a key.

    What is no printable character becomes `?`; that is also what could turn a line around.
    """
    shown = "".join(c if c.isprintable() else "?" for c in _SECRET.sub("sk-…", text))
    return shown if len(shown) <= chars else f"{shown[: chars - 1]}…"


def listed(names: Sequence[str]) -> str:
    """Names in one line, as `printable`."""
    return printable(", ".join(names))
