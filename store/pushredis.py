"""The feed's channel through Redis (or Valkey): publish and subscribe, each line numbered.

Redis forgets a line that nobody was there to hear, and drops a listener that is too slow: the
number, one more with each line, shows either. A Redis that was emptied numbers anew from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

import redis

from store.counters.address import parse
from store.counters.link import Link
from store.counters.node import Timeouts, connection_to
from store.counters.scripts import FEED
from store.errors import StoreUnavailableError
from store.push import CHANNEL, Message, change_in

NUMBER_KEY: Final = "tg:{feed}:number"


class RedisChannel:
    """See store.push.Channel. `send` alone may be called by any thread, and without `open`.

    All who listen do so at the node that numbers: the only one, the master that the Sentinels
    name, or who has the number in a cluster.
    """

    def __init__(self, url: str, *, seconds: float) -> None:
        """As `TENSORGATE_REDIS_URL`; every answer takes `seconds` at most. Raises ConfigError."""
        self._address = parse(url)
        self._timeouts = Timeouts(seconds, seconds)
        self._link = Link(self._address, self._timeouts)
        self._listening: Any = None
        self._pool: redis.ConnectionPool | None = None

    def open(self) -> None:
        """Listen, once Redis says that it has us."""
        self.close()
        place = self._link.place(NUMBER_KEY.encode())
        kind, given = connection_to(place, self._address, self._timeouts)
        with _errors():
            self._pool = redis.ConnectionPool(kind, **given)
            client = redis.Redis(connection_pool=self._pool)
            self._listening = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py has no type for it
            self._listening.subscribe(CHANNEL)
            self._listening.get_message(timeout=self._timeouts.answer)

    def receive(self, seconds: float) -> Sequence[Message]:
        """What came within so long, all of it at once."""
        with _errors():
            deadline = monotonic() + seconds
            while (left := deadline - monotonic()) > 0:
                came = self._listening.get_message(timeout=left)
                if came is not None and came["type"] == "message":
                    return [_read(came["data"])]
        return ()

    def send(self, text: str) -> None:
        """Number and publish, in one step."""
        self._link.run(FEED, (NUMBER_KEY,), (CHANNEL, text))

    def close(self) -> None:
        """Hang up on Redis: the listening connection, and those that sent."""
        listening, self._listening = self._listening, None
        pool, self._pool = self._pool, None
        with suppress(redis.RedisError, OSError):
            if listening is not None:
                listening.close()
            if pool is not None:
                pool.disconnect()
        self._link.hang_up()


def _read(line: bytes) -> Message:
    """A line with its number. What is none of ours shows as a gap: number 0 follows no other."""
    try:
        number, _, text = line.decode().partition(" ")
        return Message(int(number), change_in(text))
    except ValueError:
        return Message(0, None)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as fault:
        raise StoreUnavailableError(
            f"Redis does not answer ({type(fault).__name__}). "
            "Try again; `tensorgate doctor` looks at each part."
        ) from fault
