"""Money, through the whole gate: a ceiling is one, and what refusals and answers say of it."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anthropic
import openai
import pytest
from load.audit import Row
from moneygate import ANSWERED, BODY, NANOUSD, booked, hold_of, metric, nanousd, standing, usd
from peers.client import CHAT, MESSAGES, call
from peers.recorder import Pause, Recorder, chat_completion, json_reply
from peers.stack import Stack
from waiting import until


@pytest.fixture(scope="module")
def hold(stack: Stack) -> int:
    """The hold of a call with BODY, in nano-USD."""
    return hold_of(call(stack, key=stack.mint()["key"], body=BODY))


@pytest.fixture(scope="module")
def spent(stack: Stack, hold: int) -> dict[str, Any]:
    """A key whose budget is too small for a call with BODY."""
    return stack.mint(budget_usd=usd(hold - 1))


# -- a ceiling is a ceiling


def test_as_many_calls_pass_as_holds_fit(stack: Stack, recorder: Recorder, hold: int) -> None:
    budget = 10 * hold + hold // 2
    key = stack.mint(budget_usd=usd(budget))
    with ThreadPoolExecutor(64) as pool:
        with recorder.held():
            answers = [pool.submit(call, stack, key=key["key"], body=BODY) for _ in range(64)]
            recorder.wait_for(10)
            until(lambda: sum(each.done() for each in answers) == 54, 20, "54 refusals")
            assert standing(stack, key)["held_usd"] == float(usd(10 * hold))
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
        until(lambda: standing(stack, key)["held_usd"] == 0, 5, "all holds ended")
        assert_all_pass_in_the_end(stack, recorder, key, budget, pool)
    assert_never_above(booked(stack, key, 74), budget)


def assert_all_pass_in_the_end(
    stack: Stack, recorder: Recorder, key: dict[str, Any], budget: int, pool: ThreadPoolExecutor
) -> None:
    """With answers flowing, all that fits is admitted, and what is held and spent stays below."""
    recorder.answer = replace(json_reply(chat_completion()), before=(Pause(0.02),))
    ended = threading.Event()

    def watch() -> int:
        looked = 0
        while not ended.is_set():
            now = standing(stack, key)
            assert nanousd(now["spent_usd"]) + nanousd(now["held_usd"]) <= budget, now
            looked += 1
        return looked

    def insist(_: int) -> int:
        for tries in range(1, 400):
            answer = call(stack, key=key["key"], body=BODY)
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
    assert total == sum(row["charge_nanousd"] for row in ledger) == 74 * ANSWERED


# -- what a refusal and an answer say


def test_a_spent_budget_is_told_with_what_to_do(
    stack: Stack, recorder: Recorder, spent: dict[str, Any]
) -> None:
    answer = call(stack, key=spent["key"], body=BODY)
    assert (answer.status, answer.code) == (429, "budget_exceeded")
    assert answer.json()["error"]["type"] == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"
    reset = datetime.fromisoformat(answer.headers["x-budget-reset"])
    left = (reset - datetime.now(UTC)).total_seconds()
    assert abs(int(answer.headers["retry-after"]) - left) < 5
    assert re.fullmatch(
        r"This call could cost up to \$0\.\d+, and \$0\.\d+ of (this key's )?\$0\.\d+ is left "
        r"until \d{4}-\d\d-\d\d \d\d:\d\d UTC\. Lower `max_tokens` \(100\) or raise the "
        rf"budget at http://127\.0\.0\.1:{stack.admin_port}/keys\.",
        answer.json()["error"]["message"],
    )
    theirs = call(stack, MESSAGES, key=spent["key"], body=BODY)
    assert (theirs.status, theirs.code) == (429, "budget_exceeded")
    assert theirs.json()["error"]["type"] == "rate_limit_error"
    assert theirs.headers["x-should-retry"] == "false"
    assert recorder.requests == []


def test_what_is_held_is_told_and_ends(stack: Stack, recorder: Recorder, hold: int) -> None:
    key = stack.mint(budget_usd=usd(2 * hold - 1))
    with ThreadPoolExecutor(1) as pool, recorder.held():
        first = pool.submit(call, stack, key=key["key"], body=BODY)
        recorder.wait_for(1)
        message = call(stack, key=key["key"], body=BODY).json()["error"]["message"]
    assert first.result().status == 200
    assert re.match(r"This call could cost up to \$0\.\d+, and calls in flight hold \$0\.", message)
    assert len(re.findall(r"\.(?: |$)", message)) == 2


def test_answers_say_what_is_held_and_left(stack: Stack, recorder: Recorder, hold: int) -> None:
    key = stack.mint(budget_usd="0.5")
    answer = call(stack, key=key["key"], body=BODY)
    assert hold_of(answer) == hold
    # the body's bytes and the overhead at the price of input, max_tokens at that of output
    assert hold == (len(BODY) + 1024) * 500 + 100 * 1500
    assert answer.headers["x-budget-limit-usd"] == "0.5"
    assert nanousd(answer.headers["x-budget-remaining-usd"]) == NANOUSD // 2 - hold
    [row] = booked(stack, key)
    assert (row["hold_nanousd"], row["charge_nanousd"], row["basis"]) == (hold, ANSWERED, "metered")
    until(lambda: standing(stack, key)["held_usd"] == 0, 2, "the hold's end")
    said = standing(stack, key)
    assert (nanousd(said["spent_usd"]), said["budget_usd"]) == (ANSWERED, 0.5)
    made = datetime.fromisoformat(said["created_at"])
    assert said["budget_reset"] == answer.headers["x-budget-reset"]
    assert datetime.fromisoformat(said["budget_reset"]) == made + timedelta(days=30)
    assert (
        not {"x-budget-limit-usd", "x-budget-reset"}
        & call(stack, key=stack.mint()["key"]).headers.keys()
    )


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_sdks_try_once_and_do_not_sleep(
    stack: Stack, spent: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    before = refusals(stack, "budget_exceeded")
    message: Any = {"role": "user", "content": "hi" * 50}
    asked: Any = {"model": "recorder", "messages": [message], "max_tokens": 100}
    if path == CHAT:
        with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=spent["key"]) as ai:
            assert ai.max_retries
            with pytest.raises(openai.RateLimitError) as ours:
                ai.chat.completions.create(**asked)
        assert (ours.value.code, ours.value.type) == ("budget_exceeded", "insufficient_quota")
    else:
        with anthropic.Anthropic(base_url=stack.url, api_key=spent["key"]) as claude:
            assert claude.max_retries
            with pytest.raises(anthropic.RateLimitError) as theirs:
                claude.messages.create(**asked)
        assert "budget_exceeded" in str(theirs.value)
    assert refusals(stack, "budget_exceeded") == before + 1
    assert slept == []


def test_sdks_wait_for_a_hold_and_pass(
    stack: Stack, recorder: Recorder, hold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = stack.mint(budget_usd=usd(3 * hold // 2))
    really, slept = time.sleep, list[float]()
    with (
        ThreadPoolExecutor(1) as pool,
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key["key"]) as ai,
        recorder.held() as release,
    ):
        first = pool.submit(call, stack, key=key["key"], body=BODY)
        recorder.wait_for(1)

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            release.set()
            while standing(stack, key)["held_usd"]:
                really(0.02)

        monkeypatch.setattr(time, "sleep", sleep)
        message: Any = {"role": "user", "content": "hi"}
        said = ai.chat.completions.create(model="recorder", messages=[message], max_tokens=100)
        assert said.choices
        monkeypatch.undo()
    assert first.result().status == 200
    assert slept == [2.0]


def refusals(stack: Stack, reason: str) -> float:
    return metric(stack, f'tensorgate_checks_total{{outcome="denied",reason="{reason}"}}')


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
    stack: Stack, recorder: Recorder, spent: dict[str, Any], case: str
) -> None:
    path, parameter, status = PARAMETERS[case]
    content: dict[str, Any] = {"input": "hi"} if path == "/v1/responses" else {"messages": []}
    body = json.dumps({"model": "recorder", **content, **parameter}).encode()
    answer = call(stack, path, key=spent["key"], body=body)
    expected = {
        400: "invalid_parameter",
        403: "unbounded_not_allowed" if "background" in parameter else "parameter_not_allowed",
    }
    assert (answer.status, answer.code) == (status, expected[status])
    if path != MESSAGES:
        assert answer.json()["error"]["param"] == next(iter(parameter))
    assert recorder.requests == []
