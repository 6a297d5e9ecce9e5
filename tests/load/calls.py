"""What clients of all dialects ask for: drawn by a seed, each with its order for the server's book.

Streamed and not, cached tokens, errors of the server, answers that break off, clients that hang
up, calls that the gate has to refuse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from random import Random
from typing import Any, Final

from peers import dialects
from peers.orders import (
    CACHE,
    FORMS,
    GENERATE_NOTHING,
    MAY_STREAM,
    NATIVE,
    ON_REQUEST,
    ORDER,
    STREAMS,
    Api,
    End,
    Order,
    order_member,
    says_usage,
)
from peers.stack import PLENTY_RPM, Stack

CATALOG: Final = """\
models:
  cheap:
    price: {input: 0.0512345, cached_input: 0.0123457, output: 0.0876543}
    context_tokens: 131072
    max_output_tokens: 512
  dear:
    price:
      {input: 3, cached_input: 0.300000001, cache_write: 3.75, output: 15, per_request: 0.000012}
    context_tokens: 200000
    max_output_tokens: 1024
    aliases: ["claude-*"]
  free: {price: {input: 0, output: 0}, context_tokens: 131072, max_output_tokens: 512}
  timed: {price: {per_second: 0.001}, context_tokens: 8192, max_output_tokens: 512}
  job: {price: {per_request: 0.000200001}, context_tokens: 8192, max_output_tokens: 512}
  counted:
    price: {input: 0.7, cached_input: 0.0123457, output: 2.1}
    context_tokens: 131072
    max_output_tokens: 512
    continuous_usage: true
  vectors: {price: {input: 0.0200001}, context_tokens: 8192}
  recorder:
    price: {input: 0.5, output: 1.5}
    context_tokens: 131072
    max_output_tokens: 4096
plans:
  test: {}
  shared: {account_budget_usd: 0.1}
default_plan: test
native_model: job
"""
"""No `default`: other models have no price. Prices with which rounding shows."""

SHARED_NANOUSD: Final = 10**8
"""What an account of the plan `shared` may spend."""

DEADLINE_SECONDS: Final = 4
QUICK_DEADLINES: Final = {
    "TENSORGATE_HOLD_DEADLINE_SECONDS": str(DEADLINE_SECONDS),
    "TENSORGATE_HEARTBEAT_SECONDS": "1",
}


@dataclass(frozen=True)
class Key:
    """A minted key, and what its calls may come to."""

    id: str
    alias: str
    user: str
    secret: str = field(repr=False)
    budget_nanousd: int | None
    plan: str
    rpm: int = PLENTY_RPM

    @property
    def capped(self) -> bool:
        """Whether its calls may be refused for money, its own or its account's."""
        return self.budget_nanousd is not None or self.plan == "shared"

    @classmethod
    def mint(
        cls,
        gate: Stack,
        *,
        user: str,
        budget_usd: str = "none",
        plan: str = "test",
        rpm: int = PLENTY_RPM,
    ) -> Key:
        minted = gate.mint(
            user=user, budget_usd=budget_usd, plan=plan, rpm=rpm, expires_in_days=365
        )
        budget = None if budget_usd == "none" else int(Fraction(budget_usd) * 10**9)
        return cls(minted["id"], minted["alias"], user, minted["key"], budget, plan, rpm)


@dataclass(frozen=True)
class Call:
    """One call. `leave_after` is when the client hangs up: after so many pieces of a stream,
    after 0 while it waits for the answer, after -1 as soon as it has sent the request.
    `patient`: refused for the moment alone, it calls once more."""

    order: Order
    api: Api
    name: str
    model: str
    key: Key
    stream: bool
    asks_usage: bool
    body: bytes
    leave_after: int | None = None
    refusal: str | None = None
    patient: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is answered from beginning to end, and says what it used."""
        told = says_usage(self.api, stream=self.stream)
        return told and self.order.end is End.WHOLE and self.leave_after is None

    @property
    def counted(self) -> bool:
        """Whether the server says in each event what it used so far."""
        return self.stream and self.api in ON_REQUEST and self.model == "counted"

    @property
    def target(self) -> str:
        """The path and what stands behind it."""
        path = self.api.value.replace("{model}", self.name)
        if self.api is Api.GEMINI_STREAM and dialects.framing(self.api, self.order) == "sse":
            return f"{path}?alt=sse"
        return path

    @property
    def headers(self) -> dict[str, str]:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        made = {"content-type": kind if self.api in FORMS else "application/json"}
        if self.api is Api.MESSAGES:
            return made | {"x-api-key": self.key.secret}
        if "/v1beta/" in self.api.value:
            return made | {"x-goog-api-key": self.key.secret}
        return made | {"authorization": f"Bearer {self.key.secret}"}


BOUNDARY: Final = "----soak7MA4YWxkTrZu0gW"
_WEIGHTS: Final = {
    Api.CHAT: 14,
    Api.MESSAGES: 10,
    Api.RESPONSES: 5,
    Api.GEMINI_STREAM: 4,
    Api.GEMINI: 3,
    Api.COMPLETIONS: 3,
    Api.OLLAMA_CHAT: 3,
    Api.OLLAMA_GENERATE: 3,
}
"""How often an API is called; of all others one time."""


def draw(number: int, seed: int, keys: Sequence[Key]) -> Call:
    """Call `number` of a run."""
    dice = Random(f"call {seed} {number}")
    api = dice.choices(list(Api), [_WEIGHTS.get(api, 1) for api in Api])[0]
    model, name = _model(api, dice)
    stream = api in STREAMS or (api in MAY_STREAM and dice.random() < 0.6)
    order, leave_after = _order(number, api, stream=stream, dice=dice)
    asks_usage = stream and api in ON_REQUEST and dice.random() < 0.4
    refusal = None
    if order.end is End.WHOLE and leave_after is None and dice.random() < 0.04:
        named = "{" not in api.value and api not in NATIVE
        refusal = dice.choice(("invalid_parameter", "model_required")) if named else None
        refusal = None if api in FORMS else refusal
    body = _body(api, order, name, stream=stream, asks_usage=asks_usage, refusal=refusal, dice=dice)
    patient = leave_after is None and (order.end is End.BUSY or dice.random() < 0.3)
    return Call(
        order,
        api,
        name,
        model,
        dice.choice(keys),
        stream,
        asks_usage,
        body,
        leave_after,
        refusal,
        patient=patient,
    )


_MEDIA: Final = frozenset({Api.IMAGES, Api.EDITS, Api.SPEECH, *FORMS})
_TENSORS: Final = frozenset({Api.V2_INFER, Api.V2_GENERATE, Api.V2_STREAM, Api.V1_PREDICT})


def _model(api: Api, dice: Random) -> tuple[str, str]:
    """A model of the catalog, and the name by which it is called."""
    if api in NATIVE:
        return "job", "job"
    models: Sequence[str] = ("cheap",) * 4 + ("dear",) * 3 + ("free",) * 2 + ("job", "timed")
    if api in ON_REQUEST:
        models = (*models, "counted", "counted")
    elif api is Api.EMBEDDINGS:
        models = ("vectors",)
    elif api in GENERATE_NOTHING:
        models = ("vectors", "cheap", "job")
    elif api in _TENSORS:
        models = ("cheap", "free", "job", "timed")
    elif api in _MEDIA:
        models = ("cheap", "free", "job")
    model = dice.choice(models)
    return model, "claude-any" if model == "dear" and dice.random() < 0.5 else model


def _order(number: int, api: Api, *, stream: bool, dice: Random) -> tuple[Order, int | None]:
    written = dice.choice((0, 200)) if api is Api.MESSAGES else 0
    plain = Order(
        number,
        input=dice.randint(1, 400),
        output=0 if api in GENERATE_NOTHING else dice.choice((1, 2, 9, 30, 80)),
        cached=dice.choice((0, 0, 128, 300)) if api in CACHE else 0,
        written=written,
        variety=dice.randrange(1 << 30),
    )
    changes: dict[str, Any] = {}
    leave_after: int | None = None
    fate = dice.random()
    if fate < 0.03:
        changes = {"end": End.ERROR, "status": dice.choice((400, 404, 429, 500, 503, 529))}
    elif fate < 0.05:
        changes = {"end": End.BUSY, "status": dice.choice((429, 503))}
    elif fate < 0.08:
        changes = {"end": End.RESET, "after": dice.choice((0, 1, 3))}
    elif fate < 0.10:
        changes = {"end": End.HANGUP, "after": dice.choice((1, 3))}
    elif fate < 0.13:
        changes = {"end": End.SILENT}
    elif fate < 0.16:
        changes, leave_after = {"end": End.STALL, "gap": 2.0}, 0
    elif fate < 0.17:
        leave_after = -1
    elif fate < 0.25 and stream:
        changes, leave_after = {"output": 40, "gap": 0.02}, dice.randint(1, 8)
    elif fate < 0.28 and stream:
        changes = {"output": 20, "gap": 0.01}
    return replace(plain, **changes), leave_after


# -- bodies

_BOUNDS: Final = {
    Api.CHAT: "max_tokens",
    Api.COMPLETIONS: "max_tokens",
    Api.MESSAGES: "max_tokens",
    Api.RESPONSES: "max_output_tokens",
    Api.GEMINI: "generationConfig.maxOutputTokens",
    Api.GEMINI_STREAM: "generationConfig.maxOutputTokens",
    Api.OLLAMA_CHAT: "options.num_predict",
    Api.OLLAMA_GENERATE: "options.num_predict",
    Api.V2_GENERATE: "max_tokens",
    Api.V2_STREAM: "max_tokens",
    Api.TGI: "parameters.max_new_tokens",
    Api.TGI_STREAM: "parameters.max_new_tokens",
    Api.LLAMA: "n_predict",
}
"""Where a body bounds what is generated, if it can."""


def _content(api: Api, text: str) -> dict[str, Any]:
    """The members that are the prompt."""
    made: dict[Api, Callable[[], dict[str, Any]]] = {
        Api.COMPLETIONS: lambda: {"prompt": text},
        Api.EMBEDDINGS: lambda: {"input": [text]},
        Api.RESPONSES: lambda: {"input": text},
        Api.MODERATIONS: lambda: {"input": text},
        Api.RERANK: lambda: {"query": text, "documents": [text, "b"]},
        Api.SCORE: lambda: {"text_1": text, "text_2": [text, "b"]},
        Api.IMAGES: lambda: {"prompt": text, "n": 1},
        Api.SPEECH: lambda: {"input": text, "voice": "alloy"},
        Api.GEMINI: lambda: {"contents": [{"role": "user", "parts": [{"text": text}]}]},
        Api.GEMINI_STREAM: lambda: {"contents": [{"role": "user", "parts": [{"text": text}]}]},
        Api.GEMINI_EMBED: lambda: {"content": {"parts": [{"text": text}]}},
        Api.OLLAMA_GENERATE: lambda: {"prompt": text},
        Api.OLLAMA_EMBED: lambda: {"input": [text]},
        Api.OLLAMA_EMBEDDINGS: lambda: {"prompt": text},
        Api.V2_INFER: lambda: {
            "inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": [text]}]
        },
        Api.V2_GENERATE: lambda: {"text_input": text},
        Api.V2_STREAM: lambda: {"text_input": text},
        Api.V1_PREDICT: lambda: {"instances": [[1.0, 2.0]]},
        Api.TGI: lambda: {"inputs": text},
        Api.TGI_STREAM: lambda: {"inputs": text},
        Api.LLAMA: lambda: {"prompt": text},
        Api.LLAMA_EMBEDDING: lambda: {"content": text},
    }
    return made.get(api, lambda: {"messages": [{"role": "user", "content": text}]})()


def _body(
    api: Api,
    order: Order,
    name: str,
    *,
    stream: bool,
    asks_usage: bool,
    refusal: str | None,
    dice: Random,
) -> bytes:
    text = dice.choice(("hi", "Was ist das? é日本\U0001f600 ", '"max_tokens": 1, {')) * 3
    if api in FORMS:
        return _form(order, name, stream=stream)
    asked = _content(api, text) | _streaming(api, stream=stream, dice=dice)
    if "{model}" not in api.value and api not in NATIVE:
        asked["model"] = name
    if asks_usage:
        asked["stream_options"] = {"include_usage": True}
    elif stream and api in ON_REQUEST and dice.random() < 0.5:
        asked["stream_options"] = dice.choice((None, {}, {"include_usage": False}, {"x": 1}))
    asked |= _bound(api, order, dice)
    if refusal == "invalid_parameter":
        asked["stream"] = "yes"
    elif refusal == "model_required":
        del asked["model"]
    members = [*asked.items(), *order_member(order).items()]
    dice.shuffle(members)
    made = json.dumps(
        dict(members),
        indent=dice.choice((None, None, 1)),
        separators=dice.choice((None, (",", ":"))),
        ensure_ascii=dice.random() < 0.5,
    )
    return made.encode()


def _streaming(api: Api, *, stream: bool, dice: Random) -> dict[str, Any]:
    if api is Api.SPEECH:
        return {"stream_format": "sse"} if stream else {}
    if api not in MAY_STREAM:
        return {}
    if api in {Api.OLLAMA_CHAT, Api.OLLAMA_GENERATE}:
        return {"stream": stream} if not stream or dice.random() < 0.5 else {}
    return {"stream": stream} if stream or dice.random() < 0.2 else {}


def _bound(api: Api, order: Order, dice: Random) -> dict[str, Any]:
    """A bound that is large enough, none, or null; Anthropic's API wants one."""
    nest, dot, name = _BOUNDS.get(api, "").rpartition(".")
    value: int | None = None
    if not name:
        return {}
    if api is Api.MESSAGES or dice.random() < 0.6:
        value = order.output + dice.randint(0, 50)
    elif dice.random() > 0.2:
        return {}
    return {nest: {name: value}} if dot else {name: value}


def _form(order: Order, name: str, *, stream: bool) -> bytes:
    """A form as browsers write it, with a file that no reader of texts looks into."""
    fields = {"model": name, ORDER: json.dumps(order_member(order)[ORDER])}
    if stream:
        fields["stream"] = "true"
    parts = [f'name="{each}"\r\n\r\n{value}'.encode() for each, value in fields.items()]
    parts.append(b'name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg\r\n\r\nID3\x00\xff')
    delimiter = f"--{BOUNDARY}".encode()
    head = delimiter + b"\r\nContent-Disposition: form-data; "
    return b"".join(head + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"
