"""Counters in process mean one worker: whoever holds the lock on the state counts.

The kernel frees the lock with its holder, however it dies. Needs a local file system.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

LOCK_NAME: Final = "authz.lock"


class Lease:
    """An exclusive lock on a state folder."""

    def __init__(self, state: Path) -> None:
        self._path = state / LOCK_NAME
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody holds it. Does not wait."""
        held = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return False
        os.ftruncate(held, 0)
        os.write(held, f"{os.getpid()}\n".encode())
        self._file = held
        return True

    def holder(self) -> str:
        """The pid that the holder wrote, for people."""
        try:
            return self._path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Let the next one in."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
