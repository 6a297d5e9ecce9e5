"""Numbers of several processes at one `/metrics`, and what becomes of those of the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.multiprocess import MultiProcessCollector

from authz.exposition import SharedNumbers, exposing
from authz.metrics import FOLDER, Metrics
from tensorgate.ports import free_port

PROCESS = """
import sys
from authz.metrics import Metrics, share_as
share_as(sys.argv[1])
metrics = Metrics(shared=True)
metrics.follow(metrics.ledger_lag, lambda: 7.5)
with metrics.following():
    for line in sys.stdin:
        exec(line)
        print("done", flush=True)
"""


class Other:
    """Another process of the gate, told line by line what to count."""

    def __init__(self, folder: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, name],
            env={**os.environ, FOLDER: str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def other(folder: Path, name: str) -> Iterator[Other]:
    started = Other(folder, name)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()


@pytest.fixture
def numbers(tmp_path: Path) -> SharedNumbers:
    made = SharedNumbers(tmp_path / "metrics")
    made.clear()
    return made


@pytest.fixture
def registry(numbers: SharedNumbers) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(numbers)
    return made


def test_processes_are_added_up_and_the_dead_count_on(
    tmp_path: Path, numbers: SharedNumbers, registry: CollectorRegistry
) -> None:
    folder = tmp_path / "metrics"

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"tensorgate_{name}")

    with other(folder, "authz-0") as first, other(folder, "authz-1") as second:
        for each in (first, second):
            each.do("metrics.late_settlements.inc(3); metrics.holds_outstanding.set(2)")
        first.do("metrics.check_seconds.observe(0.2); metrics.catalog_loaded.set(50)")
        second.do("metrics.catalog_loaded.set(40); metrics.drift.set(5)")
        assert value("late_settlements_total") == 6
        assert value("holds_outstanding") == 4
        assert value("catalog_loaded_timestamp_seconds") == 40
        assert value("drift_nanousd") == 5
        second.kill()
        numbers.died("authz-1")
        assert value("late_settlements_total") == 6, "a counter went back"
        assert value("holds_outstanding") == 2
        assert value("catalog_loaded_timestamp_seconds") == 50
        with other(folder, "authz-1") as next_one:
            next_one.do("metrics.late_settlements.inc(1); metrics.check_seconds.observe(0.3)")
            assert value("late_settlements_total") == 7
            assert value("check_duration_seconds_count") == 2
            before = sorted(path.name for path in folder.iterdir())
            next_one.kill()
            numbers.died("authz-1")
        with other(folder, "authz-1") as third:
            third.do("metrics.late_settlements.inc(1)")
            assert value("late_settlements_total") == 8
            assert sorted(path.name for path in folder.iterdir()) == before, "files pile up"


def test_a_gauge_that_is_followed_is_there_for_the_others(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    with other(tmp_path / "metrics", "meter") as meter:
        meter.do("import time; time.sleep(1.3)")
        assert registry.get_sample_value("tensorgate_ledger_lag_seconds") == 7.5


def test_a_meter_that_has_no_feed_does_not_speak_for_workers(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    def healthy() -> float | None:
        return registry.get_sample_value("tensorgate_feed_healthy")

    with other(tmp_path / "metrics", "meter"), other(tmp_path / "metrics", "authz-0") as worker:
        worker.do("metrics.follow(metrics.feed_healthy, lambda: True)")
        assert healthy() == 1
        worker.do("metrics.follow(metrics.feed_healthy, lambda: False)")
        assert healthy() == 0, "it was not looked at yet"


def test_alone_it_is_read_at_each_look() -> None:
    metrics, seen = Metrics(), [1.0, 2.0]
    metrics.follow(metrics.ledger_lag, lambda: seen.pop(0))
    with metrics.following():
        for expected in (1.0, 2.0):
            found = metrics.registry.get_sample_value("tensorgate_ledger_lag_seconds")
            assert found == expected


def test_of_each_gauge_only_the_living_count() -> None:
    gauges = [each for each in vars(Metrics()).values() if isinstance(each, Gauge)]
    assert len(gauges) >= 4
    for gauge in gauges:
        assert gauge._multiprocess_mode.startswith("live"), gauge._name
        assert gauge._multiprocess_mode not in {"liveall", "livemostrecent"}, gauge._name


def test_a_file_that_is_just_being_made_costs_no_look(
    tmp_path: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / "metrics" / "counter_authz-9.db"
    half.touch()
    looks = []
    collect = MultiProcessCollector.collect

    def looked(collector: MultiProcessCollector) -> object:
        looks.append(1)
        if len(looks) == 3:
            half.unlink()
        return collect(collector)

    monkeypatch.setattr(MultiProcessCollector, "collect", looked)
    assert list(registry.collect()) == []
    assert len(looks) == 3


def test_numbers_of_a_supervisor_before_are_gone(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "counter_authz-0.db").write_bytes(b"x" * 100)
    numbers = SharedNumbers(folder)
    numbers.clear()
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o700


def test_it_is_served_until_the_end() -> None:
    metrics, port = Metrics(), free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}/metrics"
    with exposing(("127.0.0.1", port), metrics.registry):
        body = urllib.request.urlopen(url, timeout=5).read()
        assert b"tensorgate_holds_outstanding 0.0" in body
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)
