"""The ledger of a running gate, as an operator asks for it: exported, verified, tampered with."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from peers.client import call
from peers.commands import tensorgate
from peers.recorder import Recorder
from peers.stack import USER, Stack, StartStack
from waiting import until

CATALOG = """\
models: {recorder: {price: {input: 1, output: 2}, context_tokens: 1000, max_output_tokens: 100}}
plans: {test: {account_budget_usd: 100}}
default_plan: test
"""
COST_NANOUSD = 7 * 1000 + 2 * 2000  # 7 tokens in and 2 out, as the recorder says of each call


@pytest.fixture(scope="module")
def gate(server: Recorder, start_stack: StartStack) -> Stack:
    """A gate of this module's own: a hand in its database is felt by all who share it."""
    return start_stack(server.address, catalog=CATALOG)


def rows(gate: Stack, *arguments: str) -> list[dict[str, Any]]:
    done = gate.run("ledger", "export", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def booked(gate: Stack, key_id: str, count: int) -> list[dict[str, Any]]:
    """A key's rows, once there are so many; an end takes up to a second."""
    until(lambda: len(rows(gate, "--key", key_id)) >= count)
    return rows(gate, "--key", key_id)


def verify(gate: Stack) -> dict[str, Any]:
    done = gate.run("ledger", "verify", "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1), done.stderr
    return found


def test_rows_are_the_admitted_calls_and_no_others(gate: Stack) -> None:
    key = gate.mint(models="recorder", rpm=4)
    answers = [call(gate, key=key["key"]) for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 4 + [429] * 2
    assert call(gate, key=key["key"], model="other").status == 403
    assert call(gate, "/v1/models", key=key["key"]).status == 200
    found = booked(gate, key["id"], 4)
    assert [row["request_id"] for row in found] == [
        answer.headers["x-request-id"] for answer in answers[:4]
    ]
    for row in found:
        assert (row["user"], row["team"], row["alias"]) == (USER, None, key["alias"])
        assert (row["model"], row["endpoint"]) == ("recorder", "chat.completions")
        assert (row["status"], row["basis"]) == (200, "metered")
        assert (row["input_tokens"], row["output_tokens"]) == (7, 2)
        assert row["charge_nanousd"] == COST_NANOUSD <= row["hold_nanousd"]
        assert row["admitted_at"] < row["settled_at"]
    out = gate.folder / "rows.csv"
    done = gate.run(
        *("ledger", "export", "--format", "csv", "--key", key["id"], "--output", str(out))
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    read = csv.DictReader(io.StringIO(out.read_text(), newline=""))
    assert [row["hold_id"] for row in read] == [row["hold_id"] for row in found]
    told = verify(gate)
    assert told["ok"]
    assert told["authz"]["accounts_compared"] == 1
    assert rows(gate, "--user", USER, "--to", found[0]["settled_at"]) == []


def test_it_is_in_order_while_calls_run(gate: Stack, server: Recorder) -> None:
    key = gate.mint(models="recorder", budget_usd=5)
    with ThreadPoolExecutor(6) as threads:
        server.forget()
        with server.held():
            held = [threads.submit(call, gate, key=key["key"]) for _ in range(2)]
            server.wait_for(2)
            told = verify(gate)
            assert told["ok"], told
            assert told["open_holds"] == 2
            assert told["held_nanousd"] > 0
        stop = time.monotonic() + 3
        many = [threads.submit(_call_until, gate, key["key"], stop) for _ in range(4)]
        told = [verify(gate), verify(gate)]
        assert all(each["ok"] for each in told), told
        count = sum(each.result() for each in many)
        assert [each.result().status for each in held] == [200, 200]
    assert count > 20
    assert len(booked(gate, key["id"], 2 + count)) == 2 + count
    assert verify(gate)["open_holds"] == 0


def _call_until(gate: Stack, key: str, stop: float) -> int:
    count = 0
    while time.monotonic() < stop:
        assert call(gate, key=key).status == 200
        count += 1
    return count


def test_a_revoked_key_is_refused_when_the_command_returns(gate: Stack) -> None:
    assert (gate.runtime / "control.sock").stat().st_mode & 0o777 == 0o600
    for _ in range(3):
        key = gate.mint(models="recorder")
        assert call(gate, key=key["key"]).status == 200
        gate.revoke(key["alias"])
        assert call(gate, key=key["key"]).code == "api_key_revoked"


def test_doctor_sees_journal_and_ledger(gate: Stack) -> None:
    parts = {part["part"]: part for part in gate.cli("doctor")["parts"]}
    assert parts["ledger"]["status"] == parts["journal"]["status"] == "ok"
    assert "ends to be booked; counters agree" in parts["ledger"]["text"]


def _without_guard(database: sqlite3.Connection) -> str:
    """Take away the trigger that refuses changes of rows; the statement that makes it again."""
    name = "ledger_refuses_update"
    asked = "SELECT sql FROM sqlite_master WHERE name = ?"
    (statement,) = database.execute(asked, (name,)).fetchone()
    database.execute(f"DROP TRIGGER {name}")
    return str(statement)


def test_a_copy_that_was_tampered_with_is_named(gate: Stack, tmp_path: Path) -> None:
    """A copy of the state, `runtime` and all: the authz that runs elsewhere is not asked of it."""
    key = gate.mint(models="recorder")
    for _ in range(3):
        assert call(gate, key=key["key"]).status == 200
    found = booked(gate, key["id"], 3)
    state = tmp_path / "copy"
    state.mkdir(mode=0o700)
    shutil.copy(gate.state / "runtime", state)
    with (
        closing(sqlite3.connect(gate.state / "tensorgate.db")) as source,
        closing(sqlite3.connect(state / "tensorgate.db")) as copy,
    ):
        source.backup(copy)
    env = {"PATH": os.environ["PATH"], "TENSORGATE_STATE": str(state)}

    def looked() -> tuple[int, str]:
        done = tensorgate("ledger", "verify", env=env, cwd=tmp_path, seconds=60)
        assert done.stderr == ""
        return done.returncode, done.stdout

    status, said = looked()
    assert status == 0, said
    assert "no authz runs on this state" in said
    with closing(sqlite3.connect(state / "tensorgate.db")) as copy:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            copy.execute("UPDATE ledger SET charge_nanousd = 0")
        guard = _without_guard(copy)
        copy.execute(
            "UPDATE ledger SET basis = 'released' WHERE hold_id = ?", (found[0]["hold_id"],)
        )
        copy.execute(
            "UPDATE ledger SET request_id = ? WHERE hold_id = ?",
            (found[1]["request_id"], found[2]["hold_id"]),
        )
        copy.commit()
    status, said = looked()
    assert status == 1
    assert "NOT in order: 4 faults" in said
    assert "they have calls_metered 2 and not 3, calls_released 1 and not 0." in said
    assert "fault: The trigger ledger_refuses_update is gone" in said
    with closing(sqlite3.connect(state / "tensorgate.db")) as copy:
        copy.execute(guard)
        copy.commit()
    assert "NOT in order: 3 faults" in looked()[1]
    assert f"fault: Row of hold {found[0]['hold_id']}: released, and yet charged" in said
    assert f"fault: Request {found[1]['request_id']} has 2 rows." in said


def test_a_hand_in_the_live_ledger_is_seen(gate: Stack) -> None:
    """A row that was changed by its sums; and where those were too, by the counters."""
    key = gate.mint(models="recorder", budget_usd=5)
    assert call(gate, key=key["key"]).status == 200
    [row] = booked(gate, key["id"], 1)
    assert verify(gate)["ok"]
    with closing(sqlite3.connect(gate.state / "tensorgate.db", timeout=10)) as database:
        guard = _without_guard(database)
        database.execute(
            "UPDATE ledger SET charge_nanousd = charge_nanousd - 1000 WHERE hold_id = ?",
            (row["hold_id"],),
        )
        database.execute(guard)
        database.commit()
        changed = verify(gate)["faults"]
        assert sum("which is kept as spent" in fault for fault in changed) == 2
        assert sum("are not what is kept of that day" in fault for fault in changed) == 1
        assert len(changed) == 3
        assert sum(f"window 0 of {key['id']} add up to" in fault for fault in changed) == 1
        database.execute(
            "UPDATE spent SET nanousd = nanousd - 1000 WHERE scope = ? OR scope = "
            "(SELECT account_id FROM keys WHERE id = ?)",
            (key["id"], key["id"]),
        )
        database.execute(
            "UPDATE daily SET charge_nanousd = charge_nanousd - 1000 WHERE key_id = ?",
            (key["id"],),
        )
        database.commit()
    done = gate.run("ledger", "verify")
    assert done.returncode == 1
    assert "kept as spent" not in done.stdout
    assert "kept of that day" not in done.stdout
    # by 1000 nano-USD in the key's window and in the account's
    assert f"fault: Account {USER}: counters and ledger differ by $0.000002." in done.stdout
    [authz] = gate.children()["authz"]
    os.kill(authz, signal.SIGKILL)
    until(lambda: gate.children().get("authz", [authz]) != [authz])
    until(lambda: call(gate, key=key["key"]).status == 200)
    booked(gate, key["id"], 2)
    told = verify(gate)
    assert told["ok"], told
    assert told["authz"]["accounts_compared"] == 1
