"""Ends whose hold the counters do not know: SQL is asked, again for a while, many at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from moneyhelp import hold as made_hold
from moneysupport import Settled, ending
from waiting import until

from authz import seek
from authz.metrics import Metrics
from authz.pricing import released
from authz.seek import ONE_LOOK, Seeker
from store.errors import StoreUnavailableError
from store.openholds import Whereabouts
from store.records import Basis, Hold


@dataclass
class Copies:
    opened: list[Hold] = field(default_factory=list)
    booked: set[str] = field(default_factory=set)
    asked: list[tuple[list[str], list[str]]] = field(default_factory=list)
    out: bool = False

    def find(self, hold_ids: Sequence[str], request_ids: Sequence[str]) -> Whereabouts:
        self.asked.append((list(hold_ids), list(request_ids)))
        if self.out:
            raise StoreUnavailableError("the database does not answer")
        found = [
            hold for hold in self.opened if hold.id in hold_ids or hold.request_id in request_ids
        ]
        return Whereabouts(tuple(found), frozenset(self.booked & set(hold_ids)))


class Rig:
    def __init__(self) -> None:
        self.copies = Copies()
        self.settled = Settled()
        self.metrics = Metrics()
        self.seeker = Seeker(self.copies, self.settled.end_all, self.metrics)
        self.seeker.start(lambda hold, ended: (hold, released(hold, ended.status, 1)))

    @property
    def late(self) -> float:
        return self.metrics.registry.get_sample_value("tensorgate_late_settlements_total") or 0


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(seek, "RETRY_SECONDS", 0.02)
    made = Rig()
    yield made
    made.seeker.stop()


SOON = (0.0, 0.05, 0.2)


def test_a_hold_that_sql_has_is_ended(rig: Rig) -> None:
    hold = made_hold()
    rig.copies.opened.append(hold)
    rig.seeker.seek(ending(hold_id=hold.id))
    until(lambda: rig.settled.bases == [Basis.RELEASED])
    assert rig.settled.ends[0][0] == hold
    assert rig.late == 0


def test_one_that_is_only_on_its_way_is_found_at_a_later_look(rig: Rig) -> None:
    hold = made_hold()
    rig.seeker.seek(ending(hold_id=hold.id), SOON)
    until(lambda: len(rig.copies.asked) == 2)
    assert not rig.settled.ends
    rig.copies.opened.append(hold)
    until(lambda: len(rig.settled.ends) == 1)
    assert len(rig.copies.asked) == 3


def test_what_is_nowhere_at_the_last_look_has_ended_before(rig: Rig) -> None:
    rig.seeker.seek(ending(hold_id="gone"), SOON)
    until(lambda: rig.late == 1)
    assert len(rig.copies.asked) == len(SOON)
    rig.seeker.seek(ending(hold_id=None, request_id="never had one"), SOON)
    until(lambda: len(rig.copies.asked) == 2 * len(SOON))
    time.sleep(0.1)
    assert rig.late == 1, "that is no late end"
    assert not rig.settled.ends


def test_one_look_is_enough_for_what_has_a_row(rig: Rig) -> None:
    rig.copies.booked.add("booked")
    rig.seeker.seek(ending(hold_id="booked"), SOON)
    until(lambda: rig.late == 1)
    time.sleep(0.3)
    assert len(rig.copies.asked) == 1


def test_a_request_is_sought_by_its_id_and_all_that_it_has_is_ended(rig: Rig) -> None:
    one, two = made_hold(request_id="r"), made_hold(request_id="r")
    rig.copies.opened += [one, two]
    rig.seeker.seek(ending(hold_id=None, request_id="r", outcome="", reached=False))
    until(lambda: len(rig.settled.ends) == 2)
    assert rig.copies.asked == [([], ["r"])]


def test_where_there_was_a_decision_one_late_look_is_enough(rig: Rig) -> None:
    started = time.monotonic()
    rig.seeker.seek(ending(hold_id=None, request_id="r"), ONE_LOOK)
    until(lambda: bool(rig.copies.asked))
    assert time.monotonic() - started > 0.5
    time.sleep(0.3)
    assert len(rig.copies.asked) == 1


def test_while_sql_is_out_nothing_is_given_up(rig: Rig) -> None:
    rig.copies.out = True
    hold = made_hold()
    rig.seeker.seek(ending(hold_id=hold.id), (0.0,))
    until(lambda: len(rig.copies.asked) > 3)
    assert rig.late == 0
    assert rig.seeker.is_sought(hold), "or a sweep would take it for silent"
    assert not rig.seeker.is_sought(made_hold())
    rig.copies.opened.append(hold)
    rig.copies.out = False
    until(lambda: len(rig.settled.ends) == 1)
    until(lambda: not rig.seeker.is_sought(hold))


def test_a_hold_is_sought_until_nobody_looks_for_it_by_any_name(rig: Rig) -> None:
    hold = made_hold(request_id="r")
    rig.seeker.seek(ending(hold_id=hold.id), (0.1,))
    rig.seeker.seek(ending(hold_id=hold.id), (0.2,))
    rig.seeker.seek(ending(hold_id=None, request_id="r"), (0.3,))
    until(lambda: len(rig.copies.asked) == 2)
    assert rig.seeker.is_sought(hold)
    until(lambda: len(rig.copies.asked) == 3)
    until(lambda: not rig.seeker.is_sought(hold))


def test_many_are_sought_together_and_there_is_a_bound(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seek, "MAX_SOUGHT", 50)
    for number in range(60):
        rig.seeker.seek(ending(hold_id=f"h{number}"), (0.2,))
    until(lambda: rig.late == 50)
    assert len(rig.copies.asked) <= 3
    dropped = rig.metrics.registry.get_sample_value("tensorgate_settlements_dropped_total")
    assert dropped == 10


def test_a_defect_costs_its_group_and_nothing_else(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    works = rig.copies.find
    monkeypatch.setattr(rig.copies, "find", lambda *_: 1 / 0)
    rig.seeker.seek(ending(hold_id="h1"), (0.0,))
    until(lambda: "ZeroDivisionError" in caplog.text)
    monkeypatch.setattr(rig.copies, "find", works)
    hold = made_hold()
    rig.copies.opened.append(hold)
    rig.seeker.seek(ending(hold_id=hold.id))
    until(lambda: len(rig.settled.ends) == 1)


def test_stopping_looks_once_more(rig: Rig) -> None:
    hold = made_hold()
    rig.copies.opened.append(hold)
    rig.seeker.seek(ending(hold_id=hold.id), (60.0,))
    rig.seeker.stop()
    assert [each[0] for each in rig.settled.ends] == [hold]
