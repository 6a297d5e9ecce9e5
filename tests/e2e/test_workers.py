"""`tensorgate up --workers 2`: two processes decide, one meters, and nobody outside can tell.

The real Envoy, a real Valkey that `up` starts by itself, real signals, under calls.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, Self

import pytest
from load.audit import all_booked
from load.calls import QUICK_DEADLINES
from moneygate import ANSWERED, metric, nanousd, standing
from peers.client import CHAT, call
from peers.process import parent
from peers.recorder import Recorder
from peers.stack import CATALOG, Stack, StartStack
from prometheus_client.multiprocess import MultiProcessCollector
from waiting import until

from authz.health import serving
from authz.sockets import HEALTH
from tensorgate.valkey import SOCKET_NAME

CALLERS: Final = 6
PAUSE_SECONDS: Final = 0.02
BODY: Final = json.dumps(
    {"model": "recorder", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
).encode()


@pytest.fixture(scope="module")
def gate(start_stack: StartStack, server: Recorder) -> Stack:
    # a machine that runs other tests as well may keep Valkey waiting for longer than the default
    patient = {"TENSORGATE_REDIS_TIMEOUT_MS": "2000"}
    started = start_stack(server.address, workers=2, env=QUICK_DEADLINES | patient)
    key = started.mint()
    # an account's first call waits for all workers, which takes a while where all is busy
    until(lambda: call(started, key=key["key"]).status == 200, 20, "a first answer")
    return started


class Calls:
    """What clients that never rest were answered: a status or a fault, by request id."""

    def __init__(self, gate: Stack, key: str) -> None:
        self._gate, self._key = gate, key
        self._over = threading.Event()
        self.statuses: Counter[str] = Counter()
        self.passed: set[str] = set()
        self.longest = 0.0
        self._threads = [threading.Thread(target=self._run) for _ in range(CALLERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = HTTPConnection(self._gate.address, timeout=30)
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        while not self._over.wait(PAUSE_SECONDS):
            begun = time.monotonic()
            try:
                connection.request("POST", CHAT, body=BODY, headers=headers)
                answer = connection.getresponse()
                answer.read()
            except (OSError, HTTPException) as fault:
                self.statuses[repr(fault)] += 1
                connection.close()
                continue
            self.longest = max(self.longest, time.monotonic() - begun)
            self.statuses[str(answer.status)] += 1
            if answer.status == 200:
                self.passed.add(str(answer.getheader("x-request-id")))
        connection.close()


@contextmanager
def calling(gate: Stack, key: dict[str, Any]) -> Iterator[Calls]:
    calls = Calls(gate, key["key"])
    calls.start()
    try:
        time.sleep(0.7)
        yield calls
        time.sleep(0.7)
    finally:
        calls.stop()


class Scrapes:
    """`/metrics`, read again and again: every counter and bucket that ever went back."""

    def __init__(self, gate: Stack) -> None:
        self._gate = gate
        self._over = threading.Event()
        self._last: dict[str, float] = {}
        self.count = 0
        self.faults: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        address = f"127.0.0.1:{self._gate.metrics_port}"
        while not self._over.wait(0.03):
            answer = call(address, "/metrics", method="GET")
            if answer.status != 200:
                self.faults.append(f"status {answer.status}")
                continue
            found = dict(
                re.findall(
                    r"^(\w+(?:_total|_count|_bucket)\S*) (\S+)$", answer.body.decode(), re.MULTILINE
                )
            )
            for name in self._last.keys() - found.keys():
                self.faults.append(f"{name} is gone")
            for name, text in found.items():
                value = float(text)
                if value < self._last.get(name, 0.0):
                    self.faults.append(f"{name}: {self._last[name]} → {value}")
                self._last[name] = value
            self.count += 1


def checks_of(gate: Stack, process: str) -> float:
    """How many Checks a process has answered since the gate was started."""
    file = gate.runtime / "metrics" / f"histogram_{process}.db"
    found = MultiProcessCollector.merge([str(file)], accumulate=True)  # type: ignore[no-untyped-call]
    (metric_,) = (each for each in found if each.name == "tensorgate_check_duration_seconds")
    return sum(sample.value for sample in metric_.samples if sample.name.endswith("_count"))


def spent(gate: Stack, key: dict[str, Any]) -> int:
    """What the counters say of a key, in nano-USD."""
    return nanousd(standing(gate, key)["spent_usd"])


def restarted(gate: Stack, name: str, before: int) -> bool:
    return gate.children().get(name, [before]) != [before]


def test_all_processes_are_there_and_the_valkey_is_nobody_elses(gate: Stack) -> None:
    children = gate.children()
    assert {role: len(pids) for role, pids in children.items()} == dict.fromkeys(
        ("valkey", "authz", "meter", "authz-0", "authz-1", "admin", "envoy"), 1
    )
    (valkey,) = children["valkey"]
    assert gate.runtime.stat().st_mode & 0o777 == 0o700
    assert (gate.runtime / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    inodes = {str(fd.readlink()) for fd in Path(f"/proc/{valkey}/fd").iterdir()}
    tcp = "".join(Path(f"/proc/{valkey}/net/{name}").read_text() for name in ("tcp", "tcp6"))
    listening = {f"socket:[{row.split()[9]}]" for row in tcp.splitlines() if " 0A " in row}
    assert not inodes & listening


def test_doctor_looks_at_each_process(gate: Stack) -> None:
    parts = {each["part"]: each for each in gate.cli("doctor")["parts"]}
    assert all(each["status"] != "fail" for each in parts.values()), parts
    assert parts["workers"]["text"] == "2 of 2 serving"
    assert parts["redis"]["text"] == f"answers: the gate's own ({gate.runtime / SOCKET_NAME})"
    assert parts["meter"]["status"] == "ok"


def test_that_all_hear_of_changes_is_told(gate: Stack) -> None:
    """An alert hangs on it; the meter hears of none, as it has no keys."""
    until(lambda: metric(gate, "tensorgate_feed_healthy") == 1, 5, "1")


def test_both_decide_and_what_they_admit_is_metered(gate: Stack) -> None:
    key = gate.mint(budget_usd="50")
    with calling(gate, key) as calls:
        until(lambda: len(calls.passed) >= 60, 20, "60 calls")
    assert set(calls.statuses) == {"200"}
    rows = [row for row in all_booked(gate, calls.passed, seconds=10) if row["key_id"] == key["id"]]
    assert {row["request_id"] for row in rows} == calls.passed
    assert {(row["basis"], row["charge_nanousd"]) for row in rows} == {("metered", ANSWERED)}
    assert checks_of(gate, "authz-0") > 5
    assert checks_of(gate, "authz-1") > 5
    assert spent(gate, key) == len(rows) * ANSWERED


def test_a_limit_is_one_for_both(gate: Stack) -> None:
    key = gate.mint(rpm=10)
    statuses: Counter[int] = Counter()

    def some() -> None:
        for _ in range(5):
            statuses[call(gate, key=key["key"]).status] += 1

    threads = [threading.Thread(target=some) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {200: 10, 429: 20}


def test_a_refusal_is_explained_whoever_refused(gate: Stack) -> None:
    key = gate.mint(models="another")
    answers = [call(gate, key=key["key"]) for _ in range(12)]
    assert {answer.status for answer in answers} == {403}
    for answer in answers[::4]:  # by whom each was refused is Envoy's choice
        told = gate.cli("explain", answer.headers["x-request-id"])
        assert "model_not_allowed" in json.dumps(told)


def test_a_revocation_holds_in_both_at_once(gate: Stack) -> None:
    key = gate.mint()
    assert {call(gate, key=key["key"]).status for _ in range(8)} == {200}
    gate.revoke(key["alias"])
    assert {call(gate, key=key["key"]).code for _ in range(8)} == {"api_key_revoked"}


def test_a_killed_worker_costs_no_client_anything(gate: Stack) -> None:
    key = gate.mint(budget_usd="50")
    with Scrapes(gate) as scrapes, calling(gate, key) as calls:
        for name in ("authz-0", "authz-1"):
            (pid,) = gate.children()[name]
            os.kill(pid, signal.SIGKILL)
            until(lambda: restarted(gate, name, pid), 20, "another worker")  # noqa: B023  waits here
            health = gate.runtime / f"health-{name[-1]}.sock"
            until(lambda: serving(health) is True, 20, "its health")  # noqa: B023  likewise
            time.sleep(0.5)  # Envoy looks twice a second
    assert set(calls.statuses) == {"200"}
    assert calls.longest < 1.5
    assert scrapes.faults == []
    assert scrapes.count > 20
    rows = [row for row in all_booked(gate, calls.passed, seconds=20) if row["key_id"] == key["id"]]
    extra = [row for row in rows if row["request_id"] not in calls.passed]
    assert len({row["request_id"] for row in rows}) == len(rows)
    assert extra == []
    assert metric(gate, 'tensorgate_process_restarts_total{process="authz-0"}') == 1
    assert serving(gate.runtime / HEALTH) is True


def test_a_worker_and_a_meter_that_are_asked_to_stop_lose_nothing(gate: Stack) -> None:
    key = gate.mint(budget_usd="50")
    with Scrapes(gate) as scrapes, calling(gate, key) as calls:
        for name in ("authz-1", "meter"):
            (pid,) = gate.children()[name]
            os.kill(pid, signal.SIGTERM)
            until(lambda: restarted(gate, name, pid), 20, "another one")  # noqa: B023  waits here
            health = gate.runtime / ("health-log.sock" if name == "meter" else "health-1.sock")
            until(lambda: serving(health) is True, 20, "its health")  # noqa: B023  likewise
    assert set(calls.statuses) == {"200"}
    assert scrapes.faults == []
    rows = [row for row in all_booked(gate, calls.passed, seconds=20) if row["key_id"] == key["id"]]
    assert {row["request_id"] for row in rows} == calls.passed
    assert {row["basis"] for row in rows} == {"metered"}


def test_a_catalog_is_taken_by_all_or_by_none(gate: Stack) -> None:
    failures = "tensorgate_catalog_reload_failures_total"
    path = gate.folder / "catalog.yaml"
    key = gate.mint(budget_usd="50")

    def held() -> set[str]:
        return {
            call(gate, key=key["key"], body=BODY).headers["x-tensorgate-hold-usd"]
            for _ in range(10)
        }

    before = held()
    assert len(before) == 1
    path.write_text(CATALOG.replace("output: 1.5", "output: 3"))
    gate.cli("catalog", "reload")
    after = held()
    assert len(after) == 1
    assert after != before
    path.write_text(CATALOG)
    os.kill(gate.pid, signal.SIGHUP)
    until(lambda: held() == before, 10, "the catalog of before")
    refused = metric(gate, failures)
    path.write_text("models: [\n")
    error = gate.cli_error("catalog", "reload")
    assert error["code"] == "config"
    assert "line" in error["message"]
    assert held() == before
    assert metric(gate, failures) == refused + 1
    path.write_text(CATALOG)


def test_a_valkey_that_is_killed_comes_back_with_what_was_spent(gate: Stack) -> None:
    key = gate.mint(budget_usd="50")
    passed = {call(gate, key=key["key"], body=BODY).headers["x-request-id"] for _ in range(5)}
    all_booked(gate, passed, seconds=10)
    (pid,) = gate.children()["valkey"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: restarted(gate, "valkey", pid), 10, "another Valkey")
    until(lambda: call(gate, "/v1/key", key=key["key"]).status == 200, 10, "an answer")
    assert spent(gate, key) == 5 * ANSWERED
    assert call(gate, key=key["key"]).status == 200


@pytest.mark.soak
def test_a_supervisor_that_is_killed_takes_all_with_it_and_comes_back(gate: Stack) -> None:
    key = gate.mint(budget_usd="50")
    passed = {call(gate, key=key["key"], body=BODY).headers["x-request-id"] for _ in range(3)}
    before = gate.children()
    os.kill(before["authz"][0], signal.SIGKILL)
    for role in ("authz-0", "authz-1", "meter"):
        until(lambda: parent(before[role][0]) is None, 5, "its end")  # noqa: B023  waits here
    until(lambda: call(gate, key=key["key"], body=BODY).status == 200, 30, "an answer")
    until(lambda: len(gate.children()) == len(before), 20, "all processes")
    rows = [row for row in all_booked(gate, passed, seconds=20) if row["request_id"] in passed]
    assert len(rows) == 3


def test_a_stop_loses_nothing_and_leaves_nothing(gate: Stack, server: Recorder) -> None:
    key = gate.mint(budget_usd="50")
    calls = Calls(gate, key["key"])
    calls.start()
    until(lambda: len(calls.passed) > 10, 10, "some calls")
    children = [pid for pids in gate.children().values() for pid in pids]
    stopper = threading.Thread(target=calls.stop)
    stopper.start()
    stopper.join()
    gate.stop()
    assert all(parent(pid) is None for pid in children)
    rows = [row for row in all_booked(gate, calls.passed, seconds=1) if row["key_id"] == key["id"]]
    assert {row["request_id"] for row in rows} >= calls.passed
    assert {row["basis"] for row in rows} == {"metered"}
