"""The strict reading of a body: what any JSON reader agrees on passes, all else is refused."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz import body
from authz.body import Body, is_model_name, read_json
from authz.model import Fault, Reason
from authz.shapes import CHAT, NOTHING

DEEP = 1023  # arrays inside the object: together as deep as may be


def nested(depth: int) -> bytes:
    return b'{"model":"m","x":' + b"[" * depth + b"]" * depth + b"}"


def fault_of(raw: bytes) -> Fault:
    read = read_json(raw)
    assert isinstance(read, Fault), read
    return read


# ── What passes ──────────────────────────────────────────────────────────────────────────────────

ACCEPTED = {
    "compact": rb'{"model":"m"}',
    "spaces of all four kinds": b' \t\r\n{ "model"\t:\r"m"\n}\n \t',
    "model last": rb'{"messages":[{"model":"x","model":"y"}],"model":"m"}',
    "escaped name": rb'{"\u006dodel":"m"}',
    "escaped value": rb'{"model":"\u006d"}',
    "escaped solidus": rb'{"model":"m","x":"\/\b\f\n\r\t\"\\"}',
    "empty containers": rb'{"model":"m","a":{},"b":[],"c":"","":""}',
    "literals": rb'{"model":"m","a":[true,false,null]}',
    "numbers": rb'{"model":"m","a":[0,-0,1,-1,0.5,-0.5e-10,1E+2,1e2,1e-400]}',
    "largest doubles": rb'{"model":"m","a":[1.7976931348623157e308,5e-324]}',
    "64 bits": rb'{"model":"m","a":[18446744073709551615,-9223372036854775808]}',
    "beyond 64 bits": rb'{"model":"m","a":[18446744073709551616,-9223372036854775809]}',
    "many digits": b'{"model":"m","a":1' + b"0" * 400 + b"}",
    "digits in a string": rb'{"model":"m","a":"18446744073709551616, 0123456789012345678901"}',
    "depth": nested(DEEP),
    "UTF-8": '{"model":"m","x":"é€😀\u2028\u0085"}'.encode(),
    "noncharacters": '{"model":"m","x":"\ufffe\uffff\U0010ffff"}'.encode(),
    "surrogate pair": rb'{"model":"m","x":"\ud83d\ude00"}',
    "NUL escape in content": rb'{"model":"m","x":"\u0000"}',
    "delete": b'{"model":"m","x":"\x7f"}',
    "BOM in content": '{"model":"m","x":"\ufeff"}'.encode(),
    "long name": b'{"model":"m","' + b"n" * 5000 + b'":1}',
    "names that are near": rb'{"model":"m","model_":1,"mode":2,"model ":3,"stream_options":{}}',
    "nested twins": rb'{"model":"m","x":{"model":1,"MODEL":2,"a":1,"a":2}}',
}
LONE = {
    "high": rb'{"model":"m","x":"a\ud800b"}',
    "low": rb'{"model":"m","x":"a\udfffb"}',
    "high, then an escape": rb'{"model":"m","x":"\uD800\u0041\n"}',
    "high, high, low": rb'{"model":"m","x":"\ud800\ud83d\ude00"}',
    "high, low, low": rb'{"model":"m","x":"\ud83d\ude00\ude00"}',
    "low, high": rb'{"model":"m","x":"\ude00\ud83d"}',
    "after an escaped backslash": rb'{"model":"m","x":"\\\ud800"}',
    "in a nested name": rb'{"model":"m","x":{"\ud800":1}}',
    "with a large integer": rb'{"model":"m","x":["\ud800",99999999999999999999]}',
    "many": b'{"model":"m","x":"' + rb"\ud800" * 5000 + b'"}',
}


@pytest.mark.parametrize("raw", [*ACCEPTED.values(), *LONE.values()], ids=[*ACCEPTED, *LONE])
def test_accepted(raw: bytes) -> None:
    assert read_json(raw) == Body("m", stream=False)


@pytest.mark.parametrize(("name", "raw"), [*ACCEPTED.items(), *LONE.items()])
def test_accepted_by_python_too(name: str, raw: bytes) -> None:
    if name != "depth":  # there it fails, but does not misread
        assert json.loads(raw)["model"] == "m"


def test_what_looks_like_a_lone_surrogate_is_none_behind_a_backslash() -> None:
    assert read_json(rb'{"model":"m\\ud800"}') == Body("m\\ud800", stream=False)
    lone_elsewhere = rb'{"model":"m\\ud800","x":"\ud800"}'
    assert read_json(lone_elsewhere) == Body("m\\ud800", stream=False)


@pytest.mark.parametrize(
    ("text", "stream"), [("true", True), ("false", False), ("null", False), ("true  ", True)]
)
def test_stream(text: str, stream: bool) -> None:
    assert read_json(f'{{"stream":{text},"model":"m"}}'.encode()) == Body("m", stream)


@pytest.mark.parametrize("text", ['"true"', "1", "0", '""', "[]", "{}", "1.0", '"false"'])
def test_a_stream_that_servers_could_coerce_is_refused(text: str) -> None:
    fault = fault_of(f'{{"stream":{text},"model":"m"}}'.encode())
    assert (fault.reason, fault.param) == (Reason.INVALID_PARAMETER, "stream")


# ── What is not JSON: the byte is named ──────────────────────────────────────────────────────────

HERE = b"<here>"  # marks, in the cases below, the byte that is to be named
MALFORMED = {
    "empty": b"<here>",
    "blank": b"<here> \r\n\t",
    "not an object": b'<here>["model"]',
    "a string": b'<here>"model"',
    "a number": b"<here>1",
    "null": b"<here>null",
    "bare word": b"<here>model",
    "form": b"<here>model=m&stream=true",
    "byte order mark": b'<here>\xef\xbb\xbf{"model":"m"}',
    "two byte order marks": b'<here>\xef\xbb\xbf\xef\xbb\xbf{"model":"m"}',
    "UTF-16, big end": b"<here>" + '{"model":"m"}'.encode("utf-16-be"),
    "UTF-16, little end": b"{<here>" + '{"model":"m"}'.encode("utf-16-le")[1:],
    "UTF-16 with mark": b"<here>" + '{"model":"m"}'.encode("utf-16"),
    "UTF-32 with mark": b"<here>" + '{"model":"m"}'.encode("utf-32"),
    "gzip": b"\x1f<here>\x8b\x08\x00\x00",
    "no end": b'{"model":"m"<here>',
    "no value": b'{"model":<here>',
    "open string": b'{"model":"m<here>',
    "open escape": b'{"model":"m\\<here>',
    "open object": b"{<here>",
    "no colon": b'{"model"<here>"m"}',
    "no comma": b'{"model":"m"<here>"x":1}',
    "two colons": b'{"model":<here>:"m"}',
    "two commas": b'{"model":"m",<here>,"x":1}',
    "comma at the end": b'{"model":"m",<here>}',
    "comma at the start": b'{<here>,"model":"m"}',
    "comma at a list's end": b'{"model":"m","x":[1,<here>]}',
    "single quotes": b"{<here>'model':'m'}",
    "no quotes": b'{<here>model:"m"}',
    "number as a name": b'{<here>1:2,"model":"m"}',
    "wrong bracket": b'{"model":"m","x":[1<here>}}',
    "second value": b'{"model":"m"}<here>{"model":"n"}',
    "second line": b'{"model":"m"}\n<here>{"model":"n"}\n',
    "trailing word": b'{"model":"m"} <here>x',
    "trailing bracket": b'{"model":"m"}<here>}',
    "trailing comma": b'{"model":"m"}<here>,',
    "trailing NUL": b'{"model":"m"}<here>\x00',
    "leading NUL": b'<here>\x00{"model":"m"}',
    "record separator": b'<here>\x1e{"model":"m"}',
    "NUL in a string": b'{"model":"m<here>\x00"}',
    "NUL between": b'{"model":<here>\x00"m"}',
    "tab in a string": b'{"model":"m","x":"<here>\t"}',
    "line in a string": b'{"model":"m","x":"a<here>\n"}',
    "block comment": b'{"model":"m"<here>/* x */}',
    "line comment": b'<here>// x\n{"model":"m"}',
    "hash comment": b'{"model":"m"}<here># x',
    "no-break space": b'{"model":"m"<here>\xc2\xa0}',
    "vertical tab": b'{"model":"m"<here>\x0b}',
    "form feed": b'{<here>\x0c"model":"m"}',
    "NaN": b'{"model":"m","x":<here>NaN}',
    "Infinity": b'{"model":"m","x":<here>Infinity}',
    "-Infinity": b'{"model":"m","x":-<here>Infinity}',
    "True": b'{"model":"m","x":<here>True}',
    "undefined": b'{"model":"m","x":<here>undefined}',
    "plus": b'{"model":"m","x":<here>+1}',
    "minus alone": b'{"model":"m","x":-<here>}',
    "no digit before the point": b'{"model":"m","x":<here>.5}',
    "no digit behind the point": b'{"model":"m","x":1.<here>}',
    "no digit in the exponent": b'{"model":"m","x":1e<here>}',
    "leading zero": b'{"model":"m","x":0<here>1}',
    "hexadecimal": b'{"model":"m","x":0<here>x10}',
    "underscore": b'{"model":"m","x":1<here>_000}',
    "unknown escape": b'{"model":"m","x":"\\<here>x41"}',
    "escaped quote": b'{"model":"m","x":"\\<here>\'"}',
    "short escape": b'{"model":"m","x":"\\u12<here>"}',
    "escape that is none": b'{"model":"m","x":"\\u12<here>g4"}',
    "large escape": b'{"model":"m","x":"\\<here>U0001F600"}',
    "lone byte": b'{"model":"m","x":"<here>\xff"}',
    "continuation byte": b'{"model":"m","x":"<here>\x80"}',
    "overlong": b'{"model":"<here>\xc1\xad"}',
    "overlong NUL": b'{"model":"m<here>\xc0\x80"}',
    "encoded surrogate": b'{"model":"m","x":"<here>\xed\xa0\x80"}',
    "beyond Unicode": b'{"model":"m","x":"<here>\xf4\x90\x80\x80"}',
    "cut character": b'{"model":"m","x":"<here>\xe2\x82"}',
    "Latin-1": b'{"model":"m","x":"caf<here>\xe9"}',
    "too deep": nested(DEEP + 1).replace(b"[]", b"<here>[]"),
    "far too deep": b"[" * 1024 + b"<here>" + b"[" * 99_000,
    "beyond a double": b'{"model":"m","x":<here>1e999}',
    "far beyond a double": b'{"model":"m","x":[1,<here>-1e99999999]}',
    "absurdly beyond a double": b'{"model":"m","x":<here>1e99999999999999999999}',
    "a broken integer": b'{"model":"m","x":0<here>123456789012345678901234}',
}


@pytest.mark.parametrize("marked", MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_names_the_byte(marked: bytes) -> None:
    fault = fault_of(marked.replace(HERE, b""))
    assert (fault.reason, fault.offset) == (Reason.MALFORMED_BODY, marked.index(HERE))
    assert fault.detail


@pytest.mark.parametrize("literal", ["tru", "fals3", "nulL", "truth"])
def test_a_literal_that_is_cut_is_named_where_it_stands(literal: str) -> None:
    raw = f'{{"model":"m","x":{literal}}}'.encode()
    fault = fault_of(raw)
    assert fault.reason is Reason.MALFORMED_BODY
    assert 17 <= (fault.offset or 0) <= 17 + len(literal)


def test_behind_a_mended_part_the_byte_is_still_the_clients() -> None:
    raw = rb'{"model":"m","x":["\ud800",123456789012345678901234567890,?]}'
    assert fault_of(raw).offset == raw.index(b"?")


def test_details_hold_none_of_the_clients_words() -> None:
    for marked in MALFORMED.values():
        detail = fault_of(marked.replace(HERE, b"")).detail
        assert "model" not in detail
        assert "m&stream" not in detail


def test_more_members_than_any_api_has_are_refused() -> None:
    def members(count: int) -> bytes:
        return json.dumps({"model": "m"} | {f"n{i}": i for i in range(count - 1)}).encode()

    assert read_json(members(body.MAX_MEMBERS)) == Body("m", stream=False)
    assert fault_of(members(body.MAX_MEMBERS + 1)).reason is Reason.MALFORMED_BODY


# ── What could be read in two ways ───────────────────────────────────────────────────────────────

AMBIGUOUS = {
    "model twice": (rb'{"model":"m","model":"n"}', "model"),
    "model twice alike": (rb'{"model":"m","model":"m"}', "model"),
    "model twice, once escaped": (rb'{"model":"m","m\u006fdel":"n"}', "model"),
    "stream twice": (rb'{"stream":true,"model":"m","stream":false}', "stream"),
    "one that bounds the cost, twice": (rb'{"model":"m","n":1,"n":2}', None),
    "another twice": (rb'{"model":"m","x":1,"x":2}', None),
    "the empty name twice": (rb'{"":1,"model":"m","":2}', None),
    "upper case": (rb'{"model":"m","MODEL":"n"}', "model"),
    "upper case alone": (rb'{"Model":"n"}', "model"),
    "upper case, escaped": (rb'{"model":"m","\u004dodel":"n"}', "model"),
    "long s": ('{"model":"m","\N{LATIN SMALL LETTER LONG S}tream":true}'.encode(), "stream"),
    "long s, escaped, upper case": (rb'{"model":"m","\u017fTREAM":true}', "stream"),
    "ligature st": ('{"model":"m","\N{LATIN SMALL LIGATURE ST}ream":true}'.encode(), "stream"),
    "NUL at the end": (rb'{"model":"m","model\u0000":"n"}', "model"),
    "NUL and more": (rb'{"model":"m","STREAM\u0000s":"n"}', "stream"),
    "half a pair in a name": (rb'{"model":"m","mod\ud800el":"n"}', None),
    "half a pair as a name": (rb'{"model":"m","\udc00":1}', None),
}


@pytest.mark.parametrize(("raw", "param"), AMBIGUOUS.values(), ids=list(AMBIGUOUS))
def test_ambiguous(raw: bytes, param: str | None) -> None:
    for _ in range(2):  # also when the names were seen before
        fault = fault_of(raw)
        assert (fault.reason, fault.param) == (Reason.AMBIGUOUS_BODY, param)


def test_names_with_a_k_fold_the_kelvin_sign() -> None:
    """As Go folds it."""
    read = read_json('{"model":"m","Max_to\N{KELVIN SIGN}ens":5}'.encode(), CHAT)
    assert isinstance(read, Fault)
    assert (read.reason, read.param) == (Reason.AMBIGUOUS_BODY, "max_tokens")


def test_what_was_clean_once_is_judged_anew_with_other_names() -> None:
    for _ in range(3):
        assert read_json(b'{"model":"m","messages":1}') == Body("m", stream=False)
        assert fault_of(b'{"model":"m","messages":1,"Model":1}').reason is Reason.AMBIGUOUS_BODY
        lone = b'{"model":"m","messages":1,"\xef\xbf\xbd":1}'
        assert read_json(lone) == Body("m", stream=False)
        assert fault_of(lone.replace(b"\xef\xbf\xbd", rb"\ud800")).reason is Reason.AMBIGUOUS_BODY


# ── The model ────────────────────────────────────────────────────────────────────────────────────

NO_MODEL = {
    "none": rb'{"messages":[]}',
    "empty object": rb"{}",
    "null": rb'{"model":null}',
    "a number": rb'{"model":1}',
    "a list": rb'{"model":["m"]}',
    "an object": rb'{"model":{"name":"m"}}',
    "true": rb'{"model":true}',
    "empty": rb'{"model":""}',
    "blank": rb'{"model":" "}',
    "space in front": rb'{"model":" m"}',
    "space behind": rb'{"model":"m "}',
    "NUL": rb'{"model":"m\u0000"}',
    "line": rb'{"model":"m\nx-forged: 1"}',
    "right-to-left override": rb'{"model":"m\u202e"}',
    "zero width": rb'{"model":"m\u200b"}',
    "half a pair": rb'{"model":"m\ud800"}',
    "no-break space": rb'{"model":"m\u00a0n"}',
    "half a pair as such": rb'{"model":"\udfff"}',
    "257 characters": b'{"model":"' + b"m" * 257 + b'"}',
    "digits that were mended away": rb'{"model":"m 12345678901234567890 ","x":"\ud800"}',
    "digits, mended": rb'{"model":"m 12345678901234567890 n","x":123456789012345678901}',
}


@pytest.mark.parametrize("raw", NO_MODEL.values(), ids=list(NO_MODEL))
def test_no_model(raw: bytes) -> None:
    fault = fault_of(raw)
    assert (fault.reason, fault.param) == (Reason.MODEL_REQUIRED, "model")


@pytest.mark.parametrize(
    "name", ["m", "org/model:tag@v1.0", "Ünï-模型", "m" * 256, "a b", "12345678901234567890"]
)
def test_models_names(name: str) -> None:
    assert is_model_name(name)
    assert read_json(json.dumps({"model": name}).encode()) == Body(name, stream=False)


# ── Properties ───────────────────────────────────────────────────────────────────────────────────

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
NAMES = st.one_of(st.just("model"), st.just("stream"), st.text(max_size=6))
WRITERS: list[Callable[[Any], str]] = [
    json.dumps,
    lambda value: json.dumps(value, separators=(",", ":")),
    lambda value: json.dumps(value, indent="\t"),
]


def is_clean(name: str) -> bool:
    ours = NOTHING.members.ours
    return name in ours or name.partition("\0")[0].casefold() not in ours


@settings(max_examples=150)
@given(
    content=st.dictionaries(NAMES.filter(is_clean), VALUES, max_size=5),
    model=st.one_of(st.none(), st.text(max_size=20)),
    write=st.sampled_from(WRITERS),
)
def test_what_python_writes_is_read_alike(
    content: dict[str, Any], model: str | None, write: Callable[[Any], str]
) -> None:
    if model is not None:
        content["model"] = model
    read = read_json(write(content).encode())
    named, stream = content.get("model"), content.get("stream")
    if not isinstance(named, str) or not is_model_name(named):
        assert read == Fault(Reason.MODEL_REQUIRED, param="model")
    elif stream is not None and not isinstance(stream, bool):
        assert isinstance(read, Fault)
        assert read.reason is Reason.INVALID_PARAMETER
    else:
        assert read == Body(named, stream is True)


class Read(msgspec.Struct):
    model: str
    stream: bool | None = None


def readings(raw: bytes) -> list[tuple[object, bool]]:
    """(model, stream) as Python reads them, the last of twins winning and the first."""

    def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    found = []
    for hook in (dict, first_wins):
        read = json.loads(raw.decode("utf-8"), object_pairs_hook=hook, parse_constant=refuse)
        found.append((read["model"], read.get("stream") is True))
    return found


SEEDS = [
    rb'{"model":"m-1","stream":true,"messages":[{"role":"user","content":"hi \ud83d\ude00"}]}',
    rb'{"messages":[{"content":"\ud800"}],"n":12345678901234567890123,"model":"m"}',
    rb'{ "stream" : false , "model" : "org/m:latest" , "x" : [ -1.5e3 , null ] }',
]
BITS = [bytes([byte]) for byte in b'{}[]",:\\ \t\r\n\x00\xff\xefumodelstreamSM019.-+eE/ud8'] + [
    b'"model":"n",',
    b'"MODEL":"n",',
    b'"stream":true,',
    rb"\ud800",
    rb"\u006d",
    b"\xef\xbb\xbf",
    b"12345678901234567890",
    b"1e999",
    b"[[",
]
EDITS = st.lists(
    st.tuples(st.integers(0, 120), st.integers(0, 3), st.sampled_from([b"", *BITS])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=600)
@given(seed=st.sampled_from(SEEDS), edits=EDITS)
@example(seed=SEEDS[0], edits=[(1, 0, b'"model":"n",')])
@example(seed=b'{"model":"a 12345678901234567890 b","y":"\\ud800"}', edits=[(0, 0, b"")])
def test_what_passes_mutated_reads_alike_everywhere(
    seed: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    """No mutation raises, and whatever passes is the same model and stream to other readers."""
    raw = seed
    for at, removed, put in edits:
        raw = raw[:at] + put + raw[at + removed :]
    read = read_json(raw)
    if isinstance(read, Fault):
        assert read.offset is None or 0 <= read.offset <= len(raw)
        return
    assert readings(raw) == [(read.model, read.stream)] * 2
    if rb"\u" not in raw:  # msgspec knows no lone surrogates
        other = msgspec.json.decode(raw, type=Read)
        assert (other.model, other.stream is True) == (read.model, read.stream)


@settings(max_examples=300)
@given(raw=st.binary(max_size=60))
def test_no_bytes_raise(raw: bytes) -> None:
    assert isinstance(read_json(raw), Body | Fault)


# ── Cost and threads ─────────────────────────────────────────────────────────────────────────────

MIB = 1 << 20
HOSTILE: dict[str, bytes] = {
    "members": b'{"model":"m"' + b"".join(b',"%d":1' % i for i in range(100_000)) + b"}",
    "a twin behind many": b'{"model":"m"'
    + b"".join(b',"%d":1' % i for i in range(100_000))
    + b',"x":1,"x":2}',
    "brackets": b"[" * MIB,
    "objects": b'{"a":' * (MIB // 5),
    "digits": b'{"model":"m","x":' + b"9" * MIB + b"e1}",
    "short digits": b'{"model":"m","x":"' + b"123456789012345678 " * (MIB // 19) + b'\\ud800"}',
    "quotes": b'{"model":"m","x":' + b"[" * 1000 + b'"' + b'\\"' * (MIB // 2),
    "backslashes": b'{"model":"m","y":"\\ud800","x":"' + b"\\\\" * (MIB // 2) + b'"}',
    "halves": b'{"model":"m","x":"' + b"\\ud800" * (MIB // 6) + b'"}',
    "pairs and a half": b'{"model":"m","x":"' + b"\\ud83d\\ude00" * (MIB // 12) + b'\\ud800"}',
    "large integers": b'{"model":"m","x":[' + b"12345678901234567890," * (MIB // 21) + b"1]}",
    "lists, then trouble": b'{"model":"m","x":[' + b"[]," * (MIB // 3) + b"1e999]}",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=list(HOSTILE))
def test_no_mebibyte_takes_long(raw: bytes) -> None:
    """Each takes 50 ms at most; what is quadratic would take minutes."""
    started = time.perf_counter()
    assert isinstance(read_json(raw), Body | Fault)
    assert time.perf_counter() - started < 2


def test_a_long_prompt_is_read_in_no_time() -> None:
    prompt = {"model": "m", "messages": [{"role": "user", "content": "word\n\té😀" * 400_000}]}
    raw = json.dumps(prompt, ensure_ascii=False).encode()
    assert len(raw) > 4 * MIB
    started = time.perf_counter()
    assert read_json(raw) == Body("m", stream=False)
    assert time.perf_counter() - started < 1


def test_no_buffer_of_a_large_body_is_kept() -> None:
    """A parser keeps ten times the largest body that it read: that of a large one is not ours."""
    kept = body._parsers.kept
    small = kept.parse(b'{"model":"held"}')
    large = b'{"model":"m","x":"' + b"x" * MIB + b'"}'
    assert read_json(large) == Body("m", stream=False)
    assert body._parsers.kept is kept  # which would have been left alone, had it been asked
    assert small["model"] == "held"


def test_a_parser_that_is_still_in_use_is_left_alone() -> None:
    """simdjson refuses to read on while somebody holds what it read before."""
    parser = body._parsers.kept
    held = parser.parse(b'{"model":"held"}')
    assert read_json(b'{"model":"m"}') == Body("m", stream=False)
    assert body._parsers.kept is not parser
    assert held["model"] == "held"


def test_threads_do_not_see_each_others_bodies() -> None:
    wrong: list[object] = []

    def ask(name: str) -> None:
        raw = json.dumps({"x": [name] * 20, "model": name}).encode()
        for _ in range(300):
            read = read_json(raw)
            if read != Body(name, stream=False):
                wrong.append(read)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=ask, args=(f"model-{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
