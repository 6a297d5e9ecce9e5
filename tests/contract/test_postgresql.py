"""What only PostgreSQL can do to us: hang, hang up, refuse, deadlock, number before it commits."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from moneyhelp import ACCOUNT, KEY, charge, hold, mint
from peers.ports import free_port
from peers.postgres import PASSWORD, Postgres, running
from sqlalchemy import Engine, select, text
from statehelp import NOW_US

from authz.cache import KeyCache
from authz.keysource import CHECK_SECONDS, DOUBT_SECONDS, BoundedReading
from store import schema, upgrades
from store.clock import steady_clock
from store.engines import open_engine, snapshot_options
from store.errors import StoreUnavailableError
from store.keys import KeyRepository
from store.ledger import Ledger
from store.ledgerreader import LedgerReader
from store.records import SECOND_US, Account, Role

WAIT = 0.25


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as made:
        yield made


@pytest.fixture(scope="module")
def breakable() -> Iterator[Postgres]:
    """A server that may be stopped."""
    with running() as server:
        yield server


@contextmanager
def opened(url: str, **given: object) -> Iterator[Engine]:
    engine = open_engine(url, **given)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def checking(url: str) -> Iterator[KeyRepository]:
    """A repository as a Check has it."""
    with (
        opened(url, timeout_seconds=WAIT, statement_seconds=WAIT) as engine,
        KeyRepository(engine) as repository,
    ):
        yield repository


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call took that failed because the database is out."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        call()
    return time.monotonic() - began


# -- bounds


def test_a_server_that_stands_still_costs_each_asker_its_bound_and_then_nothing(
    breakable: Postgres,
) -> None:
    with breakable.database() as url, checking(url) as repository:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: repository.by_digests([b"x"]), range(8)))
            with breakable.paused():
                first = pool.map(
                    lambda _: seconds_of(lambda: repository.by_digests([b"x"])), range(4)
                )
                assert max(first) < 3 * WAIT
                late = [seconds_of(lambda: repository.by_digests([b"x"])) for _ in range(50)]
                assert sum(took > WAIT / 2 for took in late) <= 1, "one tries, the others are told"
                assert seconds_of(repository.last_change) < 3 * WAIT
        deadline = time.monotonic() + 2
        while True:
            try:
                assert repository.by_digests([b"x"]) is None
                break
            except StoreUnavailableError:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_who_knows_a_key_waits_for_a_moment_and_when_it_is_known_to_be_out_nobody_does(
    breakable: Postgres,
) -> None:
    with breakable.database() as url, checking(url) as repository:
        mint(repository.engine, KEY)
        reading = BoundedReading(repository.is_out)
        cache = KeyCache(repository, steady_clock(), stale_us=60 * SECOND_US, reading=reading)
        digest = stored_digest(repository)
        with ThreadPoolExecutor(8) as pool:

            def seconds(asked: bytes, *, known: bool) -> float:
                began = time.monotonic()
                try:
                    cache.get((asked,))
                except StoreUnavailableError:
                    assert not known
                else:
                    assert known
                return time.monotonic() - began

            assert cache.get((digest,)) is not None
            with breakable.paused():
                cache.suspect_all()
                in_doubt = [pool.submit(seconds, digest, known=True) for _ in range(8)]
                assert max(each.result() for each in in_doubt) < DOUBT_SECONDS + 0.1
                needed = [pool.submit(seconds, b"%d" % n, known=False) for n in range(8)]
                assert max(each.result() for each in needed) < CHECK_SECONDS + 0.1
                deadline = time.monotonic() + 2
                while not repository.is_out():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                late = [pool.submit(seconds, b"late-%d" % n, known=False) for n in range(50)]
                assert max(each.result() for each in late) < DOUBT_SECONDS
        reading.close()


def test_a_feed_that_is_not_answered_tells_those_who_ask_for_keys(breakable: Postgres) -> None:
    with breakable.database() as url, checking(url) as repository:
        assert repository.by_digests([b"x"]) is None
        with breakable.paused():
            assert seconds_of(lambda: repository.changes_since(0)) > WAIT / 2
            assert repository.is_out()
            assert seconds_of(lambda: repository.by_digests([b"x"])) < WAIT / 2


def stored_digest(repository: KeyRepository) -> bytes:
    with repository.engine.connect() as connection:
        return bytes(connection.execute(select(schema.keys.c.digest)).scalar_one())


def test_connecting_takes_no_longer_than_it_may(breakable: Postgres) -> None:
    """libpq itself waits for 2 s at least."""
    url = breakable.tcp_url()
    with opened(url, timeout_seconds=WAIT) as engine, breakable.paused():
        assert seconds_of(lambda: upgrades.check_current(engine)) < 3 * WAIT


def test_a_slow_statement_is_ended_by_the_server_and_the_connection_stays(url: str) -> None:
    with opened(url, statement_seconds=0.1, connections=1) as engine:
        with engine.connect() as connection:
            backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with engine.connect() as connection:
            with pytest.raises(Exception, match="statement timeout"):
                connection.exec_driver_sql("SELECT pg_sleep(5)")
            connection.rollback()
            assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() == backend


def test_the_pool_is_bounded_and_says_so(url: str) -> None:
    with opened(url, timeout_seconds=0.1, connections=2) as engine:
        held = [engine.connect() for _ in range(2)]
        with pytest.raises(StoreUnavailableError, match="all connections to it are in use"):
            upgrades.check_current(engine)
        for connection in held:
            connection.close()
        upgrades.check_current(engine)


def test_a_server_that_restarted_is_asked_as_if_nothing_had_been() -> None:
    """Idle connections, held or in the pool, are known to be dead before they are used."""
    with running() as server, server.database() as url, checking(url) as repository:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: repository.by_digests([b"x"]), range(8)))
        with opened(url) as engine:
            with engine.connect() as one, engine.connect() as two:
                one.exec_driver_sql("SELECT 1")
                two.exec_driver_sql("SELECT 1")
            server.end(signal.SIGKILL)
            assert seconds_of(lambda: repository.by_digests([b"x"])) < WAIT
            server.start()
            upgrades.check_current(engine)
            upgrades.check_current(engine)
            repository.changes_since(0)  # the feed asks first, and closes what asking had opened
            assert repository.by_digests([b"x"]) is None


def test_a_child_process_makes_connections_of_its_own(url: str) -> None:
    with opened(url, connections=1) as engine:

        def backend() -> int:
            with engine.connect() as connection:
                return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

        mine = backend()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, b"own" if backend() != mine else b"shared")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 10) == b"own"
        os.close(reading)
        os.close(writing)
        assert backend() == mine, "what the child did has not ended it"


# -- what is told


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: s.tcp_url(password="hunter2-wrong"), "refuses the user or the password"),
        (lambda s: s.tcp_url("no_such_database"), "there is no such database"),
        (lambda s: s.tcp_url().replace("//postgres:", "//nobody:", 1), "refuses the user"),
        (lambda s: s.tcp_url().replace(str(s.port), str(free_port())), "nobody listens there"),
        (lambda s: s.tcp_url() + "?sslmode=require", "does not answer"),
    ],
)
def test_what_is_wrong_is_told_without_the_password(
    postgres: Postgres, spoil: Callable[[Postgres], str], says: str
) -> None:
    with opened(spoil(postgres)) as engine:
        with pytest.raises(StoreUnavailableError, match=says) as caught:
            upgrades.check_current(engine)
        shown = f"{caught.value} {caught.value!r} {engine!r} {engine.url}"
        assert "hunter2" not in shown
        assert PASSWORD not in shown


def test_both_ways_to_write_the_scheme_and_a_password(postgres: Postgres, url: str) -> None:
    name = url.split("?", maxsplit=1)[0].rpartition("/")[2]
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        with opened(postgres.tcp_url(name).replace("postgres:", f"{scheme}:", 1)) as engine:
            upgrades.check_current(engine)


def test_connections_say_what_they_are_and_watch_over_themselves(postgres: Postgres) -> None:
    with (
        opened(postgres.tcp_url(), timeout_seconds=0.5, statement_seconds=0.25) as engine,
        engine.connect() as connection,
    ):
        shown = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in (
                *("application_name", "statement_timeout", "lock_timeout"),
                *("idle_in_transaction_session_timeout", "transaction_isolation"),
            )
        }
        given = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    assert shown == {
        "application_name": "tensorgate",
        "statement_timeout": "250ms",
        "lock_timeout": "500ms",
        "idle_in_transaction_session_timeout": "10s",
        "transaction_isolation": "read committed",
    }
    assert given["tcp_user_timeout"] == "1000"
    assert (given["keepalives"], given["keepalives_idle"]) == ("1", "5")


# -- indexes


def test_what_it_cannot_keep_is_no_outage_and_keeps_nothing_else_out(url: str) -> None:
    """Whoever writes holds or rows in groups tries again while the database is out."""
    with opened(url) as engine:
        mint(engine, KEY)
        ledger = Ledger(engine)
        good, bad = hold(5), hold(1 << 63)
        with pytest.raises(ValueError, match="cannot keep"):
            ledger.copy_holds([good, bad])
        ledger.copy_holds([good])
        assert ledger.open_holds() == [good]


def test_a_miss_is_one_search_of_an_index(url: str) -> None:
    with opened(url) as engine, KeyRepository(engine) as repository:
        mint(engine, KEY)
        asked = str(repository._lookup(2).compile(engine))
        with engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            plan = [
                row[0]
                for row in connection.exec_driver_sql(
                    f"EXPLAIN {asked}", {"digest_0": b"a", "digest_1": b"b"}
                )
            ]
    told = "\n".join(plan)
    assert "uq_keys_digest" in told
    assert "pk_accounts" in told
    assert "Seq Scan" not in told


# -- two at once


def test_two_who_book_the_same_sums_in_other_orders_never_deadlock(url: str) -> None:
    """Each group has the same accounts, keys and days, in an order of its own; some holds twice."""
    accounts = [replace(ACCOUNT, id=f"acc_{n}", email=f"{n}@example.org") for n in range(6)]
    keys = [
        replace(KEY, id=f"key_{n}", alias=f"k{n}", account_id=one.id, user=one.email)
        for n, one in enumerate(accounts)
    ]
    with opened(url) as engine:
        for one, key in zip(accounts, keys, strict=True):
            mint(engine, key, account=one)
        turns = 12
        shared = [[hold(key=key) for key in keys for _ in range(20)] for _ in range(turns)]
        barrier = threading.Barrier(4)

        def book(number: int) -> None:
            own = Ledger(engine)
            order = random.Random(number)
            for turn in range(turns):
                mine = [hold(key=key) for key in keys]
                ended = [*mine, *shared[turn]]
                order.shuffle(ended)
                own.copy_holds(mine)
                barrier.wait(20)
                own.book([(each, charge(each, 3)) for each in ended])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(book, range(4)))
        found = LedgerReader(engine).verify()
        assert (found.rows, found.open_holds, found.faults) == (turns * 24 + turns * 120, 0, ())
        assert deadlocks(engine) == 0


def test_two_who_copy_the_same_holds_in_other_orders_never_deadlock(url: str) -> None:
    with opened(url) as engine:
        mint(engine, KEY)
        turns = 12
        shared = [[hold() for _ in range(60)] for _ in range(turns)]
        barrier = threading.Barrier(4)

        def copy(number: int) -> None:
            own, order = Ledger(engine), random.Random(number)
            for turn in range(turns):
                mine = list(shared[turn])
                order.shuffle(mine)
                barrier.wait(20)
                own.copy_holds(mine)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(copy, range(4)))
        assert len(Ledger(engine).open_holds()) == turns * 60
        assert deadlocks(engine) == 0


def deadlocks(engine: Engine) -> int:
    """How many there were in this database."""
    asked = select(text("deadlocks")).select_from(text("pg_stat_database"))
    with engine.connect() as connection:
        mine = asked.where(text("datname = current_database()"))
        return int(connection.execute(mine).scalar_one())


def test_a_change_never_shows_after_a_later_one(url: str) -> None:
    """Who holds the lower number commits first, however long that takes, and the rest waits."""
    with opened(url) as engine, KeyRepository(engine) as repository:
        seen: list[list[int]] = []
        inside, go_on = threading.Event(), threading.Event()

        def slow() -> None:
            with repository.changing("cli:slow", NOW_US) as writer:
                writer.add_account(account("slow"), None)
                writer.set_plan(account("slow"), "pro")
                inside.set()
                go_on.wait(10)

        def quick() -> None:
            with repository.changing("cli:quick", NOW_US) as writer:
                writer.add_account(account("quick"), None)
                writer.set_plan(account("quick"), "pro")

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(slow)
            assert inside.wait(10)
            second = pool.submit(quick)
            time.sleep(0.2)
            seen.append([change.seq for change in repository.changes_since(0)])
            assert not second.done()
            go_on.set()
            first.result()
            second.result()
            seen.append([change.seq for change in repository.changes_since(0)])
        assert seen == [[], [1, 2]]


def account(name: str) -> Account:
    return Account(f"acc_{name}", f"{name}@x.org", None, "free", Role.USER, False, NOW_US)


def test_numbers_have_no_holes_however_many_change_things_at_once(url: str) -> None:
    with opened(url) as engine, KeyRepository(engine) as repository:
        with repository.changing("cli:x", NOW_US) as writer:
            for n in range(4):
                writer.add_account(account(str(n)), None)
        stop = threading.Event()
        missed: list[str] = []

        def follow() -> None:
            last = 0
            with KeyRepository(engine) as own:
                while not stop.is_set():
                    for change in own.changes_since(last):
                        if change.seq != last + 1:
                            missed.append(f"{change.seq} after {last}")
                        last = change.seq

        def change(n: int) -> None:
            for turn in range(15):
                with repository.changing("cli:x", NOW_US) as writer:
                    writer.set_plan(account(str(n)), "pro")
                    if turn % 5 == 4:
                        writer.set_plan(account(str(n)), "free")

        reader = threading.Thread(target=follow)
        reader.start()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(change, range(4)))
        stop.set()
        reader.join()
        assert missed == []
        assert repository.last_change() == 4 * 18


def test_a_snapshot_sees_one_moment(url: str) -> None:
    with opened(url) as engine:
        mint(engine, KEY)
        with engine.connect() as held:
            connection = held.execution_options(**snapshot_options(engine))
            with connection.begin():
                before = connection.execute(select(schema.ledger)).all()
                one = hold()
                Ledger(engine).book([(one, charge(one))])
                assert connection.execute(select(schema.ledger)).all() == before == []
