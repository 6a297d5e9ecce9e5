"""Money, through the whole gate: what is held, what is charged, what is refused, what is booked.

The proofs at full size are in tests/load/test_soak_money.py.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import anthropic
import openai
import pytest
from load.audit import Audit, Row, admitted_ids, all_booked, check_budgets, rows, until
from load.latency import compare
from load.mixed import CATALOG, DEADLINE_SECONDS, QUICK_DEADLINES, Key, draw, drive
from peers.book import Api, Book, Order, events, order_member
from peers.client import CHAT, MESSAGES, Answer, call
from peers.recorder import Pause, Recorder, chat_completion, json_reply
from peers.stack import Stack, StartStack

NANOUSD: Final = 10**9
SEED: Final = 20_260_711
BODY: Final = json.dumps(
    {"model": "recorder", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Recorder]:
    """The model server behind `gate`."""
    running = Recorder()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gate(start_stack: StartStack, server: Recorder) -> Stack:
    """The gate that these tests share; each mints keys of its own."""
    return start_stack(server.address, catalog=CATALOG, env=QUICK_DEADLINES)


@pytest.fixture
def recorder(server: Recorder) -> Recorder:
    server.forget()
    return server


@pytest.fixture
def book(recorder: Recorder) -> Book:
    """The server keeps a book, in this test."""
    kept = Book()
    recorder.answer = kept.answer
    return kept


def usd(nanousd: int) -> str:
    return f"{nanousd // NANOUSD}.{nanousd % NANOUSD:09d}"


def nanousd(written: object) -> int:
    return int(Fraction(str(written)) * NANOUSD)


def hold_of(answer: Answer) -> int:
    return nanousd(answer.headers["x-tensorgate-hold-usd"])


def booked(gate: Stack, key: dict[str, Any], count: int = 1) -> list[Row]:
    """Wait until a key has so many rows; all that it has."""

    def mine() -> list[Row]:
        return [row for row in rows(gate) if row["key_id"] == key["id"]]

    until(lambda: len(mine()) >= count, 5, f"{count} rows of a key")
    return mine()


def standing(gate: Stack, key: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = call(gate, "/v1/key", key=key["key"]).json()
    return found


@pytest.fixture(scope="module")
def hold(gate: Stack, server: Recorder) -> int:
    """The hold of a call with BODY, in nano-USD."""
    return hold_of(call(gate, key=gate.mint()["key"], body=BODY))


@pytest.fixture(scope="module")
def spent(gate: Stack, hold: int) -> dict[str, Any]:
    """A key whose budget is too small for a call with BODY."""
    return gate.mint(budget_usd=usd(hold - 1))


# -- a ceiling is a ceiling


def test_as_many_calls_pass_as_holds_fit(gate: Stack, recorder: Recorder, hold: int) -> None:
    budget = 10 * hold + hold // 2
    key = gate.mint(budget_usd=usd(budget))
    with ThreadPoolExecutor(64) as pool:
        with recorder.held():
            answers = [pool.submit(call, gate, key=key["key"], body=BODY) for _ in range(64)]
            recorder.wait_for(10)
            until(lambda: sum(each.done() for each in answers) == 54, 20, "54 refusals")
            assert standing(gate, key)["held_usd"] == float(usd(10 * hold))
            refused = [each.result() for each in answers if each.done()]
            assert len(recorder.requests) == 10
        passed = [answer for each in answers if (answer := each.result()).status == 200]
        assert len(passed) == 10
        for answer in refused:
            assert (answer.status, answer.code) == (429, "budget_held")
            assert answer.headers["retry-after"] == "2"
            assert answer.json()["error"]["type"] == "requests"
            assert "x-should-retry" not in answer.headers
            assert "x-tensorgate-hold-usd" not in answer.headers
        until(lambda: standing(gate, key)["held_usd"] == 0, 5, "all holds ended")
        assert_all_pass_in_the_end(gate, recorder, key, budget, pool)
    assert_never_above(booked(gate, key, 74), budget)


def assert_all_pass_in_the_end(
    gate: Stack, recorder: Recorder, key: dict[str, Any], budget: int, pool: ThreadPoolExecutor
) -> None:
    """With answers flowing, all that fits is admitted, and what is held and spent stays below."""
    recorder.answer = replace(json_reply(chat_completion()), before=(Pause(0.02),))
    ended = threading.Event()

    def watch() -> int:
        looked = 0
        while not ended.is_set():
            now = standing(gate, key)
            assert nanousd(now["spent_usd"]) + nanousd(now["held_usd"]) <= budget, now
            looked += 1
        return looked

    def insist(_: int) -> int:
        for tries in range(1, 400):
            answer = call(gate, key=key["key"], body=BODY)
            if answer.status == 200:
                return tries
            assert answer.code == "budget_held"
            time.sleep(0.05)
        raise AssertionError("a call that fits was never admitted")

    with ThreadPoolExecutor(1) as beside:
        watching = beside.submit(watch)
        try:
            assert max(pool.map(insist, range(64))) > 1
        finally:
            ended.set()
        assert watching.result() > 3


def assert_never_above(ledger: list[Row], budget: int) -> None:
    """By the ledger itself: what was held and spent at any time. A hold's end is booked before
    it makes room, so this can only show too little, never too much."""
    assert len(ledger) == 74
    changes = [(row["admitted_at"], 1, row["hold_nanousd"]) for row in ledger]
    changes += [
        (row["settled_at"], 0, row["charge_nanousd"] - row["hold_nanousd"]) for row in ledger
    ]
    total = most = 0
    for _, _, change in sorted(changes):
        total += change
        most = max(most, total)
    assert most <= budget
    assert total == sum(row["charge_nanousd"] for row in ledger) == 74 * 6500


def test_the_account_has_a_ceiling_over_all_its_keys(gate: Stack, recorder: Recorder) -> None:
    body = BODY.replace(b"100", b"16000")  # holds 0.0246 USD at most, of the account's 0.1
    user = "shared@example.com"
    keys = [gate.mint(user=user, plan="shared", budget_usd=each) for each in ("none", 5)]
    other = gate.mint(budget_usd=5)
    with ThreadPoolExecutor(4) as pool, recorder.held():
        answers = [
            pool.submit(call, gate, key=keys[i % 2]["key"], body=body, timeout=20) for i in range(4)
        ]
        recorder.wait_for(4)
        for key in keys:
            refused = call(gate, key=key["key"], body=body)
            assert (refused.status, refused.code) == (429, "budget_held")
            assert refused.headers["x-budget-limit-usd"] == "0.1"
            assert "account" in refused.json()["error"]["message"]
        recorder.next.append(json_reply(chat_completion()))
        assert call(gate, key=other["key"], body=body).status == 200
    assert {each.result().status for each in answers} == {200}
    until(lambda: call(gate, key=keys[1]["key"], body=body).status == 200, 5, "room again")
    recorder.answer = json_reply(chat_completion(sent=1000, said=16_000))

    def spent() -> bool:
        answer = call(gate, key=keys[0]["key"], body=body)
        return answer.status == 429 and answer.code == "budget_exceeded"

    until(spent, 10, "a spent account")
    for key in keys:
        refused = call(gate, key=key["key"], body=body)
        assert (refused.status, refused.code) == (429, "budget_exceeded")
    assert_at_most(gate, [key["id"] for key in keys], 10**8)


def assert_at_most(gate: Stack, key_ids: list[str], most: int) -> None:
    assert sum(row["charge_nanousd"] for row in rows(gate) if row["key_id"] in key_ids) <= most


# -- what a refusal and an answer say


def test_a_spent_budget_is_told_with_what_to_do(
    gate: Stack, recorder: Recorder, spent: dict[str, Any]
) -> None:
    answer = call(gate, key=spent["key"], body=BODY)
    assert (answer.status, answer.code) == (429, "budget_exceeded")
    assert answer.json()["error"]["type"] == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"
    reset = datetime.fromisoformat(answer.headers["x-budget-reset"])
    left = (reset - datetime.now(UTC)).total_seconds()
    assert abs(int(answer.headers["retry-after"]) - left) < 5
    assert re.fullmatch(
        r"This call could cost up to \$0\.\d+, and \$0\.\d+ of (this key's )?\$0\.\d+ is left "
        r"until \d{4}-\d\d-\d\d \d\d:\d\d UTC\. Lower `max_tokens` \(100\) or .+ budget[^.]*\.",
        answer.json()["error"]["message"],
    )
    theirs = call(gate, MESSAGES, key=spent["key"], body=BODY)
    assert (theirs.status, theirs.code) == (429, "budget_exceeded")
    assert theirs.json()["error"]["type"] == "rate_limit_error"
    assert theirs.headers["x-should-retry"] == "false"
    assert recorder.requests == []


def test_what_is_held_is_told_and_ends(gate: Stack, recorder: Recorder, hold: int) -> None:
    key = gate.mint(budget_usd=usd(2 * hold - 1))
    with ThreadPoolExecutor(1) as pool, recorder.held():
        first = pool.submit(call, gate, key=key["key"], body=BODY)
        recorder.wait_for(1)
        message = call(gate, key=key["key"], body=BODY).json()["error"]["message"]
    assert first.result().status == 200
    assert re.match(r"This call could cost up to \$0\.\d+, and calls in flight hold \$0\.", message)
    assert len(re.findall(r"\.(?: |$)", message)) == 2


def test_answers_say_what_is_held_and_left(gate: Stack, recorder: Recorder, hold: int) -> None:
    key = gate.mint(budget_usd="0.5")
    answer = call(gate, key=key["key"], body=BODY)
    assert hold_of(answer) == hold
    # the body's bytes and the overhead at the price of input, max_tokens at that of output
    assert hold == (len(BODY) + 1024) * 500 + 100 * 1500
    assert answer.headers["x-budget-limit-usd"] == "0.5"
    assert nanousd(answer.headers["x-budget-remaining-usd"]) == NANOUSD // 2 - hold
    [row] = booked(gate, key)
    assert (row["hold_nanousd"], row["charge_nanousd"], row["basis"]) == (hold, 6500, "metered")
    until(lambda: standing(gate, key)["held_usd"] == 0, 2, "the hold's end")
    said = standing(gate, key)
    assert (nanousd(said["spent_usd"]), said["budget_usd"]) == (6500, 0.5)
    made = datetime.fromisoformat(said["created_at"])
    assert said["budget_reset"] == answer.headers["x-budget-reset"]
    assert datetime.fromisoformat(said["budget_reset"]) == made + timedelta(days=30)
    assert (
        not {"x-budget-limit-usd", "x-budget-reset"}
        & call(gate, key=gate.mint()["key"]).headers.keys()
    )


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_sdks_try_once_and_do_not_sleep(
    gate: Stack, spent: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    before = refusals(gate, "budget_exceeded")
    message: Any = {"role": "user", "content": "hi" * 50}
    asked: Any = {"model": "recorder", "messages": [message], "max_tokens": 100}
    if path == CHAT:
        with openai.OpenAI(base_url=f"{gate.url}/v1", api_key=spent["key"]) as ai:
            assert ai.max_retries
            with pytest.raises(openai.RateLimitError) as ours:
                ai.chat.completions.create(**asked)
        assert (ours.value.code, ours.value.type) == ("budget_exceeded", "insufficient_quota")
    else:
        with anthropic.Anthropic(base_url=gate.url, api_key=spent["key"]) as claude:
            assert claude.max_retries
            with pytest.raises(anthropic.RateLimitError) as theirs:
                claude.messages.create(**asked)
        assert "budget_exceeded" in str(theirs.value)
    assert refusals(gate, "budget_exceeded") == before + 1
    assert slept == []


def test_sdks_wait_for_a_hold_and_pass(
    gate: Stack, recorder: Recorder, hold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = gate.mint(budget_usd=usd(3 * hold // 2))
    really, slept = time.sleep, list[float]()
    with (
        ThreadPoolExecutor(1) as pool,
        openai.OpenAI(base_url=f"{gate.url}/v1", api_key=key["key"]) as ai,
        recorder.held() as release,
    ):
        first = pool.submit(call, gate, key=key["key"], body=BODY)
        recorder.wait_for(1)

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            release.set()
            while standing(gate, key)["held_usd"]:
                really(0.02)

        monkeypatch.setattr(time, "sleep", sleep)
        message: Any = {"role": "user", "content": "hi"}
        said = ai.chat.completions.create(model="recorder", messages=[message], max_tokens=100)
        assert said.choices
        monkeypatch.undo()
    assert first.result().status == 200
    assert slept == [2.0]


def metric(gate: Stack, name: str) -> float:
    """The value of a series, 0 where it has none yet."""
    text = call(gate.metrics_url.split("/")[2], "/metrics", method="GET").body.decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def refusals(gate: Stack, reason: str) -> float:
    return metric(gate, f'tensorgate_checks_total{{outcome="denied",reason="{reason}"}}')


# -- what the server gets, and what of its answer the client gets

OPTIONS: Final = {
    "absent": b"",
    "null": b',"stream_options" : null',
    "empty": b',"stream_options":{ }',
    "other": b',"stream_options":{"chunk_size": 7}',
    "false": b',"stream_options":{"include_usage" :false, "a":[]}',
    "unset": b',"stream_options":{"include_usage":null}',
    "asked": b',"stream_options":{"x": 1,"include_usage":\ttrue}',
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS])
def test_usage_is_shown_to_those_who_asked(
    gate: Stack, book: Book, key: dict[str, Any], api: Api, options: str
) -> None:
    order = Order(1, input=20, cached=11, output=12, variety=len(options))
    prompt = b'"messages":[]' if api is Api.CHAT else b'"prompt":"x"'
    member = json.dumps(order_member(order)).encode()[1:]
    body = b'{"model":"recorder","stream":true,%s%s,%s' % (prompt, OPTIONS[options], member)
    before = len(booked(gate, key, 0))
    answer = call(gate, api, key=key["key"], body=body)
    made = events(api, order, with_usage=True)
    shown = [each for each in made if options == "asked" or not each.asked]
    assert len(made) - len(shown) == (options != "asked")
    assert answer.body == b"".join(each.data for each in shown)
    [entry] = book.entries
    assert json.loads(entry.body)["stream_options"]["include_usage"] is True
    row = booked(gate, key, before + 1)[-1]
    assert (row["input_tokens"], row["cached_input_tokens"], row["output_tokens"]) == (20, 11, 12)
    assert row["basis"] == "metered"


@pytest.fixture(scope="module")
def key(gate: Stack) -> dict[str, Any]:
    """May call every model, without limits."""
    return gate.mint()


BOUND: Final = rb'"max_tokens":4096,'
USAGE: Final = rb'"stream_options":\{"include_usage":true\},'
ODD: Final = (
    b' "model":"recorder" ,\n"messages":[{"role":"user","content":"\\ud83d\\ude00 \xc3\xa9 '
    b'{\\"max_tokens\\":null, \\"stream_options\\":null"}],\r\n\t"seed":12345678901234567890,'
    b'"x":1.0e+1,"y":{"max_tokens":1 },"z":"\\ud800"'
)
EDITED: Final[dict[str, tuple[str, list[bytes | tuple[bytes, bytes]]]]] = {
    "nothing to do": (CHAT, [b'{"max_tokens":9,', ODD, b"}\n"]),
    "no bound": (CHAT, [(b"{", rb"\{" + BOUND), ODD, b"}\n"]),
    "bound of null": (CHAT, [b"{", ODD, b',"max_tokens" : ', (b"null", b"4096"), b" } "]),
    "newer bound": (CHAT, [b'{"max_completion_tokens":5,', ODD, b"}"]),
    "stream": (
        CHAT,
        [(b" {", rb" \{(?:%s%s|%s%s)" % (BOUND, USAGE, USAGE, BOUND)), ODD, b',"stream":true}'],
    ),
    "stream of null and null": (
        CHAT,
        [
            *(b"{", ODD, b',"stream_options":', (b"null", rb'\{"include_usage":true\}')),
            *(b',"stream":true,"max_tokens":', (b"null", b"4096"), b"}"),
        ],
    ),
    "stream without usage": (
        CHAT,
        [
            *(b'{"max_tokens": 7,', ODD, b', "stream_options" : { "include_usage"\n: '),
            *((b"false", b"true"), b', "k":null},"stream":true}'),
        ],
    ),
    "responses": (
        "/v1/responses",
        [(b"{", rb'\{"max_output_tokens":4096,'), b'"model":"recorder","input":"\\u00e9","n":1}'],
    ),
    "embeddings": ("/v1/embeddings", [b'{"model":"recorder","input":["a",  "b"]}']),
}


@pytest.mark.parametrize("case", EDITED)
def test_but_for_the_bound_and_the_usage_the_body_is_the_clients(
    gate: Stack, recorder: Recorder, key: dict[str, Any], case: str
) -> None:
    path, parts = EDITED[case]
    sent = b"".join(part if isinstance(part, bytes) else part[0] for part in parts)
    pattern = b"".join(re.escape(p) if isinstance(p, bytes) else p[1] for p in parts)
    answer = call(gate, path, key=key["key"], body=sent)
    assert answer.status == 200, answer
    [request] = recorder.requests
    assert re.fullmatch(pattern, request.body), request.body
    assert request.values("content-length") == [str(len(request.body))]


# -- prices


def test_a_free_model_stays_usable_and_is_booked(gate: Stack, recorder: Recorder) -> None:
    key = gate.mint(budget_usd="0")
    assert call(gate, key=key["key"], body=BODY).code == "budget_exceeded"
    answer = call(gate, key=key["key"], body=BODY.replace(b"recorder", b"free"))
    assert (answer.status, hold_of(answer)) == (200, 0)
    [row] = booked(gate, key)
    assert (row["model"], row["charge_nanousd"], row["basis"]) == ("free", 0, "metered")
    assert (row["input_tokens"], row["output_tokens"]) == (7, 2)


def test_a_model_without_a_price_is_for_keys_without_a_budget(
    gate: Stack, recorder: Recorder
) -> None:
    body = BODY.replace(b"recorder", b"unheard-of")
    refused = call(gate, key=gate.mint(budget_usd=5)["key"], body=body)
    assert (refused.status, refused.code) == (403, "model_not_priced")
    key = gate.mint()
    answer = call(gate, key=key["key"], body=body)
    assert (answer.status, hold_of(answer)) == (200, 0)
    [row] = booked(gate, key)
    assert (row["model"], row["charge_nanousd"]) == ("unheard-of", 0)
    assert row["request_id"] == answer.headers["x-request-id"]


def test_the_same_prompt_costs_the_same_in_both_dialects(
    gate: Stack, book: Book, key: dict[str, Any]
) -> None:
    order = Order(1, input=70, cached=30, output=40)
    prompt = {"model": "dear", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps(prompt | order_member(order)).encode()
    before = len(booked(gate, key, 0))
    for path in (CHAT, MESSAGES, "/v1/responses"):
        sent = body.replace(b'"messages"', b'"input"') if path == "/v1/responses" else body
        assert call(gate, path, key=key["key"], body=sent).status == 200
    charged = {
        (row["charge_nanousd"], row["input_tokens"], row["cached_input_tokens"])
        for row in booked(gate, key, before + 3)[before:]
    }
    # 70 at 3, 30 at 0.300000001, 40 at 15 USD per million, 0.000012 USD for the call
    assert charged == {(210_000 + 9_001 + 600_000 + 12_000, 70, 30)}


# -- parameters

PARAMETERS: Final[dict[str, tuple[str, dict[str, Any], int]]] = {
    "stored response": ("/v1/responses", {"previous_response_id": "resp_1"}, 403),
    "conversation": ("/v1/responses", {"conversation": "conv_1"}, 403),
    "background": ("/v1/responses", {"background": True}, 403),
    "zero": (CHAT, {"max_tokens": 0}, 400),
    "negative": (CHAT, {"max_tokens": -1}, 400),
    "fractional": (CHAT, {"max_tokens": 1.5}, 400),
    "text": (CHAT, {"max_tokens": "x"}, 400),
    "newer": (CHAT, {"max_completion_tokens": 0}, 400),
    "Anthropic's": (MESSAGES, {"max_tokens": -3}, 400),
    "response's": ("/v1/responses", {"max_output_tokens": True}, 400),
    "repeats": (CHAT, {"n": 0}, 400),
}


@pytest.mark.parametrize("case", PARAMETERS)
def test_what_has_no_bound_is_refused(
    gate: Stack, recorder: Recorder, spent: dict[str, Any], case: str
) -> None:
    path, parameter, status = PARAMETERS[case]
    content = {"input": "hi"} if path == "/v1/responses" else {"messages": []}
    body = json.dumps({"model": "recorder", **content, **parameter}).encode()
    answer = call(gate, path, key=spent["key"], body=body)
    expected = {
        400: "invalid_parameter",
        403: "unbounded_not_allowed" if "background" in parameter else "parameter_not_allowed",
    }
    assert (answer.status, answer.code) == (status, expected[status])
    if path != MESSAGES:
        assert answer.json()["error"]["param"] == next(iter(parameter))
    assert recorder.requests == []


# -- the ledger


def test_the_ledger_is_the_book(gate: Stack, book: Book) -> None:
    """Mixed calls: to the token and the nano-dollar, and each admitted request exactly once."""
    before = {row["request_id"] for row in rows(gate)}
    keys = [
        Key.mint(gate, user="mixed@example.com"),
        Key.mint(gate, user="mixed@example.com", budget_usd="50"),
        Key.mint(gate, user="mixed@example.com", budget_usd="0.03"),
        Key.mint(gate, user="pair@example.com", plan="shared"),
        Key.mint(gate, user="pair@example.com", plan="shared", budget_usd="0.05"),
    ]
    outcomes = drive(gate.address, [draw(n, SEED, keys) for n in range(600)], threads=24)
    ledger = all_booked(gate, admitted_ids(outcomes, book), seconds=2 * DEADLINE_SECONDS)
    ledger = [row for row in ledger if row["request_id"] not in before]
    counted = Audit(outcomes, book, ledger).run()
    assert counted["metered"] > 350, counted
    assert counted["estimated"] > 20, counted
    assert counted["held"] > 5, counted
    assert counted["released"] > 20, counted
    check_budgets(gate, keys, ledger)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_end_is_booked_twice_or_lost(start_stack: StartStack, how: signal.Signals) -> None:
    """authz ends under load, by force or as it is asked to; `up` starts it again."""
    server, book = Recorder(), Book()
    server.answer = book.answer
    gate = start_stack(server.address, catalog=CATALOG, env=QUICK_DEADLINES)
    keys = [Key.mint(gate, user="a@example.com"), Key.mint(gate, user="b@example.com")]

    def strike() -> None:
        until(lambda: len(book.entries) > 60, 20, "load")
        os.kill(gate.children()["authz"][0], how)

    calls = [draw(n, SEED + how, keys) for n in range(300)]
    outcomes = drive(gate.address, calls, threads=16, meanwhile=strike)
    expected = admitted_ids(outcomes, book)
    ledger = all_booked(gate, expected, seconds=2 * DEADLINE_SECONDS + 2)
    counted = Audit(outcomes, book, ledger, lossy=how is signal.SIGKILL, outage=True).run()
    assert counted["metered"] > 100, counted
    check_budgets(gate, keys, ledger)
    gate.stop()
    server.close()


def test_the_ledger_is_exported_and_verified(gate: Stack, recorder: Recorder) -> None:
    assert call(gate, key=gate.mint(alias="exported")["key"]).status == 200
    until(lambda: any(row["alias"] == "exported" for row in rows(gate)), 5, "its row")
    expected = rows(gate)
    done = gate.run("ledger", "export", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    done = gate.run("ledger", "export", "--format", "csv")
    assert done.returncode == 0, done.stderr
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(found[0]) == list(expected[0]) == COLUMNS
    as_text = [{n: "" if v is None else str(v) for n, v in row.items()} for row in expected]
    assert [dict(row) for row in found] == as_text
    verified = gate.run("ledger", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert gate.cli("ledger", "verify")["rows"] == len(expected)
    assert metric(gate, "tensorgate_drift_nanousd") == 0


COLUMNS: Final = [
    *("hold_id", "request_id", "key_id", "user", "team", "alias", "model", "endpoint", "status"),
    *("basis", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"),
    *("charge_nanousd", "hold_nanousd", "admitted_at", "settled_at"),
]


def test_streams_are_not_held_back(tmp_path: Path) -> None:
    """That the figures can be taken; `make soak` takes them at full size and prints them."""
    figures = compare(tmp_path, streams=4, tokens=10, rounds=1)
    assert figures.alone.count == figures.gate.count == 4 * 10
