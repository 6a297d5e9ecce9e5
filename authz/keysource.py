"""The process's view of keys, put together: the cache, what keeps it fresh, its row for others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from sqlalchemy import Engine

from authz.cache import KeyCache
from authz.feed import Feed
from authz.listen import Listener
from authz.metrics import Metrics
from authz.observe import ObservedKeys
from authz.presence import Presence, name_of
from authz.settings import AuthzSettings
from store.clock import steady_clock
from store.engines import open_engine
from store.flights import Flights
from store.keys import KeyRepository
from store.push import Channel
from store.records import SECOND_US, KeyRecord
from store.replicas import Replica, Replicas
from store.upgrades import check_current

CHECK_SECONDS: Final = 0.25
"""What a Check may wait for SQL, for a key of which nothing is known."""

DOUBT_SECONDS: Final = 0.05
"""And for one that is known, and only not certain: it counts as it was, for as long as it may."""
PRESENCE_SECONDS: Final = 1.0
_CHECK_CONNECTIONS: Final = 16  # a thread each for checks, questions and the feed
_READERS: Final = 8
_CHANNEL_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Keys:
    """What the walk of a check, and questions about it, need of keys."""

    cache: KeyCache
    feed: Feed
    plans: Callable[[], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Known:
    """As what others know this process (store/replicas.py).

    `name` is its among those of its gate, `catalog` gives the mark of the one in force.
    """

    name: str
    catalog: Callable[[], str | None]
    replica_id: str


class BoundedReading:
    """Reads that nobody waits for longer than is stated here, and not at all while SQL is `out`.

    What was read too late for whoever asked is in the cache for who comes next.
    """

    def __init__(self, out: Callable[[], bool]) -> None:
        self._out = out
        self._flights = Flights[Hashable, KeyRecord | None]("keys", _READERS)

    def close(self) -> None:
        """Wait for those that are under way."""
        self._flights.close()

    def __call__(
        self, name: Hashable, read: Callable[[], KeyRecord | None], *, needed: bool
    ) -> KeyRecord | None:
        """As authz.cache.Reading."""
        seconds = CHECK_SECONDS if needed else DOUBT_SECONDS
        return self._flights.join(name, read, 0.0 if self._out() else seconds)


@contextmanager
def open_keys(
    settings: AuthzSettings,
    metrics: Metrics,
    known: Known,
    recount: Callable[[str], None] = lambda _: None,
) -> Iterator[Keys]:
    """Follow the changes, and be known as a process that does, until the end of the block.

    `recount` has the counters read anew what an account has spent.

    Raises StoreError where the database cannot be used.
    """
    with ExitStack() as stack:
        engine = open_engine(
            settings.sql_url,
            timeout_seconds=CHECK_SECONDS,
            statement_seconds=CHECK_SECONDS,
            connections=_CHECK_CONNECTIONS,
        )
        stack.callback(engine.dispose)
        check_current(engine)
        keys = stack.enter_context(KeyRepository(engine))
        repository = ObservedKeys(keys, metrics)
        reading = BoundedReading(keys.is_out)
        stack.callback(reading.close)
        stale_us = int(settings.key_stale_seconds * SECOND_US)
        cache = KeyCache(
            repository,
            steady_clock(),
            stale_us=stale_us,
            capacity=settings.key_cache_size,
            observe=metrics.cache_request,
            reading=reading,
        )
        metrics.follow(metrics.feed_healthy, cache.is_followed)
        presence = _presence(settings, known, "authz", stale_us, stack)
        feed = Feed(
            repository,
            cache,
            applied=presence.applied,
            lag=metrics.revocation_lag.observe,
            recount=recount,
        )
        stack.callback(feed.stop)
        feed.start()
        found = _channel(settings, engine)
        if found is not None:
            listener = Listener(found[0], feed, name=found[1])
            stack.callback(listener.stop)
            listener.start()
        stack.callback(presence.stop)
        presence.start()
        yield Keys(cache, feed, keys.plans)


@contextmanager
def present(settings: AuthzSettings, known: Known) -> Iterator[None]:
    """Be known as a meter, which has no keys, until the end of the block."""
    with ExitStack() as stack:
        presence = _presence(settings, known, "meter", 0, stack)
        stack.callback(presence.stop)
        presence.start()
        yield


def _presence(
    settings: AuthzSettings, known: Known, kind: str, stale_us: int, stack: ExitStack
) -> Presence:
    replica = Replica(
        known.replica_id, name_of(known.name), kind, version("tensorgate"), stale_us=stale_us
    )
    engine = open_engine(
        settings.sql_url,
        timeout_seconds=PRESENCE_SECONDS,
        statement_seconds=PRESENCE_SECONDS,
        connections=2,
    )
    stack.callback(engine.dispose)
    return Presence(Replicas(engine), replica, known.catalog)


def _channel(settings: AuthzSettings, engine: Engine) -> tuple[Channel, str] | None:
    """Who pushes, and what people call it."""
    if settings.redis_url is not None:
        from store.pushredis import RedisChannel  # noqa: PLC0415  a driver that one worker needs not

        return RedisChannel(settings.redis_url, seconds=_CHANNEL_SECONDS), "Redis"
    if engine.dialect.name == "postgresql":
        from store.pushpostgres import PostgresChannel  # noqa: PLC0415  likewise

        return PostgresChannel(engine, seconds=_CHANNEL_SECONDS), "PostgreSQL"
    return None
