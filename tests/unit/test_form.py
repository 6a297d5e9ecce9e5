"""The strict reading of a form: what is read, what is refused and where, what it costs."""

from __future__ import annotations

import tracemalloc
from typing import Any

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

from authz.form import MAX_HEAD_BYTES, MAX_PARTS, MAX_TEXT_BYTES, Form, read_form
from authz.model import Fault, Reason

HERE = b"<here>"


def fault_of(raw: bytes, content_type: str = TYPE) -> Fault:
    read = read_form(raw, content_type, WANTED)
    assert isinstance(read, Fault), f"admitted as {read}"
    return read


# ── What is read ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sample", CLIENTS.values(), ids=list(CLIENTS))
def test_what_clients_send_is_read(sample: Sample) -> None:
    content_type, raw = sample
    read = read_form(raw, content_type, WANTED)
    assert isinstance(read, Form), read
    assert read.texts["model"] == "m-1"


def test_the_wanted_texts_and_no_others() -> None:
    raw = form(FILE, text("prompt", "é\r\n"), text("other", "x"), text("n", ""), MODEL, FILE)
    assert read_form(raw, TYPE, WANTED) == Form({"prompt": "é\r\n", "n": "", "model": "m-1"}, 2)
    assert read_form(raw, TYPE, frozenset({"other"})) == Form({"other": "x"}, 2)
    assert read_form(raw, TYPE, frozenset()) == Form({}, 2)


def test_whatever_a_server_may_take_for_a_file_is_counted() -> None:
    named = CD + b'name="a"; filename="b"\r\n\r\n'
    unnamed = CD + b'name="a"; filename=""\r\n\r\n'
    extended = CD + b"name=\"a\"; filename*=utf-8''b\r\n\r\n"
    typed = CD + b'name="a"\r\nContent-Type: application/octet-stream\r\n\r\n'
    plain = CD + b'name="a"\r\nContent-Type: text/plain\r\n\r\n'
    assert read_form(form(named, unnamed, extended, typed, plain), TYPE, WANTED) == Form({}, 4)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=list(CONTENTS))
def test_contents_are_nothing_but_contents(content: bytes) -> None:
    raw = form(CD + b'name="x"\r\n\r\n' + content, MODEL)
    assert read_form(raw, TYPE, WANTED) == Form({"model": "m-1"}, 0)


@pytest.mark.parametrize(
    "content_type",
    [
        TYPE,
        quoted(B),
        f"multipart/form-data;boundary={B}",
        f"multipart/form-data ; boundary={B}",
        f"multipart/form-data; boundary={B}; charset=utf-8",
        f"multipart/form-data; charset=UTF-8; boundary={B}",
    ],
)
def test_content_types(content_type: str) -> None:
    assert read_form(form(MODEL), content_type, WANTED) == Form({"model": "m-1"}, 0)


@pytest.mark.parametrize("boundary", ["b", "b" * 70, "--b--", "0", "b-", "b_.+-b"])
def test_boundaries(boundary: str) -> None:
    raw = form(MODEL, FILE, boundary=boundary)
    assert read_form(raw, bare(boundary), WANTED) == Form({"model": "m-1"}, 1)


@pytest.mark.parametrize(
    "kind",
    [
        b"text/plain",
        b"TEXT/PLAIN",
        b"text/plain;charset=utf-8",
        b'text/plain; charset="UTF-8"',
        b"text/plain; charset=us-ascii",
        b"text/plain; charset=ISO-8859-1",
    ],
)
def test_a_text_may_say_that_it_is_one(kind: bytes) -> None:
    raw = form(CD + b'name="model"\r\nContent-Type: ' + kind + b"\r\n\r\nm-1")
    assert read_form(raw, TYPE, WANTED) == Form({"model": "m-1"}, 0)


# ── What is refused ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sample", DISPUTED.values(), ids=list(DISPUTED))
def test_what_parsers_read_differently_is_refused(sample: Sample) -> None:
    content_type, raw = sample
    fault = fault_of(raw, content_type)
    assert fault.reason in {Reason.MALFORMED_BODY, Reason.AMBIGUOUS_BODY}
    assert fault.detail


AMBIGUOUS = {
    "twice": (form(MODEL, text("model", "other")), "model"),
    "twice alike": (form(MODEL, MODEL), "model"),
    "twice, far apart": (form(text("n", "1"), FILE, MODEL, FILE, text("n", "1")), "n"),
    "twice, one unquoted": (form(MODEL, CD + b"name=model\r\n\r\nm"), "model"),
    "capitals": (form(text("Model", "m")), "model"),
    "capitals beside it": (form(MODEL, text("MODEL", "m")), "model"),
    "a list": (form(MODEL, text("model[]", "m")), "model"),
    "an index": (form(MODEL, text("n[0]", "5")), "n"),
    "a member of an object": (form(MODEL, text("stream[x]", "true")), "stream"),
    "a member by a dot": (form(MODEL, text("Prompt.x", "true")), "prompt"),
    "a cut bracket": (form(MODEL, text("model[", "m")), "model"),
    "a file": (form(CD + b'name="model"; filename="a"\r\n\r\nm'), "model"),
    "a file, unnamed": (form(CD + b'name="model"; filename=""\r\n\r\nm'), "model"),
    "a file, extended": (form(CD + b"name=\"model\"; filename*=UTF-8''a\r\n\r\nm"), "model"),
    "JSON": (form(CD + b'name="model"\r\nContent-Type: application/json\r\n\r\n"m"'), "model"),
    "another text": (form(CD + b'name="model"\r\nContent-Type: text/html\r\n\r\nm'), "model"),
    "another charset": (
        form(CD + b'name="model"\r\nContent-Type: text/plain; charset=utf-7\r\n\r\nm'),
        "model",
    ),
    "another parameter": (
        form(CD + b'name="model"\r\nContent-Type: text/plain; format=flowed\r\n\r\nm'),
        "model",
    ),
    "a charset for all": (form(text("_charset_", "utf-7"), MODEL), "_charset_"),
}


@pytest.mark.parametrize(("raw", "param"), AMBIGUOUS.values(), ids=list(AMBIGUOUS))
def test_ambiguous(raw: bytes, param: str) -> None:
    fault = fault_of(raw)
    assert (fault.reason, fault.param) == (Reason.AMBIGUOUS_BODY, param)


_D = b"--" + B.encode()
_TWO = b'name="model"\r\n\r\nm'
MALFORMED: dict[str, bytes] = {
    "empty": b"<here>",
    "something before": b"<here>\r\n" + form(MODEL),
    "another boundary": b"<here>--other\r\n" + MODEL + b"\r\n--other--\r\n",
    "no part": _D + b"<here>--\r\n",
    "only a boundary": _D + b"<here>",
    "a boundary that goes on": _D + b"<here>x\r\n" + MODEL,
    "a space behind the boundary": _D + b"<here> \r\n" + MODEL + b"\r\n" + _D + b"--",
    "a tab behind the boundary": _D + b"\r\n" + MODEL + b"\r\n" + _D + b"<here>\t\r\n",
    "a LF behind the boundary": _D + b"\r\n" + MODEL + b"\r\n" + _D + b"<here>\n",
    "a CR behind the boundary": _D + b"\r\n" + MODEL + b"\r\n" + _D + b"<here>\rx",
    "one dash behind the boundary": _D + b"\r\n" + MODEL + b"\r\n" + _D + b"<here>-",
    "a last line with a space": form(MODEL, end=b"<here> "),
    "a last line with a LF": form(MODEL, end=b"<here>\n"),
    "three line ends": form(MODEL, end=b"<here>\r\n\r\n\r\n"),
    "an epilogue": form(MODEL, end=b"<here>\r\nx"),
    "no last boundary": _D + b"\r\n" + MODEL + b"\r\n<here>",
    "a cut last boundary": _D + b"\r\n" + MODEL + b"\r\n" + _D[:-1] + b"<here>",
    "a boundary behind a LF": form(CD + b'name="x"\r\n\r\na\n<here>' + _D),
    "a boundary behind a CR": form(CD + b'name="x"\r\n\r\na\r<here>' + _D),
    "a boundary in a line": form(CD + b'name="x"\r\n\r\na<here>' + _D + b"--\r\n"),
    "a boundary with another dash": form(CD + b'name="x"\r\n\r\na\r\n-<here>' + _D + b"--\r\n"),
    "a boundary in a header": form(CD + b'name="<here>' + _D + b'"\r\n\r\n'),
    "a boundary right behind the headers": _D
    + b"\r\n"
    + CD
    + b'name="x"\r\n\r\n<here>'
    + _D
    + b"--\r\n",
    "no headers": form(b"<here>\r\nm"),
    "no headers but line ends": form(b"<here>\r\n\r\nm"),
    "a line end before the headers": form(b"<here>\r\n" + MODEL),
    "headers without an end": _D + b"\r\n<here>" + CD + _TWO[:12],
    "no disposition": form(b"<here>Content-Type: text/plain\r\n\r\nm"),
    "disposition twice": form(CD + b'name="x"\r\n<here>' + CD + _TWO),
    "type twice": form(CD + b'name="x"\r\nContent-Type: a/b\r\n<here>content-type: a/b\r\n\r\n'),
    "another header": form(CD + b'name="x"\r\n<here>X-Name: model\r\n\r\nm'),
    "a line without a colon": form(CD + b'name="x"\r\n<here>model\r\n\r\nm'),
    "a space before the colon": form(b'<here>Content-Disposition : form-data; name="x"\r\n\r\n'),
    "a space before the name": form(b"<here> " + MODEL),
    "a folded header": form(b'<here>Content-Disposition: form-data;\r\n name="x"\r\n\r\nm'),
    "a tab behind the colon": form(b'<here>Content-Disposition:\tform-data; name="x"\r\n\r\nm'),
    "a LF in the headers": form(b"<here>" + CD + b'name="x"\nX: y\r\n\r\nm'),
    "a CR in the headers": form(b"<here>" + CD + b'name="x"\rX: y\r\n\r\nm'),
    "a line separator in the headers": form(
        b"<here>" + CD + 'name="x"; filename="a\N{LINE SEPARATOR}b"\r\n\r\nm'.encode()
    ),
    "a NUL in the headers": form(b"<here>" + CD + b'name="model\0"\r\n\r\nm'),
    "headers that are not UTF-8": form(CD + b'name="x"; filename="<here>\xff"\r\n\r\nm'),
    "another disposition": form(b'<here>Content-Disposition: attachment; name="x"\r\n\r\nm'),
    "no name": form(b"<here>Content-Disposition: form-data\r\n\r\nm"),
    "an empty name": form(b"<here>" + CD + b'name=""\r\n\r\nm'),
    "an empty unquoted name": form(b"<here>" + CD + b"name=\r\n\r\nm"),
    "name twice": form(b"<here>" + CD + b'name="x"; name="model"\r\n\r\nm'),
    "name*": form(b"<here>" + CD + b"name=\"x\"; name*=utf-8''model\r\n\r\nm"),
    "name in capitals": form(b"<here>" + CD + b'NAME="x"\r\n\r\nm'),
    "name in single quotes": form(b"<here>" + CD + b"name='model'\r\n\r\nm"),
    "name behind the file's": form(b"<here>" + CD + b'filename="a"; name="model"\r\n\r\nm'),
    "filename twice": form(b"<here>" + CD + b'name="x"; filename="a"; filename="b"\r\n\r\nm'),
    "a space in a name": form(b"<here>" + CD + b'name=" model"\r\n\r\nm'),
    "a space behind a name": form(b"<here>" + CD + b'name="model "\r\n\r\nm'),
    "a percent in a name": form(b"<here>" + CD + b'name="model%00"\r\n\r\nm'),
    "a quote in a name": form(b"<here>" + CD + b'name="x\\"; name=\\"model"\r\n\r\nm'),
    "a backslash in a name": form(b"<here>" + CD + b'name="mo\\del"\r\n\r\nm'),
    "a bracket in an unquoted name": form(b"<here>" + CD + b"name=model[]\r\n\r\nm"),
    "a bracket at a name's start": form(b"<here>" + CD + b'name="[model]"\r\n\r\nm'),
    "a name beyond ASCII": form(b"<here>" + CD + 'name="modéle"\r\n\r\nm'.encode()),
    "a long name": form(b"<here>" + CD + b'name="' + b"m" * 101 + b'"\r\n\r\nm'),
    "no space behind the semicolon": form(b"<here>Content-Disposition: form-data;" + _TWO),
    "something behind the name": form(b"<here>" + CD + b'name="x" \r\n\r\nm'),
    "another parameter": form(b"<here>" + CD + b'name="x"; size=1\r\n\r\nm'),
    "a semicolon in a file's name": form(
        b"<here>" + CD + b'name="x"; filename="a;name=model;b"\r\n\r\nm'
    ),
    "a backslash in a file's name": form(b"<here>" + CD + b'name="x"; filename="a\\"\r\n\r\nm'),
    "filename* in another charset": form(
        b"<here>" + CD + b"name=\"x\"; filename*=utf-7''a\r\n\r\nm"
    ),
    "a nested form": form(
        CD + b'name="x"\r\n<here>Content-Type: Multipart/mixed; boundary=y\r\n\r\n--y'
    ),
    "a nested message": form(CD + b'name="x"\r\n<here>Content-Type: message/rfc822\r\n\r\n'),
    "a type that is none": form(CD + b'name="x"\r\n<here>Content-Type: text\r\n\r\n'),
    "an escape in a type": form(CD + b'name="x"\r\n<here>Content-Type: a/b; c="\\""\r\n\r\n'),
    "base64": form(CD + b'name="x"\r\n<here>Content-Transfer-Encoding: base64\r\n\r\nbQ=='),
    "a length that is not its": form(b"<here>" + CD + b'name="x"\r\nContent-Length: 2\r\n\r\nm'),
    "a length in octal": form(CD + b'name="x"\r\n<here>Content-Length: 01\r\n\r\nm'),
    "a text that is not UTF-8": form(CD + b'name="model"\r\n\r\nm<here>\xff'),
    "a text that is not ASCII": form(
        CD + b'name="model"\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nm<here>\xc3\xa9'
    ),
    "a byte order mark": form(CD + b'name="model"\r\n\r\n<here>\xef\xbb\xbfm'),
    "a NUL": form(CD + b'name="model"\r\n\r\nm<here>\0'),
}


@pytest.mark.parametrize("marked", MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_names_the_byte(marked: bytes) -> None:
    fault = fault_of(marked.replace(HERE, b""))
    assert (fault.reason, fault.offset) == (Reason.MALFORMED_BODY, marked.index(HERE))
    assert fault.detail
    assert "m-1" not in fault.detail


def test_each_malformed_form_is_fine_but_for_one_thing() -> None:
    """So that each fails for its own reason: the same parts, mended, are admitted."""
    for part in (
        CD + b'name="x"\r\n\r\na',
        CD + _TWO,
        FILE,
        CD + b'name="x"; filename="a"\r\n\r\n',
    ):
        assert isinstance(read_form(form(part), TYPE, WANTED), Form)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        f"multipart/form-data, {TYPE}",
        f"{TYPE}, {TYPE}",
        f"Multipart/Form-Data; boundary={B}",
        f"multipart/form-data; Boundary={B}",
        f"multipart/mixed; boundary={B}",
        f'multipart/form-data; boundary="{B}',
        f'multipart/form-data; boundary={B}"',
        f"multipart/form-data; boundary='{B}'",
        f'multipart/form-data; boundary="{B} "',
        f"multipart/form-data; boundary= {B}",
        f"multipart/form-data; boundary={B} ",
        f"multipart/form-data; boundary={B};",
        f"multipart/form-data; boundary={B}; boundary={B}",
        f"multipart/form-data; boundary={B}; boundary*=utf-8''x",
        f"multipart/form-data; boundary*=utf-8''{B}",
        f"multipart/form-data; boundary*0={B}",
        f"multipart/form-data; charset=latin-1; boundary={B}",
        f"multipart/form-data; boundary={B}; charset=utf-8; charset=utf-8",
        f"multipart/form-data; charset=utf-8; boundary={B}; charset=utf-7",
        f"multipart/form-data;\r\n boundary={B}",
        f"multipart/form-data;\tboundary={B}",
        f"multipart/form-data; boundary={B}\n",
    ],
)
def test_other_content_types(content_type: str) -> None:
    fault = fault_of(form(MODEL), content_type)
    assert (fault.reason, fault.offset) == (Reason.MALFORMED_BODY, None)


@pytest.mark.parametrize("boundary", ["b" * 71, "-", "----", "._", "a b", "a:b", "a(b", "é", "a\0"])
def test_other_boundaries(boundary: str) -> None:
    raw = form(MODEL, boundary=boundary)
    assert fault_of(raw, bare(boundary)).offset is None
    assert fault_of(raw, quoted(boundary)).offset is None


# ── Bounds ───────────────────────────────────────────────────────────────────────────────────────


def test_the_number_of_parts_is_bounded() -> None:
    parts = [text(f"x{i}", "") for i in range(MAX_PARTS)]
    assert read_form(form(*parts), TYPE, WANTED) == Form({}, 0)
    assert fault_of(form(*parts, MODEL)).offset == form(*parts).rindex(b"--\r\n")


def test_the_headers_of_a_part_are_bounded() -> None:
    def part(size: int) -> bytes:
        head = CD + b'name="x"; filename=""'
        return head[:-1] + b"a" * (size - len(head)) + b'"\r\n\r\n'

    assert read_form(form(part(MAX_HEAD_BYTES - 4)), TYPE, WANTED) == Form({}, 1)
    assert fault_of(form(part(MAX_HEAD_BYTES + 1))).offset == len(B) + 4


def test_a_wanted_text_is_bounded_and_no_other() -> None:
    raw = form(text("model", "m" * MAX_TEXT_BYTES), text("x", "m" * (MAX_TEXT_BYTES + 1)))
    read = read_form(raw, TYPE, WANTED)
    assert isinstance(read, Form)
    assert len(read.texts["model"]) == MAX_TEXT_BYTES
    long = form(text("model", "m" * (MAX_TEXT_BYTES + 1)))
    assert fault_of(long).offset == long.index(b"\r\n\r\n") + 4 + MAX_TEXT_BYTES


# ── Properties ───────────────────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from(["model", "n", "stream", "x", "image[]", "y.z", "_", "A-b"])


@settings(max_examples=200)
@given(
    fields=st.lists(
        st.tuples(
            NAMES, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
        ),
        max_size=6,
        unique_by=lambda field: field[0],
    ),
    files=st.lists(st.binary(max_size=80), max_size=3),
    boundary=st.from_regex(r"[a-zA-Z0-9_.+-]{0,20}[a-zA-Z0-9]{12}", fullmatch=True),
)
def test_what_is_written_is_read(
    fields: list[tuple[str, str]], files: list[bytes], boundary: str
) -> None:
    parts = [text(name, value) for name, value in fields]
    parts += [CD + b'name="file"; filename="a"\r\n\r\n' + content for content in files]
    raw = form(text("prompt", "p"), *parts, boundary=boundary)
    expected = {name: value for name, value in fields if name in WANTED} | {"prompt": "p"}
    read = read_form(raw, bare(boundary), WANTED)
    if any(value.startswith("\N{BOM}") for value in expected.values()):
        assert isinstance(read, Fault)
    else:
        assert read == Form(expected, len(files))


EDITS = st.lists(
    st.tuples(
        st.integers(0, 600),
        st.integers(0, 4),
        st.sampled_from([b"", b"\r\n", b"\n", b"\r", b"-", b"--", b'"', b"\\", b";", b"\0", _D])
        | st.binary(max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400)
@given(sample=st.sampled_from([*CLIENTS.values(), *DISPUTED.values()]), edits=EDITS)
def test_no_mutation_raises(sample: Sample, edits: list[tuple[int, int, bytes]]) -> None:
    content_type, raw = sample
    for at, removed, put in edits:
        raw = raw[:at] + put + raw[at + removed :]
    read = read_form(raw, content_type, WANTED)
    if isinstance(read, Fault):
        assert read.offset is None or 0 <= read.offset <= len(raw)
    else:
        assert read.texts.keys() <= WANTED


@settings(max_examples=300)
@given(raw=st.binary(max_size=80), content_type=st.text(max_size=30) | st.just(TYPE))
def test_no_bytes_raise(raw: bytes, content_type: str) -> None:
    assert isinstance(read_form(raw, content_type, WANTED), Form | Fault)
    assert isinstance(read_form(_D + b"\r\n" + raw, TYPE, WANTED), Form | Fault)


# ── Cost ─────────────────────────────────────────────────────────────────────────────────────────


class Watched(bytes):
    """A body that counts what is searched in it and what is copied out of it, in bytes."""

    searched = 0
    copied = 0

    def find(self, sub: Any, start: Any = 0, stop: Any = None) -> int:
        stop = len(self) if stop is None else min(stop, len(self))
        at = super().find(sub, start, stop)
        self.searched += (stop if at < 0 else at) - start
        return at

    def __getitem__(self, index: Any) -> Any:
        got = super().__getitem__(index)
        self.copied += len(got) if isinstance(got, bytes) else 1
        return got


MIB = 1 << 20
_X = CD + b'name="x"\r\n\r\n'
LARGE: dict[str, bytes] = {
    "a file": form(MODEL, FILE + b"\xff" * (10 * MIB)),
    "line ends": form(MODEL, _X + b"\r\n" * (5 * MIB)),
    "dashes": form(MODEL, _X + b"-" * (10 * MIB)),
    "boundaries but for their ends": form(MODEL, _X + (b"\r\n" + _D[:-1]) * (MIB // 2)),
    "empty lines without an end": _D + b"\r\n" + b"\r\n" * (5 * MIB),
    "headers without an end": _D + b"\r\n" + b"a" * (10 * MIB),
    "many parts": form(*[_X] * (MIB // 40)),
    "many headers": _D + b"\r\n" + b"Content-Type: a/b\r\n" * (MIB // 2),
}


@pytest.mark.parametrize("raw", LARGE.values(), ids=list(LARGE))
def test_each_byte_is_looked_at_once_and_none_of_a_file_is_copied(raw: bytes) -> None:
    watched = Watched(raw)
    read_form(watched, TYPE, WANTED)
    assert watched.searched <= len(raw) + MAX_PARTS * MAX_HEAD_BYTES
    assert watched.copied <= MAX_PARTS * 100 + MAX_HEAD_BYTES


def test_work_is_counted() -> None:
    """The count above is not zero by a slip."""
    watched = Watched(LARGE["a file"])
    assert read_form(watched, TYPE, WANTED) == Form({"model": "m-1"}, 1)
    assert watched.searched > 10 * MIB
    assert 100 < watched.copied < 1000


@pytest.mark.parametrize("raw", LARGE.values(), ids=list(LARGE))
def test_memory_is_bounded(raw: bytes) -> None:
    tracemalloc.start()
    try:
        read_form(raw, TYPE, WANTED)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MIB // 8


@pytest.mark.parametrize(
    "boundary", ["a" * 70, "ab" * 35, "-" * 69 + "a", "a" + "-" * 69, "a-" * 35, "a"]
)
def test_no_boundary_makes_the_search_slow(boundary: str) -> None:
    """Needles that repeat and bodies made of them: a quadratic search would take minutes."""
    repeated = (boundary[:-1] * (4 * MIB // len(boundary) + 1)).encode()
    raw = form(MODEL, _X + repeated + b"-" * MIB, boundary=boundary)
    assert isinstance(read_form(raw, bare(boundary), WANTED), Form | Fault)
