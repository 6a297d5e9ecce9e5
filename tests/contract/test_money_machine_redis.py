"""The machine of test_money_machine.py over counters in real Valkey, and what can befall those.

There is no journal: a worker keeps each hold until SQL has it (`flush`; before a seed, always), and
SQL's table is what is open. What can happen to the counters, and the rule that does it: they are
emptied (FLUSHALL), restarted empty, or restarted from an old snapshot (`something_fails`); a worker
dies with the ends that it knew (the same); an answer is lost, before the script ran or after it
(`late_script`).

The one stated hole is kept out: a worker that dies with holds which only Redis knows, and Redis
lost before these were swept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, ClassVar, TypeVar

import pytest
from counterhelp import PATIENT
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from moneyhelp import ACCOUNT, charge, draft
from peers.valkey import Cluster, Valkey, valkey_node
from test_money_machine import FREE_KEY, PACED_KEY, MoneyMachine, limits_of, run, some

from store.counters.address import parse
from store.counters.link import Link
from store.counters.model import Ended, NotSeeded, Refused, Standings, Taken
from store.counters.redis import RedisCounters
from store.errors import StoreUnavailableError
from store.records import SECOND_US, Basis, Charge, Hold
from store.seeding import SeededCounters

Answer = TypeVar("Answer")


class Patient(SeededCounters):
    """Who is told that an account is out asks again; meanwhile it is seeded."""

    def take(self, *asked: Any) -> Taken | Refused | Ended:
        return patiently(lambda: super(Patient, self).take(*asked))

    def peek(self, *asked: Any) -> tuple[int, Standings]:
        return patiently(lambda: super(Patient, self).peek(*asked))


def patiently(ask: Callable[[], Answer]) -> Answer:
    deadline = time.monotonic() + 10
    while True:
        try:
            return ask()
        except StoreUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.002)


class RedisMachine(MoneyMachine):
    """`link` and `nodes` are set by whoever runs it."""

    link: ClassVar[Link]
    nodes: ClassVar[tuple[Valkey, ...]]
    may_restart: ClassVar[bool] = True

    def start(self) -> None:
        for node in self.nodes:
            node.ask("FLUSHALL")
            if self.may_restart:  # which must not bring back what the machine before this one took
                node.ask("SAVE")
        self.unflushed: list[Hold] = []
        self.orphans: list[Hold] = []  # only Redis knows them: their worker died
        self.lost = True
        self.saved = False
        self.begin_again()

    def begin_again(self) -> None:
        """As another worker, or the same one."""
        self.counters = RedisCounters(self.link, self.clock)  # type: ignore[assignment]
        self.gate = Patient(self.counters, self.ledger, lambda *_: self.flush(), self.counters)

    def stop(self) -> None:
        """Nothing of it stays open."""
        self.gate.close()

    # --- a worker's side

    def knows(self, hold: Hold) -> bool:
        return not self.lost and super().knows(hold)

    def before_asking(self) -> None:
        """The first who asks seeds the account from SQL; then the counters know what that knows."""
        if not self.lost:
            return
        self.gate.peek(limits_of(PACED_KEY), ACCOUNT.id)
        self.gate.close()  # another seed may be under way, which would find what happens next
        self.begin_again()
        self.lost = False
        model, now = self.model, self.clock()
        for hold_id, row in self.ledger.rows(list(model.rows)).items():
            model.told[hold_id] = min(model.told.get(hold_id, now), row.settled_us)
        model.closed = set()
        model.checks = dict.fromkeys(model.holds, 1)
        model.seen = dict.fromkeys(model.holds, now)

    def admitted(self, hold: Hold) -> None:
        self.unflushed.append(hold)

    def is_ending(self, end: Charge) -> None:
        """There is no journal: a worker that dies forgets it, and the hold is swept."""

    def has_ended(self, hold: Hold) -> None:
        self.orphans = [each for each in self.orphans if each.id != hold.id]

    def flush(self) -> None:
        self.ledger.copy_holds(self.unflushed)
        self.unflushed = []

    @rule(late=st.booleans())
    def copy(self, late: bool) -> None:
        """What is written late may have ended; its row may be there by now."""
        if late:
            self.unflushed += [
                hold for hold in self.model.holds.values() if hold.id in self.model.rows
            ]
        self.flush()

    # --- what clients and Envoy do

    @precondition(lambda self: self.model.holds)
    @rule(random=some)
    def timed_out_check(self, random: Random) -> None:
        """An end entry that has no metadata of ours: SQL knows the hold."""
        hold = self.some_hold(random)
        running = hold.id not in self.model.told and hold.id not in self.model.closed
        assert self.counters.close(hold) == (running and self.knows(hold))
        if running:
            self.end(hold, charge(hold, 0, basis=Basis.RELEASED, at=self.clock()))

    @rule(seconds=st.sampled_from([0, 1, 59]), ran=st.booleans(), repeated=st.booleans())
    def late_script(self, seconds: int, ran: bool, repeated: bool) -> None:
        """A take whose answer is lost is withdrawn: it ran before that, or comes only then."""
        self.before_asking()
        now = self.clock()
        price, size = self.price, 2
        asked = draft(size * price.input, key=FREE_KEY, price=price, input_bound=size)
        fits = self.model.refusal(FREE_KEY, asked.nanousd, now) is None
        if ran:
            answer = self.counters.take(asked.request_id, asked, limits_of(FREE_KEY))
            assert isinstance(answer, Taken) == fits
            if isinstance(answer, Taken):
                assert answer.hold is not None
                self.model.admit(answer.hold, now)
                if repeated:
                    again = draft(asked.nanousd, key=FREE_KEY, request_id=asked.request_id)
                    other = self.counters.take(asked.request_id, again, limits_of(FREE_KEY))
                    assert isinstance(other, Taken)
                    assert other.hold == answer.hold
                    self.unflushed.append(answer.hold)
        withdrawn = self.counters.withdraw(asked)  # type: ignore[attr-defined]
        assert withdrawn == (self.model.holds[asked.id] if ran and fits and not repeated else None)
        if withdrawn is not None:
            self.unflushed.append(withdrawn)
            self.end(withdrawn, charge(withdrawn, 0, basis=Basis.RELEASED, at=now))
        self.clock.now_us += seconds * SECOND_US
        late = self.counters.take(asked.request_id, asked, limits_of(FREE_KEY))
        assert late == Ended(self.clock())

    # --- what happens to us

    @precondition(lambda self: self.model.holds)
    @rule(
        what=st.sampled_from(["crash", "emptied", "restarted"]),
        flushed=st.booleans(),
        keep=st.booleans(),
    )
    def something_fails(self, what: str, flushed: bool, keep: bool) -> None:
        if what == "crash":
            self.crash(flushed)
        elif not any(hold.id not in self.model.told for hold in self.orphans):
            self.lose(restart=what == "restarted" and self.may_restart)
        if keep and self.may_restart:
            self.nodes[0].ask("SAVE")

    def crash(self, flushed: bool) -> None:
        if flushed or self.lost:
            self.flush()
        self.orphans += self.unflushed
        self.unflushed = []
        self.waiting.clear()
        for hold, nanousd in self.booked:  # whoever ends one of these again finds its row
            self.waiting.append((hold, charge(hold, nanousd, at=self.clock())))
        self.booked.clear()
        self.gate.close()
        self.begin_again()

    def lose(self, *, restart: bool) -> None:
        for node in self.nodes:
            if restart:
                node.restart()
            else:
                node.ask("FLUSHALL")
        self.lost = True
        self.counters.flush_asked()  # type: ignore[attr-defined]
        assert isinstance(self.counters.peek(limits_of(PACED_KEY), ACCOUNT.id), NotSeeded)

    # --- what must hold

    def nothing_is_open(self) -> None:
        assert self.counters.open_holds() == []
        assert set(self.counters.accounts()) <= {ACCOUNT.id}

    def come_to_rest(self) -> None:
        super().come_to_rest()
        standing = self.counters.generation(ACCOUNT.id)
        assert standing.open_holds == ()


@pytest.fixture(scope="module")
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server that may be killed."""
    with valkey_node(tmp_path_factory.mktemp("machine")) as node:
        yield node


def machine(link: Link, nodes: tuple[Valkey, ...], *, may_restart: bool) -> type[RedisMachine]:
    """The machine over these servers."""
    given = {"link": link, "nodes": nodes, "may_restart": may_restart}
    return type("RedisMachine", (RedisMachine,), given)


def test_money_in_valkey_whatever_happens(own_node: Valkey) -> None:
    with Link(parse(own_node.url), PATIENT) as link:
        run(machine(link, (own_node,), may_restart=True), examples=12, steps=40)


def test_money_in_a_cluster_whatever_happens(cluster: Cluster) -> None:
    with Link(parse(cluster.url), PATIENT) as link:
        run(machine(link, tuple(cluster.nodes), may_restart=False), examples=5, steps=30)


@pytest.mark.soak
def test_money_in_valkey_whatever_happens_for_long(own_node: Valkey) -> None:
    with Link(parse(own_node.url), PATIENT) as link:
        run(machine(link, (own_node,), may_restart=True), examples=1000, steps=80)
