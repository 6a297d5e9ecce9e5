"""What a body asks for that costs money: how much output, how often, from what input. Pure.

Every number here errs upwards. What is put into a body (the bound of its output, the wish for
usage) is put where every reader sees it, or the body is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

import simdjson

from authz.content import MAX_INNER_MEMBERS, FaultError, names_of, read_input, refers
from authz.model import Ask, Edit, Fault, Reason, Slot
from authz.names import AmbiguousNamesError
from authz.shape import Shape

MAX_BOUND: Final = 1 << 40  # tokens; more is no bound that anybody means
MAX_SEQUENCES: Final = 1 << 20  # answers to one request
_OPTION_MEMBERS: Final = frozenset({"include_usage"})
_MAX_PLACES: Final = 16
_NO_MEMBERS: Final = re.compile(rb"[ \t\r\n]*\}")

Has = Mapping[str, Any]
"""The members of a body that are read, by their names here: `max_tokens`, `options.num_predict`."""


def read_members(document: Any, shape: Shape) -> dict[str, Any] | Fault:
    """The members of an object, and of objects in it, that a shape reads; or what is wrong."""
    try:
        has = {ours: document[name] for name, ours in shape.members.read(tuple(document))}
        for nest, names in shape.nested.items():
            inner = has.get(nest)
            if inner is None:
                continue
            if not isinstance(inner, simdjson.Object):
                return Fault(Reason.INVALID_PARAMETER, "it must be an object", param=nest)
            if len(inner) > MAX_INNER_MEMBERS:
                detail = f"it may have at most {MAX_INNER_MEMBERS} members"
                return Fault(Reason.INVALID_PARAMETER, detail, param=nest)
            has.update((ours, inner[name]) for name, ours in names.read(tuple(inner)))
    except AmbiguousNamesError as fault:
        return Fault(Reason.AMBIGUOUS_BODY, fault.detail, param=fault.param)
    return has


def read_ask(has: Has, raw: bytes, shape: Shape) -> Ask | Fault:
    """What the members of a body ask for, or what is wrong with them.

    `raw` is the JSON that they were read from; edits are offsets into it.
    """
    try:
        bounds = _numbers(has, shape.bounds, MAX_BOUND)
        also = max(_numbers(has, shape.also, MAX_BOUND).values(), default=0)
        repeats = max(_numbers(has, shape.repeats, MAX_SEQUENCES).values(), default=1)
        content = read_input(has, shape)
        if content.prompts * repeats > MAX_SEQUENCES:
            name = shape.content if repeats == 1 else _set(has, shape.repeats)
            detail = f"a request may ask for at most {MAX_SEQUENCES} answers"
            return Fault(Reason.INVALID_PARAMETER, detail, param=name)
        stored = _set(has, shape.stored)
        if stored is None and shape.stored and refers(has.get(shape.content)):
            stored = shape.content
        return Ask(
            output=max((*bounds.values(), also)) if bounds else None,
            also=also,
            prompts=content.prompts,
            repeats=repeats,
            text_only=content.text_only and stored is None,
            again_bytes=content.again_bytes,
            slot=_bound_slot(has, raw, shape) if shape.bounds and not bounds else None,
            usage_edit=_usage_edit(has, raw) if shape.usage_on_request else None,
            stored=stored,
            unbounded=_set(has, shape.unbounded),
            bound_name=max(bounds, key=bounds.__getitem__, default=None),
            context=max(_numbers(has, shape.context, MAX_BOUND).values(), default=0),
            context_name=_set(has, shape.context),
            endless=shape.endless,
        )
    except FaultError as fault:
        return fault.fault


def _set(has: Has, names: tuple[str, ...]) -> str | None:
    """The first of the members that is there and not null or false."""
    return next((name for name in names if has.get(name) not in (None, False)), None)


def _numbers(has: Mapping[str, Any], names: tuple[str, ...], most: int) -> dict[str, int]:
    """The values of members that are set: whole numbers from 1, as JSON writes integers."""
    found = {}
    for name in names:
        value = has.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            detail = f"it must be a whole number from 1 to {most}"
            raise FaultError(Reason.INVALID_PARAMETER, detail, name)
        found[name] = value
    return found


# -- where the body can be changed


def _bound_slot(has: Has, raw: bytes, shape: Shape) -> Slot:
    """In front of the first member; or in place of the `null` that stands for no bound.

    A second member of the same name would not do: a server that takes the first would be
    unbounded.
    """
    name = shape.bounds[0]
    nest, dot, member = name.rpartition(".")
    if not dot and name not in has:
        return _in_front(raw, f'"{name}":', "")
    if dot and nest not in has:
        return _in_front(raw, f'"{nest}":{{"{member}":', "}")
    if name in has:
        pattern, before, after = rf'"{_either(shape, member)}"@:@(null)', "", ""
    elif has[nest] is None:
        pattern, before, after = rf'"{_either(shape, nest)}"@:@(null)', f'{{"{member}":', "}"
    else:
        comma = "," if len(has[nest]) else ""
        pattern, before, after = rf'"{_either(shape, nest)}"@:@\{{()', f'"{member}":', comma

    def holds(edited: Any) -> bool:
        found = read_members(edited, shape)
        return not isinstance(found, Fault) and found.get(name) == 1

    edit = _in_place(raw, pattern.encode(), f"{before}1{after}", name, holds)
    return Slot(edit.offset, edit.removed, before, after)


def _in_front(raw: bytes, before: str, after: str) -> Slot:
    at = raw.index(b"{") + 1
    return Slot(at, 0, before, after if _NO_MEMBERS.match(raw, at) else f"{after},")


def _either(shape: Shape, name: str) -> str:
    """A pattern of the names that a member has."""
    other = dict(shape.spellings).get(name)
    return name if other is None else f"(?:{name}|{other})"


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
        raise FaultError(Reason.INVALID_PARAMETER, "it must be an object", "stream_options")
    names = names_of(options, _OPTION_MEMBERS)
    wanted = options["include_usage"] if "include_usage" in names else None
    if wanted is True:
        return None
    if "include_usage" not in names:
        text = '"include_usage":true' + ("," if names else "")
        return _options_edit(raw, rb'"stream_options"@:@\{()', text)
    if wanted is None or wanted is False:
        return _options_edit(raw, rb'"include_usage"@:@(null|false)', "true")
    detail = "its `include_usage` must be true or false"
    raise FaultError(Reason.INVALID_PARAMETER, detail, "stream_options")


def _options_edit(raw: bytes, pattern: bytes, text: str) -> Edit:
    return _in_place(raw, pattern, text, "stream_options", _reports_usage)


def _reports_usage(document: Any) -> bool:
    options = document["stream_options"]
    if not isinstance(options, simdjson.Object):
        return False
    return options.get("include_usage") is True


def _in_place(
    raw: bytes, pattern: bytes, text: str, name: str, holds: Callable[[Any], bool]
) -> Edit:
    """The edit that puts `text` for the pattern's group, where that has the wanted effect.

    In a pattern, @ is any space. Quotes inside a string are escaped, so text cannot look like a
    member; the same member in another object can, and ours can be spelled with escapes. So each
    place is tried.
    """
    spaced = pattern.replace(b"@", rb"[ \t\r\n]*")
    for match in islice(re.finditer(spaced, raw), _MAX_PLACES):
        start, end = match.span(1)
        edited = simdjson.Parser().parse(raw[:start] + text.encode() + raw[end:])
        if holds(edited):
            return Edit(start, end - start, text)
    detail = f"`{name}` is null or incomplete, and where it stands cannot be told"
    raise FaultError(Reason.AMBIGUOUS_BODY, detail, name)
