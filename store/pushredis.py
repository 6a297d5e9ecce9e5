"""The feed's channel through Redis (or Valkey): publish and subscribe, each line numbered.

Redis forgets a line that nobody was there to hear, and drops a listener that is too slow: the
number, one more with each line, shows either. A Redis that was emptied numbers anew from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from store.errors import StoreUnavailableError
from store.push import CHANNEL, Message, change_in

NUMBER_KEY: Final = "tg:{feed}:number"
_SCRIPT: Final = (Path(__file__).parent / "feed.lua").read_text()


class RedisChannel:
    """See store.push.Channel. `send` alone may be called by any thread, and without `open`."""

    def __init__(self, client: redis.Redis, *, seconds: float) -> None:
        """The client is ours from now on; its every answer takes `seconds` at most."""
        self._client = client
        self._seconds = seconds
        self._script = self._client.register_script(_SCRIPT)
        self._listening: Any = None

    @classmethod
    def at(cls, url: str, *, seconds: float) -> Self:
        """A channel through the Redis of a URL. Raises ValueError for one that is none."""
        client = redis.Redis.from_url(
            url,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
            client_name="tensorgate-feed",
        )
        return cls(client, seconds=seconds)

    def open(self) -> None:
        """Listen, once Redis says that it has us."""
        self.close()
        with _errors():
            self._listening = self._client.pubsub()  # type: ignore[no-untyped-call]  # redis-py has no type for it
            self._listening.subscribe(CHANNEL)
            self._listening.get_message(timeout=self._seconds)

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
        with _errors():
            self._script(keys=[NUMBER_KEY], args=[CHANNEL, text])

    def close(self) -> None:
        """Hang up on Redis: the listening connection, and those that sent."""
        listening, self._listening = self._listening, None
        with suppress(redis.RedisError, OSError):
            if listening is not None:
                listening.close()
            self._client.connection_pool.disconnect()


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
