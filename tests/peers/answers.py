"""The bytes of a model server's answers: OpenAI's and Anthropic's here, others in `peers.dialects`.

Answers are of every make that the real servers have between them: pretty or compact JSON, CRLF,
`data:` without a space, comments, `usage: null`, text, tool arguments and thoughts; and their
content quotes usage objects, as a model can be made to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from peers import dialects
from peers.orders import Api, End, Order, pieces


def usage(api: Api, order: Order, *, output: int | None = None) -> dict[str, Any]:
    """What a server of that API says of an answer that cost what the order says."""
    said = order.output if output is None else output
    whole = order.input + order.cached
    match api:
        case Api.MESSAGES:
            return {
                "input_tokens": order.input,
                "cache_creation_input_tokens": order.written,
                "cache_read_input_tokens": order.cached,
                "output_tokens": said,
            }
        case Api.RESPONSES:
            return {
                "input_tokens": whole,
                "input_tokens_details": {"cached_tokens": order.cached},
                "output_tokens": said,
                "output_tokens_details": {"reasoning_tokens": min(said, 3)},
                "total_tokens": whole + said,
            }
        case Api.EMBEDDINGS:
            return {"prompt_tokens": whole, "total_tokens": whole}
        case Api.CHAT | Api.COMPLETIONS:
            pass
        case _:
            return dialects.usage(api, order, output=output)
    details = {"cached_tokens": order.cached} if order.cached else None
    return {
        "prompt_tokens": whole,
        "completion_tokens": said,
        "total_tokens": whole + said,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


# -- one answer as JSON

_OURS: Final = frozenset({Api.CHAT, Api.COMPLETIONS, Api.EMBEDDINGS, Api.RESPONSES, Api.MESSAGES})
"""Whose answers are made here."""


def whole_body(api: Api, order: Order) -> bytes:
    """The answer that is not streamed."""
    if api is Api.SPEECH:
        return dialects.audio(order)
    if api in _OURS:
        content = _document(api, order, "".join(piece.text for piece in pieces(order)))
        if order.end is not End.SILENT:
            content["usage"] = usage(api, order)
    else:
        content = dialects.document(api, order)
    dice = order.dice("json")
    members = list(content.items())
    dice.shuffle(members)
    return json.dumps(
        dict(members),
        indent=dice.choice((None, None, 2)),
        separators=dice.choice((None, (",", ":"))),
        ensure_ascii=dice.random() < 0.5,
    ).encode()


def _document(api: Api, order: Order, text: str) -> dict[str, Any]:
    name = f"made-{order.number}"
    match api:
        case Api.CHAT:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return {"id": name, "object": "chat.completion", "choices": [choice]}
        case Api.COMPLETIONS:
            choice = {"index": 0, "text": text, "finish_reason": "stop"}
            return {"id": name, "object": "text_completion", "choices": [choice]}
        case Api.EMBEDDINGS:
            vector = {"object": "embedding", "index": 0, "embedding": [0.5, -1e-9]}
            return {"object": "list", "data": [vector]}
        case Api.RESPONSES:
            part = {"type": "output_text", "text": text, "annotations": []}
            item = {"id": "m", "type": "message", "role": "assistant", "content": [part]}
            return {"id": name, "object": "response", "status": "completed", "output": [item]}
        case Api.MESSAGES:
            content = [{"type": "text", "text": text}]
            return {"id": name, "type": "message", "role": "assistant", "content": content}
    raise AssertionError(f"{api.value} is another's")


# -- one answer as a stream


@dataclass(frozen=True)
class Event:
    """One server-sent event, its bytes as they are sent; `tokens` are those that it brings.

    `asked` is the event that a client gets only if it asked for usage.
    """

    data: bytes
    tokens: int = 0
    asked: bool = False


def events(api: Api, order: Order, *, with_usage: bool, counting: bool = False) -> list[Event]:
    """The whole stream. `with_usage`: the body asked for it; only some APIs heed that.

    `counting`: it asked, too, for the usage so far in each event.
    """
    shown = with_usage and order.end is not End.SILENT
    kind = dialects.framing(api, order)
    dice = order.dice("events")
    if kind != "sse":
        made = [
            Event(dialects.separated(kind, number, content, dice), tokens)
            for number, (_, content, tokens, _) in enumerate(dialects.stream(api, order))
        ]
        return made if kind == "lines" else [*made, Event(dialects.ARRAY_END)]
    return _server_sent(_parts(api, order, shown=shown, counting=counting), dice)


def _parts(api: Api, order: Order, *, shown: bool, counting: bool) -> Iterator[dialects.Part]:
    match api:
        case Api.CHAT:
            return _chat_stream(order, shown, counting)
        case Api.COMPLETIONS:
            return _completions_stream(order, shown, counting)
        case Api.RESPONSES:
            return _responses_stream(order)
        case Api.MESSAGES:
            return _messages_stream(order)
    return dialects.stream(api, order)


def _server_sent(parts: Iterator[dialects.Part], dice: Random) -> list[Event]:
    line, space = dice.choice(("\n", "\n", "\r\n")), dice.choice((" ", ""))
    made: list[Event] = []
    for kind, content, tokens, asked in parts:
        text = content if isinstance(content, str) else json.dumps(content)
        name = f"event:{space}{kind}{line}" if kind else ""
        comment = f": ping{line}{line}" if dice.random() < 0.03 else ""
        event = f"{comment}{name}data:{space}{text}{line}{line}"
        if asked:  # the comment goes with no event: it stays when the event is taken out
            if comment:
                made.append(Event(comment.encode()))
            event = event.removeprefix(comment)
        made.append(Event(event.encode(), tokens, asked))
    return made


def _so_far(api: Api, order: Order, tokens: int, shown: bool, counting: bool) -> dict[str, Any]:
    """The member `usage` of an event that is not the last."""
    if not shown:
        return {}
    return {"usage": usage(api, order, output=tokens) if counting else None}


def _chat_stream(order: Order, shown: bool, counting: bool) -> Iterator[dialects.Part]:
    flavour = order.dice("flavour").choice(("content", "content", "reasoning_content", "tool"))
    base = {"id": f"made-{order.number}", "object": "chat.completion.chunk"}
    so_far = 0

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        said = _so_far(Api.CHAT, order, so_far, shown, counting)
        return base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | said

    yield "", chunk({"role": "assistant", "content": ""}), 0, False
    for piece in pieces(order):
        so_far += piece.tokens
        delta: dict[str, Any] = {flavour: piece.text}
        if flavour == "tool":
            function = {"arguments": piece.text}
            delta = {"tool_calls": [{"index": 0, "id": "c", "type": "function"}]}
            delta["tool_calls"][0]["function"] = function
        yield "", chunk(delta), piece.tokens, False
    yield "", chunk({}, "stop"), 0, False
    if shown:
        yield "", base | {"choices": [], "usage": usage(Api.CHAT, order)}, 0, True
    yield "", "[DONE]", 0, False


def _completions_stream(order: Order, shown: bool, counting: bool) -> Iterator[dialects.Part]:
    base = {"id": f"made-{order.number}", "object": "text_completion"}
    so_far = 0
    for piece in pieces(order):
        so_far += piece.tokens
        choice = {"index": 0, "text": piece.text, "finish_reason": None}
        said = _so_far(Api.COMPLETIONS, order, so_far, shown, counting) if counting else {}
        yield "", base | {"choices": [choice]} | said, piece.tokens, False
    if shown:
        yield "", base | {"choices": [], "usage": usage(Api.COMPLETIONS, order)}, 0, True
    yield "", "[DONE]", 0, False


def _responses_stream(order: Order) -> Iterator[dialects.Part]:
    tool = order.dice("flavour").random() < 0.3
    kind = "response.function_call_arguments.delta" if tool else "response.output_text.delta"
    began: dict[str, Any] = {"id": f"made-{order.number}", "object": "response", "usage": None}
    yield "response.created", {"type": "response.created", "response": began}, 0, False
    for piece in pieces(order):
        delta = {"type": kind, "output_index": 0, "delta": piece.text}
        yield kind, delta, piece.tokens, False
    text = "".join(piece.text for piece in pieces(order))
    done = _document(Api.RESPONSES, order, text)
    if order.end is not End.SILENT:
        done["usage"] = usage(Api.RESPONSES, order)
    yield "response.completed", {"type": "response.completed", "response": done}, 0, False


def _messages_stream(order: Order) -> Iterator[dialects.Part]:
    kind, member = order.dice("flavour").choice(
        (
            ("text_delta", "text"),
            ("input_json_delta", "partial_json"),
            ("thinking_delta", "thinking"),
        )
    )
    silent = order.end is End.SILENT
    message: dict[str, Any] = {"id": f"made-{order.number}", "type": "message", "content": []}
    if not silent:
        message["usage"] = usage(Api.MESSAGES, order, output=min(order.output, 1))
    block = {"type": "text", "text": ""}
    yield "message_start", {"type": "message_start", "message": message}, 0, False
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    yield "content_block_start", start, 0, False
    yield "ping", {"type": "ping"}, 0, False
    for piece in pieces(order):
        delta = {"type": kind, member: piece.text}
        content = {"type": "content_block_delta", "index": 0, "delta": delta}
        yield "content_block_delta", content, piece.tokens, False
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}, 0, False
    ended: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    if not silent:
        ended["usage"] = {"output_tokens": order.output}
    yield "message_delta", ended, 0, False
    yield "message_stop", {"type": "message_stop"}, 0, False
