"""Waiting in tests: until something holds, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], object], seconds: float = 20.0, what: str = "it") -> float:
    """Wait until something holds; how long that took. Fails after so many seconds.

    It is asked for every millisecond at first, and ever more seldom.
    """
    began = time.monotonic()
    while not holds():
        waited = time.monotonic() - began
        assert waited < seconds, f"{what} did not come to be within {seconds:g} s"
        time.sleep(min(0.02, 0.001 + waited / 20))
    return time.monotonic() - began
