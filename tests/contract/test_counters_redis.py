"""What only counters in Redis have to do with: epochs, the sweep index, lost answers, outages.

Over real servers, by Redis's own clock unless a test moves time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock, Thread

import pytest
from counterhelp import PATIENT
from moneyhelp import (
    ACCOUNT,
    KEY,
    account_money,
    draft,
    fast_engine,
    limits,
    mint,
    money,
    reopened,
    seeded,
)
from peers.valkey import Cluster, Trio, Valkey, info, valkey_node, valkey_trio, wait_for
from statehelp import FakeClock

from store import seeding
from store.breaker import FAILURES
from store.counters import link as link_module
from store.counters import node as node_module
from store.counters.address import parse
from store.counters.link import Link
from store.counters.model import (
    Ended,
    Limit,
    MinuteLimit,
    MoneyStanding,
    NotSeeded,
    Refused,
    Seed,
    Taken,
)
from store.counters.node import Timeouts
from store.counters.redis import SHARDS, RedisCounters
from store.counters.scripts import LEAVE
from store.errors import ConfigError, StoreUnavailableError
from store.ledger import Ledger
from store.push import BEAT
from store.pushredis import RedisChannel
from store.records import MINUTE_US, SECOND_US, WINDOW_US, Hold, Window
from store.seeding import LOST_WAIT_SECONDS, SeededCounters

TIGHT = Timeouts()


@pytest.fixture
def node(valkey: Valkey) -> Valkey:
    valkey.ask("FLUSHALL")
    return valkey


@pytest.fixture
def link(node: Valkey) -> Iterator[Link]:
    with Link(parse(node.url), PATIENT) as made:
        yield made


@pytest.fixture
def counters(link: Link) -> RedisCounters:
    return seeded(RedisCounters(link))


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[Valkey]:
    """A server that may be killed."""
    with valkey_node(tmp_path / "own") as made:
        yield made


def take(counters: RedisCounters, asked: Hold, wanted: tuple[Limit, ...] | None = None) -> Hold:
    taken = counters.take(asked.request_id, asked, limits() if wanted is None else wanted)
    assert isinstance(taken, Taken), taken
    assert taken.hold is not None
    return taken.hold


def held(counters: RedisCounters) -> int:
    looked = counters.peek((money(),), ACCOUNT.id)
    assert not isinstance(looked, NotSeeded)
    (standing,) = looked[1]
    assert isinstance(standing, MoneyStanding)
    return standing.held_nanousd


def is_unseeded(counters: RedisCounters) -> bool:
    return isinstance(counters.peek((money(),), ACCOUNT.id), NotSeeded)


# --- clock and slots


def test_the_clock_is_redis_own(counters: RedisCounters, node: Valkey) -> None:
    seconds, micros = node.ask("TIME")
    looked = counters.peek((), ACCOUNT.id)
    assert not isinstance(looked, NotSeeded)
    assert 0 <= looked[0] - (int(seconds) * SECOND_US + int(micros)) < 2 * SECOND_US


def test_a_clock_that_goes_back_blocks_a_minute_at_most_and_brings_no_window_back(
    link: Link,
) -> None:
    clock = FakeClock()
    counters = seeded(RedisCounters(link, clock))
    wanted = (MinuteLimit(KEY.id, 1), money(budget=100))
    clock.now_us = KEY.created_us + WINDOW_US
    counters.settle(take(counters, draft(100), wanted), 100)
    clock.now_us -= 3600 * SECOND_US
    asked = draft(100)
    refused = counters.take(asked.request_id, asked, wanted)
    assert isinstance(refused, Refused)
    assert refused.retry_us == MINUTE_US
    clock.now_us += MINUTE_US
    refused = counters.take(asked.request_id, asked, wanted)
    assert isinstance(refused, Refused)
    assert (refused.limit, refused.held) == (wanted[1], False), "of the window that has begun"


def test_everything_of_an_account_lies_in_one_slot(counters: RedisCounters, node: Valkey) -> None:
    wanted = (MinuteLimit(KEY.id, 5), money(), account_money())
    counters.settle(take(counters, draft(1), wanted), 1)
    take(counters, draft(1), wanted)
    counters.withdraw(draft(1))
    names = sorted(name.decode() for name in node.ask("KEYS", "*"))
    index = [name for name in names if name.startswith("tg:sweep:{")]
    assert len(index) == 1
    ours = set(names) - set(index)
    assert len(ours) == 6  # account, holds, beats, minute, mark of a request, of a withdrawal
    assert all(name.startswith(f"tg:{{{ACCOUNT.id}}}:") for name in ours)


# --- epochs


def test_what_an_old_snapshot_brings_back_is_not_believed(own_node: Valkey) -> None:
    with Link(parse(own_node.url), PATIENT) as link:
        counters = seeded(RedisCounters(link))
        old = take(counters, draft(300))
        own_node.ask("SAVE")
        counters.settle(old, 300)
        own_node.restart()
        assert own_node.ask("EXISTS", f"tg:{{{ACCOUNT.id}}}:account") == 1
        assert is_unseeded(counters)
        assert counters.hold(ACCOUNT.id, old.id) is None
        assert not counters.beat(ACCOUNT.id, old.id)
        assert not counters.close(old)
        assert counters.overdue(0) == []
        assert not counters.settle(old, 300)
        generation = counters.generation(ACCOUNT.id)
        assert (generation.seeded, generation.open_holds, generation.windows) == (False, (), ())
        assert counters.seed(generation, Seed({Window(KEY.id, 0): 300}, {}))
        assert held(counters) == 0


def test_a_seed_does_not_outlive_what_it_was_read_for(own_node: Valkey) -> None:
    """Emptied, restarted, settled in between: each time the account is another."""
    with Link(parse(own_node.url), PATIENT) as link:
        counters = RedisCounters(link)
        for forget in (lambda: own_node.ask("FLUSHALL"), own_node.restart):
            generation = counters.generation(ACCOUNT.id)
            forget()
            counters.flush_asked()
            assert not counters.seed(generation, Seed({}, {}))
            counters.generation(ACCOUNT.id)
            assert not counters.seed(generation, Seed({}, {})), "the number alone is the same"


def test_a_node_that_was_demoted_and_promoted_again_has_another_epoch(tmp_path: Path) -> None:
    """Its run id is the same; what it had may be from before."""
    with ExitStack() as stack:
        first = stack.enter_context(valkey_node(tmp_path / "a"))
        other = stack.enter_context(valkey_node(tmp_path / "b"))
        other.ask("REPLICAOF", "127.0.0.1", first.port)
        wait_for(lambda: b"master_link_status:up" in info(other), "the replica")
        link = stack.enter_context(Link(parse(first.url), PATIENT))
        counters = seeded(RedisCounters(link))
        take(counters, draft(10))
        wait_for(lambda: other.ask("EXISTS", f"tg:{{{ACCOUNT.id}}}:holds") == 1, "the hold there")
        other.ask("REPLICAOF", "NO", "ONE")
        first.ask("REPLICAOF", "127.0.0.1", other.port)
        wait_for(lambda: b"master_link_status:up" in info(first), "the replica")
        asked = draft(10)
        with pytest.raises(StoreUnavailableError, match="cannot serve now"):
            counters.take(asked.request_id, asked, limits())
        first.ask("REPLICAOF", "NO", "ONE")
        assert first.ask("EXISTS", f"tg:{{{ACCOUNT.id}}}:holds") == 1
        time.sleep(0.3)
        assert is_unseeded(counters)


# --- the sweep index


def test_a_seeded_account_is_in_the_index_whatever_the_sweeper_does(
    link: Link, node: Valkey
) -> None:
    clock = FakeClock()
    counters = seeded(RedisCounters(link, clock))
    (index,) = node.ask("KEYS", "tg:sweep:*")
    clock.now_us += 59 * MINUTE_US
    assert counters.overdue(MINUTE_US) == []
    assert counters.accounts() == [ACCOUNT.id], "it is idle for less than an hour"
    before = node.ask("HGET", index, ACCOUNT.id)
    clock.now_us += MINUTE_US
    seeded(counters)  # by somebody who did not know that it is
    assert node.ask("HGET", index, ACCOUNT.id) != before
    assert counters.overdue(MINUTE_US) == []
    assert counters.accounts() == []
    assert is_unseeded(counters)
    assert node.ask("DBSIZE") == 0, "nothing is left of an account that was given up"


def test_what_was_put_in_again_meanwhile_does_not_leave(counters: RedisCounters) -> None:
    """The sweeper has looked, found nothing, and somebody seeds before it takes the name away."""
    shards = [f"tg:sweep:{{{shard}}}".encode() for shard in range(SHARDS)]
    index = next(shard for shard in shards if counters._link.command(shard, b"EXISTS", shard))
    before = counters._link.command(index, b"HGET", index, ACCOUNT.id)
    seeded(counters)

    assert counters._link.run(LEAVE, (index,), ("", ACCOUNT.id, before)) == 0
    assert counters.accounts() == [ACCOUNT.id]


def test_of_several_who_look_for_silent_holds_one_looks_at_each_part(
    counters: RedisCounters, node: Valkey
) -> None:
    silent = take(counters, draft(1))
    assert counters.overdue(0, 300_000) == [silent]
    assert counters.overdue(0, 300_000) == [], "left to the first for a while"
    assert counters.overdue(0) == [silent], "who claims nothing is kept from nothing"
    ttls = [int(node.ask("PTTL", name)) for name in claims(node)]
    assert len(ttls) == SHARDS
    assert all(0 < ttl <= 300 for ttl in ttls), "whatever becomes of the first"
    wait_for(lambda: counters.overdue(0, 300_000) == [silent], "another's turn", seconds=5)


def test_who_cannot_look_at_all_parts_claims_none(counters: RedisCounters, node: Valkey) -> None:
    silent = take(counters, draft(1))
    last = f"tg:sweep:{{{SHARDS - 1}}}"
    node.ask("SET", last, "no hash")
    with pytest.raises(StoreUnavailableError, match="wrong kind"):
        counters.overdue(0, MINUTE_US)
    assert claims(node) == []
    node.ask("DEL", last)
    assert counters.overdue(0, MINUTE_US) == [silent]


def claims(node: Valkey) -> list[bytes]:
    found: list[bytes] = node.ask("KEYS", "tg:sweep:*:look")
    return found


def test_the_index_names_accounts_of_every_shard(counters: RedisCounters) -> None:
    names = [f"acc_{number}" for number in range(300)]
    for name in names:
        assert counters.seed(counters.generation(name), Seed({}, {}))
    assert sorted(counters.accounts()) == sorted([*names, ACCOUNT.id])
    counters.forget(ACCOUNT.id)
    assert is_unseeded(counters)


# --- answers that are lost


def test_a_withdrawn_take_is_undone_or_comes_too_late(counters: RedisCounters) -> None:
    ran, late = take(counters, draft(300)), draft(300)
    assert counters.withdraw(ran) == ran
    assert counters.withdraw(ran) == ran, "its answer may have been lost: whoever asks ends it"
    assert isinstance(counters.take(ran.request_id, ran, limits()), Ended)
    assert counters.withdraw(late) is None
    assert isinstance(counters.take(late.request_id, late, limits()), Ended)
    assert held(counters) == 300, "until its row is there"
    shared = take(counters, draft(100))
    again = draft(100, request_id=shared.request_id)
    assert take(counters, again) == shared
    assert [counters.withdraw(shared) for _ in range(2)] == [None, None], "another Check has it"
    assert counters.give_back(shared)
    assert counters.withdraw(shared) is None, "others closed it"


def test_a_take_is_asked_for_again_on_a_connection_that_was_closed_and_counts_once(
    counters: RedisCounters, node: Valkey
) -> None:
    taken = take(counters, draft(300))
    node.ask("CLIENT", "KILL", "TYPE", "normal")
    assert take(counters, taken) == taken
    assert counters.give_back(taken), "one Check only, as nobody knows whether the first one ran"


def test_giving_back_is_asked_for_again_and_counts_once(
    counters: RedisCounters, node: Valkey
) -> None:
    taken = take(counters, draft(300))
    assert take(counters, draft(300, request_id=taken.request_id)) == taken
    node.ask("CLIENT", "KILL", "TYPE", "normal")
    assert [counters.give_back(taken, "one") for _ in range(2)] == [False, False]
    assert [counters.give_back(taken, "two") for _ in range(2)] == [True, True]
    assert not counters.give_back(taken)


def test_scripts_that_the_server_does_not_know_are_sent_to_it(
    counters: RedisCounters, node: Valkey
) -> None:
    taken = [take(counters, draft(10)) for _ in range(3)]
    node.ask("SCRIPT", "FLUSH")
    assert [counters.beat(ACCOUNT.id, each.id) for each in taken] == [True] * 3
    node.ask("SCRIPT", "FLUSH")
    assert counters.settle_all([(each, 1) for each in (*taken, taken[0])]) == [*[True] * 3, False]
    assert held(counters) == 0


def test_where_memory_is_full_nothing_is_taken_and_what_ends_is_settled(own_node: Valkey) -> None:
    with Link(parse(own_node.url), PATIENT) as link:
        counters = seeded(RedisCounters(link))
        taken = take(counters, draft(300))
        own_node.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreUnavailableError, match="memory"):
            counters.take("more", draft(1, request_id="more"), limits())
        assert counters.settle(taken, 100)
        assert held(counters) == 0


# --- expiry


def test_nothing_stays_for_ever(link: Link, node: Valkey) -> None:
    counters = seeded(RedisCounters(link))
    wanted = (MinuteLimit(KEY.id, 5), money(), account_money())
    open_hold = take(counters, draft(1), wanted)
    counters.settle(take(counters, draft(1), wanted), 1)
    counters.withdraw(draft(1))
    counters.take("listing", None, (MinuteLimit("lane", 5),), ACCOUNT.id)
    left = {name.decode(): node.ask("PTTL", name) / 1000 for name in node.ask("KEYS", "tg:{*")}
    minute = {name for name in left if 0 < left[name] <= 121}
    assert {name.split(":")[2] for name in minute} == {"m", "r", "x"}
    assert len(minute) == 5
    others = {name.split(":")[2]: seconds for name, seconds in left.items() if name not in minute}
    assert others.keys() == {"account", "holds", "beats"}
    assert 3600 < others["account"] < others["holds"]
    assert others["holds"] == pytest.approx(others["beats"], abs=5)
    counters.settle(open_hold, 0)
    assert node.ask("EXISTS", *[f"tg:{{{ACCOUNT.id}}}:{name}" for name in ("holds", "beats")]) == 0


def test_windows_that_are_over_go_with_their_last_hold(link: Link, node: Valkey) -> None:
    clock = FakeClock()
    counters = seeded(RedisCounters(link, clock))
    field = f"${KEY.id}"

    def windows() -> int:
        return len(node.ask("HGET", f"tg:{{{ACCOUNT.id}}}:account", field).split()) // 4

    for turn in range(10):
        clock.now_us = KEY.created_us + turn * WINDOW_US
        straddling = take(counters, draft(10))
        clock.now_us += WINDOW_US
        counters.settle(take(counters, draft(10)), 1)
        assert windows() == 2
        counters.settle(straddling, 10)
        assert windows() == 1


# --- start


def test_a_server_that_would_drop_what_it_holds_is_refused(own_node: Valkey) -> None:
    with Link(parse(own_node.url), PATIENT) as link:
        link.verify()
        own_node.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigError, match="noeviction"):
            link.verify()


def test_a_start_waits_for_a_server_that_comes_up(own_node: Valkey) -> None:
    own_node.end()
    with Link(parse(own_node.url), PATIENT) as link, ThreadPoolExecutor(1) as pool:
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            link.verify()
        waiting = pool.submit(link.verify, 10)
        time.sleep(0.5)
        own_node.start()
        waiting.result(10)


def test_a_wrong_password_is_said(own_node: Valkey) -> None:
    own_node.ask("CONFIG", "SET", "requirepass", "right")
    port = own_node.port
    with Link(parse(f"redis://:wrong@127.0.0.1:{port}"), PATIENT) as link:
        with pytest.raises(ConfigError, match="invalid username-password") as raised:
            link.verify()
        assert "wrong@" not in str(raised.value)
    with Link(parse(f"redis://:right@127.0.0.1:{port}"), PATIENT) as link:
        link.verify()


def test_a_user_with_few_rights_is_enough(node: Valkey, tmp_path: Path) -> None:
    """Those that the text on deploying names; without one of them a start ends, and says which."""
    text = (Path(__file__).parents[2] / "deploy" / "README.md").read_text()
    (rules,) = re.findall(r"^ACL SETUSER tensorgate on >… (.*)$", text, re.MULTILINE)
    node.ask("ACL", "SETUSER", "few", "reset", "on", ">pw", *rules.split())
    url = f"redis://few:pw@127.0.0.1:{node.port}"
    engine = fast_engine(tmp_path)
    try:
        with Link(parse(url), PATIENT) as link:
            link.verify()
            counters = seeded(RedisCounters(link))
            first, second = take(counters, draft(1)), take(counters, draft(1))
            assert counters.beat(ACCOUNT.id, first.id)
            assert counters.give_back(first)
            assert counters.withdraw(draft(1)) is None
            counters.take("listing", None, (MinuteLimit("lane", 5),), ACCOUNT.id)
            assert counters.settle_all([(first, 0), (second, 1)]) == [True, True]
            assert counters.overdue(0) == counters.open_holds() == []
            assert counters.accounts() == [ACCOUNT.id]
            assert counters.clocks()
            assert counters.ask_flush() == counters.flush_asked()
            mine = SeededCounters(counters, Ledger(engine), lambda *_: None, counters)
            mint(engine, KEY)
            counters.forget(ACCOUNT.id)
            asked = draft(1)
            assert isinstance(mine.take(asked.request_id, asked, limits()), Taken)
            with pytest.raises(StoreUnavailableError, match="no permissions"):
                link.command(b"tg:", b"FLUSHALL")
        channel = RedisChannel(url, seconds=1)
        channel.open()
        channel.send(BEAT)
        assert channel.receive(1)
        channel.close()
        node.ask("ACL", "SETUSER", "few", "-info")
        with Link(parse(url), PATIENT) as link, pytest.raises(ConfigError, match="'info'"):
            link.verify(20)
    finally:
        engine.dispose()
        node.ask("ACL", "DELUSER", "few")


def test_a_unix_socket_is_as_good(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")  # a socket's path is short
    with (
        valkey_node(folder, "--unixsocket", str(folder / "s")),
        Link(parse(f"unix://{folder / 's'}?db=3"), PATIENT) as link,
    ):
        link.verify()
        assert link.masters() == [str(folder / "s")]
        counters = seeded(RedisCounters(link))
        take(counters, draft(10))
        assert held(counters) == 10


# --- seeding an account that is busy


def test_an_account_of_many_calls_is_seeded_in_steps_that_keep_nobody_waiting(
    node: Valkey, link: Link
) -> None:
    counters = RedisCounters(link)
    calls = 5000
    now_us = counters.generation(ACCOUNT.id).now_us
    times = [now_us - number * SECOND_US // 100 for number in range(calls)]
    ended = tuple((f"request-{number}", at) for number, at in enumerate(times))
    steps = evaluations(node)
    assert counters.seed(counters.generation(ACCOUNT.id), Seed({}, {KEY.id: times}, (), ended))
    assert evaluations(node) - steps >= calls / 1024, "none of them marks more than that"
    for number in (0, 1023, 1024, 4999):
        request_id = f"request-{number}"
        answer = counters.take(request_id, draft(1, request_id=request_id), limits())
        assert isinstance(answer, Ended), request_id
    wanted = (MinuteLimit(KEY.id, calls + 1),)
    for left in (1, 0):
        answer = counters.take(f"new-{left}", None, wanted, ACCOUNT.id)
        assert isinstance(answer, Taken if left else Refused)


def evaluations(node: Valkey) -> int:
    """How many scripts were run."""
    calls = re.findall(rb"cmdstat_eval[^:]*:calls=(\d+)", info(node, "commandstats"))
    return sum(map(int, calls))


# --- seeding by several


def test_one_worker_reads_an_account_and_the_others_wait_for_it(link: Link, tmp_path: Path) -> None:
    engine = fast_engine(tmp_path)
    mint(engine, KEY)
    read: list[str] = []

    class Counted(Ledger):
        def seed(self, account_id: str, *args: object, **given: object) -> Seed:
            read.append(account_id)
            time.sleep(0.05)  # so long that all the others come meanwhile
            return super().seed(account_id, *args, **given)  # type: ignore[arg-type]

    counters = RedisCounters(link)
    mine = Counted(engine)
    workers = [SeededCounters(counters, mine, lambda *_: None, counters) for _ in range(6)]

    def ask(worker: SeededCounters) -> bool:
        asked = draft(10)
        for _ in range(20):
            with suppress(StoreUnavailableError):  # a busy machine, as it says within 0.25 s
                return isinstance(worker.take(asked.request_id, asked, limits()), Taken)
        return False

    with ThreadPoolExecutor(len(workers)) as pool:
        assert all(pool.map(ask, workers))
    assert 1 <= len(read) <= 2, "the second only where the first took more than a claim lasts"
    assert held(counters) == 60
    engine.dispose()


def test_a_worker_that_dies_while_it_reads_keeps_nobody_for_long(
    link: Link, tmp_path: Path
) -> None:
    engine = fast_engine(tmp_path)
    mint(engine, KEY)
    counters = RedisCounters(link)
    assert counters.claim(ACCOUNT.id)
    worker = SeededCounters(counters, Ledger(engine), lambda *_: None, counters)
    began = time.monotonic()
    worker.peek(limits(), ACCOUNT.id)
    assert 0.1 < time.monotonic() - began < 3
    engine.dispose()


def test_accounts_that_are_lost_together_wait_for_the_same_word_of_all_workers(
    link: Link, tmp_path: Path
) -> None:
    """Though only some are read at a time: else an outage would last longer the more there are."""
    engine = fast_engine(tmp_path)
    turn, rounds = Lock(), [0.0]

    def barrier(since: float, _: float) -> None:
        with turn:
            if rounds[-1] <= since:
                rounds.append(time.monotonic())
                time.sleep(0.05)

    counters = RedisCounters(link)
    worker = SeededCounters(counters, Ledger(engine), barrier, counters)
    names = [f"acc_{number}" for number in range(10 * seeding.SEEDING_THREADS)]

    def ask(name: str) -> None:
        for _ in range(50):
            with suppress(StoreUnavailableError):
                worker.peek(limits(), name)
                return

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(ask, names))
    assert sorted(counters.accounts()) == sorted(names)
    assert len(rounds) - 1 <= 5, "and not one for each eight of them"
    worker.close()
    engine.dispose()


def test_an_account_that_was_served_and_is_lost_is_waited_for_only_for_a_moment(
    link: Link, node: Valkey, tmp_path: Path
) -> None:
    engine = fast_engine(tmp_path)
    mint(engine, KEY)
    began: list[float] = []

    def barrier(_: float, __: float) -> None:
        began.append(time.monotonic())
        time.sleep(0.2)  # as the other workers of a fleet take their time

    counters = RedisCounters(link)
    worker = SeededCounters(counters, Ledger(engine), barrier, counters)
    worker.peek(limits(), ACCOUNT.id)  # the first call of an account has the time
    node.ask("FLUSHALL")
    waits = []
    for _ in range(5):
        asked = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            worker.peek(limits(), ACCOUNT.id)
        waits.append(time.monotonic() - asked)
    assert max(waits) < 0.15
    assert min(waits) < LOST_WAIT_SECONDS / 2, "who comes late does not wait as long again"
    worker.close()
    worker = SeededCounters(counters, Ledger(engine), barrier, counters)
    worker.peek(limits(), ACCOUNT.id)
    assert len(began) == 2, "it was seeded beside, once, though nobody waited"
    worker.close()
    engine.dispose()


def test_an_account_that_rested_for_an_hour_may_take_its_time_again(
    link: Link, node: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has given it up: that is no outage."""
    engine = fast_engine(tmp_path)
    mint(engine, KEY)
    counters = RedisCounters(link)
    worker = SeededCounters(counters, Ledger(engine), lambda *_: time.sleep(0.1), counters)
    worker.peek(limits(), ACCOUNT.id)
    node.ask("FLUSHALL")
    monkeypatch.setattr(seeding, "monotonic", lambda: time.monotonic() + 3600)
    worker.peek(limits(), ACCOUNT.id)
    worker.close()
    engine.dispose()


# --- outages


def test_an_outage_costs_little_and_is_over_without_a_restart(own_node: Valkey) -> None:
    """Paused, a server accepts and says nothing: the worst there is."""
    with Link(parse(own_node.url), TIGHT) as link:
        counters = seeded(RedisCounters(link))
        waits = []
        with own_node.paused():
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                asked = draft(1)
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    counters.take(asked.request_id, asked, limits())
                waits.append(time.monotonic() - began)
                time.sleep(0.002)
        assert len(waits) > 100, "all but a few fail at once"
        assert sum(wait > 0.03 for wait in waits) <= 3 + 1, "whether it is back is tried beside"
        wait_for(lambda: not down(counters), "an answer", seconds=1)


def test_a_server_that_is_gone_fails_fast_and_comes_back_unseeded(own_node: Valkey) -> None:
    with Link(parse(own_node.url), TIGHT) as link:
        counters = seeded(RedisCounters(link))
        own_node.end()
        for _ in range(5):
            with pytest.raises(StoreUnavailableError):
                counters.peek(limits(), ACCOUNT.id)
        began = time.monotonic()
        own_node.start()
        wait_for(lambda: not down(counters), "an answer", seconds=2)
        assert time.monotonic() - began < 2
        assert is_unseeded(counters)


def down(counters: RedisCounters) -> bool:
    try:
        counters.flush_asked()
    except StoreUnavailableError:
        return True
    return False


# --- Sentinel


def test_a_failover_is_followed_and_nothing_of_before_is_believed(tmp_path: Path) -> None:
    with valkey_trio(tmp_path) as trio, Link(parse(trio.url), TIGHT) as link:
        link.verify(5)
        counters = seeded(RedisCounters(link))
        opened = take(counters, draft(300))
        old = trio.master()
        wait_for(lambda: replicated(trio, old), "the hold at the replica")
        assert link.masters() == [f"127.0.0.1:{old.port}"]
        old.end()
        assert down(counters)
        wait_for(lambda: not down(counters), "the other master", seconds=15)
        assert link.masters() == [
            f"127.0.0.1:{node.port}" for node in trio.nodes if node is not old
        ]
        assert is_unseeded(counters)
        reopened(counters, [opened])
        assert held(counters) == 300
        old.start()  # it is told to be a replica; who still knew it as the master is refused there
        wait_for(lambda: b"role:slave" in info(old), "the old master's demotion", seconds=15)
        with Link(parse(old.url), PATIENT) as stale, pytest.raises(StoreUnavailableError):
            RedisCounters(stale).peek(limits(), ACCOUNT.id)


def replicated(trio: Trio, master: Valkey) -> bool:
    (replica,) = [node for node in trio.nodes if node is not master]
    return bool(replica.ask("EXISTS", f"tg:{{{ACCOUNT.id}}}:holds"))


# --- cluster


def test_accounts_of_all_masters_are_served_and_swept(cluster: Cluster) -> None:
    cluster.empty()
    with Link(parse(cluster.url), PATIENT) as link:
        link.verify(2)
        clock = FakeClock()
        counters = RedisCounters(link, clock)
        names = [f"acc_{number}" for number in range(12)]
        holds = []
        for name in names:
            assert counters.seed(counters.generation(name), Seed({}, {}))
            asked = draft(10, account_id=name)
            taken = counters.take(asked.request_id, asked, limits())
            assert isinstance(taken, Taken)
            assert taken.hold is not None
            holds.append(taken.hold)
        assert len({cluster.node_of(f"tg:{{{name}}}:").port for name in names}) == 3
        clock.now_us += MINUTE_US
        assert all(counters.beat(each.account_id, each.id) for each in holds[:6])
        assert counters.overdue(MINUTE_US) == holds[6:]
        assert counters.settle_all([(each, 1) for each in holds]) == [True] * 12
        assert counters.open_holds() == []


def test_a_slot_that_moves_is_followed_and_seeded_anew(cluster: Cluster) -> None:
    """While it moves (ASK), and once it has moved (MOVED), with its keys."""
    cluster.empty()
    source = cluster.node_of(f"tg:{{{ACCOUNT.id}}}:")
    target = next(node for node in cluster.nodes if node is not source)
    slot = int(source.ask("CLUSTER", "KEYSLOT", ACCOUNT.id))
    ids = {node.port: node.ask("CLUSTER", "MYID").decode() for node in cluster.nodes}
    with Link(parse(cluster.url), PATIENT) as link:
        counters = seeded(RedisCounters(link))
        take(counters, draft(10))
        try:
            target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
            source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
            names = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
            assert names
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)
            assert is_unseeded(counters), "asked there, and of another node's epoch"
            for node in (target, source):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
            assert is_unseeded(counters)
            seeded(counters)
            assert held(counters) == 0
            assert target.ask("EXISTS", f"tg:{{{ACCOUNT.id}}}:account") == 1
        finally:
            target.ask("FLUSHALL")
            # as an import, as that gives the source a newer epoch: all believe it then
            source.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[target.port])
            for node in (source, *[each for each in cluster.nodes if each is not source]):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[source.port])
            wait_for(
                lambda: all(owner(each, slot) == source.port for each in cluster.nodes),
                "its return",
            )


def test_a_slot_that_is_moved_at_once_costs_its_accounts_a_moment(cluster: Cluster) -> None:
    """As the README says to move them: not key by key."""
    cluster.empty()
    source = cluster.node_of(f"tg:{{{ACCOUNT.id}}}:")
    target = next(node for node in cluster.nodes if node is not source)
    slot = int(source.ask("CLUSTER", "KEYSLOT", ACCOUNT.id))
    with Link(parse(cluster.url), TIGHT) as link:
        wait_for(lambda: not down(RedisCounters(link)), "the cluster's slots")
        counters = seeded(RedisCounters(link))
        opened = take(counters, draft(10))
        try:
            assert seconds_without(counters, lambda: move(slot, source, target)) < 2
            reopened(counters, [opened])  # it is of another node's epoch
            assert held(counters) == 10
        finally:
            wait_for(lambda: owner(source, slot) == target.port, "its move")
            target.ask("FLUSHALL")
            move(slot, target, source)
            wait_for(lambda: owner(target, slot) == source.port, "its return")


def move(slot: int, source: Valkey, target: Valkey) -> None:
    """All of it at once, as Valkey can from 9.0 on."""
    name = target.ask("CLUSTER", "MYID").decode()
    source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)


def seconds_without(counters: RedisCounters, change: Callable[[], None]) -> float:
    """How long nobody answers for the account, until it is found to be without a seed."""
    change()
    began = time.monotonic()
    out_since = None
    while True:
        asked = time.monotonic()
        assert asked - began < 10, "it was never moved"
        try:
            if is_unseeded(counters):
                return asked - (out_since or asked)
            out_since = None
        except StoreUnavailableError:
            out_since = out_since or asked
        time.sleep(0.001)


def test_a_slot_that_is_being_moved_keeps_nobody_elses_accounts_out(cluster: Cluster) -> None:
    """Of a key here and one there, no script can be run until the slot has moved."""
    cluster.empty()
    source = cluster.node_of(f"tg:{{{ACCOUNT.id}}}:")
    target = next(node for node in cluster.nodes if node is not source)
    slot = int(source.ask("CLUSTER", "KEYSLOT", ACCOUNT.id))
    ids = {node.port: node.ask("CLUSTER", "MYID").decode() for node in cluster.nodes}
    names = (f"acc_{number}" for number in range(100))
    other = next(each for each in names if cluster.node_of(f"tg:{{{each}}}:") is source)
    with Link(parse(cluster.url), PATIENT) as link:
        counters = seeded(RedisCounters(link))
        try:
            target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
            source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
            before = int(source.ask("INFO", "stats")["total_connections_received"])
            for _ in range(2 * FAILURES):
                asked = draft(10)
                with pytest.raises(StoreUnavailableError, match="rehashing"):
                    counters.take(asked.request_id, asked, limits())
            counters.generation(other)
            made = int(source.ask("INFO", "stats")["total_connections_received"]) - before
            assert made <= 2, "the connections stay: one is the test's own look"
        finally:
            for node in (target, source):
                node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        assert held(counters) == 0


def owner(node: Valkey, slot: int) -> int:
    """The port of who has a slot, as a node has it."""
    for first, last, master, *_ in node.ask("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return int(master[1])
    return 0


def test_one_node_of_a_cluster_says_what_it_is(cluster: Cluster) -> None:
    cluster.empty()
    other = next(
        node for node in cluster.nodes if node is not cluster.node_of(f"tg:{{{ACCOUNT.id}}}:")
    )
    with (
        Link(parse(other.url), PATIENT) as link,
        pytest.raises(StoreUnavailableError, match=r"redis\+cluster://"),
    ):
        RedisCounters(link).peek(limits(), ACCOUNT.id)


def test_a_machine_without_threads_to_give_is_looked_at_again_once_it_has_some(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a bound of processes: whether a node is back is found out by whoever asks after that."""

    class NoThread(Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    cluster.empty()
    with Link(parse(cluster.url), TIGHT) as link:
        counters = RedisCounters(link)
        wait_for(lambda: not down(counters), "an answer")
        out = cluster.node_of("tg:flush")
        with monkeypatch.context() as without, out.paused():
            for module in (link_module, node_module):
                without.setattr(module, "Thread", NoThread)
            for _ in range(FAILURES + 5):
                assert down(counters)
                time.sleep(0.05)
        wait_for(lambda: not down(counters), "the node", seconds=5)
        looked: list[int] = []
        monkeypatch.setattr(link_module._Slots, "look", lambda _: looked.append(1))
        with out.paused():
            wait_for(lambda: down(counters) and bool(looked), "a look at the slots", seconds=5)


def test_a_node_that_is_out_takes_only_its_accounts_along(cluster: Cluster) -> None:
    cluster.empty()
    with Link(parse(cluster.url), TIGHT) as link:
        counters = RedisCounters(link)
        names = {cluster.node_of(f"tg:{{acc_{n}}}:").port: f"acc_{n}" for n in range(12)}
        for name in names.values():
            wait_for(lambda name=name: bool(counters.generation(name)), name)  # type: ignore[misc]
        out = cluster.nodes[0]
        with out.paused():
            for port, name in names.items():
                if port != out.port:
                    counters.generation(name)
                else:
                    with pytest.raises(StoreUnavailableError):
                        counters.generation(name)
        wait_for(lambda: bool(counters.generation(names[out.port])), "the node", seconds=5)
