"""What a book-keeping model server can be asked for: by which API, how much, and how it ends."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any, Final

ORDER: Final = "x_order"


class Api(StrEnum):
    """A path that the server knows; `{model}` stands for the name of one."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    MODERATIONS = "/v1/moderations"
    RERANK = "/v1/rerank"
    SCORE = "/v1/score"
    IMAGES = "/v1/images/generations"
    EDITS = "/v1/images/edits"
    SPEECH = "/v1/audio/speech"
    TRANSCRIPTIONS = "/v1/audio/transcriptions"
    TRANSLATIONS = "/v1/audio/translations"
    GEMINI = "/v1beta/models/{model}:generateContent"
    GEMINI_STREAM = "/v1beta/models/{model}:streamGenerateContent"
    GEMINI_EMBED = "/v1beta/models/{model}:embedContent"
    OLLAMA_CHAT = "/api/chat"
    OLLAMA_GENERATE = "/api/generate"
    OLLAMA_EMBED = "/api/embed"
    OLLAMA_EMBEDDINGS = "/api/embeddings"
    V2_INFER = "/v2/models/{model}/infer"
    V2_GENERATE = "/v2/models/{model}/generate"
    V2_STREAM = "/v2/models/{model}/generate_stream"
    V1_PREDICT = "/v1/models/{model}:predict"
    TGI = "/generate"
    TGI_STREAM = "/generate_stream"
    LLAMA = "/completion"
    LLAMA_EMBEDDING = "/embedding"

    @classmethod
    def of(cls, target: str) -> Api:
        """The API of a request's target. Raises ValueError where it is none."""
        path = target.partition("?")[0]
        for pattern, api in _PATHS:
            if pattern.fullmatch(path):
                return api
        raise ValueError(path)


_PATHS: Final = [
    (re.compile("[^/]+".join(map(re.escape, api.value.split("{model}")))), api) for api in Api
]

ENDPOINTS: Final = {
    Api.CHAT: "chat.completions",
    Api.COMPLETIONS: "completions",
    Api.EMBEDDINGS: "embeddings",
    Api.RESPONSES: "responses",
    Api.MESSAGES: "messages",
    Api.MODERATIONS: "moderations",
    Api.RERANK: "rerank",
    Api.SCORE: "score",
    Api.IMAGES: "images.generations",
    Api.EDITS: "images.edits",
    Api.SPEECH: "audio.speech",
    Api.TRANSCRIPTIONS: "audio.transcriptions",
    Api.TRANSLATIONS: "audio.translations",
    Api.GEMINI: "gemini.generate",
    Api.GEMINI_STREAM: "gemini.stream",
    Api.GEMINI_EMBED: "gemini.embed",
    Api.OLLAMA_CHAT: "ollama.chat",
    Api.OLLAMA_GENERATE: "ollama.generate",
    Api.OLLAMA_EMBED: "ollama.embed",
    Api.OLLAMA_EMBEDDINGS: "ollama.embeddings",
    Api.V2_INFER: "v2.infer",
    Api.V2_GENERATE: "v2.generate",
    Api.V2_STREAM: "v2.generate_stream",
    Api.V1_PREDICT: "v1.predict",
    Api.TGI: "native.generate",
    Api.TGI_STREAM: "native.generate_stream",
    Api.LLAMA: "native.completion",
    Api.LLAMA_EMBEDDING: "native.embedding",
}
"""How the ledger names them."""

ON_REQUEST: Final = frozenset({Api.CHAT, Api.COMPLETIONS})
"""Their streams carry usage only if the body asks for it."""

STREAMS: Final = frozenset({Api.GEMINI_STREAM, Api.V2_STREAM, Api.TGI_STREAM})
"""Which always stream."""

MAY_STREAM: Final = frozenset(
    {
        *(Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.MESSAGES, Api.IMAGES, Api.SPEECH),
        *(Api.TRANSCRIPTIONS, Api.OLLAMA_CHAT, Api.OLLAMA_GENERATE, Api.LLAMA),
    }
)
FORMS: Final = frozenset({Api.EDITS, Api.TRANSCRIPTIONS, Api.TRANSLATIONS})
GENERATE_NOTHING: Final = frozenset(
    {
        *(Api.EMBEDDINGS, Api.MODERATIONS, Api.RERANK, Api.SCORE, Api.GEMINI_EMBED),
        *(Api.OLLAMA_EMBED, Api.OLLAMA_EMBEDDINGS, Api.LLAMA_EMBEDDING),
    }
)
CACHE: Final = frozenset(
    {Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.MESSAGES, Api.GEMINI, Api.GEMINI_STREAM}
)
"""Whose usage tells cached tokens."""

NATIVE: Final = frozenset({Api.TGI, Api.TGI_STREAM, Api.LLAMA, Api.LLAMA_EMBEDDING})
"""Of a server that has one model."""

_MUTE: Final = frozenset(
    {
        *(Api.MODERATIONS, Api.TRANSLATIONS, Api.OLLAMA_EMBEDDINGS),
        *(Api.V2_INFER, Api.V2_GENERATE, Api.V2_STREAM, Api.V1_PREDICT, *NATIVE),
    }
)


def says_usage(api: Api, *, stream: bool) -> bool:
    """Whether an answer of that API says what it used; speech does so only beside its events."""
    return api not in _MUTE and (stream or api is not Api.SPEECH)


class End(StrEnum):
    """How an answer ends."""

    WHOLE = "whole"
    SILENT = "silent"  # whole, but without usage: there are such servers
    ERROR = "error"  # `status`, before any token
    RESET = "reset"  # RST after `after` pieces; after 0, before the status line
    HANGUP = "hangup"  # FIN after `after` pieces, the answer unfinished
    STALL = "stall"  # nothing at all for `gap` seconds, then whole
    BUSY = "busy"  # `status` at the first time, whole when it is asked again


@dataclass(frozen=True)
class Order:
    """What the server is to answer. Tokens are counted once: `input` is without the cached ones.

    `variety` decides all that makes no difference to the charge. `gap` is the time between two
    pieces of a stream, in seconds.
    """

    number: int
    input: int
    output: int
    cached: int = 0
    written: int = 0
    end: End = End.WHOLE
    status: int = 200
    after: int = 0
    gap: float = 0.0
    variety: int = 0

    def dice(self, what: str) -> Random:
        return Random(f"{what} {self.variety} {self.number}")

    def answered(self, time: int) -> Order:
        """What it comes to when it is asked for the first, the second … time."""
        if self.end is not End.BUSY:
            return self
        return replace(self, end=End.ERROR if time == 1 else End.WHOLE)

    @classmethod
    def read(cls, given: dict[str, Any]) -> Order:
        return cls(**{**given, "end": End(given["end"])})


@dataclass(frozen=True)
class Piece:
    """A part of what is generated; it has at least a byte for each token."""

    text: str
    tokens: int


_WORDS: Final = (" house", " the", "water", " é", "\n", " 日本", "!", " \U0001f600", "\t\\", ' "')
_TALK: Final = (
    '"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}',
    'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":0}}\n\n',
    '\\","completion_tokens": 0, "input_tokens": 0',
    'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":0}}\n\n',
    "\r\n\r\ndata: [DONE]\r\n\r\n",
    '{"type":"response.completed","response":{"usage":{"input_tokens":0,"output_tokens":0}}}',
    '"usageMetadata":{"promptTokenCount":0,"candidatesTokenCount":0},"finishReason":"STOP"',
    '\n{"done":true,"prompt_eval_count":0,"eval_count":0}\n',
)


def pieces(order: Order) -> list[Piece]:
    """All that the answer generates, in the parts in which a stream sends it."""
    dice, left, made = order.dice("pieces"), order.output, []
    while left:
        tokens = min(left, dice.choice((1, 1, 1, 2, 3)))
        text = "".join(dice.choices(_WORDS, k=tokens))
        if dice.random() < 0.05:
            text += dice.choice(_TALK)
        made.append(Piece(text, tokens))
        left -= tokens
    return made


def order_member(order: Order) -> dict[str, Any]:
    """An order as it stands in a body."""
    return {ORDER: asdict(order)}
