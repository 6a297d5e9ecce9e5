"""What input stands in a body: how many prompts, and whether all of it is text. Pure.

What is not understood (a content part that is not text, a tool that the server runs itself) makes
the input unbounded by the body, and the context is held.

Members are looked for by name in objects where no name stands twice (see authz/body.py); the
nested ones that are read are held to the same here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgspec
import simdjson

from authz.model import Fault, Reason
from authz.names import AmbiguousNamesError, Names
from authz.shape import TALK, Content, Shape

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
        *("reasoning", "reasoning_content", "reasoning_details", "tool_name"),
    }
)
"""What may stand in them. Any other member might be an image for some server, whatever `type` is,
unless it is null, a boolean or a number."""

_PLAIN: Final = frozenset({("role", "content"), ("content", "role")})
"""What most messages have: it can be read in one way only, and all but the content is text."""

_Small = int | float | None
_CLIENT_TOOLS: Final = frozenset({"function", "custom", "local_shell"})
_READ_MEMBERS: Final = Names(("type", "content", "output", "id"))
_TOOL_MEMBERS: Final = Names(("type",))
_DOCUMENT_MEMBERS: Final = Names(("text",))
_CONTENT_MEMBERS: Final = Names(("role", "parts"))
_PART_MEMBERS: Final = Names(
    (
        *("text", "thought", "thoughtSignature", "thought_signature"),
        *("functionCall", "function_call", "functionResponse", "function_response"),
    )
)
_REQUEST_MEMBERS: Final = Names(
    (
        *("model", "content", "title", "taskType", "task_type"),
        *("outputDimensionality", "output_dimensionality"),
    )
)
_CALL_MEMBERS: Final = Names(("id", "name", "args", "response", "willContinue", "scheduling"))
_DECLARED_MEMBERS: Final = Names(("functionDeclarations", "function_declarations"))
_MANY: Final = (Content.PROMPTS, Content.DOCUMENTS, Content.REQUESTS)
_OPAQUE: Final = (Content.OPAQUE, Content.ROWS)
_MAX_NESTING: Final = 4  # messages, parts, results, their parts
_MAX_OTHERS: Final = 8
_MANY_TOKENS: Final = 4096
_OF_INTEGERS: Final = b"-0123456789, \t\r\n"
_MAX_VISITS: Final = 4_000
_MEMBERS_A_VISIT: Final = 4  # that were not seen before: clients send few shapes of items
_KNOWN_A_VISIT: Final = 8  # that were: more than an item of any API has set
MAX_INNER_MEMBERS: Final = 64  # simdjson finds a member by looking at all of them


class Input(msgspec.Struct, frozen=True):
    """How many prompts there are, and whether all input is text that stands in the body.

    So many bytes of it are read once more with each prompt (None: there is no such text).
    `refers`: an item of the input is only the name of one that the server keeps, or may be.
    """

    prompts: int
    text_only: bool
    again_bytes: int | None = None
    refers: bool = False


class _NotUnderstoodError(Exception):
    """The body holds input whose size does not follow from its own."""


class FaultError(Exception):
    """Carries a fault out of the reading of a body; it never leaves that."""

    def __init__(self, reason: Reason, detail: str, param: str | None) -> None:
        super().__init__(reason)
        self.fault = Fault(reason, detail, param=param)


class _Visits:
    """How many things of a body were looked at: reading must not cost more than the body.

    `refers`: whether an item of the input is only the name of one that the server keeps.
    """

    __slots__ = ("left", "refers")

    def __init__(self) -> None:
        self.left = _MAX_VISITS
        self.refers = False

    def count(self, visits: int = 1) -> None:
        """So many more. Raises when there were too many: the context is held then."""
        self.left -= visits
        if self.left < 0:
            raise _NotUnderstoodError

    def count_names(self, names: tuple[str, ...], read: Names) -> None:
        """As many as it costs to read names: more where they were not read before."""
        self.count(len(names) // (_KNOWN_A_VISIT if read.knows(names) else _MEMBERS_A_VISIT))


def read_input(has: Mapping[str, Any], raw: bytes, shape: Shape) -> Input:
    """What input the members of a body bring; `raw` is what they were read from.

    Raises FaultError.
    """
    if shape.kind in _OPAQUE:
        return Input(1, text_only=False)
    tokens: frozenset[str] = frozenset()
    prompts, again = 1, None
    if shape.kind in _MANY:
        tokens = frozenset(n for n in shape.input if n in has and _tokens(has[n], raw, n))
        prompts, again = _prompts(has, shape, tokens), _again(has, shape)
    visits = _Visits()
    try:
        text_only = shape.media.isdisjoint(has) or all(
            _is_empty(has[name]) for name in shape.media if name in has
        )
        if text_only:
            _read_text(has, shape, tokens, visits)
    except _NotUnderstoodError:
        text_only = False
    refers = shape.refers and (visits.refers or (not text_only and _refers(has.get(shape.content))))
    return Input(prompts, text_only, again, refers)


def _read_text(
    has: Mapping[str, Any], shape: Shape, tokens: frozenset[str], visits: _Visits
) -> None:
    """Raises where some of the input is not text; members that are known to be tokens are."""
    read = _READ[shape.kind.value]
    for name in shape.input:
        if name in has and name not in tokens:
            read(has[name], visits)
    for name in TALK:
        if name in has and name != shape.content:
            _walk(has[name], visits)
    if "tools" in has:
        (_declarations if shape.kind is Content.PARTS else _tools)(has["tools"], visits)


def _prompts(has: Mapping[str, Any], shape: Shape, tokens: frozenset[str]) -> int:
    """A list of strings or of lists of tokens is as many prompts; a list of tokens is one."""
    most = max(1 if name in tokens else _count(has.get(name)) for name in shape.input)
    embedded = _count(has.get("prompt_embeds")) + _embedded(has.get("input_embeds"))
    return max(1, most + embedded)


def _embedded(embeds: Any) -> int:
    """How many prompts SGLang takes rows of numbers for: one if the first is a fraction."""
    first = embeds
    for _ in range(2):
        if not isinstance(first, simdjson.Array) or not len(first):
            return 0 if embeds is None else 1
        first = first[0]
    return 1 if isinstance(first, float) else len(embeds)


def _count(content: Any) -> int:
    if not isinstance(content, simdjson.Array):
        return 0 if content is None else 1
    return len(content)


def _again(has: Mapping[str, Any], shape: Shape) -> int | None:
    """The bytes of what stands there once and is read with each document."""
    if shape.kind is not Content.DOCUMENTS:
        return None
    return sum(_bytes_of_one(has.get(name)) for name in shape.input)


def _bytes_of_one(value: Any) -> int:
    if isinstance(value, simdjson.Array) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    return len(value.mini) if isinstance(value, simdjson.Object) else 0


def _tokens(value: Any, raw: bytes = b"", name: str = "") -> bool:
    """Whether it is a list that holds whole numbers and nothing else: of this member, if any."""
    if not isinstance(value, simdjson.Array):
        return False
    items: Any = value
    if len(items) == 0:
        return True
    if not isinstance(items[0], int):
        return False
    is_long = name and len(items) > _MANY_TOKENS
    written: bytes = _written(raw, name) if is_long else items.mini
    return written.translate(None, _OF_INTEGERS) == b"[]"


def _written(raw: bytes, name: str) -> bytes:
    """A member as it stands in the body: for very long ones faster than `mini`."""
    return bytes(_member(name).decode(raw).value)


@cache
def _member(name: str) -> msgspec.json.Decoder[Any]:
    fields = [("value", msgspec.Raw)]
    return msgspec.json.Decoder(msgspec.defstruct("Member", fields, rename={"value": name}))


def _only_text(value: Any, visits: _Visits, depth: int = 0) -> None:
    """Text, or lists of texts and of tokens. Raises where there is something else."""
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, simdjson.Array) or depth > 1:
        raise _NotUnderstoodError
    if depth and _tokens(value):
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
        if isinstance(item, str):
            visits.count()
            continue
        if not isinstance(item, simdjson.Object) or len(item) > MAX_INNER_MEMBERS:
            raise _NotUnderstoodError
        names: tuple[str, ...] = tuple(item)
        visits.count()
        if names not in _PLAIN:
            visits.count_names(names, _READ_MEMBERS)
            _item(item, names)
            if not depth and _is_reference(item, names):
                visits.refers = True
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


def _documents(value: Any, visits: _Visits) -> None:
    """Texts, or objects that hold one. Raises where there is something else."""
    if value is None or isinstance(value, str):
        return
    for item in _listed(value, visits):
        if isinstance(item, simdjson.Object) and len(item) == 1:
            if names_of(item, _DOCUMENT_MEMBERS) != ("text",) or not isinstance(item["text"], str):
                raise _NotUnderstoodError
        elif not isinstance(item, str):
            raise _NotUnderstoodError


def _contents(value: Any, visits: _Visits) -> None:
    """Contents or one of them, whose parts are text. Raises where one is something else."""
    if value is None:
        return
    contents = (value,) if isinstance(value, simdjson.Object) else _listed(value, visits)
    for content in contents:
        names = _inside(content, _CONTENT_MEMBERS)
        if "parts" not in names:
            continue
        for part in _listed(content["parts"], visits):
            for name in _inside(part, _PART_MEMBERS):
                inner = part[name]
                if isinstance(inner, simdjson.Object):
                    visits.count()
                    _inside(inner, _CALL_MEMBERS)


def _requests(requests: Any, visits: _Visits) -> None:
    """Requests whose contents are text. Raises where one is something else."""
    for request in () if requests is None else _listed(requests, visits):
        if "content" in _inside(request, _REQUEST_MEMBERS):
            _contents(request["content"], visits)


def _declarations(tools: Any, visits: _Visits) -> None:
    """Functions that the client runs are text. Raises where there is another tool."""
    for tool in () if tools is None else _listed(tools, visits):
        _inside(tool, _DECLARED_MEMBERS)


def _listed(value: Any, visits: _Visits) -> Iterator[Any]:
    if not isinstance(value, simdjson.Array):
        raise _NotUnderstoodError
    for item in value:
        visits.count()
        yield item


def _inside(value: Any, known: Names) -> tuple[str, ...]:
    """The names of an object's members. Raises where one is not known."""
    if not isinstance(value, simdjson.Object) or len(value) > MAX_INNER_MEMBERS:
        raise _NotUnderstoodError
    names = names_of(value, known)
    if not known.ours.keys() >= set(names):
        raise _NotUnderstoodError
    return names


def _small(item: Any, names: tuple[str, ...]) -> None:
    """Raises where a member that we do not know has a value that could name some input.

    simdjson looks for a name up to its NUL. (All of an object's `values` would be made first.)
    """
    others = [name for name in names if name not in _ITEM_MEMBERS]
    if len(others) > _MAX_OTHERS:  # each is looked for among all members
        raise _NotUnderstoodError
    for name in others:
        if "\0" in name or not (isinstance(item[name], _Small) or _is_empty(item[name])):
            raise _NotUnderstoodError


def _is_empty(value: Any) -> bool:
    """Whether it cannot name any input: LangChain sends a list of no images with each message."""
    return value is None or (isinstance(value, simdjson.Array) and len(value) == 0)


def _refers(content: Any) -> bool:
    """The same where not all is text; where that would take too long, it does."""
    if not isinstance(content, simdjson.Array):
        return False
    visits = _Visits()
    try:
        for item in content:
            visits.count()
            if isinstance(item, simdjson.Object) and len(item) <= MAX_INNER_MEMBERS:
                names = tuple(item)
                visits.count_names(names, _READ_MEMBERS)
                _clear(names, _READ_MEMBERS)
                if _is_reference(item, names):
                    return True
    except _NotUnderstoodError:
        return True
    return False


def _is_reference(item: Any, names: tuple[str, ...]) -> bool:
    """Its type may be left out."""
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
        if not isinstance(tool, simdjson.Object) or len(tool) > MAX_INNER_MEMBERS:
            raise _NotUnderstoodError
        names = tuple(tool)
        visits.count()
        visits.count_names(names, _TOOL_MEMBERS)
        _clear(names, _TOOL_MEMBERS)
        if "type" in names and tool["type"] not in _CLIENT_TOOLS:
            raise _NotUnderstoodError


_READ: Final[Mapping[str, Callable[[Any, _Visits], None]]] = {
    Content.TALK.value: _walk,
    Content.PROMPTS.value: _only_text,
    Content.DOCUMENTS.value: _documents,
    Content.PARTS.value: _contents,
    Content.REQUESTS.value: _requests,
}


def names_of(item: Any, read: Names) -> tuple[str, ...]:
    """The member names of a nested object. Raises if one that is read could be read twice."""
    names = tuple(item)
    _clear(names, read)
    return names


def _clear(names: tuple[str, ...], read: Names) -> None:
    try:
        read.read(names)
    except AmbiguousNamesError as fault:
        raise FaultError(Reason.AMBIGUOUS_BODY, fault.detail, fault.param) from None
