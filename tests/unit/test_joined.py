"""One answer of several processes: added up, found where it is known, by all or by none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import pytest

from authz.control import Responder, serving
from authz.joined import ASK_SECONDS, Joined
from authz.sockets import Place
from store.errors import ConfigError, InputError, NotRunningError, StoreUnavailableError

PLACES = Place.all_of(2)
BAD = ConfigError("The catalog c cannot be used:", ("line 2: models.x: it is missing",))


class Process:
    """Answers as a process of the gate does, and keeps what it was asked."""

    def __init__(self, **known: Callable[[Mapping[str, Any]], object]) -> None:
        self.asked: list[str] = []
        self._known = {
            "settling": lambda _: {"ends_waiting": 2, "ledger_lag_seconds": 0.5},
            "catalog_check": lambda _: None,
            "catalog_reload": lambda _: {
                "path": "c", "changes": [], "warnings": ["w"], "seconds": 0.1,
            },
            **known,
        }  # fmt: skip

    def methods(self) -> dict[str, Callable[[Mapping[str, Any]], object]]:
        def noted(name: str) -> Callable[[Mapping[str, Any]], object]:
            def answer(arguments: Mapping[str, Any]) -> object:
                self.asked.append(name)
                return self._known[name](arguments)

            return answer

        return {name: noted(name) for name in self._known}


class Gate:
    """Processes by name, each behind a control socket of its own, and who was hung up on."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.processes: dict[str, Process] = {}
        self.hung_up: list[str] = []
        self.joined = Joined(folder, folder, PLACES, self.hung_up.append)

    def start(self, name: str, **known: Callable[[Mapping[str, Any]], object]) -> Process:
        (place,) = (place for place in PLACES if place.name == name)
        made = self.processes[name] = Process(**known)
        responder = Responder(self._folder, made.methods())
        self._stack.enter_context(serving(self._folder / place.control, responder))
        return made


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with ExitStack() as stack:
        yield Gate(tmp_path, stack)


def raises(fault: Exception) -> Callable[[Mapping[str, Any]], object]:
    def answer(_: Mapping[str, Any]) -> object:
        raise fault

    return answer


def workers(gate: Gate, **known: Callable[[Mapping[str, Any]], object]) -> list[Process]:
    return [gate.start(name, **known) for name in ("authz-0", "authz-1")]


def test_the_meter_counts_and_what_waits_is_added_up_over_all(gate: Gate) -> None:
    counted = {"open_holds": 4, "ends_waiting": 2, "ledger_lag_seconds": 0.5}
    gate.start("meter", counters=lambda _: counted, accounts=lambda _: ["a"])
    gate.start("authz-0", settling=lambda _: {"ends_waiting": 5, "ledger_lag_seconds": 9.0})
    asked = gate.joined.methods()
    assert asked["counters"]({}) == {
        "open_holds": 4, "ends_waiting": 7, "ledger_lag_seconds": 9.0,
    }  # fmt: skip
    assert asked["accounts"]({}) == ["a"]
    gate.start("authz-1")
    assert asked["settling"]({}) == {"ends_waiting": 9, "ledger_lag_seconds": 9.0}


def test_arguments_reach_the_meter(gate: Gate) -> None:
    gate.start("meter", drift=lambda arguments: dict.fromkeys(arguments["accounts"], 3))
    assert gate.joined.methods()["drift"]({"accounts": ["a", "b"]}) == {"a": 3, "b": 3}


def test_the_catalog_is_told_by_whoever_answers_and_nobody_waits_for_one_that_does_not(
    gate: Gate,
) -> None:
    released = Event()
    ask = gate.joined.methods()["catalog"]
    with pytest.raises(NotRunningError):
        ask({})
    gate.start("meter", catalog=lambda _: released.wait(ASK_SECONDS))
    gate.start("authz-0", catalog=lambda _: {"text": "models: {}"})
    began = monotonic()
    assert ask({}) == {"text": "models: {}"}
    assert monotonic() - began < ASK_SECONDS / 2
    released.set()


def test_where_nobody_tells_the_catalog_it_is_not_as_if_nobody_were_there(gate: Gate) -> None:
    gate.start("meter", catalog=raises(StoreUnavailableError("no answer in time")))
    with pytest.raises(StoreUnavailableError, match="no answer"):
        gate.joined.methods()["catalog"]({})


def test_a_refusal_is_told_by_whoever_knows_it(gate: Gate) -> None:
    gate.start("meter")
    gate.start("authz-0", refusal=lambda _: None)
    ask = gate.joined.methods()["refusal"]
    assert ask({"id": "r-1"}) is None
    gate.start("authz-1", refusal=lambda arguments: {"reason": arguments["id"]})
    assert ask({"id": "r-1"}) == {"reason": "r-1"}


def test_every_worker_reads_the_feed_and_one_that_starts_need_not(gate: Gate) -> None:
    first = gate.start("authz-0", feed=lambda _: None)
    gate.joined.feed()
    second = gate.start("authz-1", feed=lambda _: None)
    gate.joined.feed()
    assert (first.asked, second.asked) == (["feed", "feed"], ["feed"])


def test_a_worker_that_cannot_read_the_feed_is_told(gate: Gate) -> None:
    gate.start("authz-0", feed=lambda _: None)
    gate.start("authz-1", feed=raises(StoreUnavailableError("the database does not answer")))
    with pytest.raises(StoreUnavailableError, match="the database does not answer"):
        gate.joined.feed()


def test_nobody_there_is_no_answer(gate: Gate) -> None:
    for ask in (gate.joined.feed, gate.joined.reload, gate.joined.counters):
        with pytest.raises(NotRunningError):
            ask()


def test_a_catalog_is_tried_by_all_before_any_takes_it(gate: Gate) -> None:
    order: list[str] = []

    def note(word: str, answer: object) -> Callable[[Mapping[str, Any]], object]:
        return lambda _: order.append(word) or answer

    result = {"path": "c", "changes": [{"what": "model"}], "warnings": ["w"], "seconds": 0.1}
    slow = result | {"warnings": ["w", "v"], "seconds": 0.4}
    gate.start("meter", catalog_check=note("try", None), catalog_reload=note("take", result))
    gate.start("authz-0", catalog_check=note("try", None), catalog_reload=note("take", slow))
    gate.start("authz-1", catalog_check=note("try", None), catalog_reload=note("take", result))
    assert gate.joined.reload() == slow
    assert order == ["try"] * 3 + ["take"] * 3
    assert gate.hung_up == []


def test_a_catalog_that_one_refuses_is_taken_by_none(gate: Gate) -> None:
    well = [gate.start(name) for name in ("meter", "authz-0")]
    bad = gate.start("authz-1", catalog_check=raises(BAD), catalog_reload=raises(BAD))
    with pytest.raises(InputError) as caught:
        gate.joined.reload()
    assert str(caught.value) == str(BAD)
    assert [each.asked for each in well] == [["catalog_check"]] * 2
    assert bad.asked == ["catalog_check", "catalog_reload"], "its refusal is counted once"
    with pytest.raises(InputError, match="line 2"):
        gate.joined.try_out()


def test_a_catalog_that_changes_meanwhile_is_to_be_reloaded_once_more(gate: Gate) -> None:
    gate.start("meter", catalog_check=raises(BAD))
    workers(gate)
    with pytest.raises(StoreUnavailableError, match="Reload it once more"):
        gate.joined.reload()


def test_who_is_starting_reads_the_catalog_again(gate: Gate) -> None:
    gate.start("meter")
    gate.start("authz-1")
    assert gate.joined.reload()["path"] == "c"
    assert gate.hung_up == ["authz-0"]


def test_a_process_that_fails_to_take_it_is_told(gate: Gate) -> None:
    gate.start("meter")
    workers(gate, catalog_reload=raises(StoreUnavailableError("the disk is full")))
    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        gate.joined.reload()
