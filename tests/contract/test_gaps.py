"""What was not heard, and what only looks old, is not swept: the books as authz puts them together.

The machine sleeps, and its clock is put right, by moving the two clocks of the system.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from moneyhelp import KEY, draft, fast_engine, limits, mint

from authz.books import Books, open_books
from authz.metrics import Metrics
from authz.settings import AuthzSettings
from store import clock
from store.catalog import Catalog
from store.counters.model import Taken
from store.records import Hold

DEADLINE = 1.0
SLEPT = 100.0


class System:
    """The system's clocks, which can be moved on top of going on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept = self.set = 0.0
        elapsed_ns, time_ns = clock._elapsed_ns, time.time_ns
        monkeypatch.setattr(clock, "_elapsed_ns", lambda: elapsed_ns() + round(self.slept * 1e9))
        monkeypatch.setattr(
            time, "time_ns", lambda: time_ns() + round((self.slept + self.set) * 1e9)
        )


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    monkeypatch.setattr(clock, "APART_SECONDS", 0.5)
    return System(monkeypatch)


@pytest.fixture
def books(tmp_path: Path, system: System) -> Iterator[Books]:
    assert not system.slept
    settings = AuthzSettings(
        state=tmp_path / "state",
        runtime=tmp_path,
        catalog=tmp_path / "catalog.yaml",
        hold_deadline_seconds=DEADLINE,
        heartbeat_seconds=DEADLINE / 4,
    )
    engine = fast_engine(tmp_path)
    mint(engine, KEY)
    with open_books(settings, lambda: Catalog.read(settings.catalog), Metrics()) as opened:
        yield opened
    engine.dispose()


def running(books: Books) -> Hold:
    """The hold of a call that runs, under a meter that has been serving for longer than that."""
    asked = draft(100)
    taken = books.seeded.take(asked.request_id, asked, limits())
    assert isinstance(taken, Taken)
    assert taken.hold is not None
    deadline = time.monotonic() + 1.5 * DEADLINE
    while time.monotonic() < deadline:
        time.sleep(DEADLINE / 4)
        assert books.counters.beat(taken.hold.account_id, taken.hold.id)
    return taken.hold


def keeps_on(books: Books, hold: Hold) -> bool:
    """Whether a call that gives its signs of life again is let be, for two deadlines."""
    deadline = time.monotonic() + 2 * DEADLINE
    time.sleep(DEADLINE / 2)  # what Envoy says comes a little later than the tick
    while time.monotonic() < deadline:
        if not books.counters.beat(hold.account_id, hold.id) or books.settler.is_ending(hold.id):
            return False
        time.sleep(DEADLINE / 8)
    return True


def swept(books: Books, hold: Hold) -> bool:
    """Whether one that gives none any more is swept within three."""
    deadline = time.monotonic() + 3 * DEADLINE
    while time.monotonic() < deadline and books.counters.hold(hold.account_id, hold.id) is not None:
        time.sleep(0.02)
    return books.counters.hold(hold.account_id, hold.id) is None


def test_after_a_sleep_whoever_still_runs_is_let_be(books: Books, system: System) -> None:
    hold = running(books)
    system.slept = SLEPT
    assert keeps_on(books, hold)
    assert swept(books, hold)


def test_so_is_one_that_runs_while_the_clock_is_put_right(
    books: Books, system: System, caplog: pytest.LogCaptureFixture
) -> None:
    hold = running(books)
    before_us = books.counters.generation(hold.account_id).now_us
    system.set = 30 * 86_400
    with caplog.at_level(logging.WARNING):
        assert keeps_on(books, hold)
    after_us = books.counters.generation(hold.account_id).now_us
    assert 30 * 86_400 <= (after_us - before_us) / 1e6 < 30 * 86_400 + 60
    assert "minutes and windows follow" in caplog.text
    assert swept(books, hold)
