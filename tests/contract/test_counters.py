"""What counters promise, once for every backend: the minute on both its sides.

All is asked twice: of requests that hold no money (listings), and of requests that hold some, of
which the budget has no end. What the counters answer is held against `Naive`, which writes the
contract the dull way. Money itself is in test_counters_money.py, and what only counters in Redis
have to do with in test_counters_redis.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, pairwise
from threading import Barrier
from typing import Any

import pytest
from counterhelp import Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from moneyhelp import ACCOUNT, KEY, draft, seeded
from support import ManualClock

from store.clock import Clock
from store.counters.model import (
    Counters,
    Ended,
    MinuteLimit,
    MoneyLimit,
    MoneyStanding,
    NotSeeded,
    Refused,
    Standing,
    Standings,
    Taken,
)
from store.records import MINUTE_US, SECOND_US

UNCAPPED = MoneyLimit(KEY.id, KEY.created_us, None)
HELD = 5  # nano-USD, of each hold


@dataclass(frozen=True, slots=True)
class Rig:
    """Fresh counters, and how their clock is moved. `holds`: what takes holds money too."""

    counters: Counters
    advance_us: Callable[[int], None]
    holds: bool
    _numbers: Iterator[int] = field(default_factory=count)

    def ask(
        self, request_id: str, hold_id: str, limits: Sequence[MinuteLimit]
    ) -> Taken | Refused | Ended:
        """A take by a request that may have been before. Its hold has an id of its own."""
        if self.holds:
            wanted = draft(HELD, id=hold_id, request_id=request_id)
            answer = self.counters.take(request_id, wanted, (*limits, UNCAPPED))
        else:
            answer = self.counters.take(request_id, None, limits, ACCOUNT.id)
        assert not isinstance(answer, NotSeeded)
        if isinstance(answer, Taken):
            assert (answer.hold is not None) is self.holds
        return answer

    def take(self, *limits: MinuteLimit) -> Taken | Refused:
        """A take by a request that never was before."""
        number = next(self._numbers)
        answer = self.ask(f"fresh-{number}", f"hold-{number}", limits)
        assert not isinstance(answer, Ended)
        return answer

    def peek(self, *limits: MinuteLimit) -> tuple[int, list[Standing]]:
        looked = self.counters.peek(limits, ACCOUNT.id)
        assert not isinstance(looked, NotSeeded)
        return looked[0], minutes_of(looked[1])

    def used(self, *limits: MinuteLimit) -> list[int]:
        return [standing.used for standing in self.peek(*limits)[1]]

    def held(self) -> int:
        """How much money is held."""
        looked = self.counters.peek((UNCAPPED,), ACCOUNT.id)
        assert not isinstance(looked, NotSeeded)
        (standing,) = looked[1]
        assert isinstance(standing, MoneyStanding)
        return standing.held_nanousd


def minutes_of(standings: Standings) -> list[Standing]:
    return [standing for standing in standings if isinstance(standing, Standing)]


EXAMPLES = {"memory": 100, "valkey": 60, "cluster": 15}
OTHERS = {"memory": 5000, "valkey": 500, "cluster": 100}


@dataclass(frozen=True, slots=True)
class Backend:
    """Makes rigs of fresh counters. `examples` of a property are enough here, `others` are many."""

    make: Callable[[Clock], Counters]
    holds: bool
    examples: int
    others: int

    def __call__(self) -> Rig:
        clock = ManualClock()
        counters = seeded(self.make(clock))
        return Rig(counters, lambda us: clock.advance(us=us), self.holds)

    def hold_for(self, proof: Callable[..., None], **given_each: st.SearchStrategy[Any]) -> None:
        """Run a property."""
        settings(max_examples=self.examples)(given(**given_each)(proof))()


@pytest.fixture(params=[False, True], ids=["minutes alone", "with a hold"], scope="module")
def holds(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


@pytest.fixture(scope="module")
def new(new_counters: Kind, holds: bool) -> Backend:
    """Makes fresh counters of one backend."""
    name = new_counters.name
    return Backend(new_counters, holds, EXAMPLES[name], OTHERS[name])


# ── The reference ────────────────────────────────────────────────────────────────────────────────


class Naive:
    """Keeps everything for ever, and looks through all of it for every answer."""

    def __init__(self, *, holds: bool) -> None:
        self.now = 0
        self.holds = holds
        self.admitted: dict[str, list[int]] = {}
        self.takes: dict[str, tuple[int, str]] = {}
        self.ends: dict[str, int] = {}

    def used(self, limit: MinuteLimit, at: int) -> int:
        return sum(at - MINUTE_US < t <= at for t in self.admitted.get(limit.scope, ()))

    def passes(self, limits: Sequence[MinuteLimit], at: int) -> bool:
        return all(self.used(limit, at) < limit.max_requests for limit in limits)

    def first_pass(self, limits: Sequence[MinuteLimit]) -> int:
        """In how many µs a take of these limits passes, if nobody else takes meanwhile."""
        ends = {t + MINUTE_US - self.now for limit in limits for t in self._times(limit)}
        return next(w for w in sorted({0, *ends}) if w >= 0 and self.passes(limits, self.now + w))

    def standing(self, limit: MinuteLimit) -> tuple[MinuteLimit, int, int]:
        def left(at: int) -> int:
            return max(0, limit.max_requests - self.used(limit, at))

        ends = sorted(t + MINUTE_US for t in self._times(limit) if t + MINUTE_US > self.now)
        grows = next((end - self.now for end in ends if left(end) > left(self.now)), 0)
        return limit, self.used(limit, self.now), grows

    def take(self, request_id: str, hold_id: str, limits: Sequence[MinuteLimit]) -> str | None:
        """The hold id, None for a refusal, ENDED."""
        if request_id in self.ends and self.now - self.ends[request_id] < MINUTE_US:
            return ENDED
        if self.is_known(request_id):
            return self.takes[request_id][1]
        if not self.passes(limits, self.now):
            return None
        for limit in limits:
            self.admitted.setdefault(limit.scope, []).append(self.now)
        self.takes[request_id] = self.now, hold_id
        self.ends.pop(request_id, None)
        return hold_id

    def is_known(self, request_id: str) -> bool:
        """A hold until it ends; a request that took without one for a minute."""
        if request_id not in self.takes or request_id in self.ends:
            return False
        return self.holds or self.now - self.takes[request_id][0] < MINUTE_US

    def end(self, request_id: str) -> bool:
        """Whether it had an open hold; that has ended now."""
        if not self.holds or not self.is_known(request_id):
            return False
        self.ends[request_id] = self.now
        return True

    def _times(self, limit: MinuteLimit) -> Sequence[int]:
        return self.admitted.get(limit.scope, ())


ENDED = "(ended)"


@dataclass(frozen=True, slots=True)
class Step:
    """Some time passes, one request ends, then one asks. Both are named from the last backwards.

    Where none is to end, and where none is repeated, there is None.
    """

    gap_us: int
    limits: tuple[MinuteLimit, ...]
    repeats: int | None
    ends: int | None


GAPS = st.one_of(
    st.sampled_from([0, 1, MINUTE_US - 1, MINUTE_US, MINUTE_US + 1]),
    st.integers(0, 3 * SECOND_US),
    st.integers(0, 2 * MINUTE_US),
)
STEPS = st.builds(
    Step,
    gap_us=GAPS,
    limits=st.lists(
        st.builds(MinuteLimit, st.sampled_from(["key-1", "key-2", "account"]), st.integers(1, 4)),
        max_size=3,
        unique_by=lambda limit: limit.scope,
    ).map(tuple),
    repeats=st.one_of(st.none(), st.none(), st.integers(1, 4)),
    ends=st.one_of(st.none(), st.integers(1, 4)),
)


def test_answers_as_the_reference_does(new: Backend) -> None:
    """Never more than N in 60 s, never refused while there was room, whatever N is just then."""
    new.hold_for(
        lambda steps: answer_alike(new(), steps), steps=st.lists(STEPS, min_size=1, max_size=40)
    )


def answer_alike(rig: Rig, steps: list[Step]) -> None:
    naive = Naive(holds=rig.holds)
    for number, step in enumerate(steps):
        rig.advance_us(step.gap_us)
        naive.now += step.gap_us
        ending = f"req-{number - step.ends}" if step.ends else ""
        if naive.end(ending):
            hold = rig.counters.hold(ACCOUNT.id, naive.takes[ending][1])
            assert hold is not None
            assert rig.counters.settle(hold, 1)
            assert rig.counters.hold(ACCOUNT.id, hold.id) is None
        asker = number - (step.repeats or 0)
        took = rig.ask(f"req-{asker}", f"hold-{number}", step.limits)
        expected = naive.take(f"req-{asker}", f"hold-{number}", step.limits)
        match took:
            case Ended():
                assert expected == ENDED
                continue
            case Taken(hold=taken):
                assert expected not in {None, ENDED}
                assert taken is None or (taken.id, taken.nanousd) == (expected, HELD)
            case Refused(limit=limit, retry_us=retry_us):
                assert expected is None
                assert limit == next(x for x in step.limits if not naive.passes([x], naive.now))
                assert retry_us == naive.first_pass(step.limits)
        standings = [naive.standing(limit) for limit in step.limits]
        for seen in (minutes_of(took.standings), rig.peek(*step.limits)[1]):
            assert [(s.limit, s.used, s.grows_in_us) for s in seen] == standings
    open_holds = len(naive.takes.keys() - naive.ends.keys()) if rig.holds else 0
    assert rig.held() == open_holds * HELD


def test_no_minute_holds_more_and_none_was_refused_in_vain(new: Backend) -> None:
    """Both sides once more, from the times alone and without the reference."""
    new.hold_for(
        lambda gaps, rpm: admit_and_refuse(new(), gaps, rpm),
        gaps=st.lists(GAPS, min_size=1, max_size=60),
        rpm=st.integers(1, 5),
    )


def admit_and_refuse(rig: Rig, gaps: list[int], rpm: int) -> None:
    limit, now = MinuteLimit("key", rpm), 0
    admitted: list[int] = []
    for gap in gaps:
        now += gap
        rig.advance_us(gap)
        if isinstance(rig.take(limit), Taken):
            admitted.append(now)
        else:
            assert sum(now - t < MINUTE_US for t in admitted) == rpm
    for first, one_too_many in zip(admitted, admitted[rpm:], strict=False):
        assert one_too_many - first >= MINUTE_US


def test_the_next_call_passes_after_the_wait_and_not_one_unit_before(new: Backend) -> None:
    """`Retry-After` in whole seconds, and in milliseconds."""
    new.hold_for(
        lambda steps, limits, unit: wait_and_pass(new(), steps, limits, unit),
        steps=st.lists(STEPS, min_size=1, max_size=12),
        limits=st.permutations([MinuteLimit("key-1", 2), MinuteLimit("account", 3)]),
        unit=st.sampled_from([SECOND_US, 1000]),
    )


def wait_and_pass(rig: Rig, steps: list[Step], limits: list[MinuteLimit], unit: int) -> None:
    for step in steps:
        rig.advance_us(step.gap_us)
        rig.take(*step.limits)
    while isinstance(took := rig.take(*limits), Taken):
        rig.advance_us(unit)
    wait = -(-took.retry_us // unit)
    rig.advance_us((wait - 1) * unit)
    assert isinstance(rig.take(*limits), Refused)
    rig.advance_us(unit)
    assert isinstance(rig.take(*limits), Taken)


# ── One at a time ────────────────────────────────────────────────────────────────────────────────


def test_what_is_taken_counts_for_exactly_sixty_seconds(new: Backend) -> None:
    rig, limit = new(), MinuteLimit("key", 1)
    assert isinstance(rig.take(limit), Taken)
    rig.advance_us(MINUTE_US - 1)
    assert isinstance(rig.take(limit), Refused)
    rig.advance_us(1)
    assert isinstance(rig.take(limit), Taken)


def test_a_refused_take_takes_nothing_of_any_limit(new: Backend) -> None:
    rig, full, roomy = new(), MinuteLimit("key", 1), MinuteLimit("account", 9)
    rig.take(full)
    for limits in ((full, roomy), (roomy, full)):
        refused = rig.take(*limits)
        assert isinstance(refused, Refused)
        assert refused.limit == full
        assert rig.used(full, roomy) == [1, 0]
        assert rig.held() == (HELD if rig.holds else 0)


def test_the_wait_is_for_all_limits_that_are_full(new: Backend) -> None:
    rig, key, account = new(), MinuteLimit("key", 1), MinuteLimit("account", 1)
    rig.take(key)
    rig.advance_us(10 * SECOND_US)
    rig.take(account)
    refused = rig.take(key, account)
    assert isinstance(refused, Refused)
    assert (refused.limit, refused.retry_us) == (key, MINUTE_US)


def test_a_limit_that_is_lowered_counts_what_was_taken_before(new: Backend) -> None:
    rig = new()
    for _ in range(5):
        rig.take(MinuteLimit("key", 5))
        rig.advance_us(SECOND_US)
    refused = rig.take(MinuteLimit("key", 2))
    assert isinstance(refused, Refused)
    assert refused.retry_us == MINUTE_US - 2 * SECOND_US  # the fourth has to go, at second 63
    (standing,) = minutes_of(refused.standings)
    assert (standing.used, standing.remaining) == (5, 0)
    assert standing.grows_in_us == refused.retry_us
    assert isinstance(rig.take(MinuteLimit("key", 6)), Taken)


def test_without_limits_everything_passes(new: Backend) -> None:
    rig = new()
    assert [isinstance(rig.take(), Taken) for _ in range(100)] == [True] * 100


def test_a_repeated_request_takes_once_and_keeps_its_hold(new: Backend) -> None:
    rig, limit = new(), MinuteLimit("key", 2)
    first = rig.ask("req", "hold-1", (limit,))
    again = rig.ask("req", "hold-2", (limit,))
    assert isinstance(first, Taken)
    assert isinstance(again, Taken)
    assert first.hold == again.hold
    assert first.hold is None or first.hold.id == "hold-1"
    assert rig.used(limit) == [1]
    assert rig.held() == (HELD if rig.holds else 0)


def test_a_repeat_passes_where_the_first_took_the_last(new: Backend) -> None:
    rig, limit = new(), MinuteLimit("key", 1)
    rig.ask("req", "hold-1", (limit,))
    assert isinstance(rig.ask("req", "hold-2", (limit,)), Taken)
    assert isinstance(rig.take(limit), Refused)


def test_a_refused_request_may_ask_again_and_then_takes(new: Backend) -> None:
    rig, limit = new(), MinuteLimit("key", 1)
    rig.take(limit)
    assert isinstance(rig.ask("req", "hold-1", (limit,)), Refused)
    rig.advance_us(MINUTE_US)
    took = rig.ask("req", "hold-2", (limit,))
    assert isinstance(took, Taken)
    assert took.hold is None or took.hold.id == "hold-2"
    assert rig.used(limit) == [1]


def test_peeking_takes_nothing_and_tells_the_time(new: Backend) -> None:
    rig, limit = new(), MinuteLimit("key", 3)
    before, (empty,) = rig.peek(limit)
    assert (empty.used, empty.remaining, empty.grows_in_us) == (0, 3, 0)
    took = rig.take(limit)
    rig.advance_us(SECOND_US)
    after, (standing,) = rig.peek(limit)
    assert (standing.used, standing.remaining) == (1, 2)
    assert standing.grows_in_us == MINUTE_US - SECOND_US
    assert (took.now_us, after) == (before, before + SECOND_US)


def test_many_other_scopes_push_nothing_out(new: Backend) -> None:
    rig, limit = new(), MinuteLimit("key", 2)
    rig.take(limit)
    rig.advance_us(40 * SECOND_US)
    rig.take(limit)
    rig.advance_us(40 * SECOND_US)
    for number in range(new.others):
        rig.take(MinuteLimit(f"other-{number}", 1))
        rig.advance_us(1)
    assert rig.used(limit) == [1]  # the second take is not over yet
    assert isinstance(rig.take(MinuteLimit(f"other-{new.others - 1}", 1)), Refused)
    assert isinstance(rig.take(MinuteLimit("other-0", 1)), Refused)


@pytest.mark.parametrize("scopes", [1, 3])
def test_two_hundred_at_once_at_fifty_admit_fifty(new: Backend, scopes: int) -> None:
    rig, threads = new(), 20
    limits = tuple(MinuteLimit(f"scope-{number}", 50 + number) for number in range(scopes))
    together = Barrier(threads)

    def ask(worker: int) -> list[str]:
        together.wait()
        holds = []
        for call in range(200 // threads):
            name = f"{worker}-{call}"
            took = rig.ask(f"req-{name}", f"hold-{name}", limits)
            if isinstance(took, Taken):
                holds.append(f"hold-{name}")
                assert took.hold is None or took.hold.id == holds[-1]
        return holds

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            holds = [hold for found in pool.map(ask, range(threads)) for hold in found]
    finally:
        sys.setswitchinterval(interval)
    assert len(holds) == len(set(holds)) == 50
    assert rig.used(*limits) == [50] * scopes
    assert rig.held() == (50 * HELD if rig.holds else 0)


def test_times_of_answers_never_go_back(new: Backend) -> None:
    rig, limit = new(), MinuteLimit("key", 2)
    times = []
    for _ in range(5):
        times.append(rig.take(limit).now_us)
        rig.advance_us(SECOND_US)
    assert [later - earlier for earlier, later in pairwise(times)] == [SECOND_US] * 4
