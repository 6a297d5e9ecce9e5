"""The main job, through the whole gate: who may pass, how often, and what the server gets."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from peers.client import CHAT, MESSAGES, Answer, call
from peers.process import freeze
from peers.recorder import Recorder, Reply, json_reply
from peers.stack import Stack, StartStack
from waiting import until

CREDENTIALS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


@pytest.mark.parametrize("header", CREDENTIALS)
def test_the_server_gets_the_call_and_no_credential(
    stack: Stack, recorder: Recorder, header: str
) -> None:
    minted = stack.mint(alias=f"cred-{header}")
    body = (
        b'{ "model":"recorder" ,"messages":[], "max_tokens":5,'
        b' "x":"\\ud83d\\ude00 \xc3\xa9", "top_p":1.0e-1}\n'
    )
    value = f"bearer  {minted['key']}" if header == "authorization" else minted["key"]
    forged = {
        header: value,
        "Cookie": "session=1",
        "X-Tensorgate-User": "root@example.com",
        "x-tensorgate-anything": "1",
        "X-HTTP-Method-Override": "DELETE",
        "x-original-url": "/admin",
        "x-rewrite-url": "/admin",
        "x-request-id": "mine",
    }
    answer = call(stack, CHAT + "?beta=true", body=body, headers=forged)
    assert answer.status == 200
    [request] = recorder.requests
    assert (request.method, request.target, request.body) == ("POST", CHAT + "?beta=true", body)
    for name in (
        *CREDENTIALS,
        "cookie",
        "x-http-method-override",
        "x-original-url",
        "x-rewrite-url",
        "x-tensorgate-anything",
    ):
        assert request.values(name) == [], name
    assert request.values("x-tensorgate-key-id") == [minted["id"]]
    assert request.values("x-tensorgate-alias") == [minted["alias"]]
    assert request.values("x-tensorgate-user") == ["dev@example.com"]
    assert request.values("x-tensorgate-model") == ["recorder"]
    assert request.values("x-request-id") == [answer.headers["x-request-id"]] != ["mine"]


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("application/x-www-form-urlencoded", "application/json"),
        ("multipart/form-data; boundary=x", "application/json"),
        ("text/plain", "text/plain"),
    ],
)
def test_no_server_reads_json_as_a_form(
    stack: Stack, recorder: Recorder, sent: str, seen: str
) -> None:
    body = b'{"model":"recorder","messages":[],"max_tokens":5,"user":"&model=another&"}'
    answer = call(stack, key=stack.mint()["key"], body=body, headers={"content-type": sent})
    assert answer.status == 200
    [request] = recorder.requests
    assert (request.values("content-type"), request.body) == ([seen], body)


@pytest.mark.parametrize("size", [0, 100_000, 31 << 20])
def test_bodies_pass_byte_for_byte(stack: Stack, recorder: Recorder, size: int) -> None:
    body = json.dumps({"model": "recorder", "input": os.urandom(size // 2).hex()}).encode()
    assert call(stack, "/v1/embeddings", key=stack.mint()["key"], body=body).status == 200
    assert recorder.requests[0].body == body


def test_what_the_server_says_of_limits_and_cookies_stays_there(
    stack: Stack, recorder: Recorder
) -> None:
    key = stack.mint(rpm=7)["key"]
    theirs = (
        ("Set-Cookie", "session=theirs"),
        ("x-ratelimit-limit-requests", "999"),
        ("x-ratelimit-remaining-tokens", "999"),
        ("anthropic-ratelimit-requests-limit", "999"),
        ("ratelimit", '"theirs";r=999'),
        ("x-budget-limit-usd", "999"),
        ("x-tensorgate-reason", "theirs"),
        ("x-key-expires", "never"),
        ("x-theirs", "kept"),
    )
    recorder.answer = json_reply({"ok": True}, headers=theirs)
    answer = call(stack, key=key)
    assert answer.status == 200
    assert answer.headers["x-theirs"] == "kept"
    assert answer.headers["x-ratelimit-limit-requests"] == "7"
    assert not any(
        "theirs" in value or "999" in value
        for name, value in answer.all_headers
        if name != "x-theirs"
    ), answer.all_headers
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_the_servers_own_errors_pass_with_our_headers(
    stack: Stack, recorder: Recorder, status: int
) -> None:
    recorder.answer = json_reply({"error": {"message": "theirs"}}, status)
    answer = call(stack, key=stack.mint(rpm=9)["key"])
    assert (answer.status, answer.json()) == (status, {"error": {"message": "theirs"}})
    assert answer.headers["x-ratelimit-remaining-requests"] == "8"


def test_a_dead_server_is_502_or_503_with_our_headers(
    start_stack: StartStack, recorder: Recorder
) -> None:
    gate = start_stack("127.0.0.1:1")
    key = gate.mint(rpm=9)["key"]
    for path in (CHAT, MESSAGES):
        answer = call(gate, path, key=key)
        assert answer.status in {502, 503}
        assert answer.code == "upstream_unavailable"
        assert answer.headers["x-ratelimit-limit-requests"] == "9"


def test_of_200_concurrent_calls_at_rpm_50_exactly_50_pass(
    stack: Stack, recorder: Recorder
) -> None:
    key = stack.mint(rpm=50)["key"]
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: call(stack, key=key), range(200)))
    statuses = [answer.status for answer in answers]
    assert statuses.count(200) == 50
    assert statuses.count(429) == 150
    assert len(recorder.requests) == 50


def test_listings_have_a_minute_of_their_own(stack: Stack) -> None:
    key = stack.mint(rpm=1)["key"]
    assert [call(stack, "/v1/key", key=key).status for _ in range(11)] == [200] * 10 + [429]
    assert call(stack, key=key).status == 200
    assert call(stack, key=key).status == 429


def test_models_are_those_that_the_key_may_call(stack: Stack, recorder: Recorder) -> None:
    everything, narrow = stack.mint()["key"], stack.mint(models="recorder")["key"]
    none = stack.mint(models="something-else")["key"]
    until(lambda: call(stack, "/v1/models", key=everything).json()["data"], 10)
    for key, expected in ((everything, ["recorder"]), (narrow, ["recorder"]), (none, [])):
        listing = call(stack, "/v1/models", key=key).json()
        assert [model["id"] for model in listing["data"]] == expected
    assert call(stack, "/v1/models/recorder", key=narrow).json()["id"] == "recorder"
    assert call(stack, "/v1/models/recorder", key=none).code == "not_found"
    assert not recorder.requests


def test_a_key_sees_itself(stack: Stack) -> None:
    minted = stack.mint(models="b,a", budget_usd="2.5", rpm=3)
    said = call(stack, "/v1/key", key=minted["key"]).json()
    assert (said["id"], said["alias"], said["hint"]) == (
        minted["id"],
        minted["alias"],
        minted["hint"],
    )
    assert (said["models"], said["rpm"], said["budget_usd"]) == (["a", "b"], 3, 2.5)
    assert said["expires_at"] == minted["expires_at"]
    assert minted["key"] not in json.dumps(said)


def test_revoking_holds_within_a_second(stack: Stack) -> None:
    minted = stack.mint()
    assert call(stack, key=minted["key"]).status == 200
    stack.revoke(minted["alias"])
    revoked = time.monotonic()
    until(lambda: call(stack, key=minted["key"]).status == 401, 1)
    assert call(stack, key=minted["key"]).code == "api_key_revoked"
    print(f"revoked after {time.monotonic() - revoked:.3f} s")


def test_updating_holds_within_a_second(stack: Stack) -> None:
    minted = stack.mint(models="recorder", rpm=100)
    assert call(stack, key=minted["key"]).headers["x-ratelimit-limit-requests"] == "100"
    user = ("--user", "dev@example.com", "--alias", minted["alias"])
    stack.cli("keys", "update", *user, "--models", "other", "--rpm", "5")
    until(lambda: call(stack, key=minted["key"]).status == 403, 1)
    answer = call(stack, key=minted["key"], model="other")
    assert (answer.status, answer.headers["x-ratelimit-limit-requests"]) == (200, "5")


def test_a_key_that_was_refused_as_unknown_works_once_it_is_minted(stack: Stack) -> None:
    """A negative entry of the cache must not outlive the minting."""
    for _ in range(3):
        minted = stack.mint()
        until(lambda key=minted["key"]: call(stack, key=key).status == 200, 1)


def test_authz_killed_is_503_in_our_words_and_200_again_when_it_is_back(
    start_stack: StartStack,
) -> None:
    server = Recorder()
    gate = start_stack(server.address)
    key = gate.mint()["key"]
    assert call(gate, key=key).status == 200
    [authz] = gate.children()["authz"]
    freeze(authz)
    try:
        stopped = time.monotonic()
        for path in (CHAT, MESSAGES):
            answer = call(gate, path, key=key)
            assert_unavailable(answer)
        assert time.monotonic() - stopped < 10
    finally:
        os.kill(authz, signal.SIGKILL)
    seen = []

    def passes() -> bool:
        answer = call(gate, key=key)
        seen.append(answer)
        return answer.status == 200

    until(passes, 15)
    for answer in seen[:-1]:
        assert_unavailable(answer)
    assert gate.children()["authz"] != [authz]
    gate.stop()
    server.close()


def assert_unavailable(answer: Answer) -> None:
    assert (answer.status, answer.code) == (503, "authorization_unavailable")
    assert answer.headers["x-tensorgate-reason"] == "authorization_unavailable"
    assert answer.headers["retry-after"] == "1"


def test_metrics_count_what_was_decided(stack: Stack, recorder: Recorder) -> None:
    key = stack.mint()["key"]
    before = metrics(stack)
    call(stack, key=key)
    call(stack, key="sk-nope")
    after = metrics(stack)
    for labels in ('outcome="allowed",reason=""', 'outcome="denied",reason="invalid_api_key"'):
        name = "tensorgate_checks_total{" + labels + "}"
        assert after[name] == before.get(name, 0) + 1
    ends = 'tensorgate_access_log_entries_total{result="end"}'
    until(lambda: metrics(stack)[ends] > after[ends], 5)


def metrics(stack: Stack) -> dict[str, float]:
    address, _, path = stack.metrics_url.removeprefix("http://").partition("/")
    lines = call(address, f"/{path}", method="GET").body.decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if line and not line.startswith("#")
    }


def test_an_answer_without_a_body_passes(stack: Stack, recorder: Recorder) -> None:
    recorder.answer = Reply(204)
    assert call(stack, key=stack.mint()["key"]).status == 204
