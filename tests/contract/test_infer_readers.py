"""What is admitted of a gRPC call, the real protobuf library reads as we did.

A message is made by the library, then hurt at random: bytes changed, taken out and put in, fields
doubled, other messages appended. Where we read a model, the library must read the same one and
the same names; it may also refuse the message, which then reaches no model at all.
"""

from __future__ import annotations

from typing import Any

from contract.inference_protos import framed, message_class
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.infer import Infer, read_infer, read_model_name
from authz.model import Fault

REQUEST = message_class("ModelInferRequest")
READY = message_class("ModelReadyRequest")

names = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["m", "llama", "m:adapter", "sampling_parameters", "lora_name", "é€😀"]
)
parameter = st.one_of(
    st.builds(lambda v: {"bool_param": v}, st.booleans()),
    st.builds(lambda v: {"int64_param": v}, st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda v: {"string_param": v}, names),
    st.builds(lambda v: {"double_param": v}, st.floats(allow_nan=False)),
    st.builds(lambda v: {"uint64_param": v}, st.integers(0, 2**64 - 1)),
)
parameters = st.dictionaries(names, parameter, max_size=3)
contents = st.one_of(
    st.builds(lambda v: {"bytes_contents": v}, st.lists(st.binary(max_size=9), max_size=3)),
    st.builds(lambda v: {"int64_contents": v}, st.lists(st.integers(-(2**63), 2**63 - 1))),
    st.builds(lambda v: {"fp32_contents": v}, st.lists(st.floats(width=32, allow_nan=False))),
)
tensors = st.fixed_dictionaries(
    {"name": names, "shape": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)},
    optional={"datatype": names, "parameters": parameters, "contents": contents},
)
outputs = st.fixed_dictionaries({"name": names}, optional={"parameters": parameters})
requests = st.fixed_dictionaries(
    {"model_name": names},
    optional={
        "model_version": names,
        "id": names,
        "parameters": parameters,
        "inputs": st.lists(tensors, max_size=3),
        "outputs": st.lists(outputs, max_size=3),
        "raw_input_contents": st.lists(st.binary(max_size=40), max_size=3),
    },
)
messages = requests.map(lambda fields: bytes(REQUEST(**fields).SerializeToString()))

TAGS = st.sampled_from([b"\x0a", b"\x12", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x8a\x00", b"\x0b"])
LENGTHS = st.sampled_from([b"\x00", b"\x01", b"\x05", b"\x81\x00", b"\xff\xff\xff\xff\x0f"])


@st.composite
def hurt(draw: st.DrawFn) -> bytes:
    """A message of the library's with some bytes that it would not have written."""
    raw = bytearray(draw(messages))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(("change", "drop", "insert", "field", "join", "repeat"))):
            case "change" if at < len(raw):
                raw[at] = draw(st.integers(0, 255))
            case "drop":
                del raw[at : at + draw(st.integers(1, 4))]
            case "insert":
                raw[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "field":
                raw[at:at] = draw(TAGS) + draw(LENGTHS) + draw(st.binary(max_size=6))
            case "join":
                raw += draw(messages)
            case "repeat":
                raw += raw[at : at + draw(st.integers(1, 12))]
    return bytes(raw)


def parse(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError:
        return None


def names_of(message: Any) -> tuple[list[str], list[str]]:
    """The library's inputs and parameters; of a map it keeps the last of equal names."""
    holders = [message, *message.inputs, *message.outputs]
    inputs = [tensor.name for tensor in message.inputs]
    return inputs, sorted({name for holder in holders for name in holder.parameters})


def agree(reading: Infer, message: Any) -> None:
    assert (reading.model, reading.version) == (message.model_name, message.model_version)
    inputs, named = names_of(message)
    assert (list(reading.inputs), sorted(set(reading.parameters))) == (inputs, named)
    assert not UnknownFieldSet(message)
    for tensor in message.inputs:
        assert reading.rows >= max((1, *tensor.shape[:1], len(tensor.contents.bytes_contents)))


@settings(max_examples=200, deadline=None)
@given(messages)
def test_what_the_library_writes_is_read_alike(message: bytes) -> None:
    reading = read_infer(framed(message))
    if isinstance(reading, Infer):
        agree(reading, REQUEST.FromString(message))
    else:
        theirs = REQUEST.FromString(message)
        inputs, named = names_of(theirs)
        shown = [theirs.model_name, theirs.model_version, *inputs, *named]
        shown += [output.name for output in theirs.outputs]
        # refused for a name: none for the model, or one that cannot be seen; or for a shape
        plain = all(each.isprintable() for each in shown)
        plain = plain and all(size >= 0 for tensor in theirs.inputs for size in tensor.shape)
        assert not (plain and theirs.model_name and theirs.model_name.strip() == theirs.model_name)


@settings(max_examples=800, deadline=None)
@given(hurt())
def test_what_is_admitted_of_a_hurt_message_is_read_alike(message: bytes) -> None:
    reading = read_infer(framed(message))
    theirs = parse(REQUEST, message)
    if isinstance(reading, Infer) and theirs is not None:
        agree(reading, theirs)


@settings(max_examples=250, deadline=None)
@given(st.binary(max_size=60) | hurt())
def test_a_name_alone_is_read_alike(message: bytes) -> None:
    reading = read_model_name(framed(message))
    theirs = parse(READY, message)
    if isinstance(reading, Infer) and theirs is not None:
        assert (reading.model, reading.version) == (theirs.name, theirs.version)
        assert not UnknownFieldSet(theirs)


@settings(max_examples=250, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    assert isinstance(read_infer(raw), Infer | Fault)
    assert isinstance(read_model_name(raw), Infer | Fault)
