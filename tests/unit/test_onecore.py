"""One core for one process that runs one thread at a time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from authz.onecore import core_of, keep_to_one_core

SCRIPT = """
import os, threading
from authz.onecore import keep_to_one_core
kept = keep_to_one_core()
seen = []
thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
thread.start(); thread.join()
print(len(seen[0]), kept is None or seen[0] == {kept})
"""


def test_every_thread_lies_on_the_one_core() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1", "True"]


def test_processes_that_follow_each_other_lie_on_different_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bound: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 5, 7})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: bound.append(cores))
    kept = []
    for pid in (30, 31, 32, 33):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        kept.append(keep_to_one_core())
    assert kept == [2, 5, 7, 2]
    assert bound == [{2}, {5}, {7}, {2}]


def test_where_there_is_no_choice_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert keep_to_one_core() is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert keep_to_one_core() is None
    monkeypatch.delattr(os, "sched_setaffinity")
    assert keep_to_one_core() is None


@pytest.mark.parametrize(
    ("worker", "workers", "cores", "core"),
    [(0, 2, 4, 0), (1, 2, 4, 1), (1, 2, 3, None), (3, 4, 64, 3), (0, 1, 1, None)],
)
def test_a_worker_has_its_core_where_envoy_has_as_many(
    worker: int, workers: int, cores: int, core: int | None
) -> None:
    assert core_of(worker, workers, cores) == core


def test_a_number_names_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 5, 7, 9})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: bound.append(cores))
    assert [keep_to_one_core(number) for number in (0, 1, 5)] == [2, 5, 5]
    assert bound == [{2}, {5}, {5}]
