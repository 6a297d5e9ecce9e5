"""What days that are over add up to, remembered: they do not change any more, and are asked again.

A row may still be booked into a day that is over, seconds after midnight or when a database is
back: the day before today is asked anew each time, and what is older is asked again after
KEPT_SECONDS.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Final

from store.clock import elapsed_seconds

KEPT_SECONDS: Final = 600.0
MOST: Final = 20_000
CHANGING_DAYS: Final = 2  # today, and the day before


class DayMemory:
    """Values by key, each for a while; of more than MOST the oldest go. Thread-safe."""

    def __init__(self, seconds: Callable[[], float] = elapsed_seconds) -> None:
        self._seconds = seconds
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, None where it is not known or too old."""
        with self._lock:
            found = self._kept.get(key)
        if found is None or found[0] < self._seconds():
            return None
        return found[1]

    def put(self, key: Hashable, value: object, seconds: float = KEPT_SECONDS) -> None:
        with self._lock:
            self._kept[key] = (self._seconds() + seconds, value)
            self._kept.move_to_end(key)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
