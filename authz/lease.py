"""Counters in process mean one worker: whoever holds the lock on the state counts.

Where several count together, the lock is on the sockets of a runtime folder instead. The kernel
frees a lock with its holder, however it dies. Needs a local file system.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from store.errors import InputError
from store.settings import PREFIX

LOCK_NAME: Final = "authz.lock"


class Lease:
    """An exclusive lock on a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
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


@contextmanager
def sockets_of(runtime: Path) -> Iterator[None]:
    """Have the sockets in a runtime folder for oneself. Raises InputError where another has them.

    gRPC would take over a socket that is in use without a word.
    """
    runtime.mkdir(mode=0o750, parents=True, exist_ok=True)
    lease = Lease(runtime)
    if not lease.acquire():
        raise InputError(
            f"Process {lease.holder()} serves on the sockets in {runtime}. "
            f"Stop it first, or name another folder in {PREFIX}RUNTIME."
        )
    try:
        yield
    finally:
        lease.release()
