"""The strict reading of a JSON body: one value, one meaning, whatever parser reads it next.

We forward the client's own bytes, so a body that two parsers could read differently where we
read it is refused: not strict UTF-8, a BOM, not strict JSON, a member twice, a member that
equals one of ours only after case folding (Go's decoder folds, the long s and the Kelvin sign
included) or up to a NUL (C's strings end there). A lone surrogate escape inside content is let
through, as real clients send it; in a member's name or in the model it is refused.

Cost: simdjson's, about 1 µs at 2 KB and 60 µs at 100 KB, and one pass over the members' names.
Depth is bounded by simdjson at 1024, the number of members by us, and everything else is linear.
"""

from __future__ import annotations

import math
import re
from itertools import islice
from threading import local
from typing import Any, Final

import msgspec
import simdjson

from authz.ask import MEMBERS, read_ask
from authz.model import Ask, Fault, Reason, Shape

MAX_MODEL_CHARS: Final = 256
MAX_MEMBERS: Final = 1000  # of the object itself; no API has a tenth of them
MAX_DEPTH: Final = 1024  # simdjson's
_KEPT_PARSER_BYTES: Final = 1 << 20  # a parser keeps about ten times the largest body it read
_MAX_MENDS: Final = 10_000
_MAX_WALKED: Final = 20_000
_BOM: Final = b"\xef\xbb\xbf"

# They begin with a literal and with a set and never go back, so both scan at full speed.
_SURROGATES: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?P<low>\\u[dD][c-fC-F][0-9a-fA-F]{2})?"
    rb"|[c-fC-F][0-9a-fA-F]{2})"
)
_DIGITS: Final = re.compile(rb"[0-9]{19,}+")
_BEFORE_AN_INTEGER: Final = b" \t\r\n:,[-"
_AFTER_AN_INTEGER: Final = b" \t\r\n,]}"
_TOKEN: Final = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL
)

# What mending leaves behind, as it reads in a string.
_MENDED_SURROGATE: Final = "\N{REPLACEMENT CHARACTER}"
_INT64_MAX: Final = b"9223372036854775807"  # more than any bound may be
_MENDED_INTEGER: Final = _INT64_MAX.decode()

_FAULT_OFFSET: Final = re.compile(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)")
_NAMED_ONE_LATE: Final = frozenset({"trailing characters", "invalid character in unicode escape"})

_MEMBERS: Final = MEMBERS | {"model", "stream"}

_KEPT_NAMES: Final = 1024
_KEPT_NAMES_CHARS: Final = 512
_clean_names: set[tuple[str, ...]] = set()  # clients send few shapes of body, again and again
_parsers = local()
_locator = msgspec.json.Decoder(msgspec.Raw)


class Body(msgspec.Struct, frozen=True):
    """What is read of a body: the model's name as it stands, a stream or not, what it asks for."""

    model: str
    stream: bool
    ask: Ask | None = None


def read_json(raw: bytes, shape: Shape | None = None) -> Body | Fault:
    """Read a JSON object's `model`, `stream` and what it asks for, or say what is wrong with it."""
    mended, mend = False, raw
    try:
        document = _parser(len(raw)).parse(raw)
    except (ValueError, RuntimeError):
        _parsers.kept = None
        reading = _mend(raw)
        if isinstance(reading, Fault):
            return reading
        mend = reading
        try:
            document, mended = simdjson.Parser().parse(mend), True
        except (ValueError, RuntimeError):
            return _malformed(raw, mend)
    if raw.startswith(_BOM):
        return _fault("it starts with a byte order mark; send UTF-8 without one", 0)
    if not isinstance(document, simdjson.Object):
        return _fault("it is not a JSON object", 0)
    return _read_members(document, mended, mend, shape)


def _read_members(document: Any, mended: bool, raw: bytes, shape: Shape | None) -> Body | Fault:
    if len(document) > MAX_MEMBERS:
        return _fault(f"it has more than {MAX_MEMBERS} members", None)
    names = tuple(document)
    fault = _ambiguity(names, mended)
    if fault is not None:
        return fault
    # simdjson takes long to say that a member is not there: longer than all else here
    model = document["model"] if "model" in names else None
    stream = document["stream"] if "stream" in names else None
    if not isinstance(model, str) or not is_model_name(model):
        return Fault(Reason.MODEL_REQUIRED, param="model")
    if mended and (_MENDED_SURROGATE in model or _MENDED_INTEGER in model):
        return Fault(Reason.MODEL_REQUIRED, param="model")
    if stream is not None and not isinstance(stream, bool):
        return Fault(Reason.INVALID_PARAMETER, "it must be true or false", param="stream")
    ask = None if shape is None else read_ask(document, raw, shape)
    return ask if isinstance(ask, Fault) else Body(model, stream is True, ask)


def is_model_name(name: str) -> bool:
    """Whether a model's name reads the same everywhere: in a header, in a log, in any server."""
    return 0 < len(name) <= MAX_MODEL_CHARS and name.isprintable() and name == name.strip()


def _ambiguity(names: tuple[str, ...], mended: bool) -> Fault | None:
    """Why the members' names could be read in more than one way, if they could."""
    if mended and any(_MENDED_SURROGATE in name for name in names):
        return Fault(Reason.AMBIGUOUS_BODY, "a member's name holds half of a surrogate pair")
    if names in _clean_names:
        return None
    clash = _clash(names)
    room = len(_clean_names) < _KEPT_NAMES and sum(map(len, names)) < _KEPT_NAMES_CHARS
    if clash is None and room:
        _clean_names.add(names)
    return clash


def _clash(names: tuple[str, ...]) -> Fault | None:
    """A member that stands twice, or that another reader would take for one of ours."""
    seen = set[str]()
    for name in names:
        if name in seen:
            shown = name if name in _MEMBERS else None
            return Fault(Reason.AMBIGUOUS_BODY, "a member stands in it twice", param=shown)
        seen.add(name)
    for name in names:
        folded = name.partition("\0")[0].casefold()
        if folded in _MEMBERS and name not in _MEMBERS:
            return Fault(
                Reason.AMBIGUOUS_BODY,
                f"a member's name differs from `{folded}` only in case or in what cannot be seen",
                param=folded,
            )
    return None


def _parser(size: int) -> Any:
    """This thread's parser, or one to throw away for a large body: parsers keep their buffers."""
    if size > _KEPT_PARSER_BYTES:
        return simdjson.Parser()
    parser = getattr(_parsers, "kept", None)
    if parser is None:
        parser = _parsers.kept = simdjson.Parser()
    return parser


def _mend(raw: bytes) -> bytes | Fault:
    """The body with what is JSON but not simdjson's replaced, byte for byte as long.

    That is lone surrogate escapes and integers beyond 64 bits. Only our reading uses the
    result; the server gets the client's bytes.
    """
    mended = bytearray(raw)
    mends = 0
    unescaped = raw.replace(rb"\\", b"__")  # an escaped backslash does not start an escape
    for match in _SURROGATES.finditer(unescaped):
        if match["low"] is None:
            mended[match.start() + 2 : match.end()] = b"FFFD"
            mends += 1
            if mends == _MAX_MENDS:
                return _fault("it holds too many lone surrogate escapes", match.start())
    for match in _DIGITS.finditer(raw):
        if _is_integer(raw, match.start(), match.end()):
            mended[match.start() : match.end()] = _INT64_MAX.ljust(match.end() - match.start())
            mends += 1
            if mends == _MAX_MENDS:
                return _fault("it holds too many integers beyond 64 bits", match.start())
    return bytes(mended)


def _is_integer(raw: bytes, start: int, end: int) -> bool:
    """Whether the run of digits may be an integer of its own (in a string it may be anything)."""
    return (
        raw[start - 1] in _BEFORE_AN_INTEGER
        and raw[start] != ord("0")
        and raw[end : end + 1] in _AFTER_AN_INTEGER
    )


def _malformed(raw: bytes, mended: bytes) -> Fault:
    """Where and why a body is not strict JSON."""
    if not raw.strip(b" \t\r\n"):
        return _fault("it is empty", 0)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        return _fault("it is not UTF-8", fault.start)
    if raw.startswith(_BOM):
        return _fault("it starts with a byte order mark; send UTF-8 without one", 0)
    try:
        _locator.decode(mended)
    except msgspec.DecodeError as fault:
        match = _FAULT_OFFSET.fullmatch(str(fault))
        if match is None:
            return _fault("it ends too early", len(raw))
        detail, offset = match[1], int(match[2])
        return _fault(detail, offset - 1 if detail in _NAMED_ONE_LATE else offset)
    except RecursionError:
        pass
    return _disputed(mended)


def _disputed(mended: bytes) -> Fault:
    """Where a body is JSON by its grammar, but beyond what its readers agree on."""
    depth = 0
    for token in islice(_TOKEN.finditer(mended), _MAX_WALKED):
        head = token[0][:1]
        if head in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return _fault(f"it is nested more than {MAX_DEPTH} deep", token.start())
        elif head in b"]}":
            depth -= 1
        elif head != b'"' and math.isinf(float(token[0])):
            return _fault("a number in it is beyond what JSON readers can hold", token.start())
    return _fault("it holds a number or a nesting that JSON readers do not agree on", None)


def _fault(detail: str, offset: int | None) -> Fault:
    return Fault(Reason.MALFORMED_BODY, detail, offset=offset)
