"""Takes in Redis: each hold is kept, and one of which no answer came is withdrawn first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import pytest
from moneyhelp import draft, limits, seeded
from support import ManualClock

from authz import keeping
from authz.holdwriter import HoldWriter
from authz.keeping import KeptCounters
from authz.metrics import Metrics
from store.counters.memory import MemoryCounters
from store.counters.model import Ended, Limit, NotSeeded, Refused, Seed, Taken
from store.errors import StoreUnavailableError, UnansweredError
from store.records import Hold


class Redis(MemoryCounters):
    """Counters that may be out, or be done with a take and not say so."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.fault: StoreUnavailableError | None = None
        self.does_it = True
        self.withdrawn: list[str] = []
        self.withdraw_fails: set[str] = set()  # of these accounts
        self.marked: set[str] = set()
        self.given: dict[str, bool] = {}

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        if draft is not None and draft.id in self.marked:
            return Ended(0)
        if self.fault is not None and not self.does_it:
            raise self.fault
        answer = super().take(request_id, draft, limits, account_id)
        if self.fault is not None:
            raise self.fault
        return answer

    def give_back(self, hold: Hold, mark: str = "") -> bool:
        if self.fault is not None and not self.does_it:
            raise self.fault
        if mark not in self.given:
            self.given[mark] = super().give_back(hold)
        if self.fault is not None:
            raise self.fault
        return self.given[mark]

    def withdraw(self, draft: Hold) -> Hold | None:
        if self.fault is not None:
            raise self.fault
        if draft.account_id in self.withdraw_fails:
            raise UnansweredError("its node is out")
        self.withdrawn.append(draft.id)
        self.marked.add(draft.id)
        kept = self.hold(draft.account_id, draft.id)
        return kept if kept is not None and super().give_back(kept) else None


class Rig:
    def __init__(self) -> None:
        self.redis = Redis()
        seeded(self.redis)
        self.writer = HoldWriter(lambda _: None, Metrics())  # not started: what is kept stays
        self.released: list[Hold] = []
        self.counters = KeptCounters(self.redis, self.writer, self.released.append)

    def take(self, asked: Hold) -> Taken | Refused | Ended | NotSeeded:
        return self.counters.take(asked.request_id, asked, limits())


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_hold_that_was_taken_is_kept_and_one_that_was_not_is_none(rig: Rig) -> None:
    assert isinstance(rig.take(draft(600)), Taken)
    assert isinstance(rig.take(draft(600)), Refused)
    assert rig.writer.waiting == 1
    assert rig.writer.flush(0.01) is False, "the one hold is not written yet"


def test_a_repeated_check_keeps_the_hold_that_it_was_given(rig: Rig) -> None:
    first = draft(5)
    rig.redis.take(first.request_id, first, limits())  # by another worker
    answer = rig.take(draft(5, request_id=first.request_id))
    assert isinstance(answer, Taken)
    assert answer.hold is not None
    assert answer.hold.id == first.id
    assert rig.writer.waiting == 1
    rig.writer.drop(first.id)
    assert rig.writer.waiting == 0


def test_one_that_was_given_back_by_its_last_check_is_not_kept(rig: Rig) -> None:
    asked = draft(5)
    rig.take(asked)
    rig.take(asked)
    assert not rig.counters.give_back(asked)
    assert rig.writer.waiting == 1
    assert rig.counters.give_back(asked)
    assert rig.writer.waiting == 0


def test_a_take_without_an_answer_is_withdrawn_before_anything_else_and_released(rig: Rig) -> None:
    asked, later = draft(600), draft(600)
    rig.redis.fault = UnansweredError("no answer")
    with pytest.raises(UnansweredError):
        rig.take(asked)
    assert rig.redis.open_holds(), "it was done all the same"
    with pytest.raises(UnansweredError):
        rig.take(later)
    assert rig.counters.lost == 1, "the second was not even tried"
    rig.redis.fault = None
    took = rig.take(later)
    assert isinstance(took, Refused), "the first one's money is free once it is booked as released"
    assert [hold.id for hold in rig.released] == [asked.id]
    assert rig.redis.withdrawn == [asked.id]
    rig.redis.settle(asked, 0)
    assert isinstance(rig.take(draft(600)), Taken)


def test_that_needs_no_take(rig: Rig) -> None:
    asked = draft(5)
    rig.redis.fault = UnansweredError("no answer")
    with pytest.raises(UnansweredError):
        rig.take(asked)
    with pytest.raises(UnansweredError):
        rig.counters.recover()
    rig.redis.fault = None
    rig.counters.recover()
    assert [hold.id for hold in rig.released] == [asked.id]
    assert rig.counters.lost == 0


def test_one_that_was_not_done_is_not_done_later(rig: Rig) -> None:
    asked = draft(600)
    rig.redis.fault, rig.redis.does_it = UnansweredError("no answer"), False
    with pytest.raises(UnansweredError):
        rig.take(asked)
    rig.redis.fault = None
    assert isinstance(rig.take(draft(600)), Taken)
    assert rig.released == []
    assert isinstance(rig.redis.take(asked.request_id, asked, limits()), Ended), "it comes only now"


def test_what_was_not_even_sent_is_not_withdrawn(rig: Rig) -> None:
    rig.redis.fault, rig.redis.does_it = StoreUnavailableError("it is known to be out"), False
    with pytest.raises(StoreUnavailableError):
        rig.take(draft())
    assert rig.counters.lost == 0
    assert rig.writer.flush(0.01), "nor is it under way any more"


def test_what_cannot_be_undone_yet_keeps_no_other_account_waiting(rig: Rig) -> None:
    """In a cluster another account's node is well; and its own comes back by itself."""
    assert rig.redis.seed(rig.redis.generation("other"), Seed({}, {}))
    asked = [draft(5), draft(5)]
    rig.redis.fault = UnansweredError("no answer")
    for each in asked:
        rig.redis.withdraw_fails.add(each.account_id)
        with suppress(UnansweredError):
            rig.take(each)
    of_other = draft(5, account_id="other")
    with pytest.raises(UnansweredError):
        rig.take(of_other)
    rig.redis.fault = None
    assert isinstance(rig.take(draft(5, account_id="other")), Taken)
    assert rig.redis.withdrawn == [of_other.id]
    with pytest.raises(StoreUnavailableError):
        rig.take(draft(5))
    with pytest.raises(UnansweredError):
        rig.counters.recover()
    rig.redis.withdraw_fails.clear()
    assert isinstance(rig.take(draft(5)), Taken)
    assert rig.counters.lost == 0


def test_what_is_to_be_undone_has_a_bound(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MAX_LOST", 2)
    given = [draft(1) for _ in range(3)]
    for each in given:
        rig.take(each)
    rig.redis.fault, rig.redis.does_it = StoreUnavailableError("out"), False
    for each in given:
        assert not rig.counters.give_back(each)
    assert rig.counters.lost == 2
    rig.redis.fault = None
    rig.counters.recover()
    assert [hold.id for hold in rig.released] == [each.id for each in given[1:]]
    assert rig.counters.lost == 0


def test_giving_back_that_failed_is_done_later(rig: Rig) -> None:
    asked = draft(5)
    rig.take(asked)
    rig.redis.fault, rig.redis.does_it = StoreUnavailableError("out"), False
    assert not rig.counters.give_back(asked)
    rig.redis.fault = None
    rig.take(draft(5))
    assert [hold.id for hold in rig.released] == [asked.id]


@pytest.mark.parametrize("given", [1, 2])
def test_giving_back_that_was_done_without_an_answer_counts_once(rig: Rig, given: int) -> None:
    """Counted twice it would end the hold of a Check that goes on; forgotten, nobody ends it."""
    asked = draft(5)
    for _ in range(given):
        rig.take(asked)
    rig.redis.fault = UnansweredError("no answer")
    assert not rig.counters.give_back(asked)
    rig.redis.fault = None
    rig.counters.recover()
    assert [hold.id for hold in rig.released] == ([asked.id] if given == 1 else [])
    assert rig.counters.lost == 0


def test_nobody_waits_long_for_another_that_withdraws(rig: Rig) -> None:
    rig.redis.fault = UnansweredError("no answer")
    with pytest.raises(UnansweredError):
        rig.take(draft(10))
    rig.redis.fault = None
    begun, over = Event(), Event()
    withdraw = rig.redis.withdraw

    def slow(draft: Hold) -> Hold | None:
        begun.set()
        assert over.wait(5)
        return withdraw(draft)

    rig.redis.withdraw = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(rig.take, draft(20))
        assert begun.wait(5)
        asked = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            rig.take(draft(30))
        assert time.monotonic() - asked < 1
        over.set()
        assert isinstance(first.result(), Taken)
    assert isinstance(rig.take(draft(40)), Taken)
