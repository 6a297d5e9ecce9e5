"""Threads beside the path: begun, woken and ended in one way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Condition, Thread


class Background(ABC):
    """Something that `_run` does in a thread of its own, from `start` until `stop`.

    `_run` returns soon after `_stopping` is set. `_changed` is held by whoever changes what it
    waits for.
    """

    def __init__(self, name: str) -> None:
        self._changed = Condition()
        self._stopping = self._woken = False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float | None = None) -> bool:
        """Have the thread end, and wait for that, at most so long. True if it has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @abstractmethod
    def _run(self) -> None: ...

    def _wake(self) -> None:
        """End the rest that the thread has, or else its next one."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _rest(self, seconds: float) -> bool:
        """Wait so long, or until woken. True if it is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._woken or self._stopping, seconds)
            self._woken = False
            return self._stopping
