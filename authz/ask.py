"""What a body asks for that costs money: how much output, how often, from what input. Pure.

Every number here errs upwards. What is not understood (a content part that is not text, a tool
that the server runs itself) makes the input unbounded by the body, and the context is held.

Members are looked for by name in objects where no name stands twice (see authz/body.py); the
nested ones that are read are held to the same here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import simdjson

from authz.model import Ask, Edit, Fault, Reason, Shape, Slot

MAX_BOUND: Final = 1 << 40  # tokens; more is no bound that anybody means
MAX_REPEATS: Final = 1 << 20
CONTEXT: Final = frozenset({"web_search_options", "mcp_servers", "audio", "prompt_id", "container"})
"""Members that bring input which does not stand in the body, whatever their value."""

_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
_CALL_PARTS: Final = frozenset(
    {"redacted_thinking", "tool_use", "function_call", "custom_tool_call", "reasoning"}
)
_RESULT_PARTS: Final = frozenset(
    {"tool_result", "function_call_output", "custom_tool_call_output", "message"}
)
_CLIENT_TOOLS: Final = frozenset({"function", "custom"})
_CONTENT_MEMBERS: Final = frozenset({"type", "content", "output"})
_TOOL_MEMBERS: Final = frozenset({"type"})
_MAX_NESTING: Final = 4  # messages, parts, results, their parts
_OPTION_MEMBERS: Final = frozenset({"include_usage"})


class _NotUnderstoodError(Exception):
    """The body holds input whose size does not follow from its own."""


class _FaultError(Exception):
    """Carries a fault out of the reading; it never leaves this module."""

    def __init__(self, reason: Reason, detail: str, param: str | None) -> None:
        super().__init__(reason)
        self.fault = Fault(reason, detail, param=param)


CHAT: Final = Shape(
    "messages", bounds=("max_tokens", "max_completion_tokens"), usage_on_request=True
)
COMPLETIONS: Final = Shape("prompt", bounds=("max_tokens",), many=True, usage_on_request=True)
RESPONSES: Final = Shape(
    "input",
    bounds=("max_output_tokens",),
    stored=("previous_response_id", "conversation", "prompt"),
    unbounded=("background",),
)
MESSAGES: Final = Shape("messages", bounds=("max_tokens",))
EMBEDDINGS: Final = Shape("input", also=(), repeats=(), many=True)

_SHAPES: Final = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS)
MEMBERS: Final = frozenset(
    {"stream", "stream_options", "tools", "system", "instructions", *CONTEXT}
).union(
    *(
        (s.content, *s.bounds, *s.also, *s.repeats, *s.stored, *s.unbounded)
        for s in _SHAPES
    )
)  # fmt: skip
"""Every member that is read of any endpoint's body."""


def read_ask(document: Any, raw: bytes, shape: Shape) -> Ask | Fault:
    """What an object, in which no name stands twice, asks for, or what is wrong with it.

    `raw` is the body that the document was read from; edits are offsets into it.
    """
    has = {name: document[name] for name in document if name in MEMBERS}
    try:
        bounds = _numbers(has, shape.bounds, MAX_BOUND)
        also = _numbers(has, shape.also, MAX_BOUND)
        prompts, text_only = _content(has, shape)
        slot = None
        if shape.bounds and not bounds:
            slot = _bound_slot(raw, shape.bounds[0], present=shape.bounds[0] in has)
        return Ask(
            output=max((*bounds, *also)) if bounds else None,
            prompts=prompts,
            repeats=max(_numbers(has, shape.repeats, MAX_REPEATS), default=1),
            text_only=text_only,
            slot=slot,
            usage_edit=_usage_edit(has, raw) if shape.usage_on_request else None,
            stored=_set(has, shape.stored),
            unbounded=_set(has, shape.unbounded),
            bound_name=_set(has, shape.bounds),
        )
    except _FaultError as fault:
        return fault.fault


def _set(has: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of the members that is there and not null or false."""
    return next((name for name in names if has.get(name) not in (None, False)), None)


def _numbers(has: Mapping[str, Any], names: tuple[str, ...], most: int) -> list[int]:
    """The values of members that are set: whole numbers from 1, as JSON writes integers."""
    found = []
    for name in names:
        value = has.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise _FaultError(
                Reason.INVALID_PARAMETER, "it must be a whole number, 1 or more", name
            )
        found.append(value)
    return found


# -- where the body can be changed


def _bound_slot(raw: bytes, name: str, *, present: bool) -> Slot:
    """In front of the first member; or in place of the `null` that stands for no bound.

    A second member of the same name would not do: a server that takes the first would be
    unbounded.
    """
    if not present:
        return Slot(raw.index(b"{") + 1, 0, f'"{name}":', ",")
    start, end = _only(raw, rb'"%s"[ \t\r\n]*:[ \t\r\n]*(null)' % name.encode(), name)
    return Slot(start, end - start, "", "")


def _usage_edit(has: Mapping[str, Any], raw: bytes) -> Edit | None:
    """What makes the server report usage at the end of a stream, where the client did not."""
    if has.get("stream") is not True:
        return None
    options = has.get("stream_options")
    if "stream_options" not in has:
        return Edit(raw.index(b"{") + 1, 0, '"stream_options":{"include_usage":true},')
    if options is None:
        span = _only(raw, rb'"stream_options"[ \t\r\n]*:[ \t\r\n]*(null)', "stream_options")
        return _replace(span, '{"include_usage":true}')
    if not isinstance(options, simdjson.Object):
        raise _FaultError(Reason.INVALID_PARAMETER, "it must be an object", "stream_options")
    names = _names(options, _OPTION_MEMBERS)
    wanted = options["include_usage"] if "include_usage" in names else None
    if wanted is True:
        return None
    if "include_usage" not in names:
        span = _only(raw, rb'"stream_options"[ \t\r\n]*:[ \t\r\n]*\{()', "stream_options")
        return _replace(span, '"include_usage":true' + ("," if names else ""))
    if wanted is None or wanted is False:
        span = _only(raw, rb'"include_usage"[ \t\r\n]*:[ \t\r\n]*(null|false)', "stream_options")
        return _replace(span, "true")
    detail = "its `include_usage` must be true or false"
    raise _FaultError(Reason.INVALID_PARAMETER, detail, "stream_options")


def _replace(span: tuple[int, int], text: str) -> Edit:
    return Edit(span[0], span[1] - span[0], text)


def _only(raw: bytes, pattern: bytes, name: str) -> tuple[int, int]:
    """The one place in the body where a member is written so.

    Quotes inside a string are escaped, so text cannot look like a member; the same member in
    another object can, or ours spelled with escapes, and then nobody knows which it is.
    """
    found = [match.span(1) for match in re.finditer(rb"(?<!\\)" + pattern, raw)]
    if len(found) != 1:
        detail = f"`{name}` is null or incomplete, and stands in more than one place"
        raise _FaultError(Reason.AMBIGUOUS_BODY, detail, name)
    return found[0]


# -- what stands in the content


def _content(has: Mapping[str, Any], shape: Shape) -> tuple[int, bool]:
    """How many prompts there are, and whether all input is text that stands in the body."""
    content = has.get(shape.content)
    prompts = 1
    if shape.many and isinstance(content, simdjson.Array):
        prompts = _prompts(content)
    try:
        if not shape.many:
            _walk(content)
            _walk(has.get("system"))
        if any(has.get(name) is not None for name in CONTEXT):
            return prompts, False
        _tools(has.get("tools"))
    except _NotUnderstoodError:
        return prompts, False
    return prompts, True


def _prompts(content: Any) -> int:
    """A list of strings or of lists of tokens is as many prompts; a list of tokens is one."""
    size = len(content)
    if size == 0:
        return 1
    return 1 if isinstance(content[0], int) and not isinstance(content[0], bool) else size


def _walk(value: Any, depth: int = 0) -> None:
    """Messages, parts and what is inside them. Raises where something is not text."""
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, simdjson.Array) or depth > _MAX_NESTING:
        raise _NotUnderstoodError
    for item in value:
        if isinstance(item, str):
            continue
        if not isinstance(item, simdjson.Object):
            raise _NotUnderstoodError
        names = _names(item, _CONTENT_MEMBERS)
        kind = item["type"] if "type" in names else None
        if kind in _TEXT_PARTS or kind in _CALL_PARTS:
            continue
        if kind is not None and kind not in _RESULT_PARTS:
            raise _NotUnderstoodError
        for inner in ("content", "output"):
            if inner in names:
                _walk(item[inner], depth + 1)


def _tools(tools: Any) -> None:
    """Tools that the client runs are text; those that the server runs bring input of their own."""
    if tools is None:
        return
    if not isinstance(tools, simdjson.Array):
        raise _NotUnderstoodError
    for tool in tools:
        if not isinstance(tool, simdjson.Object):
            raise _NotUnderstoodError
        names = _names(tool, _TOOL_MEMBERS)
        if "type" in names and tool["type"] not in _CLIENT_TOOLS:
            raise _NotUnderstoodError


_KEPT_SHAPES: Final = 4096
_KEPT_CHARS: Final = 512
_clean: set[tuple[frozenset[str], tuple[str, ...]]] = set()  # few shapes come again and again


def _names(item: Any, read: frozenset[str]) -> tuple[str, ...]:
    """The member names of a nested object. Raises if one that is read could be read twice."""
    names = tuple(item)
    if (read, names) not in _clean:
        _check(names, read)
        if len(_clean) < _KEPT_SHAPES and sum(map(len, names)) < _KEPT_CHARS:
            _clean.add((read, names))
    return names


def _check(names: tuple[str, ...], read: frozenset[str]) -> None:
    seen = set[str]()
    for name in names:
        folded = name.partition("\0")[0].casefold()
        if name in seen or (folded in read and name not in read):
            detail = "a member of an object inside it stands twice, or differs only in case"
            raise _FaultError(Reason.AMBIGUOUS_BODY, detail, folded if folded in read else None)
        seen.add(name)
