"""How holds end: in this order, in groups, once, and none lost while SQL is out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock

import pytest
from moneyhelp import charge as made_charge
from moneyhelp import hold as made_hold
from moneysupport import row_of
from waiting import until

from authz import settle
from authz.fleetbooks import Unjournaled
from authz.metrics import Metrics
from authz.settle import Settler
from store.errors import StoreError, StoreUnavailableError
from store.records import Basis, Charge, Hold, LedgerRow

WAIT = 3.0


@dataclass
class Stores:
    """Counters, journal and ledger in one: what was done to them, in its order."""

    done_to: list[tuple[str, str]] = field(default_factory=list)
    rows: dict[str, LedgerRow] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)
    tries: int = 0
    open: set[str] = field(default_factory=set)
    settled: dict[str, int] = field(default_factory=dict)
    out: Event = field(default_factory=Event)
    journal_is_out: bool = False
    poison: set[str] = field(default_factory=set)
    gate: Lock = field(default_factory=Lock)

    # the counters

    def close(self, hold: Hold) -> bool:
        self.done_to.append(("close", hold.id))
        return True

    def settle(self, hold: Hold, charge_nanousd: int) -> bool:
        self.done_to.append(("settle", hold.id))
        first = hold.id in self.open
        self.open.discard(hold.id)
        if first:
            self.settled[hold.id] = charge_nanousd
        return first

    # the journal

    def end(self, *charges: Charge) -> None:
        self._journal("end", [charge.hold_id for charge in charges])

    def done(self, *hold_ids: str) -> None:
        self._journal("done", hold_ids)

    def _journal(self, kind: str, hold_ids: Sequence[str]) -> None:
        if self.journal_is_out:
            raise StoreError("the disk is full")
        self.done_to += [(kind, hold_id) for hold_id in hold_ids]

    # the ledger

    def book(self, ended: Sequence[tuple[Hold, Charge]]) -> dict[str, LedgerRow]:
        with self.gate:
            self.tries += 1
            if self.out.is_set():
                raise StoreUnavailableError("the database does not answer")
            if any(hold.id in self.poison for hold, _ in ended):
                raise ValueError("a row that nobody can make")
            self.groups.append(len(ended))
            known = any(hold.id in self.rows for hold, _ in ended)
            for hold, charge in ended:
                self.done_to.append(("book", hold.id))
                self.rows.setdefault(hold.id, row_of(hold, charge))
            return {hold.id: self.rows[hold.id] for hold, _ in ended} if known else {}


@dataclass
class Rig:
    stores: Stores
    metrics: Metrics
    settler: Settler

    def holds(self, count: int, nanousd: int = 100) -> list[Hold]:
        made = [made_hold(nanousd) for _ in range(count)]
        self.stores.open.update(hold.id for hold in made)
        return made

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"tensorgate_{name}", labels) or 0


@pytest.fixture
def stores() -> Stores:
    return Stores()


@contextmanager
def settling(
    stores: Stores, ends: Sequence[tuple[Hold, Charge]] = (), *, models: Sequence[str] = ()
) -> Iterator[Rig]:
    metrics = Metrics()
    known = {"llama-3.1-8b", *models}
    settler = Settler(stores, stores, stores, metrics, known.__contains__)
    settler.start(ends)
    try:
        yield Rig(stores, metrics, settler)
    finally:
        stores.out.clear()
        settler.stop(WAIT)


@pytest.fixture
def rig(stores: Stores) -> Iterator[Rig]:
    with settling(stores) as made:
        yield made


def test_an_end_is_written_down_booked_settled_and_done_in_this_order(rig: Rig) -> None:
    [hold] = rig.holds(1)
    rig.settler.end(hold, made_charge(hold, 40))
    until(lambda: ("done", hold.id) in rig.stores.done_to)
    kinds = [kind for kind, _ in rig.stores.done_to]
    assert kinds == ["close", "end", "book", "settle", "done"]
    assert rig.stores.settled == {hold.id: 40}


def test_it_is_in_sql_within_a_tenth_of_a_second(rig: Rig) -> None:
    [hold] = rig.holds(1)
    started = time.monotonic()
    rig.settler.end(hold, made_charge(hold))
    until(lambda: bool(rig.stores.rows))
    assert time.monotonic() - started < 0.5
    assert settle.GROUP_SECONDS <= 0.1


def test_end_never_waits_for_sql(rig: Rig) -> None:
    with rig.stores.gate:  # a database that hangs
        started = time.monotonic()
        for hold in rig.holds(50):
            rig.settler.end(hold, made_charge(hold))
        assert time.monotonic() - started < 0.5
    until(lambda: len(rig.stores.settled) == 50)


def test_ends_are_booked_in_groups(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "GROUP_SECONDS", 0.2)
    for hold in rig.holds(20):
        rig.settler.end(hold, made_charge(hold))
        time.sleep(0.002)
    until(lambda: len(rig.stores.settled) == 20)
    assert len(rig.stores.groups) <= 3
    assert sum(rig.stores.groups) == 20


def test_what_ended_together_is_written_down_together_and_done_once_all_is_settled(
    rig: Rig,
) -> None:
    holds = rig.holds(5)
    theirs = row_of(holds[1], made_charge(holds[1], 7, basis=Basis.HELD, at=1))
    rig.stores.rows[holds[1].id] = theirs
    rig.settler.end_all([(hold, made_charge(hold, 40)) for hold in holds])
    until(lambda: rig.settler.waiting == 0)
    kinds = [kind for kind, _ in rig.stores.done_to]
    assert kinds == [kind for kind in ("close", "end", "book", "settle", "done") for _ in holds]
    assert rig.stores.settled == {hold.id: 40 for hold in holds} | {holds[1].id: 7}
    until(lambda: rig.value("tokens_total", model="llama-3.1-8b", kind="output") > 0)
    assert rig.value("settlements_total", basis="metered") == 4
    assert rig.value("settlements_total", basis="held") == 0
    assert rig.value("late_settlements_total") == 1
    assert rig.value("tokens_total", model="llama-3.1-8b", kind="output") == 4 * 7
    assert rig.value("spend_usd_total", model="llama-3.1-8b") == pytest.approx(160e-9)


def test_of_two_ends_that_come_together_the_first_counts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "MAX_WAITING", 3)
    first, second, third, fourth = rig.holds(4)
    with rig.stores.gate:  # nothing leaves the queue
        ends = [(hold, made_charge(hold, 40)) for hold in (first, second, third, fourth)]
        rig.settler.end_all([ends[0], (first, made_charge(first, 90)), *ends[1:]])
    until(lambda: rig.settler.waiting == 0)
    assert rig.stores.settled == {first.id: 40, second.id: 40, third.id: 40}
    assert rig.value("late_settlements_total") == 1
    assert rig.value("settlements_dropped_total") == 1
    assert not rig.settler.is_ending(fourth.id)


def test_a_row_of_ours_from_before_a_crash_is_counted_once(stores: Stores) -> None:
    """It was booked, and the lights went out before the counters had it."""
    hold = made_hold(100)
    stores.open.add(hold.id)
    end = made_charge(hold, 40)
    stores.rows[hold.id] = row_of(hold, end)
    with settling(stores, [(hold, end)]) as rig:
        until(lambda: rig.settler.waiting == 0)
        assert stores.settled == {hold.id: 40}
        until(lambda: rig.value("settlements_total", basis="metered") == 1)
        assert rig.value("late_settlements_total") == 0


def test_a_group_has_an_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "GROUP_ROWS", 8)
    for hold in rig.holds(50):
        rig.settler.end(hold, made_charge(hold))
    until(lambda: len(rig.stores.settled) == 50)
    assert max(rig.stores.groups) <= 8


def test_the_row_that_is_there_stands_and_is_what_is_settled(rig: Rig) -> None:
    [hold] = rig.holds(1)
    theirs = row_of(hold, made_charge(hold, 7, basis=Basis.HELD, at=1))
    rig.stores.rows[hold.id] = theirs
    rig.settler.end(hold, made_charge(hold, 40))
    until(lambda: ("done", hold.id) in rig.stores.done_to)
    assert rig.stores.settled == {hold.id: 7}
    assert rig.stores.rows[hold.id] is theirs
    until(lambda: rig.value("late_settlements_total") == 1)
    assert rig.value("settlements_total", basis="held") == 0
    assert rig.value("spend_usd_total", model="llama-3.1-8b") == 0


def test_a_second_end_of_a_waiting_hold_changes_nothing_and_is_counted(rig: Rig) -> None:
    [hold] = rig.holds(1)
    with rig.stores.gate:
        rig.settler.end(hold, made_charge(hold, 40))
        rig.settler.end(hold, made_charge(hold, 90))
        assert rig.settler.is_ending(hold.id)
    until(lambda: bool(rig.stores.settled))
    assert rig.stores.settled == {hold.id: 40}
    assert rig.value("late_settlements_total") == 1
    until(lambda: not rig.settler.is_ending(hold.id))


def test_so_does_one_that_comes_after_it_was_booked(rig: Rig) -> None:
    [hold] = rig.holds(1)
    rig.settler.end(hold, made_charge(hold, 40))
    until(lambda: not rig.settler.is_ending(hold.id))
    rig.settler.end(hold, made_charge(hold, 90, at=hold.admitted_us + 5))
    until(lambda: rig.value("late_settlements_total") == 1)
    assert rig.stores.rows[hold.id].charge_nanousd == 40
    assert rig.stores.settled == {hold.id: 40}


def test_nothing_is_lost_while_sql_is_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.settler, "_retry_seconds", (0.01, 0.02))
    rig.stores.out.set()
    holds = rig.holds(300)
    for hold in holds:
        rig.settler.end(hold, made_charge(hold, 5))
    until(lambda: rig.stores.tries > 2)
    assert rig.settler.waiting == 300
    assert rig.value("ledger_lag_seconds") > 0
    assert rig.stores.settled == {}
    rig.stores.out.clear()
    until(lambda: len(rig.stores.settled) == 300)
    until(lambda: rig.settler.waiting == 0)
    assert rig.value("ledger_lag_seconds") == 0
    assert rig.value("settlements_total", basis="metered") == 300


def test_it_backs_off_however_many_ends_come(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.settler, "_retry_seconds", (0.05, 0.3))
    rig.stores.out.set()
    started = time.monotonic()
    for hold in rig.holds(60):
        rig.settler.end(hold, made_charge(hold))
        time.sleep(0.005)
    spent = time.monotonic() - started
    assert rig.stores.tries <= 3 + spent / 0.3


def test_the_queue_is_bounded_and_what_is_beyond_it_is_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "MAX_WAITING", 10)
    rig.stores.out.set()
    holds = rig.holds(12)
    for hold in holds:
        rig.settler.end(hold, made_charge(hold))
    assert rig.settler.waiting == 10
    assert rig.value("settlements_dropped_total") == 2
    # they stay open, and are swept
    assert ("close", holds[11].id) not in rig.stores.done_to
    rig.stores.out.clear()
    until(lambda: len(rig.stores.settled) == 10)
    rig.settler.end(holds[11], made_charge(holds[11], basis=Basis.HELD))
    until(lambda: len(rig.stores.settled) == 11)


def test_a_journal_that_is_out_does_not_keep_an_end_from_the_ledger(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.stores.journal_is_out = True
    [hold] = rig.holds(1)
    rig.settler.end(hold, made_charge(hold, 40))
    until(lambda: not rig.settler.is_ending(hold.id))
    assert rig.stores.settled == {hold.id: 40}
    assert "the disk is full" in caplog.text


def test_a_row_that_nobody_can_make_does_not_hold_up_the_others(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    holds = rig.holds(20)
    rig.stores.poison.add(holds[3].id)
    for hold in holds:
        rig.settler.end(hold, made_charge(hold, 5))
    until(lambda: rig.settler.waiting == 0)
    assert set(rig.stores.settled) == {hold.id for hold in holds if hold is not holds[3]}
    assert rig.value("settlements_dropped_total") == 1
    assert holds[3].id in caplog.text
    [late] = rig.holds(1)
    rig.settler.end(late, made_charge(late, 5))
    until(lambda: late.id in rig.stores.settled)


def test_what_a_journal_still_knew_is_booked_first(stores: Stores) -> None:
    old = [made_hold(100) for _ in range(3)]
    stores.open.update(hold.id for hold in old)
    with settling(stores, [(hold, made_charge(hold, 5)) for hold in old]) as rig:
        assert all(rig.settler.is_ending(hold.id) or hold.id in stores.settled for hold in old)
        until(lambda: len(stores.settled) == 3)
    # its end was written down before
    assert not [done for done in stores.done_to if done[0] == "end"]


@pytest.mark.parametrize("where", ["settle", "done", "end", "_count", "_pause"])
def test_a_defect_anywhere_ends_nothing(
    stores: Stores, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first time it happens. All ends are booked, and those that come later are settled."""
    monkeypatch.setattr(settle, "RETRY_SECONDS", (0.01,))
    broken = []

    def breaks(*given: object) -> object:
        if not broken:
            broken.append(given)
            raise KeyError("a defect of ours")
        return works(*given)

    with settling(stores) as rig:
        owner = rig.settler if where.startswith("_") else stores
        works = getattr(owner, where)
        monkeypatch.setattr(owner, where, breaks)
        holds = rig.holds(5)
        if where == "_pause":
            stores.out.set()
        rig.settler.end_all([(hold, made_charge(hold, 5)) for hold in holds])
        until(lambda: bool(broken))
        stores.out.clear()
        until(lambda: rig.settler.waiting == 0)
        assert "a defect of ours" in caplog.text
        assert set(stores.rows) == {hold.id for hold in holds}
        unsettled = {hold.id for hold in holds} - stores.settled.keys()
        assert unsettled == ({holds[0].id} if where == "settle" else set())
        done = {hold_id for kind, hold_id in stores.done_to if kind == "done"}
        assert not done & unsettled
        [late] = rig.holds(1)
        rig.settler.end_all([(late, made_charge(late, 5)), (holds[0], made_charge(holds[0], 5))])
        until(lambda: stores.settled.keys() >= {late.id, *unsettled})


# -- the end of the process


def test_stopping_books_what_waits(stores: Stores) -> None:
    with settling(stores) as rig:
        for hold in rig.holds(500):
            rig.settler.end(hold, made_charge(hold))
        assert rig.settler.stop(WAIT)
        assert len(stores.settled) == 500


def test_stopping_waits_for_a_database_that_comes_back(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "RETRY_SECONDS", (0.01,))
    with settling(stores) as rig:
        stores.out.set()
        [hold] = rig.holds(1)
        rig.settler.end(hold, made_charge(hold, 5))
        until(lambda: stores.tries > 0)
        tries, book = stores.tries, stores.book

        def comes_back(ended: Sequence[tuple[Hold, Charge]]) -> dict[str, LedgerRow]:
            if stores.tries > tries + 3:
                stores.out.clear()
            return book(ended)

        monkeypatch.setattr(stores, "book", comes_back)
        assert rig.settler.stop(WAIT)
        assert stores.settled == {hold.id: 5}


def test_stopping_does_not_wait_for_ever(stores: Stores) -> None:
    with settling(stores) as rig:
        stores.out.set()
        [hold] = rig.holds(1)
        rig.settler.end(hold, made_charge(hold))
        until(lambda: stores.tries > 0)
        started = time.monotonic()
        assert not rig.settler.stop(0.3)
        assert 0.2 < time.monotonic() - started < 1.5
        assert ("end", hold.id) in stores.done_to  # the journal has it


def test_stopping_with_nothing_to_do(stores: Stores) -> None:
    with settling(stores) as rig:
        started = time.monotonic()
        assert rig.settler.stop(WAIT)
        assert time.monotonic() - started < 0.5


# -- what is counted


def test_what_is_counted_of_an_end(rig: Rig) -> None:
    [hold] = rig.holds(1)
    rig.settler.end(hold, made_charge(hold, 40))
    until(lambda: rig.value("tokens_total", model="llama-3.1-8b", kind="output") > 0)
    assert rig.value("settlements_total", basis="metered") == 1
    assert rig.value("spend_usd_total", model="llama-3.1-8b") == pytest.approx(40e-9)
    assert rig.value("tokens_total", model="llama-3.1-8b", kind="input") == 11
    assert rig.value("tokens_total", model="llama-3.1-8b", kind="cached_input") == 3
    assert rig.value("tokens_total", model="llama-3.1-8b", kind="output") == 7
    assert rig.value("hold_exceeded_total", model="llama-3.1-8b") == 0


@pytest.mark.parametrize(
    ("nanousd", "basis", "exceeded"),
    [(100, Basis.METERED, 0), (101, Basis.METERED, 1), (101, Basis.ESTIMATED, 0)],
)
def test_a_metered_charge_above_its_hold_is_counted(
    rig: Rig, nanousd: int, basis: Basis, exceeded: int
) -> None:
    [hold] = rig.holds(1, nanousd=100)
    rig.settler.end(hold, made_charge(hold, nanousd, basis=basis))
    until(lambda: rig.value("tokens_total", model="llama-3.1-8b", kind="output") > 0)
    assert rig.value("hold_exceeded_total", model="llama-3.1-8b") == exceeded
    assert rig.stores.settled == {hold.id: nanousd}


def test_a_model_that_the_catalog_does_not_name_is_other(rig: Rig) -> None:
    hold = made_hold(100, model="whatever a client wrote")
    rig.stores.open.add(hold.id)
    rig.settler.end(hold, made_charge(hold, 40, basis=Basis.HELD))
    until(lambda: rig.value("settlements_total", basis="held") == 1)
    until(lambda: rig.value("spend_usd_total", model="other") > 0)
    assert rig.value("spend_usd_total", model=hold.model) == 0


def test_a_usage_that_cannot_be_is_counted_and_said_once_a_model(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    for hold in rig.holds(3):
        rig.settler.exceeded(hold)
    for model in ("anything", "somebody", "asks for"):
        rig.settler.exceeded(made_hold(model=model))
    assert rig.value("hold_exceeded_total", model="llama-3.1-8b") == 3
    assert rig.value("hold_exceeded_total", model="other") == 3
    assert len(caplog.records) == 2
    assert "more than $1,000,000" in caplog.text


# -- counters outside of the process, which may be out


@dataclass
class Distant(Stores):
    """As Redis: it may be out, and forget."""

    counters_out: bool = False

    def close(self, hold: Hold) -> bool:
        if self.counters_out:
            raise StoreUnavailableError("the counters do not answer")
        return super().close(hold)

    def settle(self, hold: Hold, charge_nanousd: int) -> bool:
        if self.counters_out:
            raise StoreUnavailableError("the counters do not answer")
        return super().settle(hold, charge_nanousd)


@contextmanager
def settling_afar(stores: Distant) -> Iterator[tuple[Rig, list[Hold]]]:
    metrics, missed = Metrics(), list[Hold]()
    settler = Settler(stores, Unjournaled(), stores, metrics, lambda _: True, missed=missed.append)
    settler.start()
    try:
        yield Rig(stores, metrics, settler), missed
    finally:
        stores.counters_out = False
        settler.stop(WAIT)


def test_an_end_that_cannot_be_closed_is_booked_and_those_with_it_are_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a node of a cluster that is out, or for a defect of ours: it must not be lost."""
    stores = Distant()
    with settling_afar(stores) as (rig, _):
        holds = rig.holds(3)
        faults = {holds[0].id: StoreUnavailableError("out"), holds[1].id: KeyError("a defect")}

        def close(hold: Hold) -> bool:
            if hold.id in faults:
                raise faults[hold.id]
            return Stores.close(stores, hold)

        monkeypatch.setattr(stores, "close", close)
        rig.settler.end_all([(hold, made_charge(hold, 5)) for hold in holds])
        until(lambda: len(stores.settled) == 3)
        assert ("close", holds[2].id) in stores.done_to
        assert "a defect" in caplog.text
        until(lambda: not any(rig.settler.is_ending(hold.id) for hold in holds))


def test_rows_do_not_wait_for_counters_that_are_out_and_all_are_settled_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settle, "SETTLE_RETRY_SECONDS", 0.01)
    stores = Distant(counters_out=True)
    with settling_afar(stores) as (rig, missed):
        first, second = rig.holds(2)
        rig.settler.end(first, made_charge(first, 40))
        until(lambda: first.id in stores.rows)
        rig.settler.end(second, made_charge(second, 50))
        until(lambda: second.id in stores.rows)
        until(lambda: rig.settler.waiting == 0)
        assert stores.settled == {}
        assert rig.settler.is_ending(first.id), "the sweeper must not end it again"
        until(lambda: "cannot be settled yet" in caplog.text)
        stores.counters_out = False
        until(lambda: stores.settled == {first.id: 40, second.id: 50})
        until(lambda: not rig.settler.is_ending(second.id))
        assert missed == []
        assert caplog.text.count("cannot be settled yet") == 1


def test_stopping_says_what_is_not_settled() -> None:
    stores = Distant(counters_out=True)
    with settling_afar(stores) as (rig, _):
        [hold] = rig.holds(1)
        rig.settler.end(hold, made_charge(hold, 40))
        until(lambda: hold.id in stores.rows)
        assert not rig.settler.stop(0.05)


def test_of_many_that_are_settled_in_one_go_one_that_is_not_answered_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a cluster of which one node is out; and a defect costs nobody else anything."""
    monkeypatch.setattr(settle, "SETTLE_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(settle, "TOGETHER", 3)
    stores, metrics = Stores(), Metrics()
    out, broken = set[str](), set[str]()
    groups: list[int] = []

    def settle_all(ends: Sequence[tuple[Hold, int]]) -> list[bool | StoreError]:
        groups.append(len(ends))
        if any(hold.id in broken for hold, _ in ends):
            raise KeyError("a defect of ours")
        fault = StoreUnavailableError("this node does not answer")
        return [fault if hold.id in out else stores.settle(hold, usd) for hold, usd in ends]

    settler = Settler(stores, Unjournaled(), stores, metrics, lambda _: True, settle_all=settle_all)
    settler.start()
    try:
        rig = Rig(stores, metrics, settler)
        holds = rig.holds(7)
        out.add(holds[1].id)
        broken.add(holds[4].id)
        settler.end_all([(hold, made_charge(hold, 5)) for hold in holds])
        until(lambda: len(stores.settled) == 6)
        assert settler.is_ending(holds[1].id)
        assert max(groups) == 3
        assert "a defect of ours" in caplog.text
        out.clear()
        until(lambda: len(stores.settled) == 7)
        until(lambda: not settler.is_ending(holds[1].id))
    finally:
        settler.stop(WAIT)


def test_ends_of_a_node_that_is_out_keep_no_others_waiting_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settle, "SETTLE_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(settle, "TOGETHER", 3)
    stores, metrics, out = Stores(), Metrics(), set[str]()

    def settle_all(ends: Sequence[tuple[Hold, int]]) -> list[bool | StoreError]:
        fault = StoreUnavailableError("this node does not answer")
        return [fault if hold.id in out else stores.settle(hold, usd) for hold, usd in ends]

    settler = Settler(stores, Unjournaled(), stores, metrics, lambda _: True, settle_all=settle_all)
    settler.start()
    try:
        holds = Rig(stores, metrics, settler).holds(9)
        out.update(hold.id for hold in holds[:5])
        settler.end_all([(hold, made_charge(hold, 5)) for hold in holds])
        until(lambda: stores.settled.keys() == {hold.id for hold in holds[5:]})
        out.clear()
        until(lambda: len(stores.settled) == 9)
    finally:
        settler.stop(WAIT)


def test_what_waits_for_the_counters_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "SETTLE_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(settle, "MAX_WAITING", 2)
    stores = Distant(counters_out=True)
    with settling_afar(stores) as (rig, _):
        holds = rig.holds(3)
        for hold in holds:
            rig.settler.end(hold, made_charge(hold))
            until(lambda: rig.settler.waiting == 0)
        until(lambda: not rig.settler.is_ending(holds[0].id))
        assert [rig.settler.is_ending(hold.id) for hold in holds] == [False, True, True]
        stores.counters_out = False
        until(lambda: stores.settled.keys() == {holds[1].id, holds[2].id})


def test_a_new_row_of_a_hold_that_the_counters_do_not_know_is_told_of() -> None:
    stores = Distant()
    with settling_afar(stores) as (rig, missed):
        known, other = rig.holds(2)
        stores.open.discard(other.id)
        theirs = made_hold()
        stores.rows[theirs.id] = row_of(theirs, made_charge(theirs, 7, at=1))
        rig.settler.end_all([(hold, made_charge(hold)) for hold in (known, other, theirs)])
        until(lambda: not rig.settler.is_ending(theirs.id))
        assert missed == [other], "not of one that somebody else booked, and settles"
        assert rig.value("settlements_total", basis="metered") == 2
