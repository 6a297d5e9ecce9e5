"""Anthropic's routes: messages and their token count."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tensorgate.demo.answers import MODEL, Answer, Prompt, Wish, answer
from tensorgate.demo.calls import BadCallError, Call, Json, read_call
from tensorgate.demo.events import event, event_stream, pace


def _conversation(call: Call) -> Prompt:
    return call.conversation("messages", call.get("system"), call.get("tools"))


async def count_tokens(request: Request) -> Response:
    """POST /v1/messages/count_tokens."""
    return JSONResponse({"input_tokens": _conversation(await read_call(request)).tokens})


async def messages(request: Request) -> Response:
    """POST /v1/messages."""
    call = await read_call(request)
    prompt = _conversation(call)
    bound = call.positive("max_tokens")
    if bound is None:
        raise BadCallError("`max_tokens` is required.", "max_tokens")
    said = answer(prompt, Wish(bound, call.strings("stop_sequences")), call.caller)
    if call.flag("stream"):
        return event_stream(_events(request, prompt, said))
    return JSONResponse(
        _message(prompt, len(said.pieces))
        | {"content": [{"type": "text", "text": said.text}]}
        | _ending(said)
    )


def _message(prompt: Prompt, output_tokens: int) -> Json:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": prompt.tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
        },
    }


def _ending(said: Answer) -> Json:
    reason = "max_tokens" if said.cut else "stop_sequence" if said.stop else "end_turn"
    return {"stop_reason": reason, "stop_sequence": said.stop}


async def _events(request: Request, prompt: Prompt, said: Answer) -> AsyncIterator[bytes]:
    def named(kind: str, members: Json) -> bytes:
        return event({"type": kind} | members, name=kind)

    yield named("message_start", {"message": _message(prompt, 1)})
    block = {"type": "text", "text": ""}
    yield named("content_block_start", {"index": 0, "content_block": block})
    yield named("ping", {})
    async for piece in pace(request, said.pieces):
        delta = {"type": "text_delta", "text": piece}
        yield named("content_block_delta", {"index": 0, "delta": delta})
    yield named("content_block_stop", {"index": 0})
    usage = {"output_tokens": len(said.pieces)}
    yield named("message_delta", {"delta": _ending(said), "usage": usage})
    yield named("message_stop", {})
