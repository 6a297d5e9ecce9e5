"""Accounts that Redis lost are brought back for the heartbeats of their holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Barrier

import pytest

from authz import revive
from authz.revive import TOGETHER, Reviver
from store.errors import StoreUnavailableError


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.002)


class Rig:
    def __init__(self) -> None:
        self.seeded: list[str] = []
        self.faults: list[Exception] = []
        self.reviver = Reviver(self.seed)

    def seed(self, account_id: str) -> None:
        if self.faults:
            raise self.faults.pop()
        self.seeded.append(account_id)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(revive, "RETRY_SECONDS", 0.02)
    made = Rig()
    yield made
    made.reviver.stop()


def test_an_account_is_seeded_once_however_many_of_its_holds_beat(rig: Rig) -> None:
    for _ in range(3):
        rig.reviver.heard("one")
        rig.reviver.heard("two")
    rig.reviver.start()
    until(lambda: sorted(rig.seeded) == ["one", "two"])


def test_a_store_that_is_out_is_asked_again_and_a_defect_costs_only_itself(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.faults = [StoreUnavailableError("out"), StoreUnavailableError("out")]
    rig.reviver.start()
    rig.reviver.heard("one")
    until(lambda: rig.seeded == ["one"])
    rig.faults = [KeyError("a defect of ours")]
    rig.reviver.heard("two")
    until(lambda: "a defect of ours" in caplog.text)
    rig.reviver.heard("three")
    until(lambda: rig.seeded == ["one", "three"])


def test_there_is_a_bound(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revive, "MAX_WAITING", 2)
    for number in range(4):
        rig.reviver.heard(str(number))
    rig.reviver.start()
    until(lambda: rig.seeded == ["0", "1"])
    rig.reviver.heard("3")
    until(lambda: rig.seeded == ["0", "1", "3"])


def test_accounts_that_wait_for_the_same_wait_together(rig: Rig) -> None:
    all_there = Barrier(TOGETHER)
    reviver = Reviver(lambda account_id: rig.seeded.append(f"{account_id} {all_there.wait(5)}"))
    for number in range(2 * TOGETHER):
        reviver.heard(str(number))
    reviver.start()
    try:
        until(lambda: len(rig.seeded) == 2 * TOGETHER)
    finally:
        reviver.stop()


def test_accounts_that_cannot_be_seeded_keep_no_others_waiting(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one node of a cluster, which is out."""
    monkeypatch.setattr(revive, "RETRY_SECONDS", 60)

    def seed(account_id: str) -> None:
        if account_id.startswith("out"):
            raise StoreUnavailableError("its node is out")
        rig.seeded.append(account_id)

    reviver = Reviver(seed)
    for number in range(TOGETHER - 1):
        reviver.heard(f"out {number}")
    for number in range(3):
        reviver.heard(f"well {number}")
    reviver.start()
    try:
        until(lambda: len(rig.seeded) == 3)
    finally:
        reviver.stop()
