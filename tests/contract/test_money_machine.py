"""Money, driven at random through all that can happen to it, against a model of a few lines.

Real ledger, real journal, real counters; the walk from an end to its row and back to the
counters is taken step by step, so that everything else may happen in between. The model keeps
what was admitted and what was booked, nothing else, and says what each step must answer.

What must hold: spent + held never exceeds a budget; every hold ends in exactly one row; the
counters are what ledger and open holds say, whatever was lost on the way.

What can happen, and the rule that does it: take (`take`, `take_much`), a repeated Check, a
cancelled one, one that timed out (each its own), settle (`end_entries`, `book`,
`tell_the_counters`), a replayed entry (`end_entries` of a hold that ends already), a lost one (no
rule: then `sweep_by_two` finds it), `heartbeat`, a crash and the restart after it, counters lost
(`something_fails`), a window's turn and a change of price (one rule). Two are named after counters
outside of the process, and are this inside of it:

- a late script, which the store runs when nobody waits for it any more: a take that comes after the
  end of its request was told (`late_script`);
- counters from an old snapshot: there is none to bring them back, as they are made of ledger and
  journal at each start; but the journal can be an old one, or none (`something_fails`).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from moneyhelp import (
    ACCOUNT,
    KEY,
    OTHER_KEY,
    charge,
    draft,
    fast_engine,
    limits,
    mint,
)
from statehelp import FakeClock

from store import journal as journals
from store.counters.memory import MemoryCounters
from store.counters.model import (
    REMEMBERED_US,
    Ended,
    MoneyStanding,
    NotSeeded,
    Refused,
    Standing,
    Taken,
)
from store.journal import Journal
from store.ledger import Ledger
from store.ledgerreader import LedgerReader
from store.records import (
    MINUTE_US,
    SECOND_US,
    WINDOW_US,
    Basis,
    Charge,
    Hold,
    KeyRecord,
    Price,
    Window,
    window_at,
)
from store.seeding import SeededCounters, drift, recover

DEADLINE_US = 60 * SECOND_US
PACED_KEY = replace(KEY, rpm=6, budget_nanousd=1000)
FREE_KEY = replace(OTHER_KEY, rpm=None, budget_nanousd=1500)
KEYS = (PACED_KEY, FREE_KEY)
ACCOUNT_BUDGET = 1900
BUDGETS = {PACED_KEY.id: 1000, FREE_KEY.id: 1500, ACCOUNT.id: ACCOUNT_BUDGET}
CREATED = {key.id: key.created_us for key in KEYS} | {ACCOUNT.id: ACCOUNT.created_us}

some = st.randoms(use_true_random=False)
units = st.integers(min_value=0, max_value=8)


def limits_of(key: KeyRecord) -> tuple[object, ...]:
    return limits(key, account_budget=ACCOUNT_BUDGET)


class Model:
    """What was admitted, what each hold's row says, which of these the counters were told."""

    def __init__(self) -> None:
        self.holds: dict[str, Hold] = {}
        self.rows: dict[str, int] = {}
        self.told: dict[str, int] = {}  # hold id → when
        self.closed: set[str] = set()
        self.checks: dict[str, int] = {}
        self.seen: dict[str, int] = {}  # the last sign of life
        self.ends: dict[str, Charge] = {}  # in the journal

    def admit(self, hold: Hold, now: int) -> None:
        self.holds[hold.id] = hold
        self.checks[hold.id] = 1
        self.seen[hold.id] = now

    def open(self) -> list[Hold]:
        return [hold for hold in self.holds.values() if hold.id not in self.told]

    def sums(self, window: Window) -> tuple[int, int]:
        inside = [hold for hold in self.holds.values() if window in hold.windows]
        spent = sum(self.rows[hold.id] for hold in inside if hold.id in self.told)
        return spent, sum(hold.nanousd for hold in inside if hold.id not in self.told)

    def minute(self, key: KeyRecord, now: int) -> list[int]:
        return sorted(
            hold.admitted_us
            for hold in self.holds.values()
            if hold.minute == key.id and hold.admitted_us > now - MINUTE_US
        )

    def refusal(self, key: KeyRecord, nanousd: int, now: int) -> str | None:
        if key.rpm is not None and len(self.minute(key, now)) >= key.rpm:
            return "minute"
        if not nanousd:
            return None
        found = [(scope, *self.sums(present(scope, now))) for scope in (key.id, ACCOUNT.id)]
        if any(spent + nanousd > BUDGETS[scope] for scope, spent, _ in found):
            return "exceeded"
        if any(spent + held + nanousd > BUDGETS[scope] for scope, spent, held in found):
            return "held"
        return None


def present(scope: str, now: int) -> Window:
    return Window(scope, window_at(CREATED[scope], now))


class MoneyMachine(RuleBasedStateMachine):
    """Over counters in process and a journal; test_money_machine_redis.py has others below it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "journal"
        self.engine = fast_engine(self.folder)
        mint(self.engine, *KEYS)
        self.ledger = Ledger(self.engine)
        self.clock = FakeClock()
        self.price = Price(input=50)
        self.model = Model()
        self.waiting: list[tuple[Hold, Charge]] = []  # ends whose rows are not made yet
        self.booked: list[tuple[Hold, int]] = []  # the counters have not been told
        self.snapshot = (b"", dict[str, Charge]())
        self.start()

    def start(self) -> None:
        self.journal = Journal(self.path)
        self.counters = MemoryCounters(self.clock, self.journal.take)
        self.gate = SeededCounters(self.counters, self.ledger)
        ends = recover(self.counters, self.journal, self.ledger, self.clock())
        model = self.model
        for hold_id in model.rows.keys() - model.told.keys():
            model.told[hold_id] = self.clock()
        for hold_id, row in self.ledger.rows(list(model.rows)).items():
            model.told[hold_id] = min(model.told[hold_id], row.settled_us)
        expected = {hold.id: model.ends[hold.id] for hold in model.open() if hold.id in model.ends}
        assert {hold.id: end for hold, end in ends} == expected
        assert sorted(h.id for h in self.counters.open_holds()) == sorted(
            h.id for h in model.open()
        )
        model.closed = set(expected)
        model.checks = dict.fromkeys(model.holds, 1)
        model.seen = dict.fromkeys(model.holds, self.clock())
        self.waiting += ends

    def knows(self, hold: Hold) -> bool:
        """Whether the counters have the hold open."""
        return hold.id not in self.model.told

    def before_asking(self) -> None:
        """What asking the gate brings about, where the counters have forgotten the account."""

    def admitted(self, hold: Hold) -> None:
        """It is written down: in process, in the journal, before it counts."""

    def is_ending(self, end: Charge) -> None:
        self.journal.end(end)

    def has_ended(self, hold: Hold) -> None:
        self.journal.done(hold.id)

    # --- what clients and Envoy do

    @rule(sizes=st.lists(units, min_size=1, max_size=6), random=some)
    def take(self, sizes: list[int], random: Random) -> None:
        for size in sizes:
            self.take_one(random.choice(KEYS), size)

    @rule(sizes=st.lists(st.integers(min_value=4, max_value=8), min_size=3, max_size=8))
    def take_much(self, sizes: list[int]) -> None:
        for size in sizes:
            self.take_one(FREE_KEY, size)

    def take_one(self, key: KeyRecord, size: int) -> None:
        self.before_asking()
        now = self.clock()
        asked = draft(size * self.price.input, key=key, price=self.price, input_bound=size)
        expected = self.model.refusal(key, asked.nanousd, now)
        answer = self.gate.take(asked.request_id, asked, limits_of(key))
        if expected is None:
            assert isinstance(answer, Taken), (answer, expected)
            windows = (present(key.id, now), present(ACCOUNT.id, now))
            assert answer.hold == asked.admitted(now, windows)
            self.model.admit(answer.hold, now)
            self.admitted(answer.hold)
        else:
            assert isinstance(answer, Refused), (answer, expected)
            if isinstance(answer.standings[0], Standing) and answer.limit.scope == key.id:
                assert (expected == "minute") == (answer.limit == limits_of(key)[0])
            if expected != "minute":
                assert answer.held == (expected == "held")
        self.compare(answer.standings, now)

    def compare(self, standings: tuple[Standing | MoneyStanding, ...], now: int) -> None:
        for standing in standings:
            if isinstance(standing, Standing):
                assert standing.used == len(self.model.minute(PACED_KEY, now))
            else:
                window = Window(standing.limit.scope, standing.window)
                sums = standing.spent_nanousd, standing.held_nanousd
                assert sums == self.model.sums(window)
                assert sum(sums) <= BUDGETS[window.scope]

    def some_hold(self, random: Random) -> Hold:
        """Of an open hold more often than of one that has ended."""
        opened = self.model.open()
        return random.choice(
            opened if opened and random.random() < 0.8 else list(self.model.holds.values())
        )

    @precondition(lambda self: self.model.holds)
    @rule(random=some)
    def repeated_check(self, random: Random) -> None:
        self.before_asking()
        hold = self.some_hold(random)
        now = self.clock()
        ended_us = self.model.told.get(hold.id)
        if ended_us is not None and now - ended_us >= REMEMBERED_US:
            return
        key = next(key for key in KEYS if key.id == hold.key_id)
        again = draft(hold.nanousd, key=key, request_id=hold.request_id)
        answer = self.gate.take(hold.request_id, again, limits_of(key))
        if ended_us is not None or hold.id in self.model.closed:
            assert answer == Ended(now)
        else:
            assert isinstance(answer, Taken)
            assert answer.hold == hold
            self.model.checks[hold.id] += 1
            self.model.seen[hold.id] = now
            self.compare(answer.standings, now)

    @precondition(lambda self: self.model.holds)
    @rule(random=some)
    def cancelled_check(self, random: Random) -> None:
        hold = self.some_hold(random)
        running = self.knows(hold) and hold.id not in self.model.closed
        last = running and self.model.checks[hold.id] == 1
        if running:
            self.model.checks[hold.id] -= 1
        assert self.counters.give_back(hold) == last
        if last:
            self.end(hold, charge(hold, 0, basis=Basis.RELEASED, at=self.clock()))

    @precondition(lambda self: self.model.holds)
    @rule(random=some)
    def timed_out_check(self, random: Random) -> None:
        """An end entry that has no metadata of ours."""
        hold = self.some_hold(random)
        ended_us = self.model.told.get(hold.id)
        if ended_us is not None and self.clock() - ended_us >= REMEMBERED_US:
            return
        running = ended_us is None and hold.id not in self.model.closed
        assert self.counters.abandon(hold.request_id) == (hold if running else None)
        if running:
            self.end(hold, charge(hold, 0, basis=Basis.RELEASED, at=self.clock()))

    @rule(seconds=st.sampled_from([0, 1, 59]))
    def late_script(self, seconds: int) -> None:
        """Envoy answered without us; the Check that it gave up on comes to its take only now."""
        asked = draft(50, key=FREE_KEY)
        assert self.counters.abandon(asked.request_id) is None
        self.clock.now_us += seconds * SECOND_US
        answer = self.gate.take(asked.request_id, asked, limits_of(FREE_KEY))
        assert answer == Ended(self.clock())

    @precondition(lambda self: self.model.holds)
    @rule(random=some, used=st.lists(st.sampled_from([8, 3, 8, 0]), min_size=1, max_size=5))
    def end_entries(self, random: Random, used: list[int]) -> None:
        """Of requests that run, or, replayed, of some that ended: then with another charge.

        An entry that is lost is one for which this rule never comes.
        """
        for so_much in used:
            self.end_entry(random, so_much)

    def end_entry(self, random: Random, used: int) -> None:
        asked = self.some_hold(random)
        hold = self.counters.hold(ACCOUNT.id, asked.id)
        assert (hold is not None) == self.knows(asked)
        if asked.id not in self.model.told:
            hold = hold or asked  # as SQL has it
            nanousd = min(used, hold.input_bound) * hold.price.input
            self.end(hold, charge(hold, nanousd, at=self.clock()))

    @precondition(lambda self: self.model.holds)
    @rule(random=some)
    def heartbeat(self, random: Random) -> None:
        hold = self.some_hold(random)
        assert self.counters.beat(ACCOUNT.id, hold.id) == self.knows(hold)
        self.model.seen[hold.id] = self.clock()

    # --- what we do about it

    def end(self, hold: Hold, end: Charge) -> None:
        self.counters.close(hold)
        self.model.closed.add(hold.id)
        self.is_ending(end)
        self.model.ends.setdefault(hold.id, end)
        self.waiting.append((hold, end))

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(min_value=1, max_value=4))
    def book(self, number: int) -> None:
        group, self.waiting = self.waiting[:number], self.waiting[number:]
        others = self.ledger.book(group)
        assert not others or others.keys() == {hold.id for hold, _ in group}
        for hold, end in group:
            nanousd = others[hold.id].charge_nanousd if others else end.nanousd
            assert nanousd == self.model.rows.setdefault(hold.id, end.nanousd)
            self.booked.append((hold, nanousd))

    @precondition(lambda self: self.booked)
    @rule(number=st.integers(min_value=1, max_value=4))
    def tell_the_counters(self, number: int) -> None:
        group, self.booked = self.booked[:number], self.booked[number:]
        for hold, nanousd in group:
            assert self.counters.settle(hold, nanousd) == self.knows(hold)
            self.has_ended(hold)
            self.model.told.setdefault(hold.id, self.clock())

    @rule()
    def sweep_by_two(self) -> None:
        horizon = self.clock() - DEADLINE_US
        silent = [hold for hold in self.model.open() if self.model.seen[hold.id] <= horizon]
        expected = [hold for hold in silent if self.knows(hold)]
        swept = [self.counters.overdue(DEADLINE_US) for _ in range(2)]
        for overdue in swept:
            assert sorted(h.id for h in overdue) == sorted(h.id for h in expected)
            for hold in overdue:
                self.end(hold, charge(hold, hold.nanousd, basis=Basis.HELD, at=self.clock()))

    @rule(late=st.booleans())
    def copy(self, late: bool) -> None:
        """What is copied late was open when it was listed; its row may be there by now."""
        holds = self.model.holds.values() if late else self.counters.open_holds()
        self.ledger.copy_holds(list(holds))

    # --- what happens to us

    @precondition(lambda self: self.model.holds)
    @rule(
        what=st.sampled_from(["crash", "crash", "snapshot", "counters"]),
        torn=st.binary(max_size=60) | st.integers(min_value=0, max_value=300),
        keep=st.booleans(),
    )
    def something_fails(self, what: str, torn: bytes | int, keep: bool) -> None:
        if what == "crash":
            self.crash_and_restart(torn)
        elif what == "snapshot":
            self.crash_and_restart_from_the_snapshot()
        else:
            self.counters_lost()
        if keep:
            self.snapshot = (self.path.read_bytes(), dict(self.model.ends))

    def crash_and_restart(self, torn: bytes | int) -> None:
        """The journal stays, perhaps with a part of a record that was being written."""
        if isinstance(torn, int):
            torn = journals._line(b"T" + journals.pack_hold(draft(7)))[:torn]
        kept = self.path.read_bytes() + torn.replace(b"\n", b"")
        self.restart(kept)

    def crash_and_restart_from_the_snapshot(self) -> None:
        """A journal of long ago, or none; the copy in SQL is what it was a second before."""
        self.copy(late=False)
        kept, self.model.ends = self.snapshot[0], dict(self.snapshot[1])
        self.restart(kept)

    def restart(self, journal: bytes) -> None:
        self.journal.close()
        self.path.write_bytes(journal)
        self.waiting.clear()
        self.booked.clear()
        self.start()

    def counters_lost(self) -> None:
        """And only they: what waits to be booked, or to be told them, still does."""
        self.journal.close()
        self.start()

    @rule(seconds=st.sampled_from([1, 7, 30, 60, 61]))
    def time_passes(self, seconds: int) -> None:
        self.clock.now_us += seconds * SECOND_US

    @rule(
        scope=st.sampled_from([*CREATED]),
        short=st.sampled_from([0, 1]),
        nanousd=st.sampled_from([1, 50, 125]),
    )
    def price_changes_and_a_window_turns(self, scope: str, short: int, nanousd: int) -> None:
        self.price = Price(input=nanousd)
        number = present(scope, self.clock()).number
        turn_us = CREATED[scope] + (number + 1) * WINDOW_US
        self.clock.now_us = max(self.clock.now_us, turn_us - short)

    # --- what must hold

    @invariant()
    def no_budget_is_overrun(self) -> None:
        windows = {window for hold in self.model.holds.values() for window in hold.windows}
        for window in windows:
            inside = [h for h in self.model.holds.values() if window in h.windows]
            total = sum(self.model.rows.get(hold.id, hold.nanousd) for hold in inside)
            assert total <= BUDGETS[window.scope]

    @invariant()
    def counters_are_what_sql_says(self) -> None:
        looked = self.counters.peek(limits_of(PACED_KEY), ACCOUNT.id)
        if not isinstance(looked, NotSeeded):
            now, standings = looked
            self.compare(standings, now)
            assert drift(self.counters, self.ledger, ACCOUNT.id) == 0

    @rule()
    def look(self) -> None:
        self.before_asking()
        now, standings = self.gate.peek(limits_of(PACED_KEY), ACCOUNT.id)
        self.compare(standings, now)

    @initialize(sizes=st.lists(units, min_size=2, max_size=6), random=some)
    def begin(self, sizes: list[int], random: Random) -> None:
        self.take(sizes=sizes, random=random)

    def teardown(self) -> None:
        try:
            self.come_to_rest()
        finally:
            self.stop()
            self.engine.dispose()
            shutil.rmtree(self.folder)

    def stop(self) -> None:
        self.journal.close()

    def nothing_is_open(self) -> None:
        assert self.counters.outstanding == 0
        assert journals.read(self.path.read_bytes(), self.path).holds == ()

    def come_to_rest(self) -> None:
        self.before_asking()
        self.clock.now_us += DEADLINE_US
        self.sweep_by_two()
        while self.waiting:
            self.book(3)
        while self.booked:
            self.tell_the_counters(3)
        rows = list(LedgerReader(self.engine).rows())
        assert sorted(row.hold_id for row in rows) == sorted(self.model.holds)
        assert {row.hold_id: row.charge_nanousd for row in rows} == self.model.rows
        assert self.ledger.open_holds() == []
        self.nothing_is_open()
        self.look()
        self.counters_are_what_sql_says()
        verified = LedgerReader(self.engine).verify()
        assert verified.faults == ()
        assert (verified.rows, verified.open_holds) == (len(rows), 0)
        assert verified.charged_nanousd == sum(self.model.rows.values())


def run(machine: type[MoneyMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(autouse=True)
def _no_disk_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_fsync", lambda _: None)
    monkeypatch.setattr(journals, "_sync_folder", lambda _: None)


def test_money_whatever_happens() -> None:
    run(MoneyMachine, examples=40, steps=50)


@pytest.mark.soak
def test_money_whatever_happens_for_long() -> None:
    run(MoneyMachine, examples=3000, steps=80)
