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

from authz.content import MAX_INNER_MEMBERS, FaultError, names_of, read_input
from authz.model import Ask, Edit, Fault, Reason, Slot
from authz.names import AmbiguousNamesError, Names
from authz.normal import growth
from authz.shape import Content, Shape
from authz.tensors import rows

MAX_BOUND: Final = 1 << 40  # tokens; more is no bound that anybody means
MAX_SEQUENCES: Final = 1 << 20  # answers to one request
_SHOWS: Final = ("include_reasoning", "stream_reasoning")
_HIDING_MEMBERS: Final = Names(("exclude", "effort", "display"))
_OPTION_MEMBERS: Final = Names(("include_usage",))
_MAX_PLACES: Final = 16
_MIN_PLACES: Final = 2
_MAX_PARSED: Final = 2 << 20  # bytes, over all places
_UNSET: Final = object()
_NO_BOUND: Final = -1  # what no client can have set
_NO_MEMBERS: Final = re.compile(rb"[ \t\r\n]*\}")

Has = Mapping[str, Any]
"""The members of a body that are read, by their names here: `max_tokens`, `options.num_predict`."""


def read_members(document: Any, shape: Shape) -> dict[str, Any] | Fault:
    """The members of an object, and of objects in it, that a shape reads; or what is wrong."""
    try:
        has = {ours: document[name] for name, ours in shape.members.read(tuple(document))}
        for nest, names in shape.nested:
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
        also = _largest(has, shape.also, MAX_BOUND, 0)
        repeats = _largest(has, shape.repeats, MAX_SEQUENCES, 1)
        content = read_input(has, raw, shape)
        prompts = content.prompts
        if shape.kind is Content.ROWS:
            prompts = min(rows(has, shape), MAX_SEQUENCES)  # it may be numbers for one answer
        if prompts * repeats > MAX_SEQUENCES:
            name = shape.content if repeats == 1 else _set(has, shape.repeats)
            detail = f"a request may ask for at most {MAX_SEQUENCES} answers"
            return Fault(Reason.INVALID_PARAMETER, detail, param=name)
        stored = _set(has, shape.stored)
        if stored is None and content.refers:
            stored = shape.content
        slot = None
        unbounded = any("." in name and has.get(name, _UNSET) is None for name in shape.also)
        if unbounded:  # SGLang's of `sampling_params`: its context, where left out it is 128
            bounds = {}
        elif shape.bounds and shape.bounds[0] not in bounds and not any("." in n for n in bounds):
            slot = _bound_slot(has, raw, shape)
        return Ask(
            output=max((*bounds.values(), also)) if bounds else None,
            also=also,
            prompts=prompts,
            repeats=repeats,
            text_only=content.text_only and stored is None,
            again_bytes=content.again_bytes,
            growth=growth(raw) if content.text_only else 0,
            slot=None if bounds else slot,
            usage_edit=_usage_edit(has, raw) if shape.usage_on_request else None,
            stored=stored,
            unbounded=_set(has, shape.unbounded),
            bound_name=max(bounds, key=bounds.__getitem__, default=None),
            bound_edit=slot.edit(max(bounds.values())) if slot and bounds else None,
            context=_largest(has, shape.context, MAX_BOUND, 0) if shape.context else 0,
            context_name=_set(has, shape.context) if shape.context else None,
            endless=shape.endless,
            hides_output=_hides_output(has, shape),
        )
    except FaultError as fault:
        return fault.fault


def _set(has: Has, names: tuple[str, ...]) -> str | None:
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
            raise FaultError(Reason.INVALID_PARAMETER, detail, name)
        found[name] = value
    return found


def _largest(has: Has, names: tuple[str, ...], most: int, fewest: int) -> int:
    """The largest of such numbers, or `fewest` where none is set."""
    for name in names:
        if name in has:
            return max(_numbers(has, names, most).values(), default=fewest)
    return fewest


# -- what is generated, but not streamed


def _hides_output(has: Has, shape: Shape) -> bool:
    """Whether the body says that some of what is generated is not to be streamed, or not at once.

    vLLM drops reasoning without a word, also for an effort of `none`, which a model need not heed;
    SGLang keeps it back to its end. A switch that is neither on nor off hides: some server may
    take it for off.
    """
    if shape.hiding.isdisjoint(has):
        return False
    return (
        any(has.get(name) not in (None, True) for name in _SHOWS)
        or has.get("reasoning_effort") == "none"
        or has.get("reasoning_format") == "hidden"
        or any(each not in (None, False) for each in _inside(has, "reasoning", "exclude"))
        or "none" in _inside(has, "reasoning", "effort")
        or any(each not in (None, "full") for each in _inside(has, "thinking", "display"))
        or any(_more_than_shown(has, name) for name in shape.repeats)
    )


def _inside(has: Has, name: str, member: str) -> list[Any]:
    """What an object of the body says of a member. Raises FaultError where that is in dispute."""
    value = has.get(name)
    if not isinstance(value, simdjson.Object):
        return []
    if len(value) > MAX_INNER_MEMBERS:
        detail = f"it may have at most {MAX_INNER_MEMBERS} members"
        raise FaultError(Reason.INVALID_PARAMETER, detail, name)
    return [value[member]] if member in names_of(value, _HIDING_MEMBERS) else []


def _more_than_shown(has: Has, name: str) -> bool:
    """Whether a member asks for the best of more answers than are sent."""
    nest, dot, member = name.rpartition(".")
    if member != "best_of" or has.get(name) is None:
        return False
    most: int = has[name]  # it was read as a number
    shown: int | None = has.get(f"{nest}{dot}n")
    return most > (shown or 1)


# -- where the body can be changed


def _bound_slot(has: Has, raw: bytes, shape: Shape) -> Slot:
    """In front of the first member; or in place of `null`, or of the bound's newer name.

    A second member of the same name would not do: a server that takes the first would be
    unbounded. Nor would one beside the newer name. vLLM, SGLang and llama.cpp, which know both,
    take the newer (`max_completion_tokens or max_tokens`); Ollama and llama-cpp-python know the
    older alone; but TGI and mistral.rs, for which they are two names of one field, refuse a body
    that has both. So there is one, by the name that all of them know.
    """
    name = shape.bounds[0]
    nest, dot, member = name.rpartition(".")
    if name in has:
        return _slot(raw, shape, name, (rf'"{_either(shape, member)}"@:@(null)', "", ""))
    newer = next((other for other in shape.bounds[1:] if other in has and "." not in other), None)
    if newer is not None:
        pattern = rf'("{newer}"@:@(?:null|[0-9]+))'
        return _slot(raw, shape, name, (pattern, f'"{name}":', ""), newer)
    if not dot:
        return _in_front(raw, f'"{name}":', "")
    if nest not in has:
        return _in_front(raw, f'"{nest}":{{"{member}":', "}")
    pattern = rf'"{_either(shape, nest)}"@:@'
    if has[nest] is None:
        return _slot(raw, shape, name, (rf"{pattern}(null)", f'{{"{member}":', "}"))
    comma = "," if len(has[nest]) else ""
    return _slot(raw, shape, name, (rf"{pattern}\{{()", f'"{member}":', comma))


def _slot(
    raw: bytes, shape: Shape, name: str, place: tuple[str, str, str], there: str | None = None
) -> Slot:
    """The slot at a pattern's group, with what stands before and behind the number there.

    `there` is the member that stands in the slot, if it is not `name`.
    """
    pattern, before, after = place

    def holds(edited: Any) -> bool:
        found = read_members(edited, shape)
        return not isinstance(found, Fault) and found.get(name) == _NO_BOUND

    edit = in_place(raw, pattern.encode(), f"{before}{_NO_BOUND}{after}", there or name, holds)
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
    return in_place(raw, pattern, text, "stream_options", _reports_usage)


def _reports_usage(document: Any) -> bool:
    options = document["stream_options"]
    if not isinstance(options, simdjson.Object):
        return False
    return options.get("include_usage") is True


def in_place(
    raw: bytes, pattern: bytes, text: str, name: str, holds: Callable[[Any], bool]
) -> Edit:
    """The edit that puts `text` for the pattern's group, where that has the wanted effect.

    In a pattern, @ is any space. The body must have such a member. Quotes inside a string are
    escaped, so text cannot look like a member; the same member in another object can, and ours can
    be spelled with escapes. So each place is tried but the only one that is left, if no name can
    be spelled with escapes.
    """
    spaced = pattern.replace(b"@", rb"[ \t\r\n]*")
    parser = simdjson.Parser()  # one: what its buffers cost is most of what a parse costs
    most = min(_MAX_PLACES, max(_MIN_PLACES, _MAX_PARSED // len(raw)))
    places = [match.span(1) for match in islice(re.finditer(spaced, raw), most + 1)]
    sure = places[-1:] if rb"\u" not in raw else []  # one more than `most` is not looked at
    for place in places[:most]:
        start, end = place
        if [place] == sure or _has_effect(parser, raw[:start] + text.encode() + raw[end:], holds):
            return Edit(start, end - start, text)
    detail = f"`{name}` has to be completed, and where it stands cannot be told"
    raise FaultError(Reason.AMBIGUOUS_BODY, detail, name)


def _has_effect(parser: simdjson.Parser, edited: bytes, holds: Callable[[Any], bool]) -> bool:
    try:
        return holds(parser.parse(edited))
    except ValueError:  # a comma too many in another, empty object
        return False
