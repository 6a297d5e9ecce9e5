"""Another catalog in force while calls run: every call is whole, and a bad file changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest
from moneygate import booked, hold_of, metric
from peers.client import Answer, call
from peers.recorder import Pause, Recorded, Recorder, Reply, chat_completion, json_reply
from peers.stack import Stack, StartStack
from waiting import until

from store.control import SOCKET_NAME, Control
from store.errors import StoreError
from store.publicprices import load

LOADED: Final = "tensorgate_catalog_loaded_timestamp_seconds"
FAILURES: Final = "tensorgate_catalog_reload_failures_total"
RELOADS: Final = 20
CALLERS: Final = 6


@dataclass(frozen=True)
class Prices:
    """One of two sets, in USD per million tokens."""

    input: int
    output: int
    bound: int

    @property
    def catalog(self) -> str:
        return f"""\
models:
  recorder:
    price: {{input: {self.input}, output: {self.output}}}
    context_tokens: 100000
    max_output_tokens: {self.bound}
plans: {{test: {{}}, pro: {{}}}}
default_plan: test
public_prices: true
"""

    @property
    def charge(self) -> int:
        """What an answer of the recorder costs, in nano-USD: 7 and 2 tokens."""
        return (7 * self.input + 2 * self.output) * 1000


A, B = Prices(1, 3, 50), Prices(2, 7, 80)


@pytest.fixture(scope="module")
def _gate(start_stack: StartStack, server: Recorder) -> Stack:
    return start_stack(server.address, catalog=A.catalog)


@pytest.fixture
def gate(_gate: Stack, server: Recorder) -> Stack:
    """A gate in front of `server`, with the prices of A."""
    server.forget()
    turn(_gate, A.catalog)
    return _gate


def turn(gate: Stack, catalog: str) -> dict[str, Any]:
    """Put a catalog in force; what the command says."""
    (gate.folder / "catalog.yaml").write_text(catalog)
    done: dict[str, Any] = gate.cli("catalog", "reload")
    return done


def chat(gate: Stack, key: dict[str, Any], number: int = 0) -> Answer:
    """A call without a bound of its own, always as long."""
    body = {"model": "recorder", "messages": [{"role": "user", "content": f"{number:06}"}]}
    return call(gate, key=key["key"], body=json.dumps(body).encode())


def hold_under(gate: Stack, key: dict[str, Any], prices: Prices) -> int:
    turn(gate, prices.catalog)
    return hold_of(chat(gate, key))


def test_under_load_every_call_is_of_one_catalog_and_none_fails(
    gate: Stack, server: Recorder
) -> None:
    key = gate.mint()
    sets = {prices: hold_under(gate, key, prices) for prices in (A, B)}
    spliced = dict[str, int]()

    def answer(asked: Recorded) -> Reply:
        body = asked.json()
        spliced[body["messages"][0]["content"]] = body["max_tokens"]
        return Reply(before=(Pause(0.02),), headers=REPLY.headers, body=REPLY.body)

    server.answer = answer
    path = gate.folder / "catalog.yaml"
    control = Control(gate.runtime / SOCKET_NAME, gate.state)
    ended, numbers = threading.Event(), iter(range(1, 10**6))

    def served(enough: int) -> bool:
        return len(spliced) >= enough

    def calls() -> list[tuple[int, Answer]]:
        made = []
        while not ended.is_set():
            made.append((number := next(numbers), chat(gate, key, number)))
        return made

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(calls) for _ in range(CALLERS)]
        try:
            for turned in range(RELOADS):
                path.write_text((A, B)[turned % 2].catalog)
                done = control.ask("catalog_reload")
                assert {each["change"] for each in done["changes"]} == {"repriced", "changed"}
                enough = len(spliced) + CALLERS
                until(partial(served, enough), 10, "calls between two reloads")
        finally:
            ended.set()
        answers = [pair for caller in callers for pair in caller.result()]
    assert [answer.status for _, answer in answers if answer.status != 200] == []
    rows = {row["request_id"]: row for row in booked(gate, key, len(answers) + 2)}
    assert len(rows) == len(answers) + 2
    seen = set()
    for number, answer in answers:
        row = rows[answer.headers["x-request-id"]]
        assert row["hold_nanousd"] == hold_of(answer)
        seen.add((spliced[f"{number:06}"], row["hold_nanousd"], row["charge_nanousd"]))
        assert row["basis"] == "metered"
    assert seen == {(prices.bound, hold, prices.charge) for prices, hold in sets.items()}


REPLY: Final = json_reply(chat_completion())


def test_a_hold_keeps_the_price_that_it_was_made_with(gate: Stack, server: Recorder) -> None:
    key = gate.mint()
    with ThreadPoolExecutor(1) as pool:
        with server.held():
            answer = pool.submit(chat, gate, key)
            server.wait_for(1)
            turn(gate, B.catalog)
            assert not answer.done()
        assert answer.result().status == 200
    (row,) = booked(gate, key)
    assert (row["charge_nanousd"], row["hold_nanousd"]) == (A.charge, hold_of(answer.result()))


def test_a_bad_file_keeps_the_old_catalog_and_every_fault_is_told(gate: Stack) -> None:
    key, path = gate.mint(), gate.folder / "catalog.yaml"
    before, failed, loaded = hold_of(chat(gate, key)), metric(gate, FAILURES), metric(gate, LOADED)
    path.write_text(B.catalog.replace("output: 7", "output: dear") + "modles: {}\n")
    refused = gate.cli_error("catalog", "reload")
    faults = (
        "line 3: models.recorder.price.output: Input should be a valid decimal",
        "line 9: modles: nothing is called so here",
    )
    assert refused["code"] == "config"
    for fault in faults:
        assert fault in refused["message"]
        assert fault in (gate.state / "log" / "authz.log").read_text()
    assert hold_of(chat(gate, key)) == before
    assert (metric(gate, FAILURES), metric(gate, LOADED)) == (failed + 1, loaded)
    path.write_text(B.catalog)
    told = gate.run("catalog", "reload")
    assert told.returncode == 0
    assert re.search(r"model recorder repriced: input \$1.00, .*→ input \$2.00, ", told.stdout)
    assert hold_of(chat(gate, key)) > before
    assert metric(gate, LOADED) > loaded


def test_what_envoy_was_started_with_is_not_taken_nor_anything_beside_it(gate: Stack) -> None:
    key = gate.mint()
    before = hold_of(chat(gate, key))
    more = 'upstreams: {gpu-a: "127.0.0.1:9"}\n'
    more += "endpoints: [{name: own, path: /own}]\n"
    (gate.folder / "catalog.yaml").write_text(B.catalog + more)
    refused = gate.cli_error("catalog", "reload")
    assert refused["code"] == "config"
    for members in ("upstreams", "endpoints, native_model"):
        assert f"  {members}: Envoy was started with" in refused["message"]
    assert "stop the gate and start it again" in refused["message"]
    assert hold_of(chat(gate, key)) == before


def test_an_authz_that_comes_back_does_not_begin_with_what_envoy_has_otherwise(gate: Stack) -> None:
    key, path = gate.mint(), gate.folder / "catalog.yaml"
    path.write_text(A.catalog + 'upstreams: {gpu-a: "127.0.0.1:9"}\n')
    (pid,) = gate.children()["authz"]
    os.kill(pid, signal.SIGKILL)
    log = gate.state / "log" / "authz.log"
    why = "its upstreams or its endpoints are not those of the running Envoy"
    until(lambda: why in log.read_text(), 20, "a word of it in the log")
    assert chat(gate, key).status == 503
    path.write_text(A.catalog)
    until(lambda: chat(gate, key).status == 200, 20, "a call that passes")


def test_a_hangup_of_up_reloads_and_ends_nothing(gate: Stack) -> None:
    key, pid = gate.mint(), gate.pid
    before = hold_of(chat(gate, key))
    (gate.folder / "catalog.yaml").write_text(B.catalog)
    loaded, children = metric(gate, LOADED), gate.children()
    os.kill(pid, signal.SIGHUP)
    until(lambda: metric(gate, LOADED) > loaded, 10, "the reload")
    assert hold_of(chat(gate, key)) > before
    assert gate.running
    assert gate.children() == children


def test_a_hangup_just_when_authz_is_started_again_neither_ends_it_nor_is_lost(
    gate: Stack,
) -> None:
    """Whatever authz has come to: what it reads afterwards is the file of then."""
    path, control = gate.folder / "catalog.yaml", Control(gate.runtime / SOCKET_NAME, gate.state)
    for turned in range(2):
        (pid,) = gate.children()["authz"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: gate.children().get("authz", [pid]) != [pid], 20, "another authz")  # noqa: B023  waits here
        (pid,) = gate.children()["authz"]
        path.write_text((A, B)[turned % 2].catalog)
        os.kill(gate.pid, signal.SIGHUP)
        until(lambda: answers(control), 20, "authz")
        expected = path.read_text()
        until(lambda: control.ask("catalog")["text"] == expected, 10, "the file in force")  # noqa: B023  waits here
        assert gate.children()["authz"] == [pid]
    assert "SIGHUP" not in gate.output


def answers(control: Control) -> bool:
    try:
        control.ask("catalog")
    except StoreError:
        return False
    return True


def test_minting_is_held_to_the_plans_in_force_and_not_to_a_file_that_is_not(gate: Stack) -> None:
    path = gate.folder / "catalog.yaml"
    mint = ("keys", "mint", "--user", "caps@example.com", "--models", "*", "--budget-usd", "5")
    gate.cli("users", "add", "caps@example.com")
    capped = A.catalog.replace("test: {}", "test: {max_rpm: 5}")
    path.write_text(capped + "modles: {}\n")
    gate.cli_error("catalog", "reload")
    gate.cli(*mint, "--rpm", "50", "--alias", "refused-file")
    path.write_text(capped)
    gate.cli(*mint, "--rpm", "50", "--alias", "not-read-yet")
    turn(gate, capped)
    path.write_text(A.catalog)
    assert gate.cli_error(*mint, "--rpm", "50", "--alias", "capped")["code"] == "plan_limit_rpm"


def test_plans_hold_at_once_and_one_that_is_gone_is_warned_of(gate: Stack) -> None:
    key = gate.mint(user="plan@example.com", plan="pro")
    assert chat(gate, key).status == 200
    booked(gate, key)
    done = turn(gate, A.catalog.replace("pro: {}", "pro: {account_budget_usd: 0.000001}"))
    assert done["changes"] == [{"what": "plan", "name": "pro", "change": "changed"}]
    refused = chat(gate, key)
    assert (refused.status, refused.code) == (429, "budget_exceeded")
    assert turn(gate, A.catalog)["warnings"] == []
    assert chat(gate, key).status == 200
    (warning,) = turn(gate, A.catalog.replace(", pro: {}", ""))["warnings"]
    assert warning.startswith("1 accounts are on plan 'pro'")


def test_a_public_name_costs_what_the_data_says(gate: Stack) -> None:
    key, name = gate.mint(), "claude-haiku-4-5"
    assert call(gate, key=key["key"], model=name).status == 200
    (row,) = booked(gate, key)
    public = load(None).find(name)
    assert public is not None
    per_million = 7 * public.price.input + 2 * public.price.output
    assert row["model"] == name
    assert row["charge_nanousd"] == -(-per_million // 10**6)
    said = gate.run("catalog", "check", name, "recorder", "unheard-of").stdout.splitlines()
    assert said[0].endswith("; priced by genai-prices 0.2.3, anthropic")
    assert said[1].endswith("; priced by the row 'recorder' of the catalog")
    assert said[2] == "unheard-of  nothing prices it: a key with a budget cannot call it"
