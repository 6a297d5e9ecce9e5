"""The key cache: how stale an answer may be, and that nobody is refused for what is not known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import pytest
from support import KeyTable, ManualClock, key_record

from authz.cache import KeyCache
from store.errors import StoreUnavailableError
from store.records import Change, KeyRecord

A, B, UNKNOWN = (b"a" * 32,), (b"b" * 32,), (b"u" * 32,)
ANN = key_record(id="key_a", account_id="acc_ann")
BOB = key_record(id="key_b", account_id="acc_bob")
STALE_SECONDS = 5.0


@dataclass
class Rig:
    """A cache over a table of two keys, a clock to move, and what was observed."""

    capacity: int = 100
    stale_seconds: float = STALE_SECONDS
    clock: ManualClock = field(default_factory=ManualClock)
    table: KeyTable = field(default_factory=lambda: KeyTable((A[0], ANN), (B[0], BOB)))
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cache = KeyCache(
            self.table,
            self.clock,
            stale_us=round(self.stale_seconds * 1_000_000),
            capacity=self.capacity,
            observe=self.seen.append,
        )

    def get(self, digests: tuple[bytes, ...] = A) -> KeyRecord | None:
        return self.cache.get(digests)

    def reads(self, digests: tuple[bytes, ...] = A) -> int:
        """How often SQL is asked for one more use."""
        before = self.table.asked
        self.get(digests)
        return self.table.asked - before

    def pass_by(self, seconds: float, *, beating: bool = True) -> None:
        """Time goes by, with the feed's beat ten times a second or without."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(seconds=0.1)
            if beating:
                self.cache.beat()

    @classmethod
    def healthy(cls, **changes: Any) -> Rig:
        """After a start: the feed has read its position and beats."""
        rig = cls(**changes)
        rig.cache.suspect_all()
        rig.pass_by(0.1)
        return rig


@pytest.fixture
def rig() -> Rig:
    return Rig.healthy()


def changed(digests: tuple[bytes, ...] | None = None, account: str | None = None) -> Change:
    return Change(1, None if digests is None else digests[-1], account)


# ── While the feed is healthy ────────────────────────────────────────────────────────────────────


def test_a_record_is_read_once_and_kept_for_as_long_as_the_feed_beats(rig: Rig) -> None:
    assert rig.get() == ANN
    for _ in range(60):
        rig.pass_by(60)
        assert rig.get() == ANN
    assert rig.table.asked == 1
    assert rig.seen == ["miss", *["hit"] * 60]


def test_what_is_not_there_is_kept_too(rig: Rig) -> None:
    for _ in range(3):
        assert rig.get(UNKNOWN) is None
        rig.pass_by(60)
    assert rig.table.asked == 1
    assert rig.seen == ["miss", "negative", "negative"]


def test_a_change_of_a_key_is_read_at_its_next_use(rig: Rig) -> None:
    rig.get(A), rig.get(B)
    rig.table.rows[A[0]] = key_record(revoked_us=1)
    rig.cache.apply(changed(A))
    assert rig.get(A) == key_record(revoked_us=1)
    assert rig.reads(A) == rig.reads(B) == 0


def test_a_key_that_is_minted_after_it_was_asked_for_is_found(rig: Rig) -> None:
    assert rig.get(UNKNOWN) is None
    rig.table.rows[UNKNOWN[0]] = ANN
    rig.cache.apply(changed(UNKNOWN))
    assert rig.get(UNKNOWN) == ANN


def test_a_change_of_an_account_touches_all_its_keys_and_no_others(rig: Rig) -> None:
    rig.table.rows[b"2" * 32] = key_record(account_id="acc_ann")
    for digests in (A, B, (b"2" * 32,), UNKNOWN):
        rig.get(digests)
    rig.cache.apply(changed(account="acc_ann"))
    assert [rig.reads(d) for d in (A, (b"2" * 32,), B, UNKNOWN)] == [1, 1, 0, 0]


def test_a_change_of_what_is_not_cached_does_no_harm(rig: Rig) -> None:
    rig.cache.apply(changed(B))
    rig.cache.apply(changed(account="acc_nobody"))
    assert rig.get(B) == BOB


# ── When the feed falls silent ───────────────────────────────────────────────────────────────────


def test_without_a_beat_for_a_second_and_a_half_a_record_is_read_once_a_second(rig: Rig) -> None:
    rig.get()
    rig.pass_by(1.5, beating=False)
    assert rig.reads() == 0
    rig.pass_by(0.1, beating=False)
    assert rig.reads() == 1
    rig.pass_by(0.9, beating=False)
    assert rig.reads() == 0
    rig.pass_by(0.1, beating=False)
    assert rig.reads() == 1


def test_before_the_first_beat_everything_is_suspect() -> None:
    rig = Rig()
    rig.get()
    rig.pass_by(1, beating=False)
    assert rig.reads() == 1


def test_a_feed_that_missed_nothing_makes_records_good_again_without_reading(rig: Rig) -> None:
    rig.get()
    rig.pass_by(60, beating=False)
    rig.pass_by(0.1)
    assert rig.reads() == 0


def test_a_gap_makes_every_record_suspect_once_though_the_feed_beats(rig: Rig) -> None:
    rig.get(A), rig.get(UNKNOWN)
    rig.pass_by(60)
    rig.cache.suspect_all()
    rig.pass_by(0.1)
    assert [rig.reads(A), rig.reads(UNKNOWN)] == [1, 1]
    rig.pass_by(60)
    assert [rig.reads(A), rig.reads(UNKNOWN)] == [0, 0]


def test_a_gap_in_the_very_moment_of_the_reading_counts_as_after_it(rig: Rig) -> None:
    rig.get()
    rig.cache.suspect_all()
    rig.cache.beat()
    assert rig.reads() == 1


def test_a_revocation_is_seen_though_the_feed_is_silent(rig: Rig) -> None:
    rig.get()
    rig.table.rows[A[0]] = key_record(revoked_us=1)
    rig.pass_by(2.6, beating=False)
    assert rig.get() == key_record(revoked_us=1)


def test_what_comes_and_goes_without_a_word_is_seen_once_a_second(rig: Rig) -> None:
    """As after a backup was played in: the same key known, gone, and known again."""
    for found in (ANN, None, BOB, None):
        if found is None:
            del rig.table.rows[A[0]]
        else:
            rig.table.rows[A[0]] = found
        rig.pass_by(2.6, beating=False)
        assert [rig.get(), rig.get()] == [found, found]
        assert len(rig.cache) == 1


# ── When SQL does not answer ─────────────────────────────────────────────────────────────────────


def test_a_cached_record_goes_on_for_the_stale_time_after_the_last_beat(rig: Rig) -> None:
    rig.get()
    rig.pass_by(3600)  # read long ago, and every beat since said that nothing changed
    rig.table.out = True
    rig.pass_by(STALE_SECONDS, beating=False)
    assert rig.get() == ANN
    rig.pass_by(0.1, beating=False)
    with pytest.raises(StoreUnavailableError):
        rig.get()


def test_without_a_feed_a_record_goes_on_for_the_stale_time_after_its_last_reading(
    rig: Rig,
) -> None:
    rig.pass_by(60, beating=False)
    rig.get()
    rig.pass_by(2, beating=False)
    assert rig.reads() == 1
    rig.table.out = True
    rig.pass_by(STALE_SECONDS, beating=False)
    assert rig.get() == ANN
    rig.pass_by(0.1, beating=False)
    with pytest.raises(StoreUnavailableError):
        rig.get()


def test_after_a_gap_only_the_records_own_reading_counts(rig: Rig) -> None:
    rig.get()
    rig.pass_by(60)
    rig.table.out = True
    rig.cache.suspect_all()
    rig.pass_by(0.1)
    with pytest.raises(StoreUnavailableError):
        rig.get()


def test_a_database_that_is_out_is_asked_once_a_second_for_each_record(rig: Rig) -> None:
    rig.get(A), rig.get(B)
    rig.table.out = True
    rig.pass_by(2, beating=False)
    assert [rig.reads(A) for _ in range(5)] == [1, 0, 0, 0, 0]
    assert rig.reads(B) == 1
    rig.pass_by(1, beating=False)
    assert rig.reads(A) == 1
    assert set(rig.seen) == {"miss", "stale"}


def test_when_it_is_back_records_are_read_again(rig: Rig) -> None:
    rig.get()
    rig.table.out = True
    rig.pass_by(2, beating=False)
    rig.get()
    rig.table.out = False
    rig.table.rows[A[0]] = key_record(revoked_us=1)
    rig.pass_by(1, beating=False)
    assert rig.get() == key_record(revoked_us=1)


def test_no_stale_time_means_no_stale_answer() -> None:
    rig = Rig.healthy(stale_seconds=0)
    rig.get()
    rig.table.out = True
    rig.pass_by(1.6, beating=False)
    with pytest.raises(StoreUnavailableError):
        rig.get()


def test_what_is_unknown_is_never_denied_while_nobody_knows(rig: Rig) -> None:
    rig.get(UNKNOWN)
    rig.table.out = True
    with pytest.raises(StoreUnavailableError):
        rig.get((b"x" * 32,))
    assert rig.get(UNKNOWN) is None  # the feed still beats: a key minted since would be known
    rig.pass_by(1.6, beating=False)
    with pytest.raises(StoreUnavailableError):
        rig.get(UNKNOWN)


def test_a_record_that_changed_is_not_kept_alive_by_an_outage(rig: Rig) -> None:
    rig.get()
    rig.cache.apply(changed(A))
    rig.table.out = True
    with pytest.raises(StoreUnavailableError):
        rig.get()


# ── Races ────────────────────────────────────────────────────────────────────────────────────────


class Interrupted(KeyTable):
    """Something happens between the reading of the row and its arrival."""

    happens: Callable[[], None] = staticmethod(lambda: None)

    def by_digests(self, digests: Sequence[bytes]) -> tuple[bytes, KeyRecord] | None:
        try:
            return super().by_digests(digests)
        finally:
            self.happens()


@pytest.fixture
def raced() -> Rig:
    return Rig.healthy(table=Interrupted((A[0], ANN), (B[0], BOB)))


def happening(rig: Rig, what: Callable[[], None]) -> None:
    assert isinstance(rig.table, Interrupted)
    rig.table.happens = what


@pytest.mark.parametrize(
    "change", [changed(A), changed(account="acc_ann"), None], ids=["key", "account", "gap"]
)
def test_a_record_read_while_a_change_came_in_is_not_trusted(
    raced: Rig, change: Change | None
) -> None:
    def revoked() -> None:
        raced.table.rows[A[0]] = key_record(revoked_us=1)
        raced.clock.advance(us=1)
        if change is None:
            raced.cache.suspect_all()
        else:
            raced.cache.apply(change)
        happening(raced, lambda: None)

    happening(raced, revoked)
    assert raced.get() == ANN  # as it was when it was asked for
    raced.clock.advance(us=1)
    raced.cache.beat()
    assert raced.get() == key_record(revoked_us=1)
    assert raced.reads() == 0


def test_what_is_not_there_is_not_trusted_either_if_it_was_minted_meanwhile(raced: Rig) -> None:
    def minted() -> None:
        raced.table.rows[UNKNOWN[0]] = ANN
        raced.cache.apply(changed(UNKNOWN))
        happening(raced, lambda: None)

    happening(raced, minted)
    assert raced.get(UNKNOWN) is None
    assert raced.get(UNKNOWN) == ANN


def test_before_any_gap_too_a_raced_reading_is_not_trusted() -> None:
    rig = Rig(table=Interrupted((A[0], ANN)))
    rig.cache.beat()
    happening(rig, lambda: rig.cache.apply(changed(B)))
    rig.get()
    happening(rig, lambda: None)
    assert [rig.reads(), rig.reads()] == [1, 0]


def test_a_record_that_is_revoked_while_a_failing_database_is_asked_does_not_count(
    raced: Rig,
) -> None:
    raced.get()
    raced.pass_by(2, beating=False)
    raced.table.out = True
    happening(raced, lambda: raced.cache.apply(changed(A)))
    with pytest.raises(StoreUnavailableError):
        raced.get()


def test_a_slow_reading_holds_nobody_else_up() -> None:
    asked, go_on = Event(), Event()

    class Slow(KeyTable):
        def by_digests(self, digests: Sequence[bytes]) -> tuple[bytes, KeyRecord] | None:
            if digests == B:
                asked.set()
                assert go_on.wait(5)
            return super().by_digests(digests)

    rig = Rig.healthy(table=Slow((A[0], ANN), (B[0], BOB)))
    rig.get(A)
    waiting = Thread(target=rig.get, args=(B,))
    waiting.start()
    assert asked.wait(5)
    assert rig.get(A) == ANN
    rig.cache.apply(changed(A))
    assert rig.get(A) == ANN
    go_on.set()
    waiting.join(5)
    assert not waiting.is_alive()


# ── Read for all who want it, waited for only so long ────────────────────────────────────────────


class Late:
    """A reading that is over when it is told to be, and that nobody waits for meanwhile."""

    def __init__(self) -> None:
        self.names: list[Hashable] = []
        self.needed: list[bool] = []
        self.reads: list[Callable[[], KeyRecord | None]] = []

    def __call__(
        self, name: Hashable, read: Callable[[], KeyRecord | None], *, needed: bool
    ) -> KeyRecord | None:
        self.names.append(name)
        self.needed.append(needed)
        self.reads.append(read)
        raise StoreUnavailableError("it takes too long")

    def land(self) -> None:
        for read in self.reads:
            read()
        self.reads.clear()


@pytest.fixture
def late() -> tuple[Rig, Late]:
    """Of A something is known, of B nothing; the feed is silent."""
    rig, reading = Rig.healthy(), Late()
    rig.get(A)
    rig.cache._reading = reading
    rig.pass_by(2, beating=False)
    return rig, reading


def test_a_record_that_is_read_too_late_is_there_for_the_next_call(late: tuple[Rig, Late]) -> None:
    rig, reading = late
    with pytest.raises(StoreUnavailableError):
        rig.get(B)
    reading.land()
    assert rig.get(B) == BOB
    assert reading.needed == [True]


def test_a_record_in_doubt_counts_meanwhile_and_what_was_read_counts_then(
    late: tuple[Rig, Late],
) -> None:
    rig, reading = late
    rig.table.rows[A[0]] = key_record(revoked_us=1)
    assert [rig.get(), rig.get()] == [ANN, ANN], "as it was, and SQL is asked once"
    assert reading.needed == [False], "the call can be answered without"
    reading.land()
    assert rig.get() == key_record(revoked_us=1)
    rig.clock.advance(seconds=STALE_SECONDS + 1)
    with pytest.raises(StoreUnavailableError):
        rig.get()
    assert reading.needed == [False, False], "a feed so long silent is an outage: told at once"
    rig.cache.suspect_all()
    rig.clock.advance(us=1)
    rig.cache.beat()
    with pytest.raises(StoreUnavailableError):
        rig.get()
    assert reading.needed == [False, False, True], "a gap in a feed that lives is none"


@pytest.mark.parametrize("after", ["a change", "a gap"])
def test_who_comes_after_a_change_does_not_share_a_reading_from_before_it(
    late: tuple[Rig, Late], after: str
) -> None:
    rig, reading = late
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            rig.get(B)
    if after == "a change":
        rig.cache.apply(changed(B))
    else:
        rig.cache.suspect_all()
    with pytest.raises(StoreUnavailableError):
        rig.get(B)
    first, second, third = reading.names
    assert first == second != third


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────


def numbered(number: int) -> tuple[bytes, ...]:
    return (number.to_bytes(32, "big"),)


def test_made_up_keys_push_no_real_one_out() -> None:
    rig = Rig.healthy(capacity=10)
    rig.get(A), rig.get(B)
    for number in range(1000):
        rig.get(numbered(number))
    assert len(rig.cache) == 12
    assert [rig.reads(A), rig.reads(B)] == [0, 0]


def test_the_least_recently_used_goes_first() -> None:
    rig = Rig.healthy(capacity=3)
    rig.table.rows.update({numbered(number)[0]: ANN for number in range(5)})
    for number in (0, 1, 2, 0, 3):  # the use of 0 makes 1 the oldest
        rig.get(numbered(number))
    assert len(rig.cache) == 3
    assert [rig.reads(numbered(number)) for number in (0, 2, 3)] == [0, 0, 0]
    assert rig.reads(numbered(1)) == 1


def test_nothing_of_what_was_pushed_out_is_left_behind() -> None:
    rig = Rig.healthy(capacity=5)
    for number in range(200):
        rig.get((*numbered(number), *numbered(1000 + number)))
    assert len(rig.cache) == 5
    assert len(rig.cache._first_of) == 10


def test_nothing_of_accounts_whose_keys_were_pushed_out_is_left_behind() -> None:
    table = KeyTable()
    for number in range(60):
        table.rows[numbered(number)[0]] = key_record(account_id=f"acc_{number // 3}")
    rig = Rig.healthy(capacity=5, table=table)
    for number in range(60):
        rig.get(numbered(number))
    assert rig.cache._of_account.keys() == {"acc_18", "acc_19"}
    rig.cache.apply(changed(account="acc_19"))
    assert [rig.reads(numbered(number)) for number in (57, 58, 59)] == [1, 1, 1]
    rig.cache.apply(changed(numbered(59)))
    assert rig.reads(numbered(58)) == 0


def test_a_change_of_an_account_costs_nothing_for_those_of_others() -> None:
    table = KeyTable()
    for number in range(1000):
        table.rows[numbered(number)[0]] = key_record(account_id=f"acc_{number}")
    rig = Rig.healthy(capacity=1000, table=table)
    for number in range(1000):
        rig.get(numbered(number))

    def cost(change: Change) -> int:
        lines = 0

        def count(*_: object) -> Any:
            nonlocal lines
            lines += 1
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            rig.cache.apply(change)
        finally:
            sys.settrace(before)
        return lines

    assert cost(changed(account="acc_7")) < 100
    assert rig.reads(numbered(7)) == 1
    assert rig.reads(numbered(8)) == 0


# ── Several peppers: several digests ─────────────────────────────────────────────────────────────

NEW_AND_OLD = (b"n" * 32, b"o" * 32)


@pytest.mark.parametrize("stored_under", NEW_AND_OLD)
def test_a_change_under_any_of_the_digests_reaches_the_record(stored_under: bytes) -> None:
    rig = Rig.healthy(table=KeyTable((stored_under, ANN)))
    assert rig.get(NEW_AND_OLD) == ANN
    assert rig.reads(NEW_AND_OLD) == 0
    rig.cache.apply(Change(1, stored_under, None))
    assert rig.reads(NEW_AND_OLD) == 1


def test_a_key_minted_under_any_of_the_digests_is_found_after_it_was_unknown() -> None:
    rig = Rig.healthy()
    assert rig.get(NEW_AND_OLD) is None
    rig.table.rows[NEW_AND_OLD[1]] = ANN
    rig.cache.apply(Change(1, NEW_AND_OLD[1], None))
    assert rig.get(NEW_AND_OLD) == ANN
