"""The children's log files: private, bounded, and their end for a message.

A child writes with O_APPEND to a file that stays open, so a log is bounded by copying it aside
and cutting it to nothing. Worst case: lines written between the copy and the cut (about a
millisecond) are lost, and a log with its copy is twice `LARGEST` plus what one minute adds.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO, Final

LARGEST: Final = 16 * 1024 * 1024
TAIL_BYTES: Final = 16 * 1024


def open_log(path: Path) -> BinaryIO:
    """Open for appending, readable by the owner only."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", 0)


def bound(path: Path, largest: int = LARGEST) -> None:
    """Move the content to `PATH.1` if there is more of it than `largest` bytes."""
    try:
        if path.stat().st_size <= largest:
            return
        with path.open("rb") as source, _private(path.with_name(f"{path.name}.1")) as copy:
            shutil.copyfileobj(source, copy)
        os.truncate(path, 0)
    except FileNotFoundError:
        return


def tail(path: Path, lines: int) -> list[str]:
    """The last lines, without control characters, so that they are safe on a terminal."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    return [printable(line) for line in text.splitlines() if line.strip()][-lines:]


def printable(text: str) -> str:
    """Text from elsewhere, fit for a terminal: a control character becomes `?`, a tab a blank."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in text)


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
