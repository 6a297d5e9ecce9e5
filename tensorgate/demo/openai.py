"""OpenAI's routes: chat, completions, responses, embeddings, models."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tensorgate.demo.answers import MODEL, Answer, Prompt, Wish, answer, packed, vector
from tensorgate.demo.calls import BadCallError, Call, Json, read_call
from tensorgate.demo.events import event, event_stream, pace

MAX_CHOICES: Final = 128
MAX_DIMENSIONS: Final = 4096
DEFAULT_DIMENSIONS: Final = 256
DEFAULT_COMPLETION_TOKENS: Final = 16  # OpenAI's own default for /v1/completions

_DONE: Final = b"data: [DONE]\n\n"
_STARTED: Final = int(time.time())


def _usage(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Json:
    sent = sum(prompt.tokens for prompt in prompts)
    said = sum(len(each.pieces) for each in answers)
    return {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said}


def _finish(said: Answer) -> str:
    return "length" if said.cut else "stop"


def _head(kind: str, prefix: str) -> Json:
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": MODEL,
    }


def _include_usage(call: Call) -> bool:
    options = call.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise BadCallError("`stream_options` must be an object.", "stream_options")
    return Call(options or {}, None).flag("include_usage")


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    call = await read_call(request)
    prompt = call.conversation("messages", call.get("tools"))
    bounds = [call.positive(name) for name in ("max_completion_tokens", "max_tokens")]
    wish = Wish(min((b for b in bounds if b is not None), default=None), call.strings("stop"))
    choices = call.positive("n", MAX_CHOICES) or 1
    answers = [answer(prompt, wish, call.caller)] * choices
    usage = _usage([prompt], answers)
    with_usage = _include_usage(call)
    if call.flag("stream"):
        return event_stream(_chat_chunks(request, answers, usage if with_usage else None))
    return JSONResponse(
        _head("chat.completion", "chatcmpl")
        | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": said.text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": _finish(said),
                }
                for index, said in enumerate(answers)
            ],
            "usage": usage,
        }
    )


async def _chat_chunks(
    request: Request, answers: Sequence[Answer], usage: Json | None
) -> AsyncIterator[bytes]:
    head = _head("chat.completion.chunk", "chatcmpl") | ({"usage": None} if usage else {})

    def chunk(index: int, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event(head | {"choices": [choice]})

    for index, said in enumerate(answers):
        yield chunk(index, {"role": "assistant", "content": ""})
        async for piece in pace(request, said.pieces):
            yield chunk(index, {"content": piece})
        yield chunk(index, {}, _finish(said))
    if usage:
        yield event(head | {"choices": [], "usage": usage})
    yield _DONE


async def completions(request: Request) -> Response:
    """POST /v1/completions."""
    call = await read_call(request)
    prompts = call.prompts("prompt")
    wish = Wish(call.positive("max_tokens") or DEFAULT_COMPLETION_TOKENS, call.strings("stop"))
    choices = call.positive("n", MAX_CHOICES) or 1
    answers = [answer(prompt, wish, call.caller) for prompt in prompts for _ in range(choices)]
    usage = _usage(prompts, answers)
    with_usage = _include_usage(call)
    if call.flag("stream"):
        return event_stream(_completion_chunks(request, answers, usage if with_usage else None))
    return JSONResponse(
        _head("text_completion", "cmpl")
        | {
            "choices": [
                {
                    "index": index,
                    "text": said.text,
                    "logprobs": None,
                    "finish_reason": _finish(said),
                }
                for index, said in enumerate(answers)
            ],
            "usage": usage,
        }
    )


async def _completion_chunks(
    request: Request, answers: Sequence[Answer], usage: Json | None
) -> AsyncIterator[bytes]:
    head = _head("text_completion", "cmpl") | ({"usage": None} if usage else {})

    def chunk(index: int, text: str, finish: str | None = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        return event(head | {"choices": [choice]})

    for index, said in enumerate(answers):
        async for piece in pace(request, said.pieces):
            yield chunk(index, piece)
        yield chunk(index, "", _finish(said))
    if usage:
        yield event(head | {"choices": [], "usage": usage})
    yield _DONE


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings, as floats or as base64 of little-endian float32."""
    call = await read_call(request)
    prompts = call.prompts("input")
    dimensions = call.positive("dimensions", MAX_DIMENSIONS) or DEFAULT_DIMENSIONS
    encoding = call.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise BadCallError("`encoding_format` must be float or base64.", "encoding_format")

    def encoded(prompt: Prompt) -> list[float] | str:
        numbers = vector(prompt.text, dimensions)
        return numbers if encoding == "float" else base64.b64encode(packed(numbers)).decode()

    sent = sum(prompt.tokens for prompt in prompts)
    return JSONResponse(
        {
            "object": "list",
            "model": MODEL,
            "data": [
                {"object": "embedding", "index": index, "embedding": encoded(prompt)}
                for index, prompt in enumerate(prompts)
            ],
            "usage": {"prompt_tokens": sent, "total_tokens": sent},
        }
    )


async def responses(request: Request) -> Response:
    """POST /v1/responses. Nothing is stored, so no answer can be fetched or continued later."""
    call = await read_call(request)
    for name in ("previous_response_id", "conversation"):
        if call.get(name) is not None:
            raise BadCallError(f"This server stores nothing, so it knows no `{name}`.", name)
    prompt = call.conversation("input", call.get("instructions"), call.get("tools"))
    said = answer(prompt, Wish(call.positive("max_output_tokens")), call.caller)
    if call.flag("stream"):
        return event_stream(_response_events(request, call, prompt, said))
    return JSONResponse(_response(call, prompt, said))


def _response(call: Call, prompt: Prompt, said: Answer | None) -> Json:
    """A response as it looks when it is done, or, without an answer, when it begins."""
    status = "in_progress" if said is None else "incomplete" if said.cut else "completed"
    usage = None if said is None else _usage([prompt], [said])
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if said and said.cut else None,
        "instructions": call.get("instructions"),
        "max_output_tokens": call.get("max_output_tokens"),
        "model": MODEL,
        "output": [] if said is None else [_message(f"msg_{secrets.token_hex(12)}", said)],
        "parallel_tool_calls": False,
        "store": False,
        "tool_choice": "none",
        "tools": [],
        "usage": usage
        and {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
    }


def _message(item_id: str, said: Answer | None) -> Json:
    status = "in_progress" if said is None else "incomplete" if said.cut else "completed"
    return {
        "type": "message",
        "id": item_id,
        "role": "assistant",
        "status": status,
        "content": [] if said is None else [_part(said.text)],
    }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def _response_events(
    request: Request, call: Call, prompt: Prompt, said: Answer
) -> AsyncIterator[bytes]:
    begun, done = _response(call, prompt, None), _response(call, prompt, said)
    done["id"], done["created_at"] = begun["id"], begun["created_at"]
    item = done["output"][0]
    where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    number = 0

    def numbered(kind: str, members: Json) -> bytes:
        nonlocal number
        number += 1
        data = {"type": kind, "sequence_number": number - 1} | members
        return event(data, name=kind)

    yield numbered("response.created", {"response": begun})
    yield numbered("response.in_progress", {"response": begun})
    new_item = {"output_index": 0, "item": _message(item["id"], None)}
    yield numbered("response.output_item.added", new_item)
    yield numbered("response.content_part.added", where | {"part": _part("")})
    async for piece in pace(request, said.pieces):
        delta = {"delta": piece, "logprobs": []}
        yield numbered("response.output_text.delta", where | delta)
    yield numbered("response.output_text.done", where | {"text": said.text, "logprobs": []})
    yield numbered("response.content_part.done", where | {"part": _part(said.text)})
    yield numbered("response.output_item.done", {"output_index": 0, "item": item})
    yield numbered(f"response.{done['status']}", {"response": done})


def _model() -> Json:
    # one shape that both OpenAI's and Anthropic's clients read
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_STARTED))
    return {
        "id": MODEL,
        "object": "model",
        "created": _STARTED,
        "owned_by": "tensorgate-demo",
        "type": "model",
        "display_name": "Tensorgate demo, no real model",
        "created_at": created,
    }


async def models(_request: Request) -> Response:
    """GET /v1/models."""
    page = {"first_id": MODEL, "last_id": MODEL, "has_more": False}
    return JSONResponse({"object": "list", "data": [_model()], **page})


async def model(request: Request) -> Response:
    """GET /v1/models/{id}."""
    if request.path_params["model"] != MODEL:
        raise BadCallError(
            f"The one model here is `{MODEL}`.",
            "model",
            status=HTTPStatus.NOT_FOUND,
            code="model_not_found",
        )
    return JSONResponse(_model())
