"""Each JSON body that we admit, read by other readers: they must see what we saw in it.

For every endpoint that reads JSON: the model, the adapter, the controls, the bounds of the output,
how many answers, whether it is a stream; in the body as it came, and in the body as we change it
for the model server. The readers are Python's json, orjson, msgspec, simdjson, RapidJSON (Triton),
jiter (pydantic), Node's JSON.parse and Go's encoding/json; and two ways of being careless: names
that end at a NUL, and what stands behind the first value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_samples import AGREED, BYTES, CODINGS, DOUBTED, FRAMES, MODEL, TWICE, real, written
from mangling import mangled
from moneysupport import edited, model
from peers.jsonreaders import JsonReaders, Seen, Steps, json_readers
from support import DIGESTER, FORM, bearer, message, minted

from authz.bound import bound
from authz.continuous import counting
from authz.endpoints import Table
from authz.model import Ask, Endpoint, Fault, Place, Request
from authz.reading import JSON_LENGTH
from authz.shape import Shape
from authz.wire import Reader

READERS: Final = {
    "json",
    "json with C's names",
    "orjson",
    "msgspec",
    "simdjson",
    "rapidjson",
    "jiter",
    "node",
    "go",
    "go, first value",
}
TABLE: Final = Table(native_model=MODEL)
READER: Final = Reader(FORM, DIGESTER, TABLE)
ROWS: Final = [row for row in TABLE.rows if row.method == "POST" and row.shape is not None]
BOUND: Final = 4_000  # what the catalog's model has
BATCH: Final = 200
_OPTIONS: Final = "stream_options.include_usage"


@pytest.fixture(scope="module")
def readers() -> Iterator[JsonReaders]:
    with json_readers() as running:
        yield running


# ── What we see, and what they see ───────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Row:
    """An endpoint and what there is to be compared in its bodies."""

    endpoint: Endpoint

    @cached_property
    def shape(self) -> Shape:
        assert self.endpoint.shape is not None
        return self.endpoint.shape

    @property
    def path(self) -> str:
        path = self.endpoint.path.replace("{model}", MODEL)
        return path.replace("{version}", "1").replace("{label}", "best")

    @cached_property
    def names(self) -> list[str]:
        """All members that are compared, by our names."""
        shape = self.shape
        names = ["stream", *shape.models, *shape.second]
        names += [*shape.bounds, *shape.also, *shape.repeats, *shape.stored, *shape.context]
        if shape.usage_on_request:
            names.append(_OPTIONS)
        return sorted(set(names))

    @cached_property
    def steps(self) -> list[tuple[str, Steps]]:
        """The same with every path that leads there: some members have two spellings."""
        return [(name, steps) for name in self.names for steps in self._spelled(name)]

    def _spelled(self, name: str) -> Iterable[Steps]:
        other = dict(self.shape.spellings)
        paths: list[Steps] = [()]
        for part in name.split("."):
            spellings = (part, other[part]) if part in other else (part,)
            paths = [(*path, spelling) for path in paths for spelling in spellings]
        return paths

    def admitted(self, raw: bytes, headers: dict[str, str] | None = None) -> Request | None:
        """What our service reads of a request with this body; None if it refuses that."""
        sent = bearer(minted(1)) | {"content-type": "application/json"} | (headers or {})
        request = READER.read(message(self.path, sent, raw))
        assert request.endpoint == self.endpoint
        if isinstance(request.body, Fault):
            return None
        assert request.model is not None
        return request

    def seen(self, view: Seen) -> dict[str, Any]:
        """A reader's view by our names. What stands there in both spellings is a failure."""
        found: dict[str, Any] = {}
        for (name, _), value in zip(self.steps, view.values, strict=True):
            if value is not None:
                assert name not in found, f"{name} is there in both spellings"
                found[name] = value
        return found


def expected(row: Row, request: Request) -> dict[str, Any]:
    """Our view, in the words of `summary`."""
    base = request.model if request.base is None else request.base
    assert base is not None
    assert request.model is not None
    adapter = None if request.base is None else request.model.removeprefix(f"{request.base}:")
    ours: dict[str, Any] = {
        "model": {base},
        "adapter": set() if adapter is None else {adapter},
        "controls": {name for name in request.controls if name in row.shape.steering},
        "stream": request.stream,
    }
    ask = request.ask
    if ask is not None:
        ours |= {
            "also": ask.also,
            "repeats": ask.repeats,
            "bound": None if ask.output is None else max(ask.output, ask.also),
            "context": ask.context,
        }
    return ours


def summary(row: Row, seen: dict[str, Any], *, asks: bool) -> dict[str, Any]:
    """What a server would do by what its reader sees."""
    shape = row.shape
    named = [seen[name].removeprefix(shape.prefix) for name in shape.models if name in seen]
    if row.endpoint.place is not Place.BODY:
        named.append(MODEL)
    stream = seen.get("stream", shape.streams)
    theirs: dict[str, Any] = {
        "model": set(named),
        "adapter": {seen[name] for name in shape.selectors if name in seen},
        "controls": {name for name in shape.steering if name in seen},
        "stream": stream is True or shape.always_streams,
    }
    if asks:
        also = _most(seen, shape.also, 0)
        bounds = _most(seen, shape.bounds, 0)
        theirs |= {
            "also": also,
            "repeats": _most(seen, shape.repeats, 1),
            "bound": max(bounds, also) if bounds else None,
            "context": _most(seen, shape.context, 0),
        }
    return theirs


def _most(seen: dict[str, Any], names: Iterable[str], fewest: int) -> Any:
    return max((seen[name] for name in names if name in seen), default=fewest)


def changes(request: Request, raw: bytes) -> Iterator[bytes]:
    """The bodies that the model server may get in place of this one."""
    ask = request.ask
    if ask is None or request.endpoint is None or request.endpoint.shape is None:
        return
    asks = [ask]
    if request.stream and request.endpoint.shape.usage_on_request:
        counted = counting(raw, ask)
        if counted is not None:
            asks.append(_with_usage_edit(ask, counted.edit))
    for each in asks:
        most = bound(
            each,
            model(max_output_tokens=BOUND),
            len(raw),
            has_output=request.endpoint.shape.generates,
            seconds=600,
        )
        if most.edits:
            yield edited(raw, most.edits)


def _with_usage_edit(ask: Ask, edit: Any) -> Ask:
    members = {name: getattr(ask, name) for name in ask.__struct_fields__}
    return Ask(**members | {"usage_edit": edit})


@dataclass(frozen=True)
class Case:
    """A body that a server may get, and what its reader must see in it."""

    row: Row
    raw: bytes
    expected: dict[str, Any]
    is_changed: bool

    def check(self, view: dict[str, Seen], may_refuse: frozenset[str]) -> None:
        assert view.keys() == READERS
        for name, seen in view.items():
            if seen.error is not None:
                assert name in may_refuse, f"{name} refuses it: {seen.error}"
                continue
            found = self.row.seen(seen)
            theirs = summary(self.row, found, asks="bound" in self.expected)
            if self.holds_all:
                theirs["bound"] = None
            assert theirs == self.expected, name
            if self.is_changed and self.row.shape.usage_on_request and theirs["stream"]:
                assert found[_OPTIONS] is True, name

    @property
    def holds_all(self) -> bool:
        """Whether a bound inside an object is null here, which a reader cannot tell from none.

        Then the whole context is held, whatever other bound is seen.
        """
        nested = any("." in name for name in self.row.shape.also)
        return nested and self.expected.get("bound", 0) is None


def cases(row: Row, raw: bytes, headers: dict[str, str] | None = None) -> list[Case]:
    """What is to be compared of a body: nothing if it is refused."""
    request = row.admitted(raw, headers)
    if request is None:
        return []
    ours = expected(row, request)
    found = [Case(row, raw, ours, is_changed=False)]
    for sent in changes(request, raw):
        set_bound = ours | {"bound": _bound_of(request, ours)}
        found.append(Case(row, sent, set_bound, is_changed=True))
    return found


def _bound_of(request: Request, ours: dict[str, Any]) -> Any:
    """The bound of the body that the server gets."""
    ask = request.ask
    if ask is None or ask.output is not None or ask.slot is None:
        return ours["bound"]
    return max(BOUND, ask.also)


def compare(
    readers: JsonReaders,
    bodies: Iterable[tuple[Row, bytes]],
    may_refuse: frozenset[str] = frozenset(),
) -> int:
    """Compare all that we admit of the bodies; how many that is."""
    by_row: dict[str, list[Case]] = {}
    admitted = 0
    for row, raw in bodies:
        found = cases(row, raw)
        admitted += bool(found)
        by_row.setdefault(row.endpoint.name, []).extend(found)
    for wanted in by_row.values():
        for at in range(0, len(wanted), BATCH):
            batch = wanted[at : at + BATCH]
            steps = [steps for _, steps in batch[0].row.steps]
            views = readers.read(steps, [case.raw for case in batch])
            for case, view in zip(batch, views, strict=True):
                try:
                    case.check(view, may_refuse)
                except AssertionError as fault:
                    fault.add_note(f"{case.row.endpoint.name}: {case.raw[:2000]!r}")
                    raise
    return admitted


ALL: Final = [Row(endpoint) for endpoint in ROWS]
SOME: Final = [
    next(row for row in ALL if row.endpoint.name == name)
    for name in (
        *("chat.completions", "messages", "gemini.generate", "ollama.chat"),
        *("v2.generate", "native.generate", "native.completion"),
    )
]
"""One of each kind: a body's own model, one in the path, the server's; bounds in objects."""

# ── What clients send ────────────────────────────────────────────────────────────────────────────


def test_what_clients_send_is_admitted_and_read_alike(readers: JsonReaders) -> None:
    bodies = [
        (row, each)
        for row in ALL
        for body in real(row.endpoint.name)
        for each in (
            written(body),
            written(body, ascii_only=True),
            written(dict(reversed(body.items()))),
            json.dumps(body, indent=2).encode(),
            json.dumps(body, separators=(",", ":")).encode(),
        )
    ]
    assert compare(readers, bodies) == len(bodies)


def test_tensors_may_follow_where_a_header_says_so(readers: JsonReaders) -> None:
    """The server reads the JSON as the header cuts it; what follows is no JSON to anybody."""
    row = next(row for row in ALL if row.endpoint.name == "v2.infer")
    raw = written(real("v2.infer")[0])
    for behind in (b"", b"\0\1\2\3", b'{"model":"other"}', b" "):
        headers = {JSON_LENGTH: str(len(raw))}
        whole = row.admitted(raw + behind, headers)
        assert whole is not None
        assert expected(row, whole) == cases(row, raw)[0].expected
        if behind.strip():
            assert row.admitted(raw + behind) is None


# ── What they do not agree on ────────────────────────────────────────────────────────────────────


def values(row: Row, text: bytes) -> Iterator[bytes]:
    """Bodies with a JSON text in them: as a value of nobody's, and alone."""
    plain = written(real(row.endpoint.name)[-1])
    yield b'{"x":' + text + b"," + plain[1:]
    yield plain[:-1] + b',"x":{"y":[' + text + b"]}}"
    yield text


def value_of(row: Row, name: str, text: bytes) -> bytes:
    """A body with a JSON text as the value of a member that is read."""
    nest, dot, inner = name.partition(".")
    member = f'{{"{nest}":{{"{inner}":' if dot else f'{{"{nest}":'
    others = {k: v for k, v in real(row.endpoint.name)[0].items() if k != nest}
    return member.encode() + text + (b"}," if dot else b",") + written(others | {"": 0})[1:]


def compare_values(readers: JsonReaders, most: int) -> None:
    """Every value in some kinds of bodies; as a member's value, as many as `most`."""
    texts = [text.encode("utf-8", "surrogatepass") for text in DOUBTED] + BYTES
    for wanted, may_refuse in ((AGREED, frozenset[str]()), (texts, frozenset(READERS))):
        given = [text if isinstance(text, bytes) else text.encode() for text in wanted]
        bodies = [(row, body) for row in SOME[::3] for text in given for body in values(row, text)]
        members = [(row, name, text) for row in SOME for name in row.names for text in given]
        bodies += [(row, value_of(row, name, text)) for row, name, text in few(members, most)]
        share = compare(readers, bodies, may_refuse) / len(bodies)
        assert share > 0.15 if not may_refuse else 0 < share < 0.3


def few(all_of_them: Sequence[Any], most: int) -> Sequence[Any]:
    """So many of them at most, always the same."""
    if len(all_of_them) <= most:
        return all_of_them
    return Random(1).sample(all_of_them, most)


def test_values_are_read_alike(readers: JsonReaders) -> None:
    compare_values(readers, 700)


def compare_names(readers: JsonReaders, most: int) -> None:
    """Beside each member and in its place, before it and behind it, another like it."""
    every = [
        (row, name, alter, body)
        for row in ALL
        for name in row.names
        for alter in TWICE
        for body in real(row.endpoint.name)
    ]
    bodies = [
        (row, raw)
        for row, name, alter, body in few(every, most)
        for raw in beside(body, name.split("."), alter)
    ]
    assert 0 < compare(readers, bodies, frozenset(READERS)) < len(bodies)


def beside(body: dict[str, Any], path: list[str], alter: Any) -> Iterator[bytes]:
    """A body with one more member, whose name is like that of the one at the path."""
    name, *inner = path
    held = body.get(name)
    if inner:
        outside = {k: v for k, v in body.items() if k != name}
        for raw in beside(held if isinstance(held, dict) else {}, inner, alter):
            yield json.dumps({name: 0} | outside).encode().replace(b"0", raw, 1)
    other = alter(name)
    for without in (body, {k: v for k, v in body.items() if k != name}):
        plain = written(without)
        comma = b"," if without else b""
        for value in (3, "m", without.get(name, True)):
            member = f"{json.dumps(other)}:{json.dumps(value)}".encode()
            escaped = "".join(f"\\u{ord(each):04x}" for each in other)
            yield b"{" + member + comma + plain[1:]
            yield plain[:-1] + comma + f'"{escaped}":{json.dumps(value)}'.encode() + b"}"


def test_a_name_that_some_reader_takes_for_one_of_ours(readers: JsonReaders) -> None:
    compare_names(readers, 100)


def test_what_stands_around_a_body(readers: JsonReaders) -> None:
    bodies = []
    for row in SOME:
        plain = written(real(row.endpoint.name)[0], ascii_only=True)
        bodies += [(row, frame.replace(b"%s", plain).replace(b"%%", b"%")) for frame in FRAMES]
        bodies += [(row, plain.decode().encode(coding)) for coding in CODINGS]
        bodies += [(row, plain[:at]) for at in range(len(plain))]
    assert 0 < compare(readers, bodies, frozenset(READERS)) < len(bodies) // 8


DISPUTED: Final = {
    "a member twice": b'{"model":"a","model":"b"}',
    "a member in capitals too": b'{"model":"a","MODEL":"b"}',
    "a name that a NUL ends": b'{"model\\u0000":"b","model":"a"}',
    "an escaped name": b'{"model":"a","mod\\u0065l":"b"}',
    "what follows": b'{"model":"a"}{"model":"b"}',
    "no number": b'{"model":"a","x":NaN}',
    "two bytes a character": '{"model":"a"}'.encode("utf-16"),
    "a mark of byte order": b'\xef\xbb\xbf{"model":"a"}',
    "half a pair in the model": b'{"model":"a\\ud800"}',
    "half a pair in a name": b'{"model":"a","x\\ud800":1}',
    "no UTF-8": b'{"model":"a\xff"}',
    "a number beyond a double": b'{"model":"a","x":1e999}',
}


@pytest.mark.parametrize("raw", DISPUTED.values(), ids=list(DISPUTED))
def test_what_they_read_differently_is_refused(readers: JsonReaders, raw: bytes) -> None:
    """The dispute is real: this also shows that the comparison can see one."""
    row = SOME[0]
    (view,) = readers.read([("model",)], [raw])
    assert len({repr(seen.values) for seen in view.values()}) > 1
    whole = raw.replace(b'"model":"a', b'"messages":[],"model":"a', 1)
    assert row.admitted(whole) is None
    assert row.admitted(b'{"messages":[],"model":"a"}') is not None


# ── Made and mutated bodies ──────────────────────────────────────────────────────────────────────

BITS: Final = [
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b" ",
        b"\n",
        b"null",
        b"true",
        b"1",
        b"-",
        b"0",
    ),
    *(
        b"e",
        b".",
        b"\0",
        b"\xff",
        b"\xc3\xa9",
        b"\\u0000",
        b"\\ud800",
        b"\\u006d",
        b'","',
        b'":',
        b"{}",
    ),
    *(
        b'"model":',
        b'"model":"x",',
        b'"Model":"x",',
        b'"max_tokens":',
        b'"max_tokens":9,',
        b'"n":2,',
    ),
    *(
        b'"options":{',
        b'"num_predict":3,',
        b'"parameters":{',
        b'"stream":true,',
        b'"lora_path":"y",',
    ),
    *(
        b'"stream_options":{',
        b'"include_usage":false,',
        b'"generationConfig":{"maxOutputTokens":3},',
        b'"chat_template_kwargs":{',
        b'"chat_template":"x",',
    ),
    *(b"9223372036854775808", b"1e400", b"\xef\xbb\xbf", b"/**/", b"\\", b"K", b"\xe2\x84\xaa"),
]


def mutate(random: Random) -> tuple[Row, bytes]:
    """A body of the corpus with a few bytes put in, taken out, moved or doubled."""
    row = random.choice(random.choice((SOME, ALL)))
    raw = written(random.choice(real(row.endpoint.name)), ascii_only=random.random() < 0.5)
    for _ in range(random.choice((1, 1, 2, 3))):
        at, size = random.randrange(len(raw) + 1), random.choice((0, 0, 1, 2, 20))
        if random.random() < 0.5:  # at a member's beginning, where it may be whole
            at = raw.find(b'"', at) if raw.find(b'"', at) >= 0 else at
        raw = mangled(random, raw, at, size, BITS)
    return row, raw


def compare_mutated(readers: JsonReaders, seeds: range) -> None:
    admitted = 0
    for start in range(seeds.start, seeds.stop, 4000):
        some = range(start, min(start + 4000, seeds.stop))
        bodies = (mutate(Random(seed)) for seed in some)
        admitted += compare(readers, bodies, frozenset(READERS))
    assert admitted > len(seeds) // 10, "too few for the comparison to say much"


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**41),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([MODEL, "models/" + MODEL, "m:x", 1, 5, 7.0]),
)


def trees(names: list[str]) -> Any:
    """Any JSON whose objects have names that are read, or others."""
    keys = st.sampled_from(names) | st.text(max_size=4)
    return st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    )


@st.composite
def made(draw: st.DrawFn) -> tuple[Row, bytes]:
    """A real body with other members, and other values of its own, written in some way."""
    row = draw(st.sampled_from(SOME) | st.sampled_from(ALL))
    names = sorted({step for _, steps in row.steps for step in steps})
    body = dict(draw(st.sampled_from(real(row.endpoint.name))))
    more = st.dictionaries(st.sampled_from(names) | st.text(max_size=5), trees(names), max_size=3)
    body |= draw(more)
    pairs = draw(st.permutations(list(body.items())))
    text = json.dumps(
        dict(pairs),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1, "\t"])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")])),
    )
    return row, text.encode("utf-8", "surrogatepass")


def compare_made(readers: JsonReaders, examples: int) -> None:
    admitted = 0

    @settings(max_examples=examples, database=None, deadline=None)
    @given(body=made())
    def compare_one(body: tuple[Row, bytes]) -> None:
        nonlocal admitted
        admitted += compare(readers, [body], frozenset(READERS))

    compare_one()
    assert admitted > examples // 10, "too few for the comparison to say much"


def test_made_bodies_are_read_alike(readers: JsonReaders) -> None:
    compare_made(readers, 200)


def test_mutated_bodies_are_read_alike(readers: JsonReaders) -> None:
    compare_mutated(readers, range(3_000))


@pytest.mark.soak
def test_all_values_and_names_are_read_alike(readers: JsonReaders) -> None:
    compare_values(readers, 1_000_000)
    compare_names(readers, 20_000)


@pytest.mark.soak
def test_many_made_bodies_are_read_alike(readers: JsonReaders) -> None:
    compare_made(readers, 20_000)


@pytest.mark.soak
def test_many_mutated_bodies_are_read_alike(readers: JsonReaders) -> None:
    compare_mutated(readers, range(3_000, 300_000))
