"""The supervisor of workers and meter, over processes that do nothing but say that they are there.

The real supervisor in a process of its own, real signals; what it starts has the sockets of a
worker or a meter, and writes down when it was started, asked and ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from moneyhelp import fast_engine
from peers.client import call
from peers.ports import free_port
from peers.process import Child, descendants, environment, parent
from waiting import until

from authz.health import LIVENESS, serving
from authz.presence import name_of
from authz.sockets import HEALTH
from store.control import Control
from store.engines import open_engine
from store.errors import StoreUnavailableError
from store.replicas import Replica, Replicas

SUPERVISOR = """
import logging, os, sys
from authz import fleet
from authz.settings import AuthzSettings
from authz.supervise import Program
from store.errors import TensorgateError
from store.settings import load

def program(self, place):
    runtime = self._settings.runtime
    words = (place.name, str(runtime / place.health), str(runtime / place.control))
    return Program(place.name, (sys.executable, sys.argv[1], *words), None, os.environ)

logging.basicConfig(level=logging.INFO)
fleet.Fleet._program = program
fleet.LOOK_SECONDS = 0.2
fleet.SILENT_LOOKS = 2
try:
    sys.exit(0 if fleet.supervise(load(AuthzSettings)) else 3)
except TensorgateError as fault:
    sys.exit(f"error: {fault}")
"""

PART = """
import os, signal, sys, time
from pathlib import Path
from threading import Event
from authz.control import Responder, serving
from authz.health import Health, telling
from store.errors import ConfigError

name, health, control = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
state = Path(os.environ["TENSORGATE_STATE"])

def note(word):
    with (state / "notes").open("a") as file:
        file.write(f"{name} {word}\\n")

def take(arguments):
    note("reload")
    return {"path": "c", "changes": [], "warnings": [], "seconds": 0}

def check(arguments):
    if (state / "refuse").exists():
        raise ConfigError("The catalog c cannot be used:", ("line 2",))

if os.environ.get("FAILS") == name:
    print("error: no such thing", file=sys.stderr)
    sys.exit(1)
ended = Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
known = {
    "catalog_check": check,
    "catalog_reload": take,
    "settling": lambda _: {"ends_waiting": 1, "ledger_lag_seconds": 0},
    "counters": lambda _: {"open_holds": 5},
}
well = Health()
with telling(health, well), serving(control, Responder(state, known)):
    well.serving = True
    note("start")
    ended.wait()
    note("term")
    time.sleep(0.2)
note("end")
"""


class Fleet:
    """A supervisor under test."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.state, self.runtime = folder / "state", folder / "run"
        self.notes = self.state / "notes"
        self.metrics_port = free_port()
        (folder / "part.py").write_text(PART)
        settings = {
            "TENSORGATE_STATE": str(self.state),
            "TENSORGATE_RUNTIME": str(self.runtime),
            "TENSORGATE_CATALOG": str(folder / "catalog.yaml"),
            "TENSORGATE_METRICS_LISTEN": f"127.0.0.1:{self.metrics_port}",
            "TENSORGATE_WORKERS": "2",
            "TENSORGATE_REDIS_URL": "redis://127.0.0.1:1",
        }
        self.child = Child(
            [sys.executable, "-c", SUPERVISOR, folder / "part.py"],
            log=folder / f"supervisor-{time.monotonic_ns()}.log",
            env={"PATH": os.environ["PATH"]} | settings | env,
        )

    def ready(self) -> Fleet:
        self.child.wait_until(
            lambda: "all 3 processes are ready" in self.child.output,
            seconds=30,
            what="readiness",
        )
        return self

    def answers(self) -> bool:
        return serving(self.runtime / HEALTH) is True and len(self.pids()) == len(NAMES)

    def pids(self) -> dict[str, int]:
        """By name the processes that it has started, once they have become what they are to be."""
        found = {}
        for pid in descendants(self.child.pid):
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if words[1:2] and words[1].endswith("part.py"):
                    found[words[2]] = pid
        return found

    def control(self) -> Control:
        return Control(self.runtime / "control.sock", self.state)

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def restarts(self, name: str) -> float:
        series = f'tensorgate_process_restarts_total{{process="{name}"}}'
        body = call(f"127.0.0.1:{self.metrics_port}", "/metrics", method="GET").body.decode()
        (line,) = (each for each in body.splitlines() if each.startswith(f"{series} "))
        return float(line.split()[1])

    def kill(self) -> None:
        for pid in (*descendants(self.child.pid), self.child.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.child.process.wait()


NAMES = ("meter", "authz-0", "authz-1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fleet")
    fast_engine(made).dispose()
    (made / "catalog.yaml").write_text("models: {}\nplans: {free: {}}\ndefault_plan: free\n")
    return made


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Iterator[Fleet]:
    started = Fleet(folder)
    try:
        yield started.ready()
    finally:
        started.kill()


def test_it_is_ready_and_each_process_was_started_once(fleet: Fleet) -> None:
    until(fleet.answers)
    assert serving(fleet.runtime / HEALTH, LIVENESS) is True
    assert set(fleet.pids()) == set(NAMES)
    assert [fleet.restarts(name) for name in NAMES] == [0, 0, 0]


def test_it_answers_for_all(fleet: Fleet) -> None:
    asked = fleet.control().ask("counters")
    assert asked == {"open_holds": 5, "ends_waiting": 3, "ledger_lag_seconds": 0}


def test_who_is_killed_is_started_again_and_that_is_counted(fleet: Fleet) -> None:
    before = fleet.pids()
    os.kill(before["authz-0"], signal.SIGKILL)
    until(lambda: fleet.pids().get("authz-0", before["authz-0"]) != before["authz-0"])
    until(lambda: fleet.restarts("authz-0") == 1)
    after = fleet.pids()
    assert (after["meter"], after["authz-1"]) == (before["meter"], before["authz-1"])
    until(lambda: serving(fleet.runtime / "health-0.sock") is True)


def test_nobody_waits_for_the_word_of_one_that_was_seen_to_die(fleet: Fleet) -> None:
    engine = open_engine(f"sqlite:///{fleet.state / 'tensorgate.db'}")
    try:
        rows, pid = Replicas(engine), fleet.pids()["authz-0"]
        for number, name in enumerate((name_of("authz-0", pid), name_of("authz-0", pid + 1))):
            rows.beat(Replica(str(number), name, "authz", "1"))
        os.kill(pid, signal.SIGKILL)
        until(lambda: [each.id for each in rows.live()] == ["1"], 2)
    finally:
        engine.dispose()
    until(lambda: serving(fleet.runtime / "health-0.sock") is True)


def test_who_lives_without_a_word_is_killed_and_started_again(fleet: Fleet) -> None:
    stopped = fleet.pids()["authz-1"]
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: parent(stopped) is None)
    until(lambda: fleet.pids().get("authz-1", stopped) != stopped)
    assert "authz-1 has said nothing for 2 looks" in fleet.child.output
    until(lambda: serving(fleet.runtime / "health-1.sock") is True)


def test_a_hangup_has_all_read_the_catalog_or_none(fleet: Fleet) -> None:
    until(lambda: all(serving(fleet.runtime / f"health-{n}.sock") for n in ("log", "0", "1")))

    def reloads() -> int:
        return sum(line.endswith(" reload") for line in fleet.noted())

    before = reloads()
    os.kill(fleet.child.pid, signal.SIGHUP)
    until(lambda: reloads() == before + 3)
    refuse = fleet.state / "refuse"
    refuse.touch()
    try:
        os.kill(fleet.child.pid, signal.SIGHUP)
        until(lambda: "the catalog was not reloaded: " in fleet.child.output)
    finally:
        refuse.unlink()


def test_another_supervisor_does_not_take_its_sockets(fleet: Fleet, folder: Path) -> None:
    second = Fleet(folder)
    try:
        assert second.child.process.wait(20) == 1
    finally:
        second.kill()
    assert (
        f"Process {fleet.child.pid} serves on the sockets in {fleet.runtime}" in second.child.output
    )
    until(fleet.answers)


def test_workers_end_before_their_meter_and_none_is_left(fleet: Fleet) -> None:
    until(lambda: set(fleet.pids()) == set(NAMES))
    pids, begun = fleet.pids(), len(fleet.noted())
    fleet.child.process.send_signal(signal.SIGTERM)
    assert fleet.child.process.wait(20) == 0, fleet.child.output
    assert all(parent(pid) is None for pid in pids.values())
    noted = fleet.noted()[begun:]
    assert sorted(noted[:2]) == ["authz-0 term", "authz-1 term"], "they drain together"
    assert sorted(noted[2:4]) == ["authz-0 end", "authz-1 end"]
    assert noted[4:] == ["meter term", "meter end"]
    with pytest.raises(StoreUnavailableError):
        fleet.control().ask("counters")


def test_none_outlives_a_supervisor_that_was_killed(folder: Path) -> None:
    fleet = Fleet(folder)
    try:
        pids = fleet.ready().pids()
        assert set(pids) == set(NAMES)
        fleet.child.process.kill()
        fleet.child.process.wait()
        until(lambda: all(parent(pid) is None for pid in pids.values()))
    finally:
        fleet.kill()


def test_what_cannot_start_ends_all_of_it_and_its_word_is_there(folder: Path) -> None:
    fleet = Fleet(folder, FAILS="authz-1")
    try:
        assert fleet.child.process.wait(30) == 3
        assert "error: no such thing" in fleet.child.output
        left = [pid for pid in descendants(os.getpid()) if "FAILS=authz-1" in environment(pid)]
        until(lambda: all(parent(pid) is None for pid in left))
    finally:
        fleet.kill()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("authz", "--workers", "2"), "2 workers count together in Redis or Valkey: name it"),
        (("meter",), "a meter alone settles what workers count in Redis or Valkey; name it"),
    ],
)
def test_several_need_something_to_count_in_and_that_is_said(
    folder: Path, words: tuple[str, ...], says: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tensorgate", *words],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "TENSORGATE_STATE": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
