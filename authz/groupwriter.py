"""What waits for SQL, written down in groups by a thread of its own, as often as it takes.

While the database is out everything waits, and that is said once. A defect of ours in one thing
keeps nothing that comes behind it from SQL.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from math import inf
from time import monotonic, sleep
from typing import Final, Generic, TypeVar

from store.background import Background
from store.errors import StoreError

LAST_TRY_SECONDS: Final = 1.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


class GroupWriter(Background, Generic[T]):
    """The loop of it: each `_turn` writes a group with `_write`, and `_pause`s where that fails.

    `what` is written, for the log. `_failures` counts how often in a row it was not.
    """

    def __init__(self, name: str, what: str, retry_seconds: Sequence[float]) -> None:
        super().__init__(name)
        self._what = what
        self._retry_seconds = retry_seconds
        self._failures = 0
        self._give_up_at = inf  # by the monotonic clock, once stopping

    def stop(self, seconds: float | None = None) -> bool:
        """Write what waits, for at most so long and a last try, and end. True if none is left."""
        if seconds is not None:
            self._give_up_at = monotonic() + seconds
            seconds += LAST_TRY_SECONDS
        super().stop(seconds)
        return not self._is_left()

    @abstractmethod
    def _turn(self) -> bool:
        """Write the next group once there is one. True if there is no more to be done."""

    @abstractmethod
    def _put(self, group: Sequence[T]) -> None:
        """Write a group, all or nothing. Raises StoreError where it is to be tried again."""

    @abstractmethod
    def _drop(self, one: T) -> None:
        """Say of one that it cannot be written, while that fault is being handled."""

    @abstractmethod
    def _is_left(self) -> bool:
        """Whether anything waits."""

    def _run(self) -> None:
        """Nothing ends this thread but `stop`: without it nothing would be written any more."""
        over = False
        while not over:
            try:
                over = self._turn()
            except Exception:  # noqa: BLE001  a defect of ours; what waits is tried again
                _log.exception("writing down %s failed, and goes on", self._what)
                sleep(self._retry_seconds[-1])

    def _write(self, group: Sequence[T]) -> bool:
        """Put a group. False if it is to be tried again."""
        try:
            self._put(group)
        except StoreError as fault:
            if not self._failures:
                what, number = self._what, len(group)
                _log.warning("%s cannot be written down, %d wait: %s", what, number, fault)
            self._failures += 1
            return False
        except Exception:  # noqa: BLE001  see below
            # A defect of ours in one must not keep all that come behind it from SQL.
            if len(group) > 1:
                return all(self._write([one]) for one in group)
            self._drop(group[0])
            return True
        if self._failures:
            _log.info("%s can be written down again", self._what)
        self._failures = 0
        return True

    def _back_off(self) -> float:
        """Seconds until the next try, after some that failed."""
        return self._retry_seconds[min(self._failures, len(self._retry_seconds)) - 1]

    def _pause(self, seconds: float) -> bool:
        """Wait before the next try. True if it was asked to stop and the time for that is up."""
        if not self._stopping:
            self._rest(seconds)  # whatever comes meanwhile: each would have SQL asked again
            return False
        left = self._give_up_at - monotonic()
        if left <= 0:
            return True
        sleep(min(seconds, left))
        return False
