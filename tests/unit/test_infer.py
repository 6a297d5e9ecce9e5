"""The strict reading of a gRPC call: one frame, one message, one meaning."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from authz.infer import MAX_FIELDS, MAX_NAMED_CHARS, MAX_SIZES, Infer, read_infer, read_model_name
from authz.model import Fault, Reason


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4) + message


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return bytes([number << 3 | 2]) + varint(len(raw)) + raw


def entry(key: str, value: bytes = b"") -> bytes:
    return field(1, key) + field(2, value)


def fault_of(message: bytes) -> Fault:
    reading = read_infer(framed(message))
    assert isinstance(reading, Fault), reading
    return reading


MODEL = field(1, "m")


# ── What passes ──────────────────────────────────────────────────────────────────────────────────


def test_a_call_with_everything_in_it() -> None:
    tensor = (
        field(1, "text")
        + field(2, "BYTES")
        + field(3, b"\x01\x80\x01")  # packed
        + b"\x18\x01"  # and not
        + field(4, entry("binary_data_size", b"\x10\x04"))
        + field(5, field(8, b"\x00\xff\xff"))
    )
    message = (
        field(5, tensor)
        + MODEL
        + field(2, "3")
        + field(3, "an id")
        + field(4, entry("priority", b"\x28\x01"))
        + field(6, field(1, "out") + field(2, entry("classification")))
        + field(7, b"\x00" * 4)
        + field(7, b"")
    )
    reading = read_infer(framed(message))
    named = ("binary_data_size", "priority", "classification")
    assert reading == Infer("m", "3", ("text",), named, rows=128)


def test_a_name_alone() -> None:
    assert read_model_name(framed(MODEL + field(2, "7"))) == Infer("m", "7")
    assert read_model_name(framed(MODEL)) == Infer("m")


@pytest.mark.parametrize("name", ["m", "a/b:c@1", "é€😀", "x" * 256])
def test_names_of_models(name: str) -> None:
    assert read_infer(framed(field(1, name))) == Infer(name)


def test_what_steers_the_server_is_named() -> None:
    message = (
        MODEL
        + field(4, entry("lora_name", field(3, "x")))
        + field(4, entry("timeout"))
        + field(5, field(1, "text_input"))
        + field(5, field(1, "sampling_parameters"))
        + field(5, field(1, "a") + field(4, entry("shared_memory_region")))
        + field(6, field(1, "b") + field(2, entry("shared_memory_region")))
    )
    reading = read_infer(framed(message))
    assert isinstance(reading, Infer)
    assert reading.controls == (
        "sampling_parameters",
        "lora_name",
        "shared_memory_region",
        "shared_memory_region",
    )


def tensor(datatype: str, *sizes: int, contents: bytes = b"") -> bytes:
    shape = field(3, b"".join(varint(size) for size in sizes))
    return field(5, field(1, "x") + field(2, datatype) + shape + field(5, contents))


def texts(*sizes: int) -> bytes:
    return b"".join(size.to_bytes(4, "little") + b"x" * size for size in sizes)


@pytest.mark.parametrize(
    ("message", "rows"),
    [
        (b"", 1),
        (tensor("FP32", 7, 512), 7),
        (tensor("FP32", 0, 512), 1),
        (tensor("FP32"), 1),
        (tensor("INT64", 1, 512) + tensor("INT64", 9), 9),
        (field(5, b"\x18\x06\x18\x02" + field(2, "INT32")), 6),  # a size, and another
        (tensor("BYTES", 5, 1), 5),
        (tensor("BYTES", 1, 5), 5),
        (tensor("BYTES", 1, contents=field(8, "a") * 4), 4),  # whatever the shape says
        (tensor("BYTES", 1) + field(7, texts(3, 0, 5)), 3),
        (tensor("BYTES", 1) + field(7, texts(3, 0) + b"\xff\xff\xff\xff"), 3),
        (tensor("FP32", 2) + tensor("BYTES", 1) + field(7, b"x" * 64) + field(7, texts(1, 1)), 2),
        (tensor("FP32", 2) + field(7, b"\0" * 64), 2),
        (tensor("bytes", 2, 3), 6),
        (field(5, field(1, "x")) + field(7, b"\0" * (4 * MAX_FIELDS + 80)), MAX_FIELDS + 20),
    ],
)
def test_rows_of_tensors_may_each_be_a_prompt(message: bytes, rows: int) -> None:
    reading = read_infer(framed(MODEL + message))
    assert isinstance(reading, Infer)
    assert reading.rows == rows


@pytest.mark.parametrize("sizes", [(2**64 - 1,), (1, 2**63), (1,) * 65])
def test_a_shape_that_is_none(sizes: tuple[int, ...]) -> None:
    fault = fault_of(MODEL + tensor("FP32", *sizes))
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "inputs")


# ── What could be read in another way ────────────────────────────────────────────────────────────

HERE = 5  # where the message begins
MALFORMED = {
    "a field of a later version": (MODEL + field(8, "x"), HERE + 3),
    "a field of a far later version": (MODEL + b"\x82\x01\x01x", HERE + 3),
    "a tag written too long": (b"\x8a\x00\x01m", HERE),
    "a name as a number": (b"\x08\x01", HERE),
    "a name as eight bytes": (b"\x09" + b"m" * 8, HERE),
    "a name as four bytes": (b"\x0dmmmm", HERE),
    "a group": (MODEL + b"\x0b\x0c", HERE + 3),
    "the end of a group": (MODEL + b"\x0c", HERE + 3),
    "field number zero": (MODEL + b"\x02\x01x", HERE + 3),
    "wire type six": (MODEL + b"\x0e\x01x", HERE + 3),
    "wire type seven": (MODEL + b"\x0f\x01x", HERE + 3),
    "a length that is cut off": (b"\x0a", HERE + 1),
    "a length that does not end": (b"\x0a\x81", HERE + 1),
    "a length of eleven bytes": (b"\x0a" + b"\x81" * 10 + b"\x01", HERE + 1),
    "a length beyond 64 bits": (b"\x0a" + b"\xff" * 9 + b"\x02", HERE + 1),
    "a length beyond the end": (b"\x0a\x02m", HERE),
    "a length that is huge": (b"\x0a" + b"\xff" * 9 + b"\x01", HERE),
    "a length written too long": (b"\x0a\x81\x00m", HERE + 1),
    "tensors beyond the end": (MODEL + b"\x3a\x05abcd", HERE + 3),
    "a name that is no UTF-8": (b"\x0a\x02m\xff", HERE + 3),
    "a name with half of a pair": (b"\x0a\x03\xed\xa0\x80", HERE + 2),
    "a name written too long": (b"\x0a\x02\xc0\xad", HERE + 2),
    "a NUL in a name": (field(1, "m\0x"), HERE + 2),
    "a line end in a name": (field(1, "m\n"), HERE + 2),
    "an endless name": (field(1, "m" * (MAX_NAMED_CHARS + 1)), HERE + 3),
    "an input that is a number": (MODEL + b"\x28\x01", HERE + 3),
    "a field of a tensor's later version": (MODEL + field(5, field(6, "x")), HERE + 5),
    "a tensor's name as a number": (MODEL + field(5, b"\x08\x01"), HERE + 5),
    "a tensor's name beyond the tensor": (MODEL + field(5, b"\x0a\x09x") + b"x" * 9, HERE + 5),
    "a tensor's name that is no UTF-8": (MODEL + field(5, b"\x0a\x01\xff"), HERE + 7),
    "an output's later field": (MODEL + field(6, field(3, "x")), HERE + 5),
    "an entry's later field": (MODEL + field(4, field(3, "x")), HERE + 5),
    "a parameter that is a number": (MODEL + b"\x20\x01", HERE + 3),
    "a shape with an endless number": (MODEL + field(5, b"\x18\x81"), HERE + 6),
}


@pytest.mark.parametrize(("message", "offset"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(message: bytes, offset: int) -> None:
    fault = fault_of(message)
    assert (fault.reason, fault.offset) == (Reason.MALFORMED_BODY, offset)
    assert fault.detail


TWICE = {
    "the model": (MODEL + MODEL, "model_name"),
    "another model": (MODEL + field(1, "other"), "model_name"),
    "no model, then one": (field(1, "") + MODEL, "model_name"),
    "the model, far behind": (MODEL + field(7, b"x" * 99) + field(1, "o"), "model_name"),
    "the version": (MODEL + field(2, "1") + field(2, "2"), "model_version"),
    "the id": (MODEL + field(3, "1") + field(3, "2"), "id"),
    "a tensor's name": (MODEL + field(5, field(1, "a") + field(1, "lora_name")), "name"),
    "a tensor's contents": (MODEL + field(5, field(5, b"") + field(5, b"")), "contents"),
    "an output's name": (MODEL + field(6, field(1, "a") + field(1, "b")), "name"),
    "a parameter's name": (MODEL + field(4, field(1, "a") + field(1, "lora_name")), "key"),
    "a parameter's value": (MODEL + field(4, entry("a") + field(2, b"")), "value"),
}


@pytest.mark.parametrize(("message", "param"), TWICE.values(), ids=TWICE)
def test_twice(message: bytes, param: str) -> None:
    fault = fault_of(message)
    assert (fault.reason, fault.param) == (Reason.AMBIGUOUS_BODY, param)


@pytest.mark.parametrize("message", [b"", field(2, "1"), field(1, ""), field(1, " m")])
def test_no_model(message: bytes) -> None:
    assert fault_of(message) == Fault(Reason.MODEL_REQUIRED, param="model_name")


@pytest.mark.parametrize(
    "message", [field(3, "x"), field(5, field(1, "a")), MODEL + MODEL, b"\x08\x01"]
)
def test_a_name_alone_is_read_as_strictly(message: bytes) -> None:
    assert isinstance(read_model_name(framed(message)), Fault)
    assert read_model_name(framed(b"")) == Fault(Reason.MODEL_REQUIRED, param="name")


FRAMES = {
    "nothing": (b"", 0),
    "not even a length": (b"\x00\x00\x00\x00", 4),
    "an unknown flag": (framed(MODEL, flag=2), 0),
    "an unknown bit": (framed(MODEL, flag=0x80), 0),
    "a message that is cut off": (framed(MODEL)[:-1], 7),
    "a length beyond the end": (b"\x00\xff\xff\xff\xff" + MODEL, 8),
    "a second message": (framed(MODEL) + framed(MODEL), 8),
    "a field behind": (framed(MODEL) + field(2, "1"), 8),
    "a byte behind": (framed(MODEL) + b"\x00", 8),
    "JSON": (b'{"model_name":"m"}', 0),
}


@pytest.mark.parametrize("read", [read_infer, read_model_name])
@pytest.mark.parametrize(("raw", "offset"), FRAMES.values(), ids=FRAMES)
def test_frames(read: type[read_infer], raw: bytes, offset: int) -> None:
    fault = read(raw)
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.offset) == (Reason.MALFORMED_BODY, offset)


def test_a_compressed_message_is_refused_as_such() -> None:
    assert read_infer(framed(MODEL, flag=1)) == Fault(Reason.UNSUPPORTED_ENCODING)


# ── What it costs ────────────────────────────────────────────────────────────────────────────────


def test_tensors_are_neither_walked_nor_copied() -> None:
    raw = framed(
        MODEL + field(5, field(5, field(8, b"x" * (8 << 20)))) + field(7, b"y" * (8 << 20))
    )
    tracemalloc.start()
    started = time.process_time()
    assert read_infer(raw) == Infer("m", "", ("",))
    took = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert took < 0.5


@pytest.mark.parametrize(
    "part",
    [
        field(7, b""),
        field(5, b""),
        field(4, b""),
        field(5, b"\x18\x01" * 9),
        field(6, field(2, b"")),
    ],
)
def test_the_number_of_fields_is_bounded(part: bytes) -> None:
    raw = framed(MODEL + part * (1 << 18))
    started = time.process_time()
    fault = read_infer(raw)
    assert time.process_time() - started < 2
    assert isinstance(fault, Fault)
    assert fault.detail == f"it has more than {MAX_FIELDS} fields"


@pytest.mark.parametrize("size", [b"\x02", b"\xff" * 8 + b"\x7f"])
def test_the_number_of_dimensions_is_bounded(size: bytes) -> None:
    tensor_of_64 = field(5, field(3, size * 64))
    many = framed(MODEL + tensor_of_64 * (MAX_SIZES // 64))
    assert isinstance(read_infer(many), Infer)
    fault = read_infer(framed(many[5:] + tensor_of_64))
    assert isinstance(fault, Fault)
    assert fault.reason is Reason.MALFORMED_BODY
    assert fault.offset == len(many) + len(tensor_of_64) - 64 * len(size)
    assert str(MAX_SIZES) in (fault.detail or "")


def test_behind_very_many_texts_as_many_are_counted_as_there_can_be() -> None:
    """Two raw tensors take up what is counted one by one; of the third all bytes count."""
    long, last = texts(*[0] * MAX_FIELDS), texts(4 * MAX_FIELDS)
    message = MODEL + field(5, b"") * 3 + field(7, long) * 2 + field(7, last)
    reading = read_infer(framed(message))
    assert isinstance(reading, Infer)
    assert reading.rows == MAX_FIELDS + 1
