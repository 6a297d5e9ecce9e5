"""Listening to a push: what is handed on, when silence counts as loss, and who speaks."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue

import pytest
from waiting import until

from authz import listen
from authz.listen import Listener
from store.errors import StoreUnavailableError
from store.push import BEAT, Message
from store.records import Change

CHANGE = Change(7, b"d" * 32, None, 1)


class Line:
    """A channel whose other side is the test."""

    def __init__(self, *, echo: bool = True) -> None:
        self.said: list[tuple[float, str]] = []
        self.opened = self.closed = 0
        self.out = self.bug = False
        self.echo = echo
        self._number = 0
        self._came: SimpleQueue[Message] = SimpleQueue()

    def open(self) -> None:
        self.opened += 1
        if self.bug:
            raise KeyError("a defect of ours")
        if self.out:
            raise StoreUnavailableError("Redis does not answer")

    def receive(self, seconds: float) -> Sequence[Message]:
        if self.out:
            raise StoreUnavailableError("Redis does not answer")
        try:
            return [self._came.get(timeout=max(seconds, 0.001))]
        except Empty:
            return ()

    def send(self, text: str) -> None:
        self.said.append((time.monotonic(), text))
        if self.echo:
            self.come(None)

    def come(self, change: Change | None, skip: int = 0) -> None:
        self._number += 1 + skip
        self._came.put(Message(self._number, change))

    def close(self) -> None:
        self.closed += 1


class Told:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def hear(self, change: Change) -> None:
        self.heard.append(change)

    def hear_beat(self) -> None:
        self.heard.append("beat")

    def miss(self, *, lost: bool) -> None:
        self.heard.append("lost" if lost else "gap")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (
        ("BEAT_SECONDS", 0.05),
        ("JITTER_SECONDS", 0.01),
        ("SILENT_SECONDS", 0.15),
        ("LEAST_PAUSE_SECONDS", 0.01),
        ("MOST_PAUSE_SECONDS", 0.05),
    ):
        monkeypatch.setattr(listen, name, seconds)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def told(line: Line) -> Iterator[Told]:
    made = Told()
    listener = Listener(line, made, name="the line")
    listener.start()
    yield made
    listener.stop()
    assert line.closed >= line.opened


def test_beats_are_asked_for_at_once_and_then_regularly(line: Line, told: Told) -> None:
    until(lambda: len(line.said) >= 4)
    assert {text for _, text in line.said} == {BEAT}
    moments = [at for at, _ in line.said]
    assert all(b - a >= 0.045 for a, b in itertools.pairwise(moments))
    assert set(told.heard) == {"beat"}


def test_who_hears_others_does_not_speak(line: Line, told: Told) -> None:
    until(lambda: told.heard)
    before = len(line.said)
    for _ in range(20):
        line.come(None)
        time.sleep(0.02)
    assert len(line.said) - before <= 2
    assert told.heard.count("beat") >= 20


def test_a_change_is_handed_on(line: Line, told: Told) -> None:
    until(lambda: told.heard)
    line.come(CHANGE)
    until(lambda: CHANGE in told.heard)
    assert "gap" not in told.heard


def test_a_number_that_does_not_follow_is_a_gap_and_the_line_stays(line: Line, told: Told) -> None:
    until(lambda: told.heard)
    line.come(CHANGE, skip=1)
    until(lambda: CHANGE in told.heard)
    assert told.heard[told.heard.index(CHANGE) - 1] == "gap"
    assert (told.heard.count("gap"), line.opened) == (1, 1)


def test_silence_is_loss_and_the_line_is_opened_anew(
    line: Line, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    until(lambda: told.heard)
    line.echo = False
    began = time.monotonic()
    until(lambda: "lost" in told.heard)
    assert 0.1 < time.monotonic() - began < 1
    until(lambda: line.opened >= 3)
    assert told.heard.count("lost") == 1, "what was never heard cannot be lost"
    line.echo = True
    before = len(told.heard)
    until(lambda: len(told.heard) > before)
    assert told.heard[-1] == "beat"
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1


def test_an_error_is_loss_at_once(line: Line, told: Told) -> None:
    until(lambda: told.heard)
    line.out = True
    until(lambda: "lost" in told.heard)
    opened = line.opened
    until(lambda: line.opened > opened + 2)
    line.out = False
    before = len(told.heard)
    until(lambda: len(told.heard) > before)
    assert told.heard[-1] == "beat"


def test_a_defect_does_not_end_the_push_for_ever(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.bug = True
    told = Told()
    listener = Listener(line, told, name="the line")
    listener.start()
    until(lambda: line.opened >= 2)
    line.bug = False
    until(lambda: told.heard)
    listener.stop()
    assert any(each.exc_info for each in caplog.records)
