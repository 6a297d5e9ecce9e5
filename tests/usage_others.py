"""The second reading of Gemini's and Ollama's answers: slowly, of whole answers, by Python's own
JSON reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from usage_reference import Object, Seen, UnreadableError, counter, events, parse, weight

_SAID_OF_A_CANDIDATE: Final = frozenset(
    {
        *("index", "finishReason", "finishMessage", "tokenCount", "avgLogprobs"),
        *("logprobsResult", "safetyRatings", "citationMetadata", "groundingMetadata"),
        *("groundingAttributions", "urlContextMetadata"),
    }
)
_SAID_OF_A_CALL: Final = frozenset(
    {
        *("done", "done_reason", "prompt_eval_count", "eval_count", "embeddings"),
        *("model", "remote_model", "remote_host", "created_at", "total_duration"),
        *("load_duration", "prompt_eval_duration", "eval_duration", "completed", "total"),
        *("context", "logprobs", "error", "embedding"),
    }
)


# ── What both share ──────────────────────────────────────────────────────────────────────────────


@dataclass
class State:
    seen: Seen = field(default_factory=dict)
    covered: bool = False
    ended: bool = False
    events: int = 0
    content_bytes: int = 0

    def count(self, tokens_in: int | None, tokens_out: int | None) -> None:
        self.keep("input", tokens_in)
        self.keep("output", tokens_out)
        self.covered = self.covered or tokens_out is not None

    def keep(self, name: str, count: int | None) -> None:
        """The largest that was said."""
        if count is not None:
            self.seen[name] = str(max(count, int(self.seen.get(name, "0"))))

    def generated(self, size: int) -> None:
        if size:
            self.events += 1
            self.content_bytes += size
            self.covered = self.ended = False

    def result(self, form: str) -> Seen:
        final = self.covered and self.ended and {"input", "output"} <= self.seen.keys()
        if form != "json" and self.events:  # an output of nothing after content is no count
            final = final and self.seen["output"] != "0"
        counted = {"events": str(self.events), "content_bytes": str(self.content_bytes)}
        return (
            self.seen
            | {"format": form, "done": "1"}
            | ({} if form == "json" else counted)
            | ({"final": "1"} if final else {})
        )


def _counts(members: dict[str, Any], *names: str) -> list[int | None]:
    """Counters of an object: natural numbers as they are written, or None."""
    counts = [counter(members.get(name)) for name in names]
    return [None if count is None else int(count) for count in counts]


def _but(value: Any, none: frozenset[str], **inside: Callable[[Any], int]) -> int:
    """The bytes of content of a value: all but the members that are known to be none."""
    if not isinstance(value, Object):
        return weight(value)
    return sum(inside.get(name, weight)(value[name]) for name in value if name not in none)


# ── Gemini ───────────────────────────────────────────────────────────────────────────────────────


def _part(part: Any) -> int:
    return _but(part, frozenset({"thought", "thoughtSignature"}))


def _parts(parts: Any) -> int:
    return sum(map(_part, parts)) if isinstance(parts, list) else weight(parts)


def _candidate(candidate: Any) -> int:
    return _but(
        candidate,
        _SAID_OF_A_CANDIDATE,
        content=lambda content: _but(content, frozenset({"role"}), parts=_parts),
    )


def _take_gemini(state: State, usage: dict[str, Any], *, embedded: bool) -> None:
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
    state.keep("cached", cached)
    if "input" in state.seen:
        state.seen["cached_inside"] = "1"


def read_gemini(state: State, answer: dict[str, Any], *, stream: bool) -> None:
    found = answer.get("candidates")
    candidates = found if isinstance(found, list) else []
    if stream:
        state.generated(sum(map(_candidate, candidates)))
    usage, vector = answer.get("usageMetadata"), answer.get("embedding")
    if isinstance(usage, dict):
        embedded = isinstance(vector, dict) and isinstance(vector.get("values"), list)
        embedded = embedded or isinstance(answer.get("embeddings"), list)
        _take_gemini(state, usage, embedded=embedded and not stream)
    finished = [one for one in candidates if isinstance(one, dict) and one.get("finishReason")]
    feedback = answer.get("promptFeedback")
    blocked = isinstance(feedback, dict) and feedback.get("blockReason")
    if blocked or (finished and len(finished) == len(candidates)):
        state.ended = True


# ── Ollama ───────────────────────────────────────────────────────────────────────────────────────


def read_ollama(state: State, line: dict[str, Any], *, stream: bool) -> None:
    del stream
    message = frozenset({"role"})
    state.generated(_but(line, _SAID_OF_A_CALL, message=lambda value: _but(value, message)))
    tokens_in, tokens_out = _counts(line, "prompt_eval_count", "eval_count")
    done = line.get("done")
    if done is True:
        idle = line.get("done_reason") in {"load", "unload"}
        if not state.content_bytes and tokens_out is None and (idle or tokens_in is not None):
            tokens_out = 0
        if not state.content_bytes and tokens_in is None and idle:
            tokens_in = 0
    elif isinstance(line.get("embeddings"), list) and not isinstance(done, bool):
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
            for element in parse(b'{"":' + answer + b"}")[""]:
                if isinstance(element, dict):
                    read(state, element, stream=True)
            state.ended = True
        elif framing == "json":
            read(state, parse(answer), stream=False)
            state.ended = True
        else:
            for text in _objects(answer, framing, state):
                read(state, parse(text), stream=True)
    except UnreadableError:
        return {"format": "other"}
    return state.result(form)


def _objects(answer: bytes, framing: str, state: State) -> Iterator[bytes]:
    if framing == "lines":
        yield from (line for line in answer.split(b"\n") if line.strip())
        return
    for event in events(answer):
        data = event.data.lstrip(b" \t\n")
        if data.startswith(b"{"):
            yield data
        elif data.strip() == b"[DONE]":
            state.ended = True
        elif said := len(data.replace(b"\n", b"")):  # data that is none counts as it stands
            state.events += 1
            state.content_bytes += said
