"""The strict reading of a unary call of the open inference protocol (KServe, Triton). Pure.

A body is one gRPC frame: a flag, the length in four bytes, and the message. Protobuf's own
readers are lenient and differ: the last of two names counts in one and the first in another,
unknown fields are kept or dropped, groups are passed over. So a message is admitted only if no
reader can take it for another one: one whole, uncompressed frame and nothing behind it; known
fields alone, each in its own wire type, which a server of a later version cannot read as
something else; a singular field once; no number longer than it must be.

Cost: one step for each field, at most `MAX_FIELDS` of them, one for each dimension of a tensor, at
most `MAX_SIZES`, and one for each text of a raw tensor, at most `_MAX_TEXTS`; what else lies in
the tensors is passed over by its length and never copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from authz.body import is_model_name
from authz.model import Fault, Reason
from authz.shape import TENSORS
from authz.tensors import MAX_DIMENSIONS, NUMBERS, rows_of

FRAME_BYTES: Final = 5
_RAW_LENGTH: Final = 4
MAX_FIELDS: Final = 4096  # hundreds of tensors, each with all that a tensor may have
MAX_SIZES: Final = 4096  # of all tensors; a thousand of them have four each
_MAX_TEXTS: Final = 2 * MAX_FIELDS  # of all raw tensors; of one, at most `MAX_FIELDS`
MAX_NAMED_CHARS: Final = 256  # of a tensor's or a parameter's name


@dataclass(frozen=True, slots=True)
class Infer:
    """What is read of a call: the model, its version ("" for the server's choice), and names.

    `inputs` are the names of the input tensors and `parameters` those of the request's, the
    inputs' and the outputs' parameters, as they stand, one behind the other. `rows` says how many
    inputs a server may read each by itself.
    """

    model: str
    version: str = ""
    inputs: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    rows: int = 1

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of tensors and parameters that the catalog must allow for the model."""
        return tuple(name for name in (*self.inputs, *self.parameters) if name in TENSORS)


# ── The messages: which tags they may have. All field numbers are below 16: a tag is one byte ────

_VARINT: Final = 0
_LENGTH: Final = 2
_WIRE_BITS: Final = 3
_WIRE_MASK: Final = 7
_GROUPS: Final = (3, 4)
_MORE: Final = 0x80  # the bit of a byte that says that a number goes on


def _tag(number: int, wire: int = _LENGTH) -> int:
    return number << _WIRE_BITS | wire


@dataclass(frozen=True, slots=True)
class _Message:
    """A message's fields by tag: the name of each, which stand at most once, its parameters."""

    names: dict[int, str]
    singular: frozenset[int]
    parameters: int = 0


_NAME: Final = _tag(1)
_VERSION: Final = _tag(2)
_REQUEST_PARAMETERS: Final = _tag(4)
_INPUTS: Final = _tag(5)
_OUTPUTS: Final = _tag(6)
_RAW: Final = _tag(7)
_DATATYPE: Final = _tag(2)
_SIZE: Final = _tag(3, _VARINT)
_SIZES: Final = _tag(3)
_SHAPE: Final = (_SIZE, _SIZES)
_INPUT_PARAMETERS: Final = _tag(4)
_CONTENTS: Final = _tag(5)
_OUTPUT_PARAMETERS: Final = _tag(2)
_KEY: Final = _tag(1)

_REQUEST: Final = _Message(
    {
        _NAME: "model_name",
        _VERSION: "model_version",
        _tag(3): "id",
        _REQUEST_PARAMETERS: "parameters",
        _INPUTS: "inputs",
        _OUTPUTS: "outputs",
        _RAW: "raw_input_contents",
    },
    frozenset({_NAME, _VERSION, _tag(3)}),
)
_INPUT: Final = _Message(
    {
        _NAME: "name",
        _DATATYPE: "datatype",
        _SIZE: "shape",
        _SIZES: "shape",  # packed, as writers of proto3 do
        _INPUT_PARAMETERS: "parameters",
        _CONTENTS: "contents",
    },
    frozenset({_NAME, _DATATYPE, _CONTENTS}),
    _INPUT_PARAMETERS,
)
_OUTPUT: Final = _Message(
    {_NAME: "name", _OUTPUT_PARAMETERS: "parameters"}, frozenset({_NAME}), _OUTPUT_PARAMETERS
)
_TEXT: Final = _tag(8)
_VALUES: Final = _Message(
    {
        _TEXT: "bytes_contents",
        **{_tag(number, wire): "values" for number in range(1, 6) for wire in (_VARINT, _LENGTH)},
        **{_tag(number): "values" for number in (6, 7)},
    },
    frozenset(),
)
_ENTRY: Final = _Message({_KEY: "key", _tag(2): "value"}, frozenset({_KEY, _tag(2)}))
_MODEL: Final = _Message({_NAME: "name", _VERSION: "version"}, frozenset({_NAME, _VERSION}))


def read_infer(raw: bytes) -> Infer | Fault:
    """Read the body of a ModelInfer, or say what is wrong with it."""
    try:
        return _read_infer(raw)
    except _FaultError as error:
        return error.fault


def read_model_name(raw: bytes) -> Infer | Fault:
    """Read the body of a ModelReady or ModelMetadata: a name and a version, nothing else."""
    try:
        walk = _Walk(raw)
        name, version = "", ""
        for tag, start, end in walk.fields(_MODEL, FRAME_BYTES, len(raw)):
            if tag == _NAME:
                name = _text(raw, start, end)
            else:
                version = _text(raw, start, end)
    except _FaultError as error:
        return error.fault
    return Infer(name, version) if is_model_name(name) else _no_model("name")


def _read_infer(raw: bytes) -> Infer | Fault:
    walk = _Walk(raw)
    name, version = "", ""
    inputs, parameters, contents = list[_Tensor](), list[str](), list[tuple[int, int]]()
    for tag, start, end in walk.fields(_REQUEST, FRAME_BYTES, len(raw)):
        if tag == _NAME:
            name = _text(raw, start, end)
        elif tag == _VERSION:
            version = _text(raw, start, end)
        elif tag == _REQUEST_PARAMETERS:
            parameters.append(walk.key(start, end))
        elif tag == _INPUTS:
            inputs.append(walk.tensor(_INPUT, start, end, parameters))
        elif tag == _OUTPUTS:
            walk.tensor(_OUTPUT, start, end, parameters)
        elif tag == _RAW:
            contents.append((start, end))
    if not is_model_name(name):
        return _no_model("model_name")
    behind = contents[: len(inputs)]
    rows = max((1, *(walk.rows(*each) for each in zip_longest(inputs, behind))))
    return Infer(name, version, tuple(each.name for each in inputs), tuple(parameters), rows)


def _no_model(param: str) -> Fault:
    return Fault(Reason.MODEL_REQUIRED, param=param)


@dataclass(slots=True)
class _Tensor:
    """What is read of a tensor; its contents, from a byte to a byte, if they stand in it."""

    name: str = ""
    datatype: str = ""
    sizes: list[int] = field(default_factory=list)
    contents: tuple[int, int] = (0, 0)


class _FaultError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


def _malformed(detail: str, offset: int) -> _FaultError:
    return _FaultError(Fault(Reason.MALFORMED_BODY, detail, offset=offset))


class _Walk:
    """One pass over a frame's fields; raises for the first that can be read in two ways."""

    def __init__(self, raw: bytes) -> None:
        _check_frame(raw)
        self._raw = raw
        self._left = MAX_FIELDS
        self._sizes_left = MAX_SIZES
        self._texts_left = _MAX_TEXTS

    def fields(self, message: _Message, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(tag, first byte of the value, byte behind it) of each field between two bytes."""
        raw, names, singular = self._raw, message.names, message.singular
        seen = set[int]()
        while at < end:
            tag = raw[at]
            if tag not in names:
                raise _foreign(message, tag, at)
            if tag in singular:
                if tag in seen:
                    raise _twice(names[tag])
                seen.add(tag)
            self._left -= 1
            if self._left < 0:
                raise _malformed(f"it has more than {MAX_FIELDS} fields", at)
            start = at + 2
            if start <= end and raw[at + 1] < _MORE:  # nearly always: a number of one byte
                number = raw[at + 1]
            else:
                number, start = _varint(raw, at + 1, end)
            stop = start
            if tag & _WIRE_MASK == _LENGTH:
                stop += number
                if stop > end:
                    raise _malformed("a field in it is longer than what holds it", at)
                yield tag, start, stop
            else:
                yield tag, at + 1, stop
            at = stop

    def tensor(self, message: _Message, start: int, end: int, parameters: list[str]) -> _Tensor:
        """What is read of a tensor; the names of its parameters are added to the list."""
        raw, tensor = self._raw, _Tensor()
        for tag, at, stop in self.fields(message, start, end):
            if tag == _NAME:
                tensor.name = _text(raw, at, stop)
            elif tag == message.parameters:
                parameters.append(self.key(at, stop))
            elif tag in _SHAPE:
                self._add_sizes(tensor.sizes, at, stop)
            elif tag == _DATATYPE:
                tensor.datatype = raw[at:stop].decode(errors="replace")
            else:
                tensor.contents = at, stop
        return tensor

    def rows(self, tensor: _Tensor, behind: tuple[int, int] | None) -> int:
        """The inputs in a tensor. Its values stand in it, or raw, `behind` all tensors."""
        values = 0
        if tensor.datatype not in NUMBERS:
            start, end = tensor.contents
            if start < end:
                values = sum(tag == _TEXT for tag, _, _ in self.fields(_VALUES, start, end))
            if behind is not None:
                values = max(values, self._raw_texts(*behind))
        return rows_of(tensor.datatype, tensor.sizes, values)

    def key(self, start: int, end: int) -> str:
        """The name of one entry of a map of parameters."""
        name = ""
        for tag, at, stop in self.fields(_ENTRY, start, end):
            if tag == _KEY:
                name = _text(self._raw, at, stop)
        return name

    def _add_sizes(self, sizes: list[int], at: int, end: int) -> None:
        """The dimensions of a shape, of which there may be one or many between two bytes."""
        raw = self._raw
        while at < end:
            self._sizes_left -= 1
            if self._sizes_left < 0:
                detail = f"its tensors have more than {MAX_SIZES} dimensions; send fewer at once"
                raise _malformed(detail, at)
            size, at = (raw[at], at + 1) if raw[at] < _MORE else _varint(raw, at, end)
            if size >> 63 or len(sizes) == MAX_DIMENSIONS:
                detail = f"the shape of a tensor must be at most {MAX_DIMENSIONS} whole numbers"
                raise _FaultError(Fault(Reason.INVALID_PARAMETER, detail, param="inputs"))
            sizes.append(size)

    def _raw_texts(self, at: int, end: int) -> int:
        """How many texts there are, each with its length in four bytes.

        Of very many, and behind very many in other tensors, how many there are at most.
        """
        raw, found, most = self._raw, 0, min(MAX_FIELDS, self._texts_left)
        while at < end and found < most:
            at += _RAW_LENGTH + int.from_bytes(raw[at : at + _RAW_LENGTH], "little")
            found += 1
        self._texts_left -= found
        return found + max(0, end - at) // _RAW_LENGTH


def _check_frame(raw: bytes) -> None:
    if len(raw) < FRAME_BYTES:
        raise _malformed("it ends within the five bytes in front of a message", len(raw))
    if raw[0] == 1:
        raise _FaultError(Fault(Reason.UNSUPPORTED_ENCODING))
    if raw[0]:
        raise _malformed("its first byte is not that of a gRPC message", 0)
    said, there = int.from_bytes(raw[1:FRAME_BYTES]), len(raw) - FRAME_BYTES
    if said > there:
        raise _malformed("the message in it ends too early", len(raw))
    if said < there:
        raise _malformed("something stands behind the message in it", FRAME_BYTES + said)


def _varint(raw: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and the byte behind it. One with more bytes than it needs is none."""
    value = shift = 0
    for place in range(at, min(end, at + 10)):
        byte = raw[place]
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            if (byte == 0 and place > at) or value >> 64:
                raise _malformed("a number in it is written longer than it is", at)
            return value, place + 1
        shift += 7
    raise _malformed("a number in it has no end", at)


def _text(raw: bytes, start: int, end: int) -> str:
    """A name, as every reader reads it: UTF-8, nothing in it that cannot be seen."""
    if end - start > 4 * MAX_NAMED_CHARS:
        raise _malformed(f"a name in it has more than {MAX_NAMED_CHARS} characters", start)
    try:
        text = raw[start:end].decode()
    except UnicodeDecodeError as fault:
        raise _malformed("a name in it is not UTF-8", start + fault.start) from None
    if len(text) > MAX_NAMED_CHARS:
        raise _malformed(f"a name in it has more than {MAX_NAMED_CHARS} characters", start)
    if not text.isprintable():
        raise _malformed("a name in it holds characters that cannot be seen", start)
    return text


def _twice(name: str) -> _FaultError:
    return _FaultError(
        Fault(Reason.AMBIGUOUS_BODY, f"the field `{name}` stands in it twice", param=name)
    )


def _foreign(message: _Message, tag: int, at: int) -> _FaultError:
    """Why a tag is none of a message's."""
    number, wire = tag >> _WIRE_BITS, tag & _WIRE_MASK
    if tag >= _MORE:  # of several bytes
        return _malformed("it has a field that this protocol does not have", at)
    if wire in _GROUPS:
        return _malformed("it has a group, which this protocol does not have", at)
    if number == 0:
        return _malformed("it has a field without a number", at)
    known = {each >> _WIRE_BITS: name for each, name in message.names.items()}
    if number in known:
        return _malformed(f"the field `{known[number]}` in it is of another type", at)
    return _malformed("it has a field that this protocol does not have", at)
