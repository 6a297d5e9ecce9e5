"""What happens to money when Redis is lost, restarted, taken back in time, or does not answer.

Real servers, and callers that never rest, who keep a book of their own. Never is more committed
than the budget, afterwards the ledger has the book's charges and the counters the ledger's, who is
refused meanwhile is told so at once, and nothing has to be restarted.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import fleetworker
import pytest
from fleetsupport import HOLD, Fleet, Served, calling, fleet
from moneyhelp import KEY, charge, draft, hold
from moneysupport import ENDING
from msgspec.structs import replace
from peers.process import Child
from peers.valkey import Cluster, Valkey, valkey_node
from statehelp import new_state
from waiting import until

from authz import upkeep
from authz.lease import Lease
from authz.sockets import Role
from authz.usage import Ending
from store.clock import wall_us
from store.counters.model import MoneyLimit, Taken
from store.counters.redis import SHARDS
from store.engines import open_engine
from store.errors import StoreUnavailableError
from store.journal import JOURNAL_NAME, Journal
from store.ledger import Ledger
from store.ledgerreader import LedgerReader
from store.openholds import OpenHolds
from store.records import INT64_MAX, Hold

BUDGET = 8 * HOLD  # of twelve callers, some always find no room
FAST_SECONDS = 0.1
RECOVERY_SECONDS = 2.0


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with valkey_node(tmp_path / "valkey") as node:
        yield node


@pytest.fixture
def gate(tmp_path: Path, database_url: str, valkey: Valkey) -> Iterator[Fleet]:
    with fleet(tmp_path, database_url, valkey.url) as made:
        yield made


def emptied(valkey: Valkey) -> None:
    valkey.ask("FLUSHALL")


def killed(valkey: Valkey) -> None:
    valkey.restart()


def taken_back(valkey: Valkey) -> None:
    """Restarted on what it saved a while ago."""
    valkey.ask("SAVE")
    time.sleep(0.4)
    valkey.restart()


def paused(valkey: Valkey) -> None:
    with valkey.paused():
        time.sleep(1.5)


FAULTS: tuple[Callable[[Valkey], None], ...] = (emptied, killed, taken_back, paused)


def test_whatever_happens_to_redis_nothing_is_lost_and_nothing_is_over_budget(
    gate: Fleet, valkey: Valkey
) -> None:
    served = Served()
    with calling(gate, served, BUDGET):
        until(lambda: served.taken > 20)
        for fault in FAULTS:
            fault(valkey)
            before = served.taken
            took = until(lambda: served.taken > before + 5, 5, f"recovery from {fault.__name__}")  # noqa: B023  done with before the next
            assert took < RECOVERY_SECONDS, fault.__name__
            time.sleep(0.2)
    assert served.most <= BUDGET
    assert served.refused > 100, "there was no room at times"
    assert len(served.unavailable) > 20
    assert served.refusal_seconds(50) < FAST_SECONDS
    assert served.refusal_seconds(100) < 1
    gate.agrees_with(served)


def test_a_node_of_a_cluster_that_is_out_takes_only_its_own_accounts_along(
    tmp_path: Path, cluster: Cluster
) -> None:
    """The one that has the workers' number (`tg:flush`): accounts of others are seeded too."""
    cluster.empty()
    out = cluster.node_of("tg:flush")
    names = [f"acc_{number}" for number in range(100)]
    lost = next(each for each in names if cluster.node_of(f"tg:{{{each}}}:") is out)
    # of others, also their parts of the sweep index, without which none is seeded
    places = {each: (each, str(crc32(each.encode()) % SHARDS)) for each in names}
    served, fresh, *_ = [
        each
        for each, tags in places.items()
        if all(cluster.node_of(f"tg:{{{tag}}}:") is not out for tag in tags)
    ]
    with fleet(tmp_path, new_state(tmp_path).sql_url, cluster.url, workers=2) as gate:
        worker = gate.workers[0]

        def take(account_id: str) -> bool:
            asked = draft(1, account_id=account_id)
            limits = (MoneyLimit(KEY.id, 0, 10**6),)
            try:
                return isinstance(worker.seeded.take(asked.request_id, asked, limits), Taken)
            except StoreUnavailableError:
                return False

        for account_id in (lost, served):
            until(lambda account_id=account_id: take(account_id), 10)  # type: ignore[misc]
        with out.paused():
            assert not any(take(lost) for _ in range(5))
            assert all(take(served) for _ in range(20))
            until(lambda: take(fresh), 5, "an account's first call")
            assert not take(lost)
        until(lambda: take(lost), 5, "the node's return")


# -- what is silent is swept


@contextmanager
def impatient(
    tmp_path: Path, valkey: Valkey, database_url: str | None = None, **given: Any
) -> Iterator[Fleet]:
    """A gate whose meter sweeps after a second."""
    url = database_url or new_state(tmp_path).sql_url
    with fleet(
        tmp_path, url, valkey.url, hold_deadline_seconds=1, heartbeat_seconds=0.25, **given
    ) as made:
        yield made


def taken(gate: Fleet, nanousd: int = HOLD) -> Hold:
    took = gate.take(0, draft(nanousd), 10**6)
    assert isinstance(took, Taken)
    assert took.hold is not None
    return took.hold


def test_of_silent_holds_two_meters_make_one_row_each_also_of_those_that_redis_forgot(
    tmp_path: Path, valkey: Valkey
) -> None:
    with impatient(tmp_path, valkey, workers=1) as gate:
        another = gate.open(Role.METER)
        forgotten = taken(gate)
        until(lambda: len(OpenHolds(gate.engine).admitted_before(INT64_MAX)) == 1)
        valkey.ask("FLUSHALL")
        running = taken(gate)  # which seeds the account with the hold that was forgotten
        assert {hold.id for hold in gate.meter.counters.open_holds()} == {forgotten.id, running.id}
        until(lambda: len(OpenHolds(gate.engine).admitted_before(INT64_MAX)) == 2)
        valkey.ask("FLUSHALL")  # and nobody asks for it any more
        for _ in range(10):
            time.sleep(0.25)
            gate.meter.meter.record(beat_of(running))
        assert gate.rows() == {forgotten.id: HOLD}, "one gave signs of life, the other did not"
        until(lambda: gate.rows() == {forgotten.id: HOLD, running.id: HOLD}, 10, "the sweep")
        until(lambda: gate.meter.settler.waiting == another.settler.waiting == 0)
        taken(gate, 1)
        until(gate.is_settled, 5)
        assert gate.meter.drift(KEY.account_id) == 0
        assert LedgerReader(gate.engine).verify().faults == ()


def test_a_redis_that_is_told_to_drop_what_it_holds_is_told_of(
    tmp_path: Path,
    valkey: Valkey,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(upkeep, "GUARD_SECONDS", 0.1)
    with impatient(tmp_path, valkey, workers=0):
        valkey.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        until(lambda: "has maxmemory-policy allkeys-lfu: set it to noeviction" in caplog.text)


def beat_of(hold: Hold) -> Ending:
    return replace(
        ENDING,
        request_id=hold.request_id,
        hold_id=hold.id,
        account_id=hold.account_id,
        running=True,
    )


def test_of_a_worker_that_is_killed_every_hold_has_a_row_in_the_end(
    tmp_path: Path, valkey: Valkey
) -> None:
    with impatient(tmp_path, valkey, workers=0) as gate:
        arguments = (tmp_path, gate.settings.sql_url, valkey.url, 10**6)
        child = Child(
            [sys.executable, Path(fleetworker.__file__), *map(str, arguments)],
            log=tmp_path / "worker.log",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        child.wait_until(lambda: child.output.count("\n") > 100, seconds=20, what="holds")
        child.end(signal.SIGKILL)
        told = set(child.output.split()[:-1])
        until(lambda: told <= gate.rows().keys(), 15, "the sweep")
        until(gate.is_settled, 10)
        assert all(nanousd == 1 for nanousd in gate.rows().values())
        assert gate.meter.drift(KEY.account_id) == 0


def test_what_one_process_had_open_when_it_was_killed_is_not_lost_as_several_begin(
    tmp_path: Path, database_url: str, valkey: Valkey
) -> None:
    """It counted by itself, and its last second is in its journal alone."""
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    open_, ended, booked = (hold(HOLD, at=wall_us()) for _ in range(3))
    with Journal(state / JOURNAL_NAME) as journal:
        for each in (open_, ended, booked):
            journal.take(each)
        journal.end(charge(ended, 7), charge(booked, 8))
    engine = open_engine(database_url)
    Ledger(engine).book([(booked, charge(booked, 8))])
    engine.dispose()
    with impatient(tmp_path, valkey, database_url, workers=1) as gate:
        assert gate.rows() == {ended.id: 7, booked.id: 8}
        wanted = {open_.id: HOLD, ended.id: 7, booked.id: 8}
        until(lambda: gate.rows() == wanted, 15, "the sweep")
        until(gate.is_settled, 10)
        until(lambda: counted(gate), 10, "an answer, of a machine that may be busy")
        assert gate.meter.drift(KEY.account_id) == 0
        assert LedgerReader(gate.engine).verify().faults == ()
    with Journal(state / JOURNAL_NAME) as journal:
        assert journal.found.holds == ()


def counted(gate: Fleet) -> bool:
    """Whether a call is counted; it seeds its account."""
    try:
        return bool(taken(gate).id)
    except StoreUnavailableError:
        return False


def test_a_journal_of_a_process_that_lives_is_let_be(tmp_path: Path, valkey: Valkey) -> None:
    url = new_state(tmp_path).sql_url
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    lease = Lease(state)
    assert lease.acquire()
    one = hold(HOLD, at=wall_us())
    with Journal(state / JOURNAL_NAME) as journal:
        journal.take(one)
        journal.end(charge(one, 7))
    with fleet(tmp_path, url, valkey.url, workers=0) as gate:
        assert gate.rows() == {}
    lease.release()
    with Journal(state / JOURNAL_NAME) as journal:
        assert journal.found.holds == (one,)


# -- while SQL is out


def test_while_sql_is_out_takes_go_on_and_nothing_is_lost(tmp_path: Path, valkey: Valkey) -> None:
    with fleet(tmp_path, new_state(tmp_path).sql_url, valkey.url) as gate:
        served = Served()
        with calling(gate, served, 10**6):
            until(lambda: served.taken > 20)
            with gate.engine.connect() as held:
                held.exec_driver_sql("BEGIN EXCLUSIVE")
                before = served.taken
                time.sleep(2.5)  # longer than anybody waits for a lock
                held.exec_driver_sql("ROLLBACK")
            assert served.taken > before + 50
        gate.agrees_with(served)


# -- for those who choose to serve known keys through an outage


def test_known_keys_go_on_while_redis_is_out_and_its_return_finds_all_of_it(
    tmp_path: Path, valkey: Valkey
) -> None:
    budget = 400 * HOLD  # what is held as the outage begins stays held for as long as it lasts
    with fleet(
        tmp_path, new_state(tmp_path).sql_url, valkey.url, on_counter_outage="local"
    ) as gate:
        served = Served()
        with calling(gate, served, budget):
            until(lambda: served.taken > 200)
            time.sleep(1.2)  # each worker knows how many there are
            valkey.end()
            before = served.taken
            time.sleep(2)
            assert served.taken > before + 20, "on a share"
            valkey.start()
            before = served.taken
            until(lambda: served.taken > before + 100, 5)
        assert served.most <= budget
        gate.agrees_with(served)
