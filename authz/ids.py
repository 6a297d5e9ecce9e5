"""Ids of holds: 128 random bits each, as 32 hex digits."""

from __future__ import annotations

import secrets
from typing import Final

_BYTES: Final = 16
_DRAWN: Final = 256


class Ids:
    """Thread-safe. Asking the system for randomness lets other threads run, so many are drawn."""

    def __init__(self) -> None:
        self._ready: list[str] = []

    def __call__(self) -> str:
        try:
            return self._ready.pop()
        except IndexError:
            drawn = secrets.token_hex(_BYTES * _DRAWN)
            digits = 2 * _BYTES
            first, *rest = [drawn[at : at + digits] for at in range(0, len(drawn), digits)]
            self._ready += rest
            return first
