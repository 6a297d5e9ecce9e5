"""A backup, as deploy/README.md has it, into an empty database: keys and budgets are as before."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from peers.client import call
from peers.postgres import Postgres
from peers.recorder import Recorder
from peers.stack import Stack, StartStack

CALLS = 5


def _standing(gate: Stack, key: str) -> dict[str, Any]:
    """What a key's holder is told of it."""
    answer = call(gate, "/v1/key", key=key)
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json()
    return told


def _rows(gate: Stack) -> list[str]:
    done = gate.run("ledger", "export", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _used(gate: Stack) -> tuple[str, str]:
    """A key with some spend, and one that was revoked."""
    used = gate.mint(alias="used", budget_usd="1", rpm=100)["key"]
    gone = gate.mint(alias="gone", budget_usd="1", rpm=100)["key"]
    for _ in range(CALLS):
        assert call(gate, key=used).status == 200
    gate.revoke("gone")
    deadline = time.monotonic() + 10
    while len(_rows(gate)) < CALLS:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return used, gone


def _is_as_before(gate: Stack, used: str, gone: str, rows: list[str], told: dict[str, Any]) -> None:
    assert _rows(gate) == rows
    now = _standing(gate, used)
    for fact in ("alias", "models", "budget_usd", "spent_usd", "rpm", "expires_at", "resets_at"):
        assert now.get(fact) == told.get(fact), fact
    assert call(gate, key=gone).status == 401
    assert call(gate, key=used).status == 200
    assert gate.run("ledger", "verify").returncode == 0


@pytest.mark.parametrize("tool", ["pg_dump", "sqlite"])
def test_keys_and_budgets_come_back(
    tool: str, postgres: Postgres, recorder: Recorder, start_stack: StartStack, tmp_path: Path
) -> None:
    if tool == "sqlite":
        gate = start_stack(recorder.address)
        used, gone = _used(gate)
        rows, told = _rows(gate), _standing(gate, used)
        backup = tmp_path / "new" / "state"
        backup.mkdir(parents=True, mode=0o700)
        gate.sql(f"VACUUM INTO '{backup / 'tensorgate.db'}'")  # while it runs
        shutil.copy(gate.state / "journal", backup)
        gate.kill()
        restored = start_stack(recorder.address, folder=backup.parent)
        _is_as_before(restored, used, gone, rows, told)
        restored.stop()
        return
    with postgres.database() as before, postgres.database(migrated=False) as after:
        gate = start_stack(recorder.address, env={"TENSORGATE_DATABASE_URL": before})
        used, gone = _used(gate)
        rows, told = _rows(gate), _standing(gate, used)
        dump = tmp_path / "tensorgate.dump"
        _tool(postgres, "pg_dump", "--format=custom", f"--file={dump}", before)
        gate.kill()
        _tool(postgres, "pg_restore", "--exit-on-error", f"--dbname={after}", str(dump))
        restored = start_stack(recorder.address, env={"TENSORGATE_DATABASE_URL": after})
        _is_as_before(restored, used, gone, rows, told)
        restored.stop()


def _tool(postgres: Postgres, name: str, *words: str) -> None:
    """One of PostgreSQL's own programs, from the wheel."""
    done = subprocess.run(
        [str(postgres.program(name)), *words],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
