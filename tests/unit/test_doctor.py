"""Each part has a line, a fault is told once, and with what to do."""

import json
import os
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from threading import Thread
from typing import ClassVar

import pytest
from moneyhelp import charge, hold
from peers.recorder import Recorder

from admin.service import open_service
from authz.control import Responder, serving
from authz.sockets import healths
from store import upgrades
from store.control import SOCKET_NAME
from store.engines import open_engine
from store.errors import InputError
from store.journal import Journal
from store.records import DAY_US, MINUTE_US
from store.replicas import Replica, Replicas
from store.settings import StoreSettings, load
from tensorgate import doctor, stored
from tensorgate.finding import Finding, Status
from tensorgate.ports import free_port
from tensorgate.statefolder import StateFolder

CATALOG = "models: {}\nplans: {free: {}}\ndefault_plan: free\n"
PEPPER = f"1:{'5e' * 32}\n"


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state with a user and a key, and nothing that runs."""
    for name in [name for name in os.environ if name.startswith("TENSORGATE_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "state"
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    (tmp_path / "peppers").write_text(PEPPER)
    monkeypatch.setenv("TENSORGATE_CATALOG", str(tmp_path / "catalog.yaml"))
    monkeypatch.setenv("TENSORGATE_PEPPER_FILE", str(tmp_path / "peppers"))
    monkeypatch.setenv("TENSORGATE_STATE", str(path))
    monkeypatch.setenv("TENSORGATE_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("TENSORGATE_METRICS_LISTEN", f"127.0.0.1:{free_port('127.0.0.1')}")
    StateFolder(path).prepare()
    with open_service(load(StoreSettings), actor="test") as service:
        service.add_user("a@b.example")
        service.mint("a@b.example", "one", models="*")
    return path


def found() -> dict[str, Finding]:
    findings = list(doctor.examine())
    assert len({each.part for each in findings}) == len(findings)
    return {each.part: each for each in findings}


def test_what_does_not_run_fails_and_says_how_to_start_it(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = found()
    assert {p for p, each in parts.items() if each.status is Status.FAIL} == {
        *("authz", "gate", "metrics")
    }
    assert {p for p, each in parts.items() if each.status is Status.WARN} == {"catalog", "upstream"}
    assert "1 accounts, 1 live keys" in parts["database"].text
    assert "version 1" in parts["pepper"].text
    assert parts["envoy"].text.startswith("1.40.0 at ")
    assert doctor.doctor() == 1
    printed = capsys.readouterr().out
    assert re.search(
        r"^fail  authz +not running .* → start the gate: `make run`", printed, re.MULTILINE
    )
    assert "5e5e" not in printed


def test_where_nobody_checks_here_those_elsewhere_are_named(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dashboard of a cluster has a pod of its own, and the gates' sockets are in theirs."""
    url = load(StoreSettings).sql_url
    monkeypatch.setenv("TENSORGATE_DATABASE_URL", url)
    assert found()["authz"].status is Status.FAIL
    engine = open_engine(url)
    Replicas(engine).beat(Replica("r1", "gate-5c9-x2", "authz", "1"))
    Replicas(engine).beat(Replica("r2", "gate-5c9-x2/meter", "meter", "1"))
    engine.dispose()
    parts = found()
    assert str(parts["authz"]).split(maxsplit=2)[2:] == [
        "none here; 1 elsewhere use this database: gate-5c9-x2"
    ]
    assert parts["authz"].status is Status.OK
    assert parts.keys().isdisjoint({"gate", "upstream", "metrics"})


def test_a_state_that_is_open_to_others_fails(state: Path) -> None:
    state.chmod(0o755)
    assert found()["state"].advice == f"chmod 700 {state}"


def test_a_volume_has_the_owner_and_mode_that_its_maker_chose(
    state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state.chmod(0o2775)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 35 98:0 / {state} rw,noatime - ext4 /dev/sdb rw\n")
    monkeypatch.setattr(doctor, "MOUNTS", mounts)
    assert found()["state"].status is Status.FAIL  # it is ours, so its mode is as well
    monkeypatch.setattr(os, "geteuid", lambda: state.stat().st_uid + 1)
    assert "a volume, mode 2775" in found()["state"].text
    mounts.write_text(mounts.read_text().replace(f" {state} ", f" {state.parent} "))
    assert found()["state"].status is Status.FAIL


class _Admin(BaseHTTPRequestHandler):
    """Envoy's admin, as far as it is asked."""

    answers: ClassVar[dict[str, object]] = {}

    def do_GET(self) -> None:
        body = json.dumps(self.answers[self.path]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a socket"


def _host(address: str, health: dict[str, object]) -> dict[str, object]:
    place = {"socket_address": {"address": address, "port_value": 8000}}
    return {"address": place, "health_status": health}


@pytest.mark.parametrize(
    ("envoy", "hosts", "gate", "upstream"),
    [
        ("LIVE", [("10.0.0.7", {})], Status.OK, "well, says Envoy: 10.0.0.7:8000"),
        (
            "LIVE",
            [("10.0.0.7", {"failed_active_health_check": True}), ("10.0.0.8", {})],
            Status.OK,
            "well, says Envoy: 10.0.0.7:8000, 10.0.0.8:8000",
        ),
        (
            "DRAINING",
            [("10.0.0.7", {"failed_active_health_check": True})],
            Status.WARN,
            "not well, says Envoy: 10.0.0.7:8000",
        ),
        ("LIVE", [], Status.OK, "Envoy finds no address for the name of the model server"),
    ],
)
def test_an_envoy_that_up_did_not_start_is_asked_itself(
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    envoy: str,
    hosts: list[tuple[str, dict[str, object]]],
    gate: Status,
    upstream: str,
) -> None:
    clusters = [
        {"name": "authz", "host_statuses": [{"address": {"pipe": {"path": "/run/a"}}}]},
        {"name": "model-default", "host_statuses": [_host(*each) for each in hosts]},
    ]
    answers: dict[str, object] = {
        "/server_info": {"version": "ab12/1.40.0/Clean/RELEASE/BoringSSL", "state": envoy},
        "/clusters?format=json": {"cluster_statuses": clusters},
    }
    monkeypatch.setattr(_Admin, "answers", answers)
    monkeypatch.setattr(doctor, "envoy_path", _no_wheel)
    (tmp_path / "run").mkdir()
    with UnixStreamServer(str(tmp_path / "run" / "envoy-admin.sock"), _Admin) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            parts = found()
        finally:
            server.shutdown()
            thread.join()
    assert parts["envoy"].text == "1.40.0, not of this container"
    assert parts["gate"].status is gate
    assert parts["upstream"].text == upstream
    assert (parts["upstream"].status is Status.OK) == upstream.startswith("well")
    assert bool(parts["upstream"].advice) == (parts["upstream"].status is not Status.OK)


def _no_wheel() -> Path:
    raise InputError("Envoy's wheel is not installed here.")


def test_no_state_says_how_one_is_made(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_STATE", str(state / "none"))
    parts = found()
    assert parts["state"].status is Status.FAIL
    assert "no such file" in parts["state"].text
    assert "database" not in parts  # told once
    (state / "empty").mkdir(mode=0o700)
    monkeypatch.setenv("TENSORGATE_STATE", str(state / "empty"))
    assert found()["database"].advice == "run `tensorgate db upgrade`"


def test_a_pepper_that_live_keys_need_is_missed(
    state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "peppers").write_text(PEPPER.replace("1:", "2:"))
    assert "live keys need version 1" in found()["pepper"].text
    (tmp_path / "peppers").write_text("none\n")
    finding = found()["pepper"]
    assert finding.status is Status.FAIL
    assert "line 1" in finding.text


def test_which_versions_of_the_pepper_live_keys_use_is_told(state: Path, tmp_path: Path) -> None:
    peppers = tmp_path / "peppers"
    assert found()["pepper"].text == "version 1 for new keys; live keys use 1"
    peppers.write_text(f"2:{'7a' * 32}\n{PEPPER}")
    assert found()["pepper"].text == "version 2 for new keys; live keys use 1"
    with open_service(load(StoreSettings), actor="test") as service:
        service.mint("a@b.example", "two", models="*")
    assert found()["pepper"].text == "version 2 for new keys; live keys use 2, 1"
    with open_service(load(StoreSettings), actor="test") as service:
        service.revoke("a@b.example", "one", confirm="one")
    told = found()["pepper"].text
    assert told == "version 2 for new keys; live keys use 2; none needs 1 any more"


def test_a_database_of_another_revision_fails(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrades, "HEAD", "0000")
    finding = found()["database"]
    assert finding.status is Status.FAIL
    assert "newer Tensorgate" in finding.text


def test_settings_and_catalog_faults_are_told(
    state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "catalog.yaml").write_text("models: 1\n")
    assert found()["catalog"].status is Status.FAIL
    monkeypatch.setenv("TENSORGATE_KEY_STALE_SECONDS", "-1")
    parts = found()
    assert "TENSORGATE_KEY_STALE_SECONDS" in parts["settings"].text
    assert set(parts) == {"python", "envoy", "settings", "clock"}  # the rest goes by the settings


def test_plans_that_the_catalog_has_lost_are_told(state: Path, tmp_path: Path) -> None:
    assert "plans" not in found()
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(catalog.read_text().replace("free", "slow"))
    finding = found()["plans"]
    assert finding.status is Status.WARN
    assert "free (1 accounts)" in finding.text
    assert "users set-plan" in finding.advice


def test_a_clock_that_was_set_back_is_seen(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = doctor.wall_us()
    monkeypatch.setattr(stored, "wall_us", lambda: now - 2 * MINUTE_US)
    assert "s in the future" in found()["database"].text
    monkeypatch.setattr(doctor, "wall_us", lambda: 10_000 * DAY_US)
    assert found()["clock"].status is Status.FAIL


def test_a_journal_is_read_and_a_damaged_one_fails(state: Path) -> None:
    assert found()["journal"].text.startswith("none yet")
    with Journal(state / "journal") as journal:
        ended = hold()
        for each in (ended, hold()):
            journal.take(each)
        journal.end(charge(ended))
    assert "2 open holds, 1 of them to be booked" in found()["journal"].text
    path = state / "journal"
    path.write_bytes(path.read_bytes().replace(b"llama", b"lhama", 1))
    finding = found()["journal"]
    assert finding.status is Status.FAIL
    assert "is damaged at byte" in finding.text
    assert finding.advice.startswith("move it away")


def test_each_upstream_of_the_catalog_is_looked_at(state: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    try:
        recorder.models = ["qwen"]
        nobody = free_port("127.0.0.1")
        (tmp_path / "catalog.yaml").write_text(
            f"{CATALOG}upstreams:\n  a: {recorder.address}\n  b: 127.0.0.1:{nobody}\n"
        )
        parts = found()
        recorder.models = []
        without = found()
    finally:
        recorder.close()
    assert parts["upstream a"].status is Status.OK
    assert parts["upstream a"].text.endswith(f"{recorder.address} · models: qwen")
    assert parts["upstream b"].status is Status.FAIL
    assert parts["upstream b"].advice == "start the model server"
    assert without["upstream a"].status is Status.WARN
    assert without["upstream a"].advice == "name its models in the catalog"


COUNTED = {
    "open_holds": 2, "held_nanousd": 5_000_000_000, "ends_waiting": 1, "ledger_lag_seconds": 0.1,
    "accounts": 1, "drift_nanousd": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({}, Status.OK, "2 open holds ($5.00), 1 ends to be booked; counters agree"),
        ({"ledger_lag_seconds": 31.2}, Status.WARN, "the oldest for 31 s"),
        ({"drift_nanousd": 7_000}, Status.FAIL, "counters are off by $0.000007"),
        ({"held_nanousd": None}, Status.FAIL, "another version"),
    ],
)
def test_the_ledger_as_authz_counts_it(
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    status: Status,
    says: str,
) -> None:
    monkeypatch.setattr(doctor, "is_serving", lambda _: True)
    (tmp_path / "run").mkdir()
    responder = Responder(state, {"counters": lambda _: COUNTED | changes})
    with serving(tmp_path / "run" / SOCKET_NAME, responder):
        finding = found()["ledger"]
    assert finding.status is status
    assert says in finding.text
    assert bool(finding.advice) == (status is not Status.OK)


def test_an_authz_whose_control_socket_is_silent_is_told(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "is_serving", lambda _: True)
    finding = found()["ledger"]
    assert finding.status is Status.FAIL
    assert "No authz serves the state" in finding.text


@pytest.mark.parametrize(
    ("silent", "workers", "meter", "says"),
    [
        ((), Status.OK, Status.OK, "2 of 2 serving"),
        (("authz-1",), Status.WARN, Status.OK, "1 of 2 serving; not authz-1"),
        (("authz-0", "authz-1"), Status.FAIL, Status.OK, "0 of 2 serving; not authz-0, authz-1"),
        (("meter",), Status.OK, Status.FAIL, "2 of 2 serving"),
    ],
)
def test_of_several_processes_each_is_looked_at(
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silent: tuple[str, ...],
    workers: Status,
    meter: Status,
    says: str,
) -> None:
    away = {path for name, path in healths(tmp_path / "run", 2).items() if name in silent}
    monkeypatch.setattr(doctor, "is_serving", lambda path: None if path in away else True)
    monkeypatch.setenv("TENSORGATE_WORKERS", "2")
    parts = found()
    assert (parts["workers"].status, parts["workers"].text) == (workers, says)
    assert parts["meter"].status is meter
    assert all(
        bool(parts[p].advice) == (parts[p].status is not Status.OK) for p in ("workers", "meter")
    )


def test_redis_is_looked_at_where_something_is_counted_in_it(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not {"redis", "workers", "meter"} & found().keys()
    monkeypatch.setenv("TENSORGATE_WORKERS", "2")
    finding = found()["redis"]
    assert finding.status is Status.FAIL
    assert finding.text.startswith(
        f"the gate's own ({tmp_path / 'run' / 'valkey.sock'}): Redis at "
    )
    monkeypatch.setenv("TENSORGATE_WORKERS", "1")
    monkeypatch.setenv(
        "TENSORGATE_REDIS_URL", f"redis://:hunter22@127.0.0.1:{free_port('127.0.0.1')}"
    )
    monkeypatch.setattr(doctor, "is_serving", lambda _: True)
    parts = found()
    assert parts["authz"].status is Status.OK
    assert "ledger" not in parts  # it hangs on Redis, and restarting the gate would mend nothing
    finding = parts["redis"]
    assert finding.text.startswith("TENSORGATE_REDIS_URL: Redis at 127.0.0.1:")
    assert "hunter22" not in str(finding)
    assert finding.advice == "start it, or mend TENSORGATE_REDIS_URL"
