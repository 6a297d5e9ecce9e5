"""What is written into a call's body and taken out of its answer; all else stays byte for byte."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
from moneygate import booked
from peers.answers import events
from peers.book import Book
from peers.client import CHAT, call
from peers.orders import Api, Order, order_member
from peers.recorder import Recorder
from peers.stack import Stack


@pytest.fixture(scope="module")
def key(stack: Stack) -> dict[str, Any]:
    """May call every model, without limits."""
    return stack.mint()


@pytest.fixture
def book(recorder: Recorder) -> Book:
    """What the recorder keeps."""
    kept = Book()
    recorder.answer = kept.answer
    return kept


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
    stack: Stack, book: Book, key: dict[str, Any], api: Api, options: str
) -> None:
    order = Order(1, input=20, cached=11, output=12, variety=len(options))
    prompt = b'"messages":[]' if api is Api.CHAT else b'"prompt":"x"'
    member = json.dumps(order_member(order)).encode()[1:]
    body = b'{"model":"recorder","stream":true,%s%s,%s' % (prompt, OPTIONS[options], member)
    before = len(booked(stack, key, 0))
    answer = call(stack, api, key=key["key"], body=body)
    made = events(api, order, with_usage=True)
    shown = [each for each in made if options == "asked" or not each.asked]
    assert len(made) - len(shown) == (options != "asked")
    assert answer.body == b"".join(each.data for each in shown)
    [entry] = book.entries
    assert json.loads(entry.body)["stream_options"]["include_usage"] is True
    row = booked(stack, key, before + 1)[-1]
    assert (row["input_tokens"], row["cached_input_tokens"], row["output_tokens"]) == (20, 11, 12)
    assert row["basis"] == "metered"


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
    "newer bound": (
        CHAT,
        [b"{", (b'"max_completion_tokens":\t5', rb'"max_tokens":5'), b",", ODD, b"}"],
    ),
    "newer bound and null": (
        CHAT,
        [b'{"max_completion_tokens":5,', ODD, b',"max_tokens" :', (b"null", b"5"), b"}"],
    ),
    "both bounds": (CHAT, [b'{"max_completion_tokens":5,"max_tokens":7,', ODD, b"}"]),
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
    stack: Stack, recorder: Recorder, key: dict[str, Any], case: str
) -> None:
    path, parts = EDITED[case]
    sent = b"".join(part if isinstance(part, bytes) else part[0] for part in parts)
    pattern = b"".join(re.escape(p) if isinstance(p, bytes) else p[1] for p in parts)
    answer = call(stack, path, key=key["key"], body=sent)
    assert answer.status == 200, answer
    [request] = recorder.requests
    assert re.fullmatch(pattern, request.body), request.body
    assert request.values("content-length") == [str(len(request.body))]
