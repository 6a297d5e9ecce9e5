"""What hostile clients could send, read for so many seconds: `python fuzzing.py SECONDS`.

Made and mutated requests go through `wire`, `reading`, `body`, `form`, `infer`, `ask`, `bound` and
`continuous`, as the service calls them. It ends with 1 and says what it was if anything but a
reading or a refusal comes out, if an input takes more CPU time than is stated here, or more memory.
"""

from __future__ import annotations

import random
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import simdjson
from contract import test_form_readers as forms
from contract import test_infer_readers as infers
from contract import test_json_readers as jsons
from contract.inference_protos import framed
from heavy import Sent, heavy, long_field
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from json_samples import DOUBTED, MODEL, real, written
from support import bearer, message, minted

from authz.model import Fault, Reason
from authz.pb.auth_pb2 import CheckRequest

MIB: Final = 1 << 20
SECONDS_A_MIB: Final = 0.010  # what is aimed at; the slowest is printed
SECONDS_AT_LEAST: Final = 0.010  # of any request: a machine may be busy
ROOM: Final = 768 * MIB  # beyond what the programs and the corpora take: for bodies of some MiB
SLACK: Final = 1.25  # one in thousands is read three times, once for each change of it
QUIET_SECONDS: Final = 0.0122  # what `work` takes on the machine that the aim was set on, idle
TRIES: Final = 8

_KEY: Final = bearer(minted(1))
_JSON: Final = {"content-type": "application/json"}
_GRPC: Final = {"content-type": "application/grpc"}
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_READY: Final = "/inference.GRPCInferenceService/ModelReady"
_FORMS: Final = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits")


def read(asked: CheckRequest) -> None:
    """Read a request as the service does; whatever is wrong with it is a Fault of ours."""
    request = jsons.READER.read(asked)
    raw = asked.attributes.request.http.raw_body
    if isinstance(request.body, Fault):
        assert request.body.reason in Reason
        assert request.body.offset is None or 0 <= request.body.offset <= len(raw)
        return
    if request.endpoint is not None and request.endpoint.reads_model:
        assert request.model
    for _ in jsons.changes(request, raw):
        pass


def judge(sent: Sent) -> float:
    """Read it; the CPU seconds that it took, the least of some tries if the first took long.

    Seconds are those of a quiet machine: a try that took long is held against work of a known
    length, done right before and after it.
    """
    path, headers, raw = sent
    asked = message(path, _KEY | headers, raw)
    most = SLACK * max(SECONDS_AT_LEAST, len(raw) / MIB * SECONDS_A_MIB)
    least = _timed(lambda: read(asked))
    for tries in range(1, TRIES):
        if least <= most:
            break
        time.sleep(0.02 * tries)  # what else runs here may be done by then
        before, took, after = _timed(work), _timed(lambda: read(asked)), _timed(work)
        least = min(least, took / max(1.0, (before + after) / 2 / QUIET_SECONDS))
    shown = f"{path}, {headers}, {len(raw)} bytes: {raw[:300]!r}"
    assert least <= most, f"{least * 1000:.1f} ms for {shown}"
    return least


def slowest(most: int = 10) -> Iterator[str]:
    """What of `heavy` takes the longest: printed, not judged; also of it nothing may be raised."""
    found = []
    for name, (path, headers, raw) in heavy():
        asked = message(path, _KEY | headers, raw)
        took = min(_timed(lambda asked=asked: read(asked)) for _ in range(3))  # type: ignore[misc]
        found.append((took / max(1.0, _timed(work) / QUIET_SECONDS), name))
    for took, name in sorted(found, reverse=True)[:most]:
        yield f"{took * 1000:.1f} ms: {name}\n"


def work() -> None:
    """What readings are made of: a parse into fresh memory, a copy, names, a search."""
    document = simdjson.Parser().parse(_WORK)
    names = [tuple(item) for item in document["items"]]
    assert len(set(names)) == 1
    assert re.search(rb'"none"', _WORK + b" ") is None


_WORK: Final = b'{"items":[' + b",".join([b'{"role":"user","content":"1,1"}'] * (MIB // 32)) + b"]}"


def _timed(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


# ── Small requests, mutated and made ─────────────────────────────────────────────────────────────


def mutated(rng: random.Random) -> Sent:
    """A request of the corpora with bytes changed; sometimes to a path or as a type not its own."""
    kind = rng.randrange(4)
    if kind < 2:
        row, raw = jsons.mutate(rng)
        path, headers = row.path, dict(_JSON)
    elif kind == 2:
        content_type, raw = forms.mutate(rng)
        path, headers = rng.choice(_FORMS), {"content-type": content_type}
    else:
        path, headers = rng.choice((_INFER, _READY)), dict(_GRPC)
        raw = _hurt(rng, rng.choice(_MESSAGES))
    if rng.random() < 0.1:
        path = rng.choice((path, rng.choice(jsons.ALL).path)) + rng.choice(_TAILS)
        headers[rng.choice(_NAMES)] = rng.choice(_VALUES)
    return path, headers, raw


_TAILS: Final = (
    *("?model=x", "?model=" + MODEL, "?a=%ff&model[]=%00", "?;;;model=", "/", "//", "%2e", ";a=b"),
    *("\0", "\ud800".encode("utf-8", "replace").decode(), "?" + "&" * 2000, "?%", "#model=x"),
)
_NAMES: Final = ("content-type", "content-encoding", jsons.JSON_LENGTH, "x-api-key", "x-request-id")
_VALUES: Final = (
    "",
    "0",
    "7",
    "99999999999",
    "-1",
    "application/grpc",
    "gzip",
    "a\xe9",
    "x" * 3000,
)
_MESSAGES: Final = [
    infers.REQUEST(
        model_name=MODEL,
        model_version="1",
        inputs=[{"name": "a", "shape": [1, 2], "datatype": "FP32"}, {"name": "lora_name"}],
        outputs=[{"name": "b"}],
        parameters={"priority": {"int64_param": 1}},
        raw_input_contents=[b"abc", b""],
    ).SerializeToString(),
    infers.READY(name=MODEL, version="2").SerializeToString(),
]


def _hurt(rng: random.Random, plain: bytes) -> bytes:
    raw = bytearray(framed(plain))
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(raw) + 1)
        raw[at : at + rng.choice((0, 1, 1, 3))] = rng.randbytes(rng.choice((0, 1, 1, 3)))
    if rng.random() < 0.7:  # a frame of the right length, so that the message is read
        raw[:5] = framed(bytes(raw[5:]))[:5]
    return bytes(raw)


_bodies: Final = st.one_of(
    jsons.made().map(lambda made: (made[0].path, _JSON, made[1])),
    forms.made().map(lambda made: (_FORMS[0], {"content-type": made[0]}, made[1])),
    infers.hurt().map(lambda raw: (_INFER, _GRPC, framed(raw))),
    st.tuples(
        st.sampled_from([row.path for row in jsons.ALL]), st.just(_JSON), st.binary(max_size=200)
    ),
)


def made(number: int) -> None:
    """Some hundred requests that Hypothesis makes; what fails it makes small."""

    @seed(number)
    @settings(
        max_examples=200,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_bodies)
    def each(sent: Sent) -> None:
        judge(sent)

    each()


# ── Large requests, of what could take long ──────────────────────────────────────────────────────

Build = Callable[[random.Random, int], Any]


def _fill(unit: str | bytes, size: int, between: str = ",") -> str:
    text = unit.decode() if isinstance(unit, bytes) else unit
    return between.join([text] * max(1, size // (len(text) + len(between))))


_UNITS: Final = (
    *("1", "-0.5e-7", "12345678901234567890", "9" * 400, "1" + "0" * 30, "null", "[]", "{}", '""'),
    *('"\\u0041"', '"\\ud800"', '"\\\\\\""', '"\\ud83d\\ude00"', '"' + "x" * 200 + '"', '"é"'),
    *('{"a":{"b":[1]}}', '{"type":"text","text":"a"}', '{"role":"user","content":"a"}'),
    *('{"role":"user","content":[{"type":"text","text":"a"}]}', '{"name":"a","parameters":{}}'),
    *('{"type":"function","function":{"name":"f"}}', '{"text":"a"}', '{"parts":[{"text":"a"}]}'),
    *('{"stream_options":{"include_usage":false}}', '{"options":{"num_predict":null}}'),
    *(
        '{"max_tokens":null}',
        '"\\"stream_options\\":{"',
        "[" * 900 + "]" * 900,
        "[1,2,3]",
        "[[1],[2]]",
    ),
    "{" + ",".join(f'"m{at}":1' for at in range(64)) + "}",
    "{" + ",".join(f'"Model{at}":1' for at in range(200)) + "}",
    '{"' + "\u212a" * 50 + '":"\\u0000"}',
)


def _large_json(rng: random.Random, size: int) -> Sent:
    """A real body with one member made large."""
    row = rng.choice(jsons.ALL)
    body = dict(rng.choice(real(row.endpoint.name)))
    known = [*row.shape.input, *row.names, "messages", "tools", "inputs", "outputs", "x"]
    name = rng.choice([each for each in known if each]).partition(".")[0]
    text = _fill(rng.choice((*_UNITS, rng.choice(DOUBTED))), size)
    if rng.random() < 0.1:
        text = text.replace('"', "").replace("\\", "")
    large = rng.choice((f"[{text}]", f'"{text[1:-1]}"', text, f'{{"a":[{text}]}}'))
    others = {k: v for k, v in body.items() if k != name}
    plain = written(others | {"stream": True}).decode()[1:-1]
    members = [plain, f'"{name}":{large}']
    rng.shuffle(members)
    return row.path, _JSON, f"{{{','.join(members)}}}".encode("utf-8", "replace")


def _many_members(rng: random.Random, size: int) -> Sent:
    row = rng.choice(jsons.ALL)
    name = rng.choice(
        ('"%d":1', '"Model%d":{}', '"\\u006d%d":"a"', '"model":%d', '"x%d":"\\ud800"')
    )
    members = ",".join(name % at for at in range(size // 12))
    nest = rng.choice(("", "options", "parameters", "generationConfig", "stream_options", "x"))
    text = f'{{"model":"{MODEL}","{nest}":{{{members}}}}}' if nest else f"{{{members}}}"
    return row.path, _JSON, text.encode()


def _broken_json(rng: random.Random, size: int) -> Sent:
    """Not JSON, which is said at its byte: the slow way."""
    path, headers, raw = _large_json(rng, size)
    at = rng.randrange(len(raw))
    return (
        path,
        headers,
        raw[:at] + rng.choice((b"", b"\xff", b"]", b'"', b"1e999,")) + raw[at + 1 :],
    )


def _large_form(rng: random.Random, size: int) -> Sent:
    part = rng.choice((forms.FILE, forms.MODEL, forms.CD + b'name="x"\r\n\r\na'))
    near = rng.choice((b"\r\n--", b"--" + forms.B.encode()[:-1], b"\r\n", b"\r", b"\0", b"a", b"-"))
    if rng.random() < 0.5:
        raw = forms.form(*[part] * (size // (len(part) + 20) + 1))
    else:
        head = forms.CD + rng.choice((b'name="f"; filename="a"', b'name="model"', b'name="x"'))
        raw = forms.form(forms.MODEL, head + b"\r\n\r\n" + near * (size // len(near)))
    if rng.random() < 0.3:
        raw = raw.replace(b"\r\n\r\n", b"\r\nx-a: b\r\n" * rng.randrange(99) + b"\r\n\r\n", 9)
    return rng.choice(_FORMS), {"content-type": forms.TYPE}, raw


def _large_infer(rng: random.Random, size: int) -> Sent:
    field = rng.choice((b"\x3a\x00", b"\x3a\x01a", b"\x2a\x00", b"\x2a\x03\x0a\x01a", b"\x22\x00"))
    field = rng.choice(
        (field, b"\x2a\x84\x80\x80\x00", b"\x0a\x01m", b"\x3a\xff\x7f" + bytes(16383))
    )
    raw = b"\x0a\x01m" + field * (size // len(field))
    if rng.random() < 0.3:  # a tensor of very many small fields
        inside = rng.choice((b"\x18\x01", b"\x22\x00", b"\x1a\x01\x01")) * (size // 3)
        raw = bytes(infers.READY(name="m").SerializeToString()) + long_field(0x2A, inside)
    return rng.choice((_INFER, _READY)), _GRPC, framed(raw)


_BUILD: Final = (
    *(_large_json, _large_json, _large_json, _broken_json),
    *(_many_members, _large_form, _large_infer),
)


# ── The run ──────────────────────────────────────────────────────────────────────────────────────


def run(seconds: float) -> Iterator[str]:
    """Read for so long; then what was read."""
    deadline = time.monotonic() + seconds
    count, large, number, worst = 0, 0, 0, 0.0
    while time.monotonic() < deadline:
        number += 1
        rng = random.Random(number)
        for _ in range(1500):
            judge(mutated(rng))
        count += 1500
        for _ in range(25):
            if time.monotonic() > deadline:
                break
            sent = rng.choice(_BUILD)(rng, rng.choice((30_000, 300_000, MIB, MIB)))
            took = judge(sent)
            large += 1
            if len(sent[2]) > MIB // 2:
                worst = max(worst, took / len(sent[2]) * MIB)
        if number % 3 == 0 and time.monotonic() < deadline:
            made(number)
            count += 200
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    yield f"{count} small and {large} large requests in {seconds:g} s; the slowest of the large"
    yield f"{worst * 1000:.1f} ms of CPU a MiB; at most {peak} MiB of memory"


def main() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    with suppress(BrokenPipeError):
        print(*run(float(sys.argv[1])))
        print("slowest of the requests of a MiB that are made by hand:\n", *slowest())


if __name__ == "__main__":
    main()
