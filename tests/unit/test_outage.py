"""Known keys on a share of their limits while Redis is out: how much that can be, and its end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from moneyhelp import KEY, OTHER_KEY, charge, draft, money
from moneysupport import row_of
from support import ManualClock

from authz import outage
from authz.holdwriter import HoldWriter
from authz.metrics import Metrics
from authz.outage import LocalCounters
from store.counters.memory import MemoryCounters
from store.counters.model import (
    Ended,
    Limit,
    MinuteLimit,
    NotSeeded,
    Refused,
    Seed,
    Standings,
    Taken,
)
from store.errors import StoreUnavailableError
from store.records import WINDOW_US, Hold, LedgerRow

LISTING = (MinuteLimit(f"{KEY.id}/listings", 8),)


class Redis(MemoryCounters):
    """What all replicas share, while it is there."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.out = self.deaf = False
        self.forgotten: list[str] = []

    def _there(self) -> None:
        if self.out:
            raise StoreUnavailableError("the counters do not answer")

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        self._there()
        return super().take(request_id, draft, limits, account_id)

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings] | NotSeeded:
        self._there()
        return super().peek(limits, account_id)

    def recover(self) -> None:
        self._there()

    def forget(self, account_id: str) -> None:
        self._there()
        if self.deaf:
            raise StoreUnavailableError("the counters do not answer")
        self.forgotten.append(account_id)


class Rig:
    """Replicas of one gate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.redis = Redis(self.clock)
        self.redis.seed(self.redis.generation(KEY.account_id), Seed({}, {}))
        self.count = 4
        self.rows: dict[str, LedgerRow] = {}
        self.written: list[Hold] = []
        self.writers = [HoldWriter(self.written.extend, Metrics()) for _ in range(self.count)]
        self.replicas = [
            LocalCounters(
                self.redis,
                writer,
                replicas=lambda: self.count,
                rows=lambda ids: {each: self.rows[each] for each in ids if each in self.rows},
                forget=self.redis.forget,
                new_clock=lambda: self.clock,
            )
            for writer in self.writers
        ]
        monkeypatch.setattr(outage, "monotonic", lambda: self.clock() / 1e6)

    def take(
        self, number: int = 0, nanousd: int = 10, budget: int = 1000, rpm: int = 100
    ) -> Taken | Refused | Ended | NotSeeded:
        asked = draft(nanousd, minute=KEY.id)
        limits = (MinuteLimit(KEY.id, rpm), money(budget=budget))
        return self.replicas[number].take(asked.request_id, asked, limits)

    def see(self, nanousd: int = 0) -> None:
        """Each replica has a call of the account, of so much."""
        for number in range(len(self.replicas)):
            assert isinstance(self.take(number, nanousd), Taken)

    def taken(self, number: int, nanousd: int = 10, rpm: int = 100) -> int:
        """How many calls a replica lets through until it refuses one."""
        count = 0
        while isinstance(self.take(number, nanousd, rpm=rpm), Taken):
            count += 1
        return count


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_while_redis_answers_it_counts_and_nothing_is_counted_here(rig: Rig) -> None:
    rig.see(100)
    assert isinstance(rig.take(nanousd=601), Refused)
    assert len(rig.redis.open_holds()) == 4


def test_all_replicas_together_give_out_what_was_left_and_no_more(rig: Rig) -> None:
    rig.see(100)
    rig.redis.out = True
    given = [rig.taken(number, 5, rpm=10_000) for number in range(4)]
    # the first saw 100 gone of 1000, the last 400
    assert given == [225 // 5, 200 // 5, 175 // 5, 150 // 5]
    stale = sum(400 - seen for seen in (100, 200, 300, 400)) // 4
    assert 400 + 5 * sum(given) <= 1000 + stale, "the stated worst case"


def test_in_the_minute_that_it_begins_in_only_a_share_of_what_is_left_passes(rig: Rig) -> None:
    rig.see()
    rig.redis.out = True
    given = [rig.taken(number, 0) for number in range(4)]
    assert given == [24, 23, 22, 21]
    rig.clock.advance(seconds=60)
    assert [rig.taken(number, 0) for number in range(4)] == [25] * 4


def test_a_key_with_less_than_one_call_for_each_replica_is_unavailable(rig: Rig) -> None:
    rig.see()
    rig.redis.out = True
    with pytest.raises(StoreUnavailableError):
        rig.take(rpm=3)
    assert isinstance(rig.take(rpm=400), Taken)


def test_what_was_not_seen_lately_is_unavailable(rig: Rig) -> None:
    rig.see()
    asked = draft(1, key=OTHER_KEY)
    rig.redis.out = True
    with pytest.raises(StoreUnavailableError):  # a limit that nobody saw
        rig.replicas[0].take(asked.request_id, asked, (money(OTHER_KEY),))
    rig.redis.out = False
    assert isinstance(rig.take(1), Taken)
    rig.clock.advance(seconds=30)
    rig.redis.out = True
    assert isinstance(rig.take(0), Taken)
    rig.clock.advance(seconds=100)
    assert isinstance(rig.take(0), Taken), "it was known as the outage began"
    with pytest.raises(StoreUnavailableError):
        rig.take(1)  # this replica's outage begins now
    with pytest.raises(StoreUnavailableError):
        rig.replicas[0].peek((money(),), KEY.account_id)


def test_a_window_that_has_begun_since_has_its_share_too(rig: Rig) -> None:
    rig.see(200)
    rig.redis.out = True
    assert isinstance(rig.take(3), Taken)
    rig.clock.advance(us=WINDOW_US)
    assert rig.taken(3) == 25


def test_listings_have_a_share_of_their_own_minute(rig: Rig) -> None:
    rig.redis.out = True
    answers = [
        rig.replicas[0].take(f"list-{number}", None, LISTING, KEY.account_id) for number in range(3)
    ]
    assert [type(answer) for answer in answers] == [Taken, Taken, Refused]


def test_a_hold_is_written_to_sql_and_given_back_here(rig: Rig) -> None:
    rig.see()
    rig.redis.out = True
    before = rig.writers[0].waiting
    took = rig.take(0)
    assert isinstance(took, Taken)
    assert took.hold is not None
    assert rig.writers[0].waiting == before + 1
    assert rig.replicas[0].give_back(took.hold)
    assert rig.writers[0].waiting == before
    assert not rig.replicas[0].give_back(took.hold)


def test_a_repeated_check_is_given_the_same_hold(rig: Rig) -> None:
    rig.see()
    rig.redis.out = True
    asked = draft(10, minute=KEY.id)
    limits = (MinuteLimit(KEY.id, 100), money())
    one, two = (rig.replicas[0].take(asked.request_id, asked, limits) for _ in range(2))
    assert isinstance(one, Taken)
    assert isinstance(two, Taken)
    assert one.hold == two.hold
    assert one.hold is not None
    assert one.hold.id != asked.id, "that one may be withdrawn when Redis is back"


def test_what_was_booked_meanwhile_makes_room(rig: Rig) -> None:
    rig.see()
    rig.redis.out = True
    took = rig.take(0, 250)
    assert isinstance(took, Taken)
    assert took.hold is not None
    assert isinstance(rig.take(0, 1), Refused)
    rig.rows[took.hold.id] = row_of(took.hold, charge(took.hold, 100))
    assert isinstance(rig.take(0, 1), Refused), "it is looked up once a second"
    rig.clock.advance(seconds=1)
    assert isinstance(rig.take(0, 150), Taken)
    assert isinstance(rig.take(0, 1), Refused)


def test_when_redis_is_back_it_reads_anew_what_was_served_here_first(rig: Rig) -> None:
    rig.see()
    rig.redis.out = True
    rig.take(0)
    assert rig.redis.forgotten == []
    rig.redis.out = False
    opened = len(rig.redis.open_holds())
    assert isinstance(rig.take(0), Taken)
    assert rig.redis.forgotten == [KEY.account_id]
    assert len(rig.redis.open_holds()) == opened + 1
    rig.take(0)
    assert rig.redis.forgotten == [KEY.account_id], "once"


def test_that_needs_no_call_of_it(rig: Rig) -> None:
    rig.see()
    rig.redis.out = True
    rig.take(0)
    with pytest.raises(StoreUnavailableError):
        rig.replicas[0].recover()
    rig.redis.out = False
    rig.replicas[0].recover()
    assert rig.redis.forgotten == [KEY.account_id]
    assert isinstance(rig.take(0, 600), Taken), "all of the budget counts again"


def test_an_outage_that_comes_again_goes_on_with_the_same_share(rig: Rig) -> None:
    rig.see()
    rig.redis.out = True
    assert isinstance(rig.take(0, 240), Taken)
    rig.redis.out, rig.redis.deaf = False, True
    assert isinstance(rig.take(0, 20), Refused), "it cannot be told to read anew yet"


def test_one_that_begins_after_that_gives_nothing_out_twice(rig: Rig) -> None:
    """A Redis that comes and goes is no way to have a share many times."""
    rig.see()
    rig.redis.out = True
    assert isinstance(rig.take(0, 240), Taken)
    rig.redis.out = False
    rig.replicas[0].recover()
    rig.redis.out = True
    with pytest.raises(StoreUnavailableError):
        rig.take(0, 240)
    rig.redis.out = False
    assert isinstance(rig.take(0, 1), Taken)
    rig.redis.out = True
    assert isinstance(rig.take(0, 1), Taken), "it has been seen since"
