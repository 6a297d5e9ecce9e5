"""The books of a running gate: calls that end in every way, summed, verified and explained."""

from __future__ import annotations

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from peers.client import Answer, call
from peers.recorder import Recorder, Reply, json_reply, sse_reply
from peers.stack import USER, Stack, StartStack

CATALOG = """\
models: {recorder: {price: {input: 1, output: 2}, context_tokens: 1000, max_output_tokens: 100}}
plans: {test: {account_budget_usd: 100}}
default_plan: test
"""
STREAM = json.dumps(
    {"model": "recorder", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
).encode()


@pytest.fixture(scope="module")
def gate(server: Recorder, start_stack: StartStack) -> Stack:
    return start_stack(
        server.address, catalog=CATALOG, env={"TENSORGATE_LEDGER_RETENTION_DAYS": "62"}
    )


def piece(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def rows(gate: Stack, key_id: str, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 10
    while True:
        done = gate.run("ledger", "export", "--key", key_id)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} rows of {count}"
        time.sleep(0.1)


def explained(gate: Stack, answer: Answer) -> tuple[str, dict[str, Any]]:
    name = answer.headers["x-request-id"]
    done = gate.run("explain", name)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = gate.cli("explain", name)
    return done.stdout, found


def test_every_way_to_end_is_summed_and_explained(gate: Stack, server: Recorder) -> None:
    key = gate.mint(models="recorder")
    calls: dict[str, Answer] = {}
    usual = server.answer

    def made(name: str, reply: Reply | None, body: bytes | None = None) -> None:
        if reply is not None:
            server.answer = reply
        try:
            calls[name] = call(gate, key=key["key"], body=body)
        finally:
            server.answer = usual

    made("metered", None)
    made("estimated", sse_reply(piece("Hello"), piece(" there"), "[DONE]"), STREAM)
    made("held", json_reply({"no": "usage"}))
    made("released", json_reply({"error": {"message": "no"}}, status=500))
    found = {row["request_id"]: row for row in rows(gate, key["id"], 4)}
    by_name = {name: found[answer.headers["x-request-id"]] for name, answer in calls.items()}
    assert {name: row["basis"] for name, row in by_name.items()} == {name: name for name in by_name}
    charged = sum(row["charge_nanousd"] for row in found.values())

    done = gate.run("ledger", "export", "--by", "key,model", "--key", key["id"])
    assert (done.returncode, done.stderr) == (0, "")
    [line] = [json.loads(text) for text in done.stdout.splitlines()]
    assert (line["key"], line["model"], line["calls"]) == (key["id"], "recorder", 4)
    assert [line[f"calls_{name}"] for name in by_name] == [1, 1, 1, 1]
    assert line["charge_nanousd"] == charged
    assert line["charge_usd"] == f"0.{charged:09d}"
    assert gate.cli("ledger", "verify")["ok"]

    said, told = explained(gate, calls["metered"])
    assert "metered    7 input, 2 output tokens" in said
    assert "(7 input x $1.00 + 2 output x $2.00) per million tokens = $0.000011" in said
    assert f"{USER}; key `{key['alias']}` ({key['hint']})" in said
    assert (told["charge"]["charge_nanousd"], told["hint"]) == (11_000, key["hint"])
    assert told["output_bound"] == 100
    said, told = explained(gate, calls["estimated"])
    assert (
        "estimated: the answer came without its usage; 11 bytes of content in 2 events were seen"
        in said
    )
    assert told["charge"]["seen"]["content_bytes"] == 11
    said, _ = explained(gate, calls["held"])
    assert ", the whole hold" in said
    assert "held: a model server got it" in said
    said, _ = explained(gate, calls["released"])
    assert "released: the model server answered 500 before any token" in said


def test_a_refusal_is_explained(gate: Stack) -> None:
    key = gate.mint(models="recorder")
    said, told = explained(gate, call(gate, key=key["key"], model="other"))
    assert "was refused, and cost nothing." in said
    assert (told["status"], told["reason"]) == (403, "model_not_allowed")
    assert "This key may not call `other`; it may call `recorder`." in said
    nobody = call(gate, key="sk-tg_" + "x" * 49)
    said, told = explained(gate, nobody)
    assert told["reason"] == "invalid_api_key"
    assert "x" * 20 not in said
    assert gate.cli_error("explain", "never-came")["code"] == "not_found"


def test_an_open_call_is_explained_while_it_runs(gate: Stack, server: Recorder) -> None:
    key = gate.mint(models="recorder")
    with ThreadPoolExecutor(1) as threads:
        with server.held():
            running = threads.submit(call, gate, key=key["key"])
            deadline = time.monotonic() + 10
            with closing(sqlite3.connect(gate.state / "tensorgate.db", timeout=10)) as database:
                asked = "SELECT hold_id FROM holds WHERE key_id = ?"
                while not (copied := database.execute(asked, (key["id"],)).fetchall()):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            assert gate.cli("explain", copied[0][0])["found"] == "open"
        assert running.result().status == 200
    rows(gate, key["id"], 1)
    assert gate.cli("explain", copied[0][0])["found"] == "row"


def test_rows_that_may_still_be_needed_are_not_pruned(gate: Stack) -> None:
    key = gate.mint(models="recorder")
    assert call(gate, key=key["key"]).status == 200
    [row] = rows(gate, key["id"], 1)
    before = gate.cli("ledger", "verify")["rows"]
    error = gate.cli_error("ledger", "prune", "--before", row["settled_at"])
    assert error["code"] == "invalid_time"
    assert gate.cli("ledger", "prune", "--before", "2020-01-01")["rows"] == 0
    assert gate.cli("ledger", "verify")["rows"] == before
