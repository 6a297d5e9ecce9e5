"""The feed's channel through Redis (or Valkey): publish and subscribe, each line numbered.

Redis forgets a line that nobody was there to hear, and drops a listener that is too slow: the
number, one more with each line, shows either. A Redis that was emptied numbers anew from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from store.counters.address import Address, parse
from store.errors import StoreUnavailableError
from store.push import CHANNEL, Message, change_in

NUMBER_KEY: Final = "tg:{feed}:number"
_SCRIPT: Final = (Path(__file__).parent / "feed.lua").read_text()


class RedisChannel:
    """See store.push.Channel. `send` alone may be called by any thread, and without `open`."""

    def __init__(self, url: str, *, seconds: float) -> None:
        """As `TENSORGATE_REDIS_URL`; every answer takes `seconds` at most. Raises ConfigError."""
        self._address = parse(url)
        self._seconds = seconds
        self._client: redis.Redis | None = None
        self._listening: Any = None

    def open(self) -> None:
        """Listen, once Redis says that it has us."""
        self.close()
        with _errors():
            self._listening = self._found().pubsub()  # type: ignore[no-untyped-call]  # redis-py has no type for it
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
        try:
            with _errors():
                self._found().register_script(_SCRIPT)(keys=[NUMBER_KEY], args=[CHANNEL, text])
        except StoreUnavailableError:
            self._client = None  # another may be the master now
            raise

    def close(self) -> None:
        """Hang up on Redis: the listening connection, and those that sent."""
        listening, self._listening = self._listening, None
        client, self._client = self._client, None
        with suppress(redis.RedisError, OSError):
            if listening is not None:
                listening.close()
            if client is not None:
                client.connection_pool.disconnect()

    def _found(self) -> redis.Redis:
        """The node that numbers: the only one, the Sentinels' master, or the number's in a cluster.

        All who listen do so there, too.
        """
        if self._client is None:
            self._client = _client(self._address, self._seconds)
        return self._client


def _client(address: Address, seconds: float) -> redis.Redis:
    bounds: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    data = {"username": address.data.username, "password": address.data.password, **bounds}
    if address.tls is not None:
        data |= {"ssl": True, **address.tls}
    once = Retry(NoBackoff(), 0)
    match address.kind:
        case "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.hosts]  # type: ignore[no-untyped-call]  # redis-py has no type for it
            cluster = RedisCluster(startup_nodes=nodes, **data)
            node = cluster.get_node_from_key(NUMBER_KEY)  # type: ignore[no-untyped-call]  # redis-py has no type for it
            if node is None:
                raise redis.ConnectionError("nobody has the slot")
            return redis.Redis(host=node.host, port=node.port, retry=once, **data)
        case "sentinel":
            asking = {
                "username": address.sentinel.username,
                "password": address.sentinel.password,
                **bounds,
            }
            watching: Any = Sentinel(address.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]  # likewise
            host, port = watching.discover_master(address.master)
            return redis.Redis(host=host, port=port, db=address.db, retry=once, **data)
        case "single" if address.path is not None:
            return redis.Redis(unix_socket_path=address.path, db=address.db, retry=once, **data)
        case "single":
            [(host, port)] = address.hosts
            return redis.Redis(host=host, port=port, db=address.db, retry=once, **data)


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
