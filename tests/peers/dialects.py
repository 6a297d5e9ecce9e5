"""What servers answer that speak neither OpenAI's chat nor Anthropic's messages: images, audio,
rerankers, Gemini, Ollama, KServe and Triton, TF Serving, TGI and llama.cpp under their own paths.

The shapes are those of the servers' own documents and sources; `usage` stands where theirs does.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from random import Random
from typing import Any, Final

from peers.orders import Api, End, Order, pieces, says_usage

Part = tuple[str, Any, int, bool]
"""Of a stream: an event's name, its content, the tokens in it, whether it is usage asked for."""

_DONE: Final = "[DONE]"
_BYTES: Final = bytes(range(256))


def audio(order: Order) -> bytes:
    """Speech as it is heard: bytes that are no text."""
    return b"ID3\x04" + _BYTES * (1 + order.output % 4)


def usage(api: Api, order: Order, *, output: int | None = None) -> dict[str, Any]:
    """What an answer that cost what the order says has of counters."""
    said = order.output if output is None else output
    whole = order.input + order.cached
    match api:
        case Api.RERANK:
            return {"total_tokens": whole}
        case Api.SCORE:
            return {"prompt_tokens": whole, "total_tokens": whole}
        case Api.GEMINI | Api.GEMINI_STREAM | Api.GEMINI_EMBED:
            return _gemini_usage(order, whole, said)
        case Api.OLLAMA_CHAT | Api.OLLAMA_GENERATE:
            return {"prompt_eval_count": whole, "eval_count": said}
        case Api.OLLAMA_EMBED:
            return {"prompt_eval_count": whole}
    details = {"text_tokens": whole, "image_tokens": 0, "audio_tokens": 0}
    return {
        "type": "tokens",
        "input_tokens": whole,
        "input_token_details": details,
        "output_tokens": said,
        "total_tokens": whole + said,
    }


def _gemini_usage(order: Order, whole: int, said: int) -> dict[str, Any]:
    """As protobuf writes it: a count of nothing is left out; thoughts are beside the candidates."""
    thoughts = min(said - 1, order.dice("thoughts").choice((0, 0, 5))) if said else 0
    counts = {
        "promptTokenCount": whole,
        "cachedContentTokenCount": order.cached,
        "candidatesTokenCount": said - thoughts,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": whole + said,
    }
    return {name: count for name, count in counts.items() if count}


# -- answers that do not stream


def document(api: Api, order: Order, *, stream: bool = False) -> Any:
    """The answer as one JSON value. `stream`: it is an event, which holds the whole of it."""
    text = "".join(piece.text for piece in pieces(order))
    found = _document(api, order, text)
    if order.end is not End.SILENT and says_usage(api, stream=stream):
        found |= _placed(api, usage(api, order))
    return found


def _placed(api: Api, counts: dict[str, Any]) -> dict[str, Any]:
    """Counters where the API has them."""
    match api:
        case Api.GEMINI | Api.GEMINI_STREAM | Api.GEMINI_EMBED:
            return {"usageMetadata": counts}
        case Api.OLLAMA_CHAT | Api.OLLAMA_GENERATE | Api.OLLAMA_EMBED:
            return counts
    return {"usage": counts}


def _document(api: Api, order: Order, text: str) -> Any:
    name, vector = f"made-{order.number}", [0.5, -1e-9]
    ranked = {"index": 0, "document": {"text": text}, "relevance_score": 0.5}
    tensor = {"name": "text_output", "shape": [1], "datatype": "BYTES", "data": [text]}
    image = {"created": 1_700_000_000, "data": [{"b64_json": _in_base64(text)}]}
    made: dict[Api, Any] = {
        Api.MODERATIONS: {"id": name, "results": [{"flagged": False, "categories": {}}]},
        Api.RERANK: {"id": name, "results": [ranked]},
        Api.SCORE: {"object": "list", "data": [{"index": 0, "object": "score", "score": 0.5}]},
        Api.IMAGES: image,
        Api.EDITS: image,
        Api.TRANSCRIPTIONS: {"text": text},
        Api.TRANSLATIONS: {"text": text},
        Api.GEMINI: {"candidates": [_candidate(text, "STOP")], "modelVersion": "made"},
        Api.GEMINI_EMBED: {"embedding": {"values": vector}},
        Api.OLLAMA_CHAT: _ollama(api, text, done=True),
        Api.OLLAMA_GENERATE: _ollama(api, text, done=True),
        Api.OLLAMA_EMBED: {"model": "made", "embeddings": [vector], "total_duration": 9},
        Api.OLLAMA_EMBEDDINGS: {"embedding": vector},
        Api.V2_INFER: {"model_name": "made", "id": name, "outputs": [tensor]},
        Api.V2_GENERATE: {"model_name": "made", "model_version": "1", "text_output": text},
        Api.V1_PREDICT: {"predictions": [[0.25, text]]},
        Api.TGI: {"generated_text": text},
        Api.LLAMA: {"content": text, "stop": True, "tokens_predicted": 7, "tokens_evaluated": 9},
        Api.LLAMA_EMBEDDING: {"index": 0, "embedding": [vector]},
    }
    return made[api]


def _in_base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _candidate(text: str, finish: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    return made if finish is None else made | {"finishReason": finish}


def _ollama(api: Api, text: str, *, done: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"response": text}
    if api is Api.OLLAMA_CHAT:
        said = {"message": {"role": "assistant", "content": text}}
    made = {"model": "made", "created_at": "2026-11-23T10:00:00Z", **said, "done": done}
    return made | {"done_reason": "stop", "total_duration": 9} if done else made


# -- answers that do


def framing(api: Api, order: Order) -> str:
    """How its objects follow each other: `sse`, `lines`, or `array`, of which Gemini has two."""
    if api in {Api.OLLAMA_CHAT, Api.OLLAMA_GENERATE}:
        return "lines"
    if api is Api.GEMINI_STREAM:
        return order.dice("framing of Gemini").choice(("sse", "array"))
    return "sse"


CONTENT_TYPES: Final = {
    "sse": "text/event-stream; charset=utf-8",
    "lines": "application/x-ndjson",
    "array": "application/json; charset=UTF-8",
}


def stream(api: Api, order: Order) -> Iterator[Part]:
    """The objects of a stream, in their order."""
    shown = order.end is not End.SILENT
    match api:
        case Api.GEMINI_STREAM:
            yield from _gemini_stream(order, shown)
        case Api.OLLAMA_CHAT | Api.OLLAMA_GENERATE:
            for piece in pieces(order):
                yield "", _ollama(api, piece.text, done=False), piece.tokens, False
            counts = usage(api, order) if shown else {}
            yield "", _ollama(api, "", done=True) | counts, 0, False
        case Api.SPEECH | Api.TRANSCRIPTIONS | Api.IMAGES:
            yield from _media_stream(api, order, shown)
        case _:
            yield from _native_stream(api, order)


def _gemini_stream(order: Order, shown: bool) -> Iterator[Part]:
    """Each usage is of all that came so far; some events have one, the last one always."""
    dice, so_far = order.dice("usages"), 0
    for piece in pieces(order):
        so_far += piece.tokens
        made: dict[str, Any] = {"candidates": [_candidate(piece.text)]}
        if shown and dice.random() < 0.3:
            made["usageMetadata"] = usage(Api.GEMINI_STREAM, order, output=so_far)
        yield "", made, piece.tokens, False
    ended: dict[str, Any] = {"candidates": [_candidate("", "STOP")]}
    if shown:
        ended["usageMetadata"] = usage(Api.GEMINI_STREAM, order)
    yield "", ended, 0, False


def _media_stream(api: Api, order: Order, shown: bool) -> Iterator[Part]:
    kind, member, end = {
        Api.SPEECH: ("speech.audio.delta", "audio", "speech.audio.done"),
        Api.TRANSCRIPTIONS: ("transcript.text.delta", "delta", "transcript.text.done"),
        Api.IMAGES: ("image_generation.partial_image", "b64_json", "image_generation.completed"),
    }[api]
    for piece in pieces(order):
        said = piece.text if api is Api.TRANSCRIPTIONS else _in_base64(piece.text)
        yield kind, {"type": kind, member: said}, piece.tokens, False
    text = "".join(piece.text for piece in pieces(order))
    ended: dict[str, Any] = {"type": end}
    if api is Api.TRANSCRIPTIONS:
        ended["text"] = text
    elif api is Api.IMAGES:
        ended["b64_json"] = _in_base64(text)
    if shown:
        ended["usage"] = usage(api, order)
    yield end, ended, 0, False


def _native_stream(api: Api, order: Order) -> Iterator[Part]:
    for piece in pieces(order):
        token = {"id": 5, "text": piece.text, "logprob": -0.5, "special": False}
        content: dict[str, Any] = {
            Api.V2_STREAM: {"model_name": "made", "text_output": piece.text},
            Api.TGI_STREAM: {"index": 1, "token": token, "generated_text": None, "details": None},
            Api.LLAMA: {"index": 0, "content": piece.text, "stop": False},
        }[api]
        yield "", content, piece.tokens, False
    if api is Api.LLAMA:
        yield "", {"content": "", "stop": True, "tokens_predicted": order.output}, 0, False


def separated(kind: str, number: int, content: Any, dice: Random) -> bytes:
    """Object `number` of a stream that is none of server-sent events, with what stands before."""
    text = json.dumps(content, ensure_ascii=dice.random() < 0.5)
    if kind == "lines":
        return f"{text}\n".encode()
    return (",\r\n" if number else "[").encode() + text.encode()


ARRAY_END: Final = b"\n]\n"
