"""The second reading of Gemini's and Ollama's answers: slowly, of whole answers, by Python's own JSON
reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from usage_reference import Seen, UnreadableError, counter, events, parse

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = " \t\r\n"

_SAID_OF_A_CANDIDATE: Final = (
    "index finishReason finishMessage tokenCount avgLogprobs logprobsResult safetyRatings "
    "citationMetadata groundingMetadata groundingAttributions urlContextMetadata"
).split()
_SAID_OF_A_CALL: Final = (
    "done done_reason prompt_eval_count eval_count embeddings model remote_model remote_host "
    "created_at total_duration load_duration prompt_eval_duration eval_duration completed total "
    "context logprobs error embedding"
).split()


# ── JSON with the text that each value was ───────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Value:
    """A value and how it is written."""

    of: Any
    raw: str

    def span(self) -> int:
        """Its length as it is written, without what encloses it."""
        if self.raw in {"null", "false"}:
            return 0
        enclosed = self.raw[0] in '"[{'
        return len(_utf8(self.raw[1:-1] if enclosed else self.raw))

    def text(self) -> int:
        """The length of a string's content; of anything else what it spans."""
        return len(_utf8(self.of)) if isinstance(self.of, str) else self.span()

    def members(self) -> Iterator[tuple[str, Value]]:
        for name, value in self._inside("}"):
            assert name is not None
            yield name, value

    def elements(self) -> Iterator[Value]:
        for _, value in self._inside("]"):
            yield value

    def _inside(self, end: str) -> Iterator[tuple[str | None, Value]]:
        at = _visible(self.raw, 1)
        while self.raw[at] != end:
            name = None
            if end == "}":
                name, at = _DECODER.raw_decode(self.raw, at)
                at = _visible(self.raw, _visible(self.raw, at) + 1)
            value, stop = _DECODER.raw_decode(self.raw, at)
            yield name, Value(value, self.raw[at:stop])
            at = _visible(self.raw, stop)
            if self.raw[at] == ",":
                at = _visible(self.raw, at + 1)

    def get(self, name: str) -> Value | None:
        if not isinstance(self.of, dict):
            return None
        return dict(self.members()).get(name)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _visible(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _value(text: bytes) -> Value:
    parse(text)
    raw = text.decode("utf-8", "surrogatepass").strip(_SPACE)
    return Value(json.loads(raw), raw)


# ── What both share ──────────────────────────────────────────────────────────────────────────────


@dataclass
class State:
    seen: Seen = field(default_factory=dict)
    covered: bool = False
    ended: bool = False
    events: int = 0
    content_bytes: int = 0

    def count(self, tokens_in: int | None, tokens_out: int | None) -> None:
        if tokens_in is not None:
            self.seen["input"] = str(tokens_in)
        if tokens_out is not None:
            self.seen["output"] = str(tokens_out)
            self.covered = True

    def generated(self, size: int) -> None:
        if size:
            self.events += 1
            self.content_bytes += size
            self.covered = self.ended = False

    def result(self, form: str) -> Seen:
        final = self.covered and self.ended and {"input", "output"} <= self.seen.keys()
        counted = {"events": str(self.events), "content_bytes": str(self.content_bytes)}
        return (
            self.seen
            | {"format": form, "done": "1"}
            | ({} if form == "json" else counted)
            | ({"final": "1"} if final else {})
        )


def _counts(value: Value | None, *names: str) -> list[int | None]:
    """Counters of an object: natural numbers as they are written, or None."""
    members = {} if value is None else parse(value.raw.encode("utf-8", "surrogatepass"))
    counts = [counter(members.get(name)) for name in names]
    return [None if count is None else int(count) for count in counts]


# ── Gemini ───────────────────────────────────────────────────────────────────────────────────────


def _of_candidate(candidate: Value) -> int:
    if not isinstance(candidate.of, dict):
        return candidate.span()
    size = 0
    for name, value in candidate.members():
        if name == "content":
            size += _of_content(value)
        elif name not in _SAID_OF_A_CANDIDATE:
            size += value.span()
    return size


def _of_content(content: Value) -> int:
    if not isinstance(content.of, dict):
        return content.span()
    size = 0
    for name, value in content.members():
        if name == "parts" and isinstance(value.of, list):
            size += sum(map(_of_part, value.elements()))
        elif name != "role":
            size += value.span()
    return size


def _of_part(part: Value) -> int:
    if not isinstance(part.of, dict):
        return part.span()
    size = 0
    for name, value in part.members():
        if name == "text":
            size += value.text()
        elif name not in {"thought", "thoughtSignature"}:
            size += value.span()
    return size


def _take_gemini(state: State, usage: Value, *, embedded: bool) -> None:
    prompt, tools, candidates, thoughts, total, cached = _counts(
        usage,
        *("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount"),
        *("thoughtsTokenCount", "totalTokenCount", "cachedContentTokenCount"),
    )
    tokens_in = None if prompt is None else prompt + (tools or 0)
    tokens_out = None
    if candidates is not None:
        inside = total == (prompt or 0) + (tools or 0) + candidates
        tokens_out = candidates if inside else candidates + (thoughts or 0)
    elif tokens_in is not None and total is not None:
        left = total - tokens_in
        tokens_out = left if left >= (thoughts or 0) else None
    elif embedded and thoughts is None:
        tokens_out = 0
    state.count(tokens_in, tokens_out)
    if cached is not None:
        state.seen["cached"] = str(cached)
    if "input" in state.seen:
        state.seen["cached_inside"] = "1"


def read_gemini(state: State, answer: Value, *, stream: bool) -> None:
    candidates, usage = answer.get("candidates"), answer.get("usageMetadata")
    each = list(candidates.elements()) if candidates and isinstance(candidates.of, list) else []
    if stream:
        state.generated(sum(map(_of_candidate, each)))
    if usage is not None and isinstance(usage.of, dict):
        vector = answer.get("embedding")
        values = vector.of.get("values") if vector and isinstance(vector.of, dict) else None
        _take_gemini(state, usage, embedded=not stream and isinstance(values, list))
    finished = [one for one in each if isinstance(one.of, dict) and one.of.get("finishReason")]
    feedback = answer.of.get("promptFeedback")
    blocked = isinstance(feedback, dict) and feedback.get("blockReason")
    if blocked or (finished and len(finished) == len(each)):
        state.ended = True


# ── Ollama ───────────────────────────────────────────────────────────────────────────────────────


def _of_line(line: Value) -> int:
    size = 0
    for name, value in line.members():
        if name == "message" and isinstance(value.of, dict):
            for inner, part in value.members():
                if inner in {"content", "thinking"}:
                    size += part.text()
                elif inner != "role":
                    size += part.span()
        elif name in {"response", "thinking"}:
            size += value.text()
        elif name not in _SAID_OF_A_CALL:
            size += value.span()
    return size


def read_ollama(state: State, line: Value, *, stream: bool) -> None:
    del stream
    state.generated(_of_line(line))
    tokens_in, tokens_out = _counts(line, "prompt_eval_count", "eval_count")
    done = line.of.get("done")
    if done is True:
        idle = line.of.get("done_reason") in {"load", "unload"}
        if not state.content_bytes and tokens_out is None and (idle or tokens_in is not None):
            tokens_out = 0
        if not state.content_bytes and tokens_in is None and idle:
            tokens_in = 0
    elif isinstance(line.of.get("embeddings"), list) and not isinstance(done, bool):
        tokens_out = 0
    else:
        return
    state.count(tokens_in, tokens_out)
    state.ended = True


READERS: Final = {"gemini": read_gemini, "ollama": read_ollama}


# ── Whole answers ────────────────────────────────────────────────────────────────────────────────


def read_answer(answer: bytes, usage: str, framing: str) -> Seen:
    """What is seen of an answer that came to its end."""
    state, read = State(), READERS[usage]
    form = framing
    try:
        if framing == "json" and answer.strip().startswith(b"["):
            form = "array"
            for element in _value_of_array(answer):
                if isinstance(element.of, dict):
                    read(state, element, stream=True)
            state.ended = True
        elif framing == "json":
            read(state, _value(answer), stream=False)
            state.ended = True
        else:
            for text in _objects(answer, framing):
                read(state, _value(text), stream=True)
    except UnreadableError:
        return {"format": "other"}
    return state.result(form)


def _value_of_array(answer: bytes) -> Iterator[Value]:
    raw = answer.decode("utf-8", "surrogatepass").strip(_SPACE)
    try:
        value = json.loads(raw)
    except ValueError:
        raise UnreadableError from None
    yield from Value(value, raw).elements()


def _objects(answer: bytes, framing: str) -> Iterator[bytes]:
    if framing == "sse":
        found = (event.data.strip() for event in events(answer))
        yield from (data for data in found if data.startswith(b"{"))
    else:
        yield from (line for line in answer.split(b"\n") if line.strip())
