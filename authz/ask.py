"""What a body asks for that costs money: how much output, how often, from what input. Pure.

Every number here errs upwards. What is not understood (a content part that is not text, a tool
that the server runs itself) makes the input unbounded by the body, and the context is held.

Members are looked for by name in objects where no name stands twice (see authz/body.py); the
nested ones that are read are held to the same here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

import simdjson

from authz.model import Ask, Edit, Fault, Reason, Shape, Slot

MAX_BOUND: Final = 1 << 40  # tokens; more is no bound that anybody means
MAX_SEQUENCES: Final = 1 << 20  # answers to one request
CONTEXT: Final = frozenset(
    {
        *("web_search_options", "mcp_servers", "audio", "prompt_id", "container"),
        *("image_data", "multi_modal_data", "prompt_embeds"),
        *("chat_template", "chat_template_kwargs", "documents"),  # the prompt is made by them
    }
)
"""Members that bring input which does not stand in the body as text, whatever their value."""

_TEXTS: Final = frozenset(
    {
        *("text", "input_text", "output_text", "refusal"),
        *("thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text"),
        *("message", "tool_use", "tool_result", "function_call", "function_call_output"),
        *("custom_tool_call", "custom_tool_call_output"),
        *("local_shell_call", "local_shell_call_output"),
    }
)
"""The types of items and parts whose text stands in the body, if what is inside them is text."""

_ITEM_MEMBERS: Final = frozenset(
    {
        *("type", "role", "content", "output", "text", "name", "refusal", "id", "status", "phase"),
        *("tool_calls", "tool_call_id", "function_call", "tool_use_id", "call_id", "namespace"),
        *("input", "arguments", "action", "caller", "cache_control", "annotations", "citations"),
        *("logprobs", "summary", "encrypted_content", "thinking", "signature", "data"),
        *("reasoning", "reasoning_content", "reasoning_details"),
    }
)
"""What may stand in them. Any other member might be an image for some server, whatever `type` is,
unless it is null, a boolean or a number."""

_PLAIN: Final = frozenset({("role", "content"), ("content", "role")})
"""What most messages have: it can be read in one way only, and all but the content is text."""

_Small = int | float | None
_CLIENT_TOOLS: Final = frozenset({"function", "custom", "local_shell"})
_READ_MEMBERS: Final = frozenset({"type", "content", "output"})
_TOOL_MEMBERS: Final = frozenset({"type"})
_MAX_NESTING: Final = 4  # messages, parts, results, their parts
_OPTION_MEMBERS: Final = frozenset({"include_usage"})
_MAX_PLACES: Final = 16
_WHOLE: Final = re.compile(rb"\[[-0-9,]++\]")


_MAX_VISITS: Final = 20_000
_MAX_INNER_MEMBERS: Final = 64  # simdjson finds a member by looking at all of them


class _NotUnderstoodError(Exception):
    """The body holds input whose size does not follow from its own."""


class _FaultError(Exception):
    """Carries a fault out of the reading; it never leaves this module."""

    def __init__(self, reason: Reason, detail: str, param: str | None) -> None:
        super().__init__(reason)
        self.fault = Fault(reason, detail, param=param)


_ANYWHERE: Final = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens"),
    *("n_predict", "max_new_tokens"),
)
"""What some server takes for a bound on another endpoint than the one that it belongs to: of
llama.cpp every endpoint reads `n_predict`, else `max_completion_tokens`, else `max_tokens`, and
its Responses pass on what they do not know."""


def _beside(*bounds: str) -> tuple[str, ...]:
    return tuple(name for name in _ANYWHERE if name not in bounds)


CHAT: Final = Shape(
    "messages",
    bounds=("max_tokens", "max_completion_tokens"),
    also=_beside("max_tokens", "max_completion_tokens"),
    usage_on_request=True,
)
COMPLETIONS: Final = Shape(
    "prompt", bounds=("max_tokens",), also=_beside("max_tokens"), many=True, usage_on_request=True
)
RESPONSES: Final = Shape(
    "input",
    bounds=("max_output_tokens",),
    also=_beside("max_output_tokens"),
    stored=("previous_response_id", "conversation", "prompt"),
    unbounded=("background",),
)
MESSAGES: Final = Shape("messages", bounds=("max_tokens",), also=_beside("max_tokens"))
EMBEDDINGS: Final = Shape("input", repeats=(), many=True)

_SHAPES: Final = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS)
_TALK: Final = ("messages", "system", "instructions")  # whatever else the endpoint calls content
MEMBERS: Final = frozenset({"stream", "stream_options", "tools", *_TALK, *CONTEXT}).union(
    *(
        (s.content, *s.bounds, *s.also, *s.repeats, *s.stored, *s.unbounded)
        for s in _SHAPES
    )
)  # fmt: skip
"""Every member that is read of any endpoint's body."""


def read_ask(document: Any, raw: bytes, shape: Shape) -> Ask | Fault:
    """What an object, in which no name stands twice, asks for, or what is wrong with it.

    `raw` is the JSON that the document was read from; edits are offsets into it.
    """
    has = {name: document[name] for name in document if name in MEMBERS}
    try:
        bounds = _numbers(has, shape.bounds, MAX_BOUND)
        also = max(_numbers(has, shape.also, MAX_BOUND).values(), default=0)
        repeats = max(_numbers(has, shape.repeats, MAX_SEQUENCES).values(), default=1)
        prompts, text_only = _content(has, shape)
        if prompts * repeats > MAX_SEQUENCES:
            name = shape.content if repeats == 1 else _set(has, shape.repeats)
            detail = f"a request may ask for at most {MAX_SEQUENCES} answers"
            return Fault(Reason.INVALID_PARAMETER, detail, param=name)
        slot = None
        if shape.bounds and shape.bounds[0] not in bounds:
            slot = _bound_slot(has, raw, shape.bounds)
        stored = _stored(has, shape)
        return Ask(
            output=max((*bounds.values(), also)) if bounds else None,
            also=also,
            prompts=prompts,
            repeats=repeats,
            text_only=text_only and stored is None,
            slot=None if bounds else slot,
            usage_edit=_usage_edit(has, raw) if shape.usage_on_request else None,
            stored=stored,
            unbounded=_set(has, shape.unbounded),
            bound_name=max(bounds, key=bounds.__getitem__, default=None),
            bound_edit=slot.edit(max(bounds.values())) if slot and bounds else None,
        )
    except _FaultError as fault:
        return fault.fault


def _set(has: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of the members that is there and not null or false."""
    for name in names:
        if has.get(name) not in (None, False):
            return name
    return None


def _numbers(has: Mapping[str, Any], names: tuple[str, ...], most: int) -> dict[str, int]:
    """The values of members that are set: whole numbers from 1, as JSON writes integers."""
    found = {}
    for name in names:
        value = has.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            detail = f"it must be a whole number from 1 to {most}"
            raise _FaultError(Reason.INVALID_PARAMETER, detail, name)
        found[name] = value
    return found


# -- where the body can be changed


def _bound_slot(has: Mapping[str, Any], raw: bytes, names: tuple[str, ...]) -> Slot:
    """In front of the first member; or in place of `null`, or of the bound's newer name.

    A second member of the same name would not do: a server that takes the first would be
    unbounded. Nor would one beside the newer name. vLLM, SGLang and llama.cpp, which know both,
    take the newer (`max_completion_tokens or max_tokens`); Ollama and llama-cpp-python know the
    older alone; but TGI and mistral.rs, for which they are two names of one field, refuse a body
    that has both. So there is one, by the name that all of them know.
    """
    name = names[0]
    member = b'"%s"[ \t\r\n]*:[ \t\r\n]*'
    if name in has:
        pattern = member % name.encode() + b"(null)"
        edit = _in_place(raw, pattern, "1", name, lambda edited: edited.get(name) == 1)
        return Slot(edit.offset, edit.removed, "", "")
    for newer in names[1:]:
        if newer in has:
            # -1 is none of what a client can have set
            pattern = b"(%s(?:null|[0-9]+))" % (member % newer.encode())
            edit = _in_place(
                raw, pattern, f'"{name}":-1', newer, lambda edited: edited.get(name) == -1
            )
            return Slot(edit.offset, edit.removed, f'"{name}":', "")
    return Slot(raw.index(b"{") + 1, 0, f'"{name}":', ",")


def _usage_edit(has: Mapping[str, Any], raw: bytes) -> Edit | None:
    """What makes the server report usage at the end of a stream, where the client did not."""
    if has.get("stream") is not True:
        return None
    options = has.get("stream_options")
    if "stream_options" not in has:
        return Edit(raw.index(b"{") + 1, 0, '"stream_options":{"include_usage":true},')
    if options is None:
        return _options_edit(raw, rb'"stream_options"@:@(null)', '{"include_usage":true}')
    if not isinstance(options, simdjson.Object):
        raise _FaultError(Reason.INVALID_PARAMETER, "it must be an object", "stream_options")
    names = _names(options, _OPTION_MEMBERS)
    wanted = options["include_usage"] if "include_usage" in names else None
    if wanted is True:
        return None
    if "include_usage" not in names:
        text = '"include_usage":true' + ("," if names else "")
        return _options_edit(raw, rb'"stream_options"@:@\{()', text)
    if wanted is None or wanted is False:
        return _options_edit(raw, rb'"include_usage"@:@(null|false)', "true")
    detail = "its `include_usage` must be true or false"
    raise _FaultError(Reason.INVALID_PARAMETER, detail, "stream_options")


def _options_edit(raw: bytes, pattern: bytes, text: str) -> Edit:
    """In a pattern, @ is any space."""
    spaced = pattern.replace(b"@", rb"[ \t\r\n]*")
    return _in_place(raw, spaced, text, "stream_options", _reports_usage)


def _reports_usage(document: Any) -> bool:
    options = document["stream_options"]
    if not isinstance(options, simdjson.Object):
        return False
    return options.get("include_usage") is True


def _in_place(
    raw: bytes, pattern: bytes, text: str, name: str, holds: Callable[[Any], bool]
) -> Edit:
    """The edit that puts `text` for the pattern's group, where that has the wanted effect.

    Quotes inside a string are escaped, so text cannot look like a member; the same member in
    another object can, and ours can be spelled with escapes. So each place is tried.
    """
    for match in islice(re.finditer(pattern, raw), _MAX_PLACES):
        start, end = match.span(1)
        try:
            edited = simdjson.Parser().parse(raw[:start] + text.encode() + raw[end:])
        except (ValueError, RuntimeError):  # a comma too many in another, empty object
            continue
        if holds(edited):
            return Edit(start, end - start, text)
    detail = f"`{name}` has to be completed, and where it stands cannot be told"
    raise _FaultError(Reason.AMBIGUOUS_BODY, detail, name)


# -- what stands in the content


class _Visits:
    """How many things of a body were looked at: reading must not cost more than the body."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _MAX_VISITS

    def count(self) -> None:
        """One more. Raises when there were too many: the context is held then."""
        self.left -= 1
        if self.left < 0:
            raise _NotUnderstoodError


def _content(has: Mapping[str, Any], shape: Shape) -> tuple[int, bool]:
    """How many prompts there are, and whether all input is text that stands in the body."""
    content = has.get(shape.content)
    prompts = _prompts(content) + _prompts(has.get("prompt_embeds")) if shape.many else 1
    visits = _Visits()
    try:
        if shape.many:
            _only_text(content, visits)
        elif shape.content not in _TALK:
            _walk(content, visits)
        for name in _TALK:
            if name in has:
                _walk(has[name], visits)
        if any(has[name] is not None for name in CONTEXT & has.keys()):
            return max(prompts, 1), False
        _tools(has.get("tools"), visits)
    except _NotUnderstoodError:
        return max(prompts, 1), False
    return max(prompts, 1), True


def _prompts(content: Any) -> int:
    """A list of strings or of lists of tokens is as many prompts; a list of tokens is one."""
    if not isinstance(content, simdjson.Array):
        return 0 if content is None else 1
    return 1 if _tokens(content) else len(content)


def _tokens(value: Any) -> bool:
    """Whether a list holds whole numbers and nothing else."""
    return len(value) == 0 or (
        isinstance(value[0], int) and _WHOLE.fullmatch(value.mini) is not None
    )


def _only_text(value: Any, visits: _Visits, depth: int = 0) -> None:
    """Text, tokens, or lists of them. Raises where there is something else."""
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, simdjson.Array) or depth > 1:
        raise _NotUnderstoodError
    if _tokens(value):
        return
    for item in value:
        visits.count()
        if isinstance(item, bool) or not isinstance(item, int | str):
            _only_text(item, visits, depth + 1)


def _walk(value: Any, visits: _Visits, depth: int = 0) -> None:
    """Messages, parts and what is inside them. Raises where something is not text."""
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, simdjson.Array) or depth > _MAX_NESTING:
        raise _NotUnderstoodError
    for item in value:
        visits.count()
        if isinstance(item, str):
            continue
        if not isinstance(item, simdjson.Object) or len(item) > _MAX_INNER_MEMBERS:
            raise _NotUnderstoodError
        names: tuple[str, ...] = tuple(item)
        if names not in _PLAIN:
            _item(item, names)
        if "content" in names and not isinstance(content := item["content"], str):
            _walk(content, visits, depth + 1)
        if "output" in names:
            _walk(item["output"], visits, depth + 1)


def _item(item: Any, names: tuple[str, ...]) -> None:
    """Raises where an item can be read in two ways, or is more than text."""
    _clear(names, _READ_MEMBERS)
    if "type" in names and item["type"] not in _TEXTS:
        raise _NotUnderstoodError
    if not _ITEM_MEMBERS.issuperset(names):
        _small(item, names)


def _small(item: Any, names: tuple[str, ...]) -> None:
    """Raises where a member that we do not know has a value that could name some input."""
    for name in names:
        if name not in _ITEM_MEMBERS and not isinstance(item[name], _Small):
            raise _NotUnderstoodError


def _stored(has: Mapping[str, Any], shape: Shape) -> str | None:
    """The member that brings in what the server keeps, if there is one."""
    content = has.get(shape.content)
    if shape.stored and isinstance(content, simdjson.Array):
        for item in islice(content, _MAX_VISITS):
            if (
                isinstance(item, simdjson.Object)
                and len(item) <= _MAX_INNER_MEMBERS
                and _is_reference(item)
            ):
                return shape.content
        if len(content) > _MAX_VISITS:
            return shape.content
    return _set(has, shape.stored)


def _is_reference(item: Any) -> bool:
    """Whether an item is only the name of one that the server keeps; its type may be left out."""
    names = _names(item, _READ_MEMBERS)
    kind = item["type"] if "type" in names else None
    return kind == "item_reference" or (
        kind is None and "id" in names and ("content" not in names or item["content"] is None)
    )


def _tools(tools: Any, visits: _Visits) -> None:
    """Tools that the client runs are text; those that the server runs bring input of their own."""
    if tools is None:
        return
    if not isinstance(tools, simdjson.Array):
        raise _NotUnderstoodError
    for tool in tools:
        visits.count()
        if not isinstance(tool, simdjson.Object) or len(tool) > _MAX_INNER_MEMBERS:
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
    _clear(names, read)
    return names


def _clear(names: tuple[str, ...], read: frozenset[str]) -> None:
    if (read, names) not in _clean:
        _check(names, read)
        if len(_clean) < _KEPT_SHAPES and sum(map(len, names)) < _KEPT_CHARS:
            _clean.add((read, names))


def _check(names: tuple[str, ...], read: frozenset[str]) -> None:
    seen = set[str]()
    for name in names:
        folded = name.partition("\0")[0].casefold()
        if name in seen or (folded in read and name not in read):
            detail = "a member of an object inside it stands twice, or differs only in case"
            raise _FaultError(Reason.AMBIGUOUS_BODY, detail, folded if folded in read else None)
        seen.add(name)
