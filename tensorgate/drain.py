"""Draining Envoy: no new connections, what is in flight ends, and its access log is sent.

Whoever stops a gate does this first, as Envoy itself drops what it has not sent when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tensorgate import vitals

LOOK_EVERY: Final = 0.05
LOG_FLUSH_SECONDS: Final = 0.4  # Envoy sends its access log every 0.2 s


def drain(
    admin: Path,
    *,
    seconds: float,
    pause: Callable[[float], None] = time.sleep,
    hurry: Callable[[], bool] = lambda: False,
    waiting: Callable[[int], None] = lambda _: None,
) -> int | None:
    """Drain the Envoy of an admin socket for at most so long. How many were still in flight.

    None where nobody answers on the socket. `waiting` is told once how many are waited for;
    once `hurry` is true, nothing is waited for any more.
    """
    if vitals.ask_admin(admin, "POST", "/drain_listeners?graceful") is None:
        return None
    deadline = time.monotonic() + seconds
    told = False
    while (left := vitals.in_flight(admin)) and time.monotonic() < deadline:
        if not told:
            told = True
            waiting(left)
        pause(LOOK_EVERY)
        if hurry():
            return left
    pause(LOG_FLUSH_SECONDS)
    return left
