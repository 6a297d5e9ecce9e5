"""Requests of a MiB that took readers long once, or still take the most: by name, none random."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Final

from contract.inference_protos import framed

Sent = tuple[str, dict[str, str], bytes]
"""A path, headers, a body."""

MIB: Final = 1 << 20
_CHAT: Final = "/v1/chat/completions"
_GEMINI: Final = "/v1beta/models/llama-3.1-8b:"
_INFER: Final = "/v2/models/llama-3.1-8b/infer"
_PARTS: Final = ("text", "thought", "functionCall", "function_call", "functionResponse")
_DENSE: Final = {
    "numbers": "1",
    "lists": "[[1],[2]]",
    "nests": "[" * 900 + "]" * 900,
    "texts": '""',
    "objects": '{"a":1}',
}


def heavy() -> Iterator[tuple[str, Sent]]:
    """Each with its name."""
    for name, value in (
        ("long fractions with exponents", "1.7976931348623158079e308"),
        ("long fractions in texts", '"1.7976931348623158079e308"'),
        ("long fractions", "9007199254740993.00000000001"),
        ("floats", "5e-324"),
    ):
        yield name, _json(_CHAT, f'{{"model":"m","messages":[{_many(value)}]}}')
    for name, value in _DENSE.items():
        yield from _around(name, _many(value))
    yield from _members()
    yield from _messages()
    for name, query in (("a=b&", "a=b&"), ("%41=b&", "%41=b&"), ("a;", "a;"), ("%e2", "%e2")):
        yield f"a query of {name}", _json(f"{_CHAT}?{query * (31_000 // len(query))}", "{}")


def _around(name: str, dense: str) -> Iterator[tuple[str, Sent]]:
    """What is dense, behind all that is edited, before what is no JSON, beside what is mended."""
    said = '"max_tokens":null,"stream_options":null,"model":"m","stream":true,"messages":[]'
    decoys = '"x":{"max_tokens":null},"y":{"stream_options":null}'
    for what, text in (
        ("with three edits", f'{{{decoys},{said},"z":[{dense}]}}'),
        ("without an end", f'{{"model":"m","messages":[{dense}}}'),
        ("beside half of a pair", f'{{"model":"m","x":"\\ud800","messages":[{dense}]}}'),
        ("beside too large a number", f'{{"model":"m","messages":[{dense}],"x":1e999}}'),
        ("beside too deep a nest", f'{{"x":{"[" * 1030}{"]" * 1030},"z":[{dense}]}}'),
    ):
        yield f"{name} {what}", _json(_CHAT, text)


def _members() -> Iterator[tuple[str, Sent]]:
    """Many members, in each kind of object that is looked at."""
    tool = "{" + ",".join(f'"{at}":1' for at in range(64)) + "}"
    tools = f'{{"model":"m","messages":[],"tools":[{_many(tool)}]}}'
    yield "tools of 64 members", _json(_CHAT, tools)
    part = "{" + ",".join(f'"{name}":{{}}' for name in _PARTS) + "}"
    contents = f'{{"contents":[{{"parts":[{_many(part)}]}}]}}'
    yield "parts with calls", _json(f"{_GEMINI}generateContent", contents)
    numbers = count()
    requests = ",".join(
        "{" + ",".join(f'"{at}":1' for at in islice(numbers, 64)) + "}" for _ in range(1000)
    )
    yield (
        "requests of 64 members",
        _json(f"{_GEMINI}batchEmbedContents", f'{{"requests":[{requests}]}}'),
    )
    shape = ",".join(["9223372036854775807"] * 64)
    shapes = ",".join([f'{{"shape":[{shape}],"datatype":"BYTES"}}'] * 800)
    yield "tensors of 64 dimensions", _json(_INFER, f'{{"inputs":[{shapes}]}}')
    for letter in ("\u0130", "\u0390", "\u00df", "\\u0000"):
        name = letter * (MIB // len(letter.encode()))
        yield f"a name of {letter!a}", _json(_CHAT, f'{{"model":"m","{name}":1}}')


def _messages() -> Iterator[tuple[str, Sent]]:
    """The same in protobuf."""
    sizes = long_field(0x1A, b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f" * 64)
    texts = b"\x2a\x00" * 64 + long_field(0x3A, bytes(MIB // 64)) * 64
    for name, inside in (
        ("dimensions", long_field(0x2A, sizes) * 1700),
        ("raw texts", texts),
        ("tensors", b"\x2a\x00" * 4090 + long_field(0x3A, bytes(MIB))),
    ):
        raw = framed(b"\x0a\x01m" + inside)
        path = "/inference.GRPCInferenceService/ModelInfer"
        yield f"protobuf: {name}", (path, {"content-type": "application/grpc"}, raw)


def long_field(tag: int, inside: bytes) -> bytes:
    """A field of protobuf's with a length."""
    length, number = bytearray(), len(inside)
    while number >= 0x80:
        length.append(number & 0x7F | 0x80)
        number >>= 7
    length.append(number)
    return bytes([tag, *length]) + inside


def _json(path: str, text: str) -> Sent:
    return path, {"content-type": "application/json"}, text.encode()


def _many(value: str) -> str:
    return ",".join([value] * (MIB // (len(value) + 1)))
