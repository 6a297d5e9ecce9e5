"""The push of the change feed, through a real Valkey and a real PostgreSQL, and when it breaks."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from moneyhelp import ACCOUNT, KEY
from peers.cutwire import wire_to
from peers.postgres import Postgres, running
from peers.process import Child, freeze
from peers.valkey import valkey_trio
from sqlalchemy import Engine
from statehelp import NOW_US

from authz.cache import KeyCache
from authz.feed import SLOW_POLL_SECONDS, Feed
from authz.listen import BEAT_SECONDS, SILENT_SECONDS, Listener
from store.clock import steady_clock, wall_us
from store.engines import open_engine
from store.errors import StoreUnavailableError
from store.keys import KeyRepository
from store.push import BEAT, CHANNEL, Channel, Publisher, change_in, text_of
from store.pushpostgres import PostgresChannel
from store.pushredis import NUMBER_KEY, RedisChannel
from store.records import SECOND_US, Change
from tensorgate import valkey

STALE_SECONDS = 5
DIGEST = b"d" * 32
SOON = 0.25


@dataclass
class Valkey:
    child: Child
    url: str

    @contextmanager
    def paused(self) -> Iterator[None]:
        freeze(self.child.pid)
        try:
            yield
        finally:
            os.kill(self.child.pid, signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    child = Child(valkey.argv(tmp_path), log=tmp_path / "valkey.log")
    url = valkey.url(tmp_path)
    child.wait_until(lambda: valkey.fault(url) is None, seconds=10, what="answer")
    yield Valkey(child, url)
    child.end()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as url:
        yield url


def name_in(url: str) -> str:
    return url.split("?", maxsplit=1)[0].rpartition("/")[2]


def redis_channel(server: Valkey) -> RedisChannel:
    return RedisChannel(server.url, seconds=SOON)


@dataclass
class Gate:
    """What one process follows changes with: its cache asks `repository`."""

    repository: KeyRepository
    cache: KeyCache
    feed: Feed
    applied: list[int] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    missed: list[bool] = field(default_factory=list)

    def refuses(self) -> bool:
        record = self.cache.get((DIGEST,))
        return record is None or record.revoked_us is not None

    def obeys_within(self, seconds: float) -> float:
        return took_until(self.refuses, seconds)


def took_until(holds: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not holds():
        took = time.monotonic() - began
        assert took < seconds, f"not within {seconds} s"
        time.sleep(0.002)
    return time.monotonic() - began


@contextmanager
def gate(engine: Engine, channel: Channel | None) -> Iterator[Gate]:
    with ExitStack() as stack:
        repository = stack.enter_context(KeyRepository(engine))
        cache = KeyCache(repository, steady_clock(), stale_us=STALE_SECONDS * SECOND_US)
        applied: list[int] = []
        lags: list[float] = []
        missed: list[bool] = []

        class Told(Feed):
            def miss(self, *, lost: bool) -> None:
                missed.append(lost)
                super().miss(lost=lost)

        feed = Told(repository, cache, applied=applied.append, lag=lags.append)
        stack.callback(feed.stop)
        feed.start()
        if channel is not None:
            listener = Listener(channel, feed, name="test")
            stack.callback(listener.stop)
            listener.start()
            took_until(lambda: feed._pushed, 5)
        yield Gate(repository, cache, feed, applied, lags, missed)


def with_a_key(repository: KeyRepository) -> None:
    with repository.changing("cli:tester", NOW_US) as writer:
        writer.add_account(ACCOUNT, None)
        writer.add_key(replace(KEY, expires_us=wall_us() + 10**12), DIGEST, 0)


def revoke(repository: KeyRepository) -> None:
    with repository.changing("cli:tester", wall_us()) as writer:
        writer.change_key(KEY, replace(KEY, revoked_us=writer.now_us), action="key.revoke")


def restore(repository: KeyRepository) -> None:
    with repository.changing("cli:tester", wall_us()) as writer:
        writer.change_key(KEY, replace(KEY, revoked_us=None), action="key.update")


# -- a line


@pytest.mark.parametrize(
    "change",
    [
        Change(1, DIGEST, None, 5),
        Change(2, None, "acc_x", 6),
        Change(2**62, DIGEST, "acc_x", 2**62),
        Change(3, None, None, 0),
    ],
)
def test_a_line_says_a_change(change: Change) -> None:
    assert change_in(text_of(change)) == change
    assert change_in(text_of(change)).at_us == change.at_us  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "change",
        "change 1 2 3",
        "change x 2 - -",
        "change 1 2 zz -",
        "change 1 2 - - -",
        "change -1 2 - -",
        "change 1 -2 - -",
        f"change {2**63} 2 - -",
        f"change 1 {10**100} - -",
        "change 1_0 2 - -",
        "b" * 201,
    ],
)
def test_a_broken_line_is_no_line(line: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        change_in(line)


def test_words_of_later_versions_are_passed_over() -> None:
    assert change_in(BEAT) is None
    assert change_in("catalog 17 reloaded") is None


# -- both channels


Opened = Callable[[], Channel]


@pytest.fixture(params=["redis", "postgresql"])
def channels(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """Each call is another process's end."""
    made: list[Channel] = []
    with ExitStack() as stack:
        if request.param == "redis":
            server = request.getfixturevalue("server")

            def new() -> Channel:
                return redis_channel(server)
        else:
            engine = open_engine(request.getfixturevalue("database"))
            stack.callback(engine.dispose)

            def new() -> Channel:
                return PostgresChannel(engine, seconds=SOON)

        def another() -> Channel:
            made.append(new())
            made[-1].open()
            return made[-1]

        yield another
        for each in made:
            each.close()


def heard(channel: Channel, count: int) -> list[Any]:
    came: list[Any] = []
    deadline = time.monotonic() + 5
    while len(came) < count:
        assert time.monotonic() < deadline, came
        came += channel.receive(0.5)
    return came


def test_all_who_listen_hear_all_that_is_said_in_one_order(channels: Opened) -> None:
    one, two = channels(), channels()
    lines = [text_of(Change(n, DIGEST, None, n)) for n in range(20)]
    for n, line in enumerate(lines):
        (one, two)[n % 2].send(line)
    one.send(BEAT)
    first, second = heard(one, 21), heard(two, 21)
    assert first == second
    assert {each.change.seq for each in first[:-1]} == set(range(20))
    assert first[-1].change is None
    numbers = [each.number for each in first]
    assert numbers == [None] * 21 or numbers == list(range(numbers[0], numbers[0] + 21))


def test_nothing_said_is_nothing_heard(channels: Opened) -> None:
    one = channels()
    began = time.monotonic()
    assert list(one.receive(0.2)) == []
    assert 0.15 < time.monotonic() - began < 1


def test_a_line_that_is_none_is_a_reason_to_look(channels: Opened) -> None:
    one = channels()
    one.send("change nonsense")
    assert [each.number for each in heard(one, 1)] == [0] or heard(one, 0) == []


@pytest.mark.parametrize("kind", ["cluster", pytest.param("sentinel", marks=pytest.mark.soak)])
def test_it_is_one_channel_wherever_the_number_lies(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """All masters of a cluster know of a line; the master is who the Sentinels say."""
    with ExitStack() as stack:
        if kind == "cluster":
            servers = request.getfixturevalue("cluster")
        else:
            servers = stack.enter_context(valkey_trio(tmp_path))
        one, two = RedisChannel(servers.url, seconds=1), RedisChannel(servers.url, seconds=1)
        one.open()
        two.open()
        for _ in range(3):
            one.send(BEAT)
            two.send(BEAT)
        first = heard(one, 6)
        assert [each.number - first[0].number for each in first] == list(range(6))
        assert heard(two, 6) == first
        one.close()
        two.close()


# -- a gate that is told


@pytest.fixture(params=["redis", "postgresql"])
def told(request: pytest.FixtureRequest, database: str) -> Iterator[tuple[Gate, KeyRepository]]:
    """A gate, and the repository of whoever changes keys elsewhere."""
    engine = open_engine(database)
    publisher = None
    if request.param == "redis":
        server = request.getfixturevalue("server")
        publisher = Publisher(redis_channel(server))
        channel: Channel = redis_channel(server)
    else:
        channel = PostgresChannel(engine, seconds=SOON)
    with KeyRepository(engine, publisher) as admin:
        with_a_key(admin)
        with gate(engine, channel) as made:
            yield made, admin
    if publisher is not None:
        publisher._channel.close()
    engine.dispose()


def test_a_revocation_is_obeyed_at_once_and_acknowledged(
    told: tuple[Gate, KeyRepository],
) -> None:
    made, admin = told
    assert not made.refuses()
    times = []
    for turn in range(10):
        time.sleep(0.03 * turn % 0.2)
        began = time.monotonic()
        revoke(admin)
        made.obeys_within(1)
        times.append(time.monotonic() - began)
        seq = admin.last_change()
        took_until(lambda wanted=seq: made.applied[-1] == wanted, 1)
        restore(admin)
        took_until(lambda: not made.refuses(), 1)
    assert statistics.median(times) < 0.1
    took_until(lambda: len(made.lags) >= 20, 1)  # the last one's just after it was obeyed
    assert len(made.lags) == 20, "each change is counted once, however it came"
    assert max(made.lags) < 1
    assert made.missed == []


def test_a_push_that_was_lost_is_found_by_looking(told: tuple[Gate, KeyRepository]) -> None:
    """Whoever made the change died after its commit, and before it told anybody."""
    made, admin = told
    engine = admin._engine
    with KeyRepository(engine) as silent:
        assert not made.refuses()
        with engine.begin() as connection:
            now = wall_us()
            connection.exec_driver_sql(f"UPDATE keys SET revoked_us = {now}")
            connection.exec_driver_sql(
                f"INSERT INTO changes SELECT max(seq) + 1, %s, NULL, {now} FROM changes",
                (DIGEST,),
            )
        assert made.feed._pushed
        took = made.obeys_within(1)
        assert took <= SLOW_POLL_SECONDS + SOON
        took_until(lambda: silent.last_change() == made.applied[-1], 1)
    assert made.missed == []


# -- the push breaks


def test_a_valkey_that_stands_still_is_noticed_and_the_feed_goes_on_by_polling(
    server: Valkey, database: str
) -> None:
    engine = open_engine(database)
    with KeyRepository(engine) as admin:
        with_a_key(admin)
        with gate(engine, redis_channel(server)) as made:
            assert not made.refuses()
            with server.paused():
                took_until(lambda: True in made.missed, SILENT_SECONDS)
                assert not made.refuses()
                revoke(admin)
                assert made.obeys_within(1) < 2 * SOON
                took_until(lambda: made.applied[-1] == admin.last_change(), 1)
            took_until(lambda: made.feed._pushed, 5)
    engine.dispose()


def test_a_wire_that_drops_packets_is_noticed(postgres: Postgres, database: str) -> None:
    with wire_to("127.0.0.1", postgres.port) as wire:
        by_wire = postgres.tcp_url(name_in(database)).replace(str(postgres.port), str(wire.port))
        through, direct = open_engine(by_wire), open_engine(database)
        with KeyRepository(direct) as admin:
            with_a_key(admin)
            with gate(direct, PostgresChannel(through, seconds=SOON)) as made:
                assert not made.refuses()
                with wire.cut():
                    took_until(lambda: True in made.missed, SILENT_SECONDS)
                    revoke(admin)
                    assert made.obeys_within(1) < 2 * SOON
                took_until(lambda: made.feed._pushed, 5)
        through.dispose()
        direct.dispose()


def test_what_is_said_while_nobody_listens_is_found(database: str, postgres: Postgres) -> None:
    """PostgreSQL ends the listener's connection, and a key is revoked before there is another."""
    engine = open_engine(database)
    with KeyRepository(engine) as admin:
        with_a_key(admin)
        with gate(engine, PostgresChannel(engine, seconds=SOON)) as made:
            for _ in range(3):
                assert not made.refuses()
                ended = postgres.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
                    f"'{name_in(database)}' AND pid <> pg_backend_pid() "
                    f"AND (query LIKE 'LISTEN {CHANNEL}%' OR query LIKE 'SELECT pg_notify%')"
                )
                assert ended
                revoke(admin)
                made.obeys_within(1)
                restore(admin)
                took_until(lambda: not made.refuses(), 1)
                took_until(lambda: made.feed._pushed, 5)
            assert True in made.missed
    engine.dispose()


def test_everything_stands_still_and_then_goes_on() -> None:
    """SQL and the push at once: a known key counts for so long as it may, and not for longer."""
    with running() as own, own.database() as url:
        engine = open_engine(url, timeout_seconds=SOON, statement_seconds=SOON)
        with KeyRepository(engine) as admin:
            with_a_key(admin)
            with gate(engine, PostgresChannel(engine, seconds=SOON)) as made:
                made.cache._stale_us = 2 * SECOND_US
                assert not made.refuses()
                with own.paused():
                    time.sleep(1)
                    assert not made.refuses()
                    began = time.monotonic()
                    took_until(lambda: not knows(made), 2 + SILENT_SECONDS)
                    assert time.monotonic() - began > 0.3
                with KeyRepository(engine) as again:
                    took_until(lambda: _answers(again), 3)
                    took_until(lambda: knows(made), 3)  # it tries by itself, a fifth of a second on
                    revoke(again)
                    took_until(lambda: knows(made) and made.refuses(), 1)
        engine.dispose()


def knows(made: Gate) -> bool:
    try:
        made.refuses()
    except StoreUnavailableError:
        return False
    return True


def _answers(repository: KeyRepository) -> bool:
    try:
        return repository.last_change() > 0
    except StoreUnavailableError:
        return False


def test_a_number_that_does_not_follow_makes_all_suspect(server: Valkey, database: str) -> None:
    """FLUSHALL, an old snapshot, or a line that was dropped."""
    engine = open_engine(database)
    with gate(engine, redis_channel(server)) as made, server.client() as client:
        client.incr(NUMBER_KEY)
        took_until(lambda: made.missed == [False], 2)
        client.flushall()
        took_until(lambda: made.missed == [False, False], 2)
        assert made.feed._pushed
    engine.dispose()


def test_of_many_who_listen_few_speak(server: Valkey, database: str) -> None:
    engine = open_engine(database)
    with ExitStack() as stack, server.client() as client:
        for _ in range(4):
            stack.enter_context(gate(engine, redis_channel(server)))
        before = int(client.get(NUMBER_KEY) or 0)
        time.sleep(4 * BEAT_SECONDS)
        assert 3 <= int(client.get(NUMBER_KEY) or 0) - before <= 8
    engine.dispose()


def test_a_change_is_made_though_nobody_can_be_told(server: Valkey, database: str) -> None:
    engine = open_engine(database)
    publisher = Publisher(redis_channel(server))
    with KeyRepository(engine, publisher) as admin, server.paused():
        began = time.monotonic()
        with_a_key(admin)
        assert time.monotonic() - began < 1
        assert admin.by_digests([DIGEST])
    publisher._channel.close()
    engine.dispose()
