"""A page of another origin calls the gate from a real Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from peers.chromium import browser
from peers.recorder import Abort, Pause, Recorder, Reply, chat_completion, json_reply, sse_reply
from peers.stack import Stack, StartStack
from playwright.sync_api import Browser, Error, Page

from authz.model import Reason
from store import keyformat

pytestmark = pytest.mark.browser

CHAT: Final = {"model": "some-model", "messages": [{"role": "user", "content": "Hello, é!"}]}
RATES: Final = {
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "ratelimit-policy",
    "ratelimit",
}
# What a page can do with an answer: status, the headers that it is shown, the text.
FETCH: Final = """async ([url, options]) => {
    const answer = await fetch(url, options);
    return {
        status: answer.status,
        headers: Object.fromEntries(answer.headers.entries()),
        text: await answer.text(),
    };
}"""
# The milliseconds between the first and the last piece of a stream.
SPREAD: Final = """async ([url, options]) => {
    const reader = (await fetch(url, options)).body.getReader();
    const times = [];
    while (!(await reader.read()).done) times.push(performance.now());
    return times.at(-1) - times[0];
}"""
WEBSOCKET: Final = """url => new Promise(resolve => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve('open');
    socket.onerror = () => {};
    socket.onclose = event => resolve(event.code);
})"""


@contextmanager
def page_of_an_origin(chromium: Browser) -> Iterator[Page]:
    """An empty page of an origin of its own: another port of this machine is another origin."""
    server = Recorder()
    server.answer = Reply(headers=(("content-type", "text/html"),), body=b"<!doctype html><p>")
    try:
        opened = chromium.new_page()
        opened.goto(f"http://{server.address}/")
        yield opened
        opened.close()
    finally:
        server.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    with page_of_an_origin(chromium) as opened:
        yield opened


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    return str(stack.mint(models="some-model")["key"])


def call(
    page: Page,
    stack: Stack,
    path: str = "/v1/chat/completions",
    *,
    key: str | None = None,
    header: str = "authorization",
    body: Any = CHAT,
    **options: Any,
) -> dict[str, Any]:
    """fetch() in the page; raises playwright's Error where JavaScript may not see the answer."""
    options.setdefault("method", "POST")
    options.setdefault("headers", {})
    if options["method"] == "POST":
        options["headers"]["content-type"] = "application/json"
        options["body"] = body if isinstance(body, str) else json.dumps(body)
    if key is not None:
        options["headers"][header] = f"Bearer {key}" if header == "authorization" else key
    said: dict[str, Any] = page.evaluate(FETCH, [stack.url + path, options])
    return said


def reason(said: dict[str, Any]) -> str:
    """Why it was refused, told alike in header and body."""
    code = json.loads(said["text"])["error"]["code"]
    assert said["headers"]["x-tensorgate-reason"] == code
    assert said["headers"]["x-request-id"]
    return str(code)


def test_an_admitted_call_is_readable(
    page: Page, stack: Stack, recorder: Recorder, key: str
) -> None:
    said = call(page, stack, key=key)
    assert said["status"] == 200
    assert json.loads(said["text"]) == chat_completion()
    assert said["headers"].keys() >= RATES | {"x-request-id"}
    # the preflight was the gate's to answer, and the body came as the page sent it, bounded
    (request,) = recorder.requests
    assert (request.method, request.json()) == ("POST", {**CHAT, "max_tokens": 4096})
    assert request.values("origin") == request.values("authorization") == []


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "x-goog-api-key"])
def test_every_credential_header_passes_the_preflight(
    page: Page, stack: Stack, recorder: Recorder, key: str, header: str
) -> None:
    assert call(page, stack, key=key, header=header)["status"] == 200


def test_what_the_sdks_send_passes_the_preflight(
    page: Page, stack: Stack, recorder: Recorder, key: str
) -> None:
    recorder.answer = json_reply({"type": "message"})
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "some",
        "anthropic-dangerous-direct-browser-access": "true",
        "x-stainless-lang": "js",
        "x-stainless-retry-count": "0",
        "x-stainless-timeout": "600",
        "openai-organization": "org",
        "x-somebody-elses": "1",
    }
    body = CHAT | {"max_tokens": 9}
    said = call(
        page, stack, "/v1/messages", key=key, header="x-api-key", headers=dict(headers), body=body
    )
    assert said["status"] == 200
    assert said["headers"].keys() >= {"request-id", "anthropic-ratelimit-requests-remaining"}
    assert recorder.requests[-1].values("anthropic-version") == ["2023-06-01"]


def test_a_stream_is_read_as_it_comes(
    page: Page, stack: Stack, recorder: Recorder, key: str
) -> None:
    recorder.answer = sse_reply({"n": 1}, Pause(0.5), {"n": 2}, "[DONE]")
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    options = {"method": "POST", "headers": headers, "body": json.dumps(CHAT | {"stream": True})}
    assert page.evaluate(SPREAD, [f"{stack.url}/v1/chat/completions", options]) >= 200


def test_what_we_answer_ourselves_is_readable(page: Page, stack: Stack, key: str) -> None:
    models = call(page, stack, "/v1/models", key=key, method="GET")
    assert (models["status"], json.loads(models["text"])["object"]) == (200, "list")
    mine = call(page, stack, "/v1/key", key=key, method="GET")
    assert (mine["status"], json.loads(mine["text"])["models"]) == (200, ["some-model"])
    assert call(page, stack, "/healthz", method="GET")["status"] == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models", "/x"])
def test_a_call_without_a_key_is_readably_refused(page: Page, stack: Stack, path: str) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    said = call(page, stack, path, method=method)
    assert (said["status"], reason(said)) == (401, Reason.MISSING_API_KEY)
    assert said["headers"]["www-authenticate"] == 'Bearer realm="tensorgate"'


@pytest.mark.parametrize(
    "wrong",
    [keyformat.mint(), keyformat.mint()[:-1] + "-", "sk-other"],
    ids=["unknown", "misspelt", "foreign"],
)
def test_a_wrong_key_is_readably_refused(page: Page, stack: Stack, wrong: str) -> None:
    said = call(page, stack, key=wrong)
    assert (said["status"], reason(said)) == (401, Reason.INVALID_API_KEY)
    assert 'error="invalid_token"' in said["headers"]["www-authenticate"]


def test_another_model_or_endpoint_is_readably_refused(
    page: Page, stack: Stack, recorder: Recorder, key: str
) -> None:
    said = call(page, stack, key=key, body=CHAT | {"model": "other"})
    assert (said["status"], reason(said)) == (403, Reason.MODEL_NOT_ALLOWED)
    assert said["headers"].keys() >= RATES
    said = call(page, stack, "/v1/load_lora_adapter", key=key)
    assert (said["status"], reason(said)) == (403, Reason.ENDPOINT_NOT_ALLOWED)
    assert recorder.requests == []


def test_a_bad_body_is_readably_refused(page: Page, stack: Stack, key: str) -> None:
    said = call(page, stack, key=key, body='{"model":')
    assert (said["status"], reason(said)) == (400, Reason.MALFORMED_BODY)


def test_too_many_calls_are_readably_refused(page: Page, stack: Stack, recorder: Recorder) -> None:
    slow = stack.mint(rpm=1)["key"]
    assert call(page, stack, key=slow)["status"] == 200
    said = call(page, stack, key=slow)
    assert (said["status"], reason(said)) == (429, Reason.RATE_LIMIT_EXCEEDED)
    assert said["headers"].keys() >= RATES | {"retry-after", "retry-after-ms"}
    assert said["headers"]["x-ratelimit-remaining-requests"] == "0"


def test_envoys_own_refusals_are_readable(
    page: Page, stack: Stack, recorder: Recorder, key: str
) -> None:
    # larger than anybody without a key may send
    said = call(page, stack, key="sk-other", body="x" * 300_000)
    assert (said["status"], reason(said)) == (413, "body_too_large")
    recorder.answer = Reply(before=(Abort(),))
    said = call(page, stack, key=key)
    assert (said["status"], reason(said)) == (503, "upstream_unavailable")
    assert said["headers"].keys() >= RATES


def test_the_model_servers_own_errors_are_readable(
    page: Page, stack: Stack, recorder: Recorder, key: str
) -> None:
    theirs = (("access-control-allow-origin", "https://elsewhere.example"), ("set-cookie", "a=b"))
    recorder.answer = json_reply({"error": {"message": "out of memory"}}, 500, theirs)
    said = call(page, stack, key=key)
    assert (said["status"], json.loads(said["text"])["error"]["message"]) == (500, "out of memory")
    assert "x-tensorgate-reason" not in said["headers"]
    assert said["headers"].keys() >= RATES
    assert page.context.cookies(stack.url) == []


def test_a_page_may_never_use_the_visitors_cookies(page: Page, stack: Stack, key: str) -> None:
    """The dashboard lives on the same host: an answer to a call with cookies is withheld."""
    refused = page.evaluate(
        "async ([url, options]) => fetch(url, options).then(() => 'read', fault => fault.name)",
        [
            f"{stack.url}/v1/models",
            {"headers": {"authorization": f"Bearer {key}"}, "credentials": "include"},
        ],
    )
    assert refused == "TypeError"


def test_a_websocket_is_refused(page: Page, stack: Stack, recorder: Recorder, key: str) -> None:
    address = stack.url.replace("http", "ws", 1)
    for path in ("/v1/responses", "/v1/realtime?model=some-model"):
        assert page.evaluate(WEBSOCKET, address + path) == 1006  # closed before it was open
    assert recorder.requests == []


def test_a_gate_for_some_origins_is_closed_to_the_pages_of_others(
    chromium: Browser, page: Page, recorder: Recorder, start_stack: StartStack
) -> None:
    """Refused or admitted, answered by whom it may be: the other page never learns of it."""
    origin = page.url.rstrip("/")
    gate = start_stack(recorder.address, env={"TENSORGATE_CORS_ORIGINS": origin})
    key = gate.mint()["key"]
    with page_of_an_origin(chromium) as other:
        for path, method, its_key, status in (
            ("/v1/chat/completions", "POST", key, 200),
            ("/v1/chat/completions", "POST", "sk-other", 401),
            ("/v1/chat/completions", "POST", None, 401),
            ("/v1/models", "GET", key, 200),
            ("/healthz", "GET", None, 200),
        ):
            said = call(page, gate, path, method=method, key=its_key)
            assert said["status"] == status
            recorder.forget()
            with pytest.raises(Error, match="Failed to fetch"):
                call(other, gate, path, method=method, key=its_key)
            assert recorder.requests == []
