"""Each form that we admit, read by other readers: they must see the wanted fields as we do.

The readers are those that model servers are built on: starlette (FastAPI), python-multipart,
werkzeug, django, busboy, undici and Go's mime/multipart.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any, Final

import httpx2
import openai
import pytest
from form_samples import (
    CD,
    CLIENTS,
    CONTENTS,
    DISPUTED,
    FILE,
    MODEL,
    TYPE,
    WANTED,
    B,
    Sample,
    bare,
    form,
    quoted,
    text,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from mangling import mangled
from peers.formreaders import FormReaders, Seen, form_readers
from peers.golang import ensure_go_program
from peers.node import ensure_node
from peers.venvs import ensure_venv

from authz.form import Form, read_form
from authz.model import Fault

READERS: Final = {
    "starlette",
    "python-multipart",
    "werkzeug",
    "django",
    "busboy",
    "undici",
    "go",
}
# undici refuses what browsers do not send, such as `filename*`. To refuse is not to read otherwise.
MAY_REFUSE: Final = {"undici"}
CHUNKS: Final = (0, 1, 7, 64)


@pytest.fixture(scope="module")
def readers() -> Iterator[FormReaders]:
    with form_readers() as running:
        yield running


def folded(name: str | None) -> str:
    """What a server that is careless about names could take a name for."""
    return (name or "").partition("[")[0].partition(".")[0].strip().casefold()


def wanted_of(seen: Seen) -> list[tuple[str, str | None]]:
    """The fields that could count as wanted, sorted: Go keeps no order."""
    fields = [(name, value) for name, value in seen.fields if folded(name) in WANTED]
    return sorted(fields, key=repr)


def read_alike(
    readers: FormReaders, sample: Sample, *, chunk: int = 0, may_refuse: set[str] = MAY_REFUSE
) -> Form | None:
    """What we read, if we admit it; then every reader must see just that."""
    content_type, raw = sample
    ours = read_form(raw, content_type, WANTED)
    if isinstance(ours, Fault):
        return None
    views = readers.read(content_type, raw, chunk)
    assert views.keys() == READERS
    expected = sorted(ours.texts.items(), key=repr)
    for name, seen in views.items():
        if seen.error is None or name not in may_refuse:
            assert seen.error is None, f"{name}: {seen.error}"
            assert wanted_of(seen) == expected, name
            files = sum(value is None for _, value in seen.fields)
            assert files <= ours.files, f"{name} sees more files"
    return ours


# ── What real clients write ──────────────────────────────────────────────────────────────────────

FIELDS: Final = {"model": "whisper-1", "response_format": "json", "prompt": "Zoë\r\n;\"x'\\"}
CONTENT: Final = b"ID3\x00\xff\r\n--\r\n"


def from_openai() -> Iterator[Sample]:
    sent: list[Sample] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append((request.headers["content-type"], request.read()))
        return httpx2.Response(200, json={"text": "", "created": 1, "data": []})

    transport = httpx2.MockTransport(answer)
    with httpx2.Client(transport=transport) as http:
        client = openai.OpenAI(api_key="none", base_url="http://upstream/v1", http_client=http)
        client.audio.transcriptions.create(
            model="whisper-1",
            file=("a é.mp3", CONTENT),
            prompt=FIELDS["prompt"],
            response_format="json",
            timestamp_granularities=["word", "segment"],
            chunking_strategy={"type": "server_vad", "threshold": 0.5},
            temperature=0.2,
        )
        client.images.edit(
            model="gpt-image-1", image=[("a.png", CONTENT), ("b.png", b"")], prompt="é", n=2
        )
    yield from sent


def from_httpx() -> Iterator[Sample]:
    request = httpx2.Request(
        "POST",
        "http://upstream/",
        data={**FIELDS, "timestamp_granularities[]": ["a", "b"]},
        files={"file": ('a"b.mp3', CONTENT)},
    )
    yield request.headers["content-type"], request.read()


def from_program(*argv: str | Path) -> Iterator[Sample]:
    """What a program prints as {"type": CONTENT_TYPE, "body": BASE64}."""
    done = subprocess.run([str(word) for word in argv], stdout=subprocess.PIPE, check=True)
    written = json.loads(done.stdout)
    yield written["type"], base64.b64decode(written["body"])


REQUESTS: Final = """
import base64, json, requests, sys
fields, content = json.loads(sys.argv[1]), base64.b64decode(sys.argv[2])
files = {"file": ("a.mp3", content)}
prepared = requests.Request("POST", "http://upstream/", data=fields, files=files).prepare()
body = base64.b64encode(prepared.body).decode()
print(json.dumps({"type": prepared.headers["Content-Type"], "body": body}))
"""
NODE: Final = """
const form = new FormData();
for (const [name, value] of Object.entries(JSON.parse(process.argv[1]))) form.append(name, value);
form.append("file", new Blob([Buffer.from(process.argv[2], "base64")]), "a é.mp3");
const response = new Response(form);
response.arrayBuffer().then((body) => console.log(JSON.stringify({
  type: response.headers.get("content-type"), body: Buffer.from(body).toString("base64"),
})));
"""


def from_requests() -> Iterator[Sample]:
    coded = base64.b64encode(CONTENT).decode()
    yield from from_program(ensure_venv("forms"), "-c", REQUESTS, json.dumps(FIELDS), coded)


def from_node() -> Iterator[Sample]:
    coded = base64.b64encode(CONTENT).decode()
    yield from from_program(ensure_node(), "-e", NODE, json.dumps(FIELDS), coded)


def from_go() -> Iterator[Sample]:
    yield from from_program(ensure_go_program("formwriter"))


def from_curl() -> Iterator[Sample]:
    sent: list[Sample] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            sent.append((self.headers["content-type"], self.rfile.read(length)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """It is of no interest."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        answering = Thread(target=server.handle_request)
        answering.start()
        texts = [
            word for name, value in FIELDS.items() for word in ("--form-string", f"{name}={value}")
        ]
        file = ("-F", "file=@-;filename=a é.mp3;type=audio/mpeg")
        address = f"http://127.0.0.1:{server.server_port}/"
        subprocess.run(
            ["curl", "-sS", "--max-time", "20", *texts, *file, address], input=CONTENT, check=True
        )
        answering.join(20)
    yield from sent


WRITERS: Final[dict[str, Callable[[], Iterator[Sample]]]] = {
    "openai": from_openai,
    "httpx": from_httpx,
    "requests": from_requests,
    "Node": from_node,
    "Go": from_go,
    "curl": from_curl,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))
def test_what_clients_write_is_admitted_and_read_alike(
    readers: FormReaders, write: Callable[[], Iterator[Sample]]
) -> None:
    samples = list(write())
    assert samples
    for sample in samples:
        for chunk in CHUNKS:
            read = read_alike(readers, sample, chunk=chunk, may_refuse=set())
            assert read is not None, read_form(sample[1], sample[0], WANTED)
            assert read.texts["model"] in {"whisper-1", "gpt-image-1"}
            assert read.files > 0


@pytest.mark.parametrize("sample", CLIENTS.values(), ids=list(CLIENTS))
def test_what_other_clients_write_is_read_alike(readers: FormReaders, sample: Sample) -> None:
    for chunk in CHUNKS:
        assert read_alike(readers, sample, chunk=chunk) is not None


@pytest.mark.parametrize("content", CONTENTS.values(), ids=list(CONTENTS))
def test_no_content_is_taken_for_more(readers: FormReaders, content: bytes) -> None:
    for chunk in CHUNKS:
        for head in (CD + b'name="x"\r\n\r\n', CD + b'name="f"; filename="a"\r\n\r\n'):
            sample = (TYPE, form(head + content, MODEL))
            assert read_alike(readers, sample, chunk=chunk) is not None


# ── What they do not agree on ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sample", DISPUTED.values(), ids=list(DISPUTED))
def test_what_they_read_differently_is_refused(readers: FormReaders, sample: Sample) -> None:
    """The dispute is real: this also shows that the comparison can see one."""
    content_type, raw = sample
    views = {
        "refused" if seen.error is not None else repr(wanted_of(seen))
        for seen in readers.read(content_type, raw).values()
    }
    assert len(views) > 1
    assert isinstance(read_form(raw, content_type, WANTED), Fault)


# ── Made and mutated forms ───────────────────────────────────────────────────────────────────────

NAMES: Final = [*sorted(WANTED), "file", "image[]", "x", "_", "a.b", "Model", "model[]", " n", "é"]
Q_NAME = st.sampled_from([f'name="{name}"' for name in NAMES] + ["name=model", "name=x", 'name=""'])
FILENAMES = st.sampled_from(
    [
        'filename="a.mp3"',
        "filename=a.mp3",
        'filename=""',
        'filename="Å….png"',
        'filename="a name=model"',
        'filename="a; name=model"',
        "filename=\"name='model'\"",
        'filename="%22; name=%22model"',
        'filename="a\\"',
        "filename*=utf-8''a%22%3B%20name=model",
        "filename*=UTF-8''%6d",
        'NAME="n"',
        "name*=utf-8''n",
    ]
)
HEADERS = st.sampled_from(
    [
        "Content-Type: text/plain",
        "content-type: text/plain; charset=utf-8",
        "Content-Type: text/plain; charset=iso-8859-1",
        "Content-Type:audio/mpeg",
        "Content-Type: application/octet-stream",
        'Content-Type: video/mp4; codecs="a, b; name=model"',
        "Content-Type: multipart/mixed; boundary=x",
        "Content-Transfer-Encoding: binary",
        "Content-Transfer-Encoding: base64",
        "Content-Length: 1",
        "Content-Length: 0",
        "X-Other: 1",
    ]
)
_D: Final = b"--" + B.encode()
BITS: Final = [
    b"m",
    b"other",
    b"",
    b"\r\n",
    b"\n",
    b"\r",
    b"-",
    b"--",
    b" ",
    b"\t",
    b'"',
    b"\\",
    b";",
    b"=",
    b":",
    b"\0",
    b"\x0b",
    b"\xc2\x85",
    b"\xff",
    b"\xef\xbb\xbf",
    B.encode(),
    _D,
    _D[:-1],
    b"\r\n" + _D[:-1],
    b"\n" + _D + b"\r\n",
    _D + b"--",
    CD + b'name="model"\r\n\r\nother',
    b'; name="model"',
    b'name="n"',
]
CONTENT_BITS = st.lists(st.sampled_from(BITS), max_size=4).map(b"".join) | st.binary(max_size=12)


@st.composite
def parts(draw: Callable[[SearchStrategy[Any]], Any]) -> bytes:
    """A part, mostly a plain one."""
    words = [draw(Q_NAME), *draw(st.lists(FILENAMES, max_size=2))]
    disposition = "; ".join(["form-data", *words])
    lines = [f"Content-Disposition: {disposition}", *draw(st.lists(HEADERS, max_size=2))]
    if draw(st.booleans()):
        lines.reverse()
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + draw(CONTENT_BITS)


@st.composite
def made(draw: Callable[[SearchStrategy[Any]], Any]) -> Sample:
    """A form of parts: plain and odd ones, each name at most once more often than not."""
    plain = draw(st.dictionaries(st.sampled_from(NAMES), CONTENT_BITS.filter(_fits), max_size=3))
    pieces = [CD + f'name="{name}"\r\n\r\n'.encode() + value for name, value in plain.items()]
    pieces += draw(st.lists(parts() | st.just(FILE), max_size=2))
    pieces = draw(st.permutations(pieces)) or [MODEL]
    boundary = draw(st.sampled_from([B, "b", "--", "--" + B, B + "--", "a.b", "x" * 70]))
    end = draw(st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b"\n", b"\r\n" + _D]))
    write = draw(st.sampled_from([bare, quoted]))
    return write(boundary), form(*pieces, boundary=boundary, end=end)


def _fits(value: bytes) -> bool:
    return b"\0" not in value and B.encode() not in value


PLAIN: Final = [
    *CLIENTS.values(),
    (TYPE, form(MODEL, FILE, text("n", "2"), text("stream", "true"))),
    *((TYPE, form(CD + b'name="x"\r\n\r\n' + content, MODEL)) for content in CONTENTS.values()),
]
ODD: Final = list(DISPUTED.values())


def mutate(random: Random) -> Sample:
    """A form of the corpus with a few bytes put in, taken out, moved or doubled."""
    content_type, raw = random.choice(random.choice((PLAIN, PLAIN, PLAIN, ODD)))
    for _ in range(random.choice((1, 1, 2, 3))):
        at, size = random.randrange(len(raw) + 1), random.choice((0, 0, 1, 2, 20))
        raw = mangled(random, raw, at, size, BITS)
    return content_type, raw


def compare_made(readers: FormReaders, examples: int) -> None:
    admitted = 0

    @settings(max_examples=examples, database=None)
    @given(sample=made(), chunk=st.sampled_from(CHUNKS))
    def compare(sample: Sample, chunk: int) -> None:
        nonlocal admitted
        admitted += read_alike(readers, sample, chunk=chunk, may_refuse=READERS) is not None

    compare()
    assert admitted > examples // 5, "too few for the comparison to say much"


def compare_mutated(readers: FormReaders, seeds: range) -> None:
    admitted = 0
    for seed in seeds:
        random = Random(seed)
        sample, chunk = mutate(random), random.choice(CHUNKS)
        try:
            admitted += read_alike(readers, sample, chunk=chunk, may_refuse=READERS) is not None
        except AssertionError as fault:
            fault.add_note(f"seed {seed}, in chunks of {chunk}: {sample}")
            raise
    assert admitted > len(seeds) // 10, "too few for the comparison to say much"


def test_made_forms_are_read_alike(readers: FormReaders) -> None:
    compare_made(readers, 200)


def test_mutated_forms_are_read_alike(readers: FormReaders) -> None:
    compare_mutated(readers, range(8_000))


@pytest.mark.soak
def test_many_made_forms_are_read_alike(readers: FormReaders) -> None:
    compare_made(readers, 10_000)


@pytest.mark.soak
def test_many_mutated_forms_are_read_alike(readers: FormReaders) -> None:
    compare_mutated(readers, range(8_000, 400_000))
