"""The feed by polling: order, gaps, failures, and that each answer is a beat."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from support import KeyTable, ManualClock, key_record
from waiting import until

from authz import feed as feed_module
from authz.cache import KeyCache
from authz.feed import POLL_SECONDS, Feed
from store.clock import wall_us
from store.errors import StoreUnavailableError
from store.records import Change

GAP = Change(40, None, None)


def change(seq: int) -> Change:
    return Change(seq, b"%032d" % seq, None)


@dataclass
class Source:
    """A numbered list of changes, handed out in portions."""

    rows: list[Change] = field(default_factory=list)
    portion: int = 100
    out: bool = False
    bug: bool = False
    asked: list[int] = field(default_factory=list)

    def changes_since(self, seq: int) -> list[Change]:
        self.asked.append(seq)
        if self.bug:
            raise KeyError("a defect of ours")
        if self.out:
            raise StoreUnavailableError("the database does not answer")
        return [row for row in self.rows if row.seq > seq][: self.portion]

    def last_change(self) -> int:
        if self.out:
            raise StoreUnavailableError("the database does not answer")
        return self.rows[-1].seq if self.rows else 0


class Told(KeyCache):
    """A cache that notes what it is told."""

    def __init__(self) -> None:
        super().__init__(KeyTable(), ManualClock(), stale_us=0)
        self.told: list[Any] = []

    def beat(self) -> None:
        self.told.append("beat")

    def apply(self, change: Change) -> None:
        self.told.append(change)

    def suspect_all(self) -> None:
        self.told.append("suspect all")

    def heard(self) -> list[Any]:
        heard, self.told = self.told, []
        return heard


@pytest.fixture
def source() -> Source:
    return Source([change(1), change(2)])


@pytest.fixture
def cache() -> Told:
    return Told()


def test_the_first_poll_starts_at_the_newest_change_and_trusts_nothing_older(
    source: Source, cache: Told
) -> None:
    Feed(source, cache).poll()
    assert source.asked == [2]
    assert cache.heard() == ["suspect all", "beat"]


def test_each_poll_applies_what_is_new_in_order_and_then_beats(source: Source, cache: Told) -> None:
    feed = Feed(source, cache)
    feed.poll()
    cache.heard()
    source.rows += [change(3), change(5)]
    feed.poll()
    assert cache.heard() == [change(3), change(5), "beat"]
    feed.poll()
    assert cache.heard() == ["beat"]
    assert source.asked[-1] == 5


def test_a_long_feed_is_read_to_its_end_before_the_beat(source: Source, cache: Told) -> None:
    source.portion = 2
    feed = Feed(source, cache)
    feed.poll()
    cache.heard()
    source.rows += [change(seq) for seq in range(3, 10)]
    feed.poll()
    assert cache.heard() == [*(change(seq) for seq in range(3, 10)), "beat"]


def test_a_gap_makes_everything_suspect_and_is_gone_on_from(source: Source, cache: Told) -> None:
    feed = Feed(source, cache)
    feed.poll()
    cache.heard()
    source.rows.append(GAP)
    feed.poll()
    assert cache.heard() == ["suspect all", "beat"]
    source.rows.append(change(41))
    feed.poll()
    assert cache.heard() == [change(41), "beat"]


def test_a_failing_poll_does_not_beat_and_the_next_one_misses_nothing(
    source: Source, cache: Told
) -> None:
    feed = Feed(source, cache)
    feed.poll()
    cache.heard()
    source.rows.append(change(3))
    source.out = True
    with pytest.raises(StoreUnavailableError):
        feed.poll()
    assert cache.heard() == []
    source.out = False
    feed.poll()
    assert cache.heard() == [change(3), "beat"]


def test_a_feed_that_cannot_start_says_so(source: Source, cache: Told) -> None:
    source.out = True
    feed = Feed(source, cache)
    with pytest.raises(StoreUnavailableError):
        feed.start()
    feed.stop()
    assert cache.heard() == []


def test_the_thread_polls_survives_an_outage_and_says_once_that_it_was_one(
    source: Source,
    cache: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert POLL_SECONDS <= 0.2
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.002)
    caplog.set_level(logging.INFO, logger="authz.feed")
    feed = Feed(source, cache)
    feed.start()
    try:
        source.rows.append(change(3))
        until(lambda: change(3) in cache.told)
        source.out = True
        asked = len(source.asked)
        until(lambda: len(source.asked) > asked + 3)
        source.rows.append(change(4))
        source.out = False
        until(lambda: change(4) in cache.told)
    finally:
        feed.stop()
    heard = cache.heard()
    assert [row for row in heard if isinstance(row, Change)] == [change(3), change(4)]
    time.sleep(0.01)
    assert cache.heard() == []
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the change feed is interrupted: the database does not answer",
        "the change feed is back",
    ]


def test_a_push_that_comes_while_sql_is_asked_disturbs_nothing(source: Source, cache: Told) -> None:
    """What was told is looked through as another thread adds to it."""
    applied: list[int] = []
    feed = Feed(source, cache, applied=applied.append)
    feed.poll()

    class Busy(dict[int, Change]):
        """As another thread's turn just here."""

        def items(self) -> Any:
            for item in super().items():
                self[len(self) + 1000] = change(len(self) + 1000)
                yield item

    feed._told = Busy()
    feed.hear(change(3))
    source.rows.append(change(3))
    feed.poll()
    assert applied == [2, 3]
    assert cache.heard().count(change(3)) == 2, "by the push, and by SQL, which nobody can forge"


def test_a_defect_does_not_end_the_feed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.001)
    source, cache = Source(), Told()
    feed = Feed(source, cache)
    feed.start()
    try:
        source.bug = True
        asked = len(source.asked)
        until(lambda: len(source.asked) > asked + 5)
        cache.heard()
        assert cache.heard() == []  # no beat: nothing is trusted
        source.rows.append(change(3))
        source.bug = False
        until(lambda: change(3) in cache.told)
    finally:
        feed.stop()
    assert [r.getMessage() for r in caplog.records if r.exc_info] == ["the change feed failed"]


def test_a_revocation_is_seen_by_the_cache_with_the_next_poll() -> None:
    """The two together, as they run."""
    digest, clock = b"d" * 32, ManualClock()
    table = KeyTable((digest, key_record()))
    cache = KeyCache(table, clock, stale_us=5_000_000)
    source = Source()
    feed = Feed(source, cache)
    feed.poll()
    clock.advance(seconds=0.1)
    assert cache.get((digest,)) == key_record()
    table.rows[digest] = key_record(revoked_us=1)
    source.rows.append(Change(1, digest, None))
    clock.advance(seconds=POLL_SECONDS)
    feed.poll()
    assert cache.get((digest,)) == key_record(revoked_us=1)
    assert table.asked == 2


# -- with a push


@pytest.fixture
def followed(source: Source, cache: Told) -> Iterator[Followed]:
    made = Followed(source, cache)
    made.feed.poll()
    cache.heard()
    return made


class Followed:
    """A feed that notes whom it told of what."""

    def __init__(self, source: Source, cache: Told) -> None:
        self.applied: list[int] = []
        self.lags: list[float] = []
        self.feed = Feed(source, cache, applied=self.applied.append, lag=self.lags.append)


def test_what_a_push_says_is_applied_at_once_and_not_again(
    source: Source, cache: Told, followed: Followed
) -> None:
    source.rows += [change(3), change(4)]
    followed.feed.hear(change(4))
    assert cache.heard() == [change(4)]
    assert followed.applied == [2], "nobody has looked at what was before it"
    followed.feed.poll()
    assert cache.heard() == [change(3), change(4), "beat"]
    assert followed.applied == [2, 4]
    assert len(followed.lags) == 2


def test_sums_are_read_anew_where_a_row_was_added_beside_the_counters(
    source: Source, cache: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the key is: who finds the key there must not find its spend missing."""
    digest = b"%032d" % 7
    order: list[Any] = []

    def recount(account_id: str) -> None:
        order.append((account_id, cache.heard()))
        if account_id == "acc_out":
            raise StoreUnavailableError("the counters do not answer")

    feed = Feed(source, cache, recount=recount)
    feed.poll()
    cache.heard()
    source.rows += [Change(3, digest, None), Change(4, None, "acc_1"), Change(5, digest, "acc_2")]
    feed.poll()
    assert order == [("acc_2", [Change(3, digest, None), Change(4, None, "acc_1")])]
    assert cache.heard() == [Change(5, digest, "acc_2"), "beat"]
    feed.hear(Change(6, digest, "acc_out"))
    assert cache.heard() == [Change(6, digest, "acc_out")], "the cache hears of it all the same"
    assert "counted anew" in caplog.text


def test_a_push_that_said_something_else_hides_nothing(
    source: Source, cache: Told, followed: Followed
) -> None:
    source.rows.append(change(3))
    followed.feed.hear(Change(3, b"another key's digest", None))
    followed.feed.poll()
    assert change(3) in cache.heard()
    followed.feed.hear(change(1 << 40))
    source.rows.append(change(4))
    followed.feed.poll()
    assert change(4) in cache.heard(), "a number that is far ahead moves nothing"
    assert followed.applied[-1] == 4


def test_a_beat_counts_only_while_sql_answers(
    source: Source, cache: Told, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.feed.hear_beat()
    assert cache.heard() == ["beat"]
    now = time.monotonic()
    monkeypatch.setattr(feed_module, "monotonic", lambda: now + 1.6)
    followed.feed.hear_beat()
    assert cache.heard() == []


def test_who_misses_something_trusts_nothing_and_looks_at_once(
    source: Source, cache: Told, followed: Followed
) -> None:
    followed.feed.start()
    followed.feed.hear_beat()
    time.sleep(0.1)
    cache.heard()
    source.rows.append(change(3))
    followed.feed.miss(lost=True)
    deadline = time.monotonic() + POLL_SECONDS * 0.8
    while change(3) not in cache.told:
        assert time.monotonic() < deadline, "it waited for the next poll"
        time.sleep(0.002)
    assert cache.heard()[0] == "suspect all"
    followed.feed.stop()


def test_polling_is_slow_while_the_push_lives_and_quick_without(
    source: Source, cache: Told, followed: Followed
) -> None:
    def asked_within(seconds: float) -> int:
        time.sleep(0.05)
        before = len(source.asked)
        time.sleep(seconds)
        return len(source.asked) - before

    followed.feed.start()
    followed.feed.hear_beat()
    assert asked_within(0.5) <= 1
    followed.feed.miss(lost=True)
    assert asked_within(0.5) >= 2
    followed.feed.stop()


def test_a_change_of_a_clock_that_is_ahead_has_no_lag(followed: Followed) -> None:
    followed.feed.hear(Change(9, b"x", None, wall_us() + 10**9))
    followed.feed.hear(Change(10, b"y", None, wall_us() - 250_000))
    assert followed.lags[0] == 0
    assert 0.25 <= followed.lags[1] < 2
