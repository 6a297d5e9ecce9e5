"""Listening to the push of the change feed, and noticing when it has fallen silent.

A connection that is half open (the other side is stopped, packets are dropped) looks like one on
which nobody says anything. So somebody always does: whoever has heard no beat for half a second
sends one, and everybody hears it, the sender too. No beat for 1.5 s, or a number that does not
follow the one before it, means that something may have been missed.
"""

from __future__ import annotations

import logging
import random
from time import monotonic
from typing import Final, Protocol

from store.background import Background
from store.errors import StoreError
from store.push import BEAT, Channel, Message
from store.records import Change

BEAT_SECONDS: Final = 0.5
JITTER_SECONDS: Final = 0.1  # so that not all who hear nothing speak at once
SILENT_SECONDS: Final = 1.5
LEAST_PAUSE_SECONDS: Final = 0.1
MOST_PAUSE_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


class Hearer(Protocol):
    """Who is told; see authz.feed.Feed."""

    def hear(self, change: Change) -> None: ...

    def hear_beat(self) -> None: ...

    def miss(self, *, lost: bool) -> None: ...


class Listener(Background):
    """Keeps a channel open in a thread of its own, and hands on what comes. Begins again for ever.

    Whatever its end is (no answer, silence, a defect), the hearer is told that the push is lost:
    until the channel is open it goes without.
    """

    def __init__(self, channel: Channel, hearer: Hearer, *, name: str) -> None:
        super().__init__("listen")
        self._channel = channel
        self._hearer = hearer
        self._name = name
        self._number: int | None = None
        self._heard = 0.0
        self._speak = 0.0
        self._alive = False  # heard from since it was opened
        self._warned = False

    def _run(self) -> None:
        pause = LEAST_PAUSE_SECONDS
        while not self._stopping:
            try:
                self._listen()
            except StoreError as fault:
                self._warn(str(fault))
            except Exception:  # noqa: BLE001  a defect of ours must not end the push for ever
                _log.exception("the push through %s failed", self._name)
            self._channel.close()
            if self._alive:
                self._hearer.miss(lost=True)
                pause = LEAST_PAUSE_SECONDS
            self._rest(pause * random.uniform(0.5, 1))  # noqa: S311  no secret hangs on it
            pause = min(2 * pause, MOST_PAUSE_SECONDS)

    def _listen(self) -> None:
        """Open the channel and hand on what comes, until it falls silent or we are stopped."""
        self._alive, self._number = False, None
        self._channel.open()
        self._heard = self._speak = monotonic()
        while not self._stopping:
            now = monotonic()
            if now - self._heard > SILENT_SECONDS:
                self._warn("nothing was heard for too long")
                return
            if now >= self._speak:
                self._wait_for_beat(now)
                self._channel.send(BEAT)
            for message in self._channel.receive(max(0.0, self._speak - monotonic())):
                self._take(message)

    def _take(self, message: Message) -> None:
        self._heard = monotonic()
        number, self._number = self._number, message.number
        if number is not None and message.number != number + 1:
            self._hearer.miss(lost=False)
        if message.change is not None:
            self._hearer.hear(message.change)
        else:
            self._wait_for_beat(self._heard)
            self._hearer.hear_beat()
        if not self._alive:
            self._alive = True
            _log.info("changes are pushed through %s", self._name)
        self._warned = False

    def _wait_for_beat(self, now: float) -> None:
        """Speak only if nobody else does."""
        self._speak = now + BEAT_SECONDS + random.uniform(0, JITTER_SECONDS)  # noqa: S311  likewise

    def _warn(self, why: str) -> None:
        if not self._warned:
            _log.warning("changes are not pushed through %s, and are polled: %s", self._name, why)
        self._warned = True
