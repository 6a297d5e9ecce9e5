"""The names of an object's members: one reading of each, whatever clients make up."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz import shapes
from authz.body import read_json
from authz.names import AmbiguousNamesError, Names

MEMBERS = Names(("model", "maxTokens", "stream"), (("maxTokens", "max_tokens"),))
KELVIN = "\N{KELVIN SIGN}"
LONG_S = "\N{LATIN SMALL LETTER LONG S}"


def test_what_is_read_is_found_in_its_order() -> None:
    assert MEMBERS.read(("x", "max_tokens", "y\0z", "model")) == (
        ("max_tokens", "maxTokens"),
        ("model", "model"),
    )
    assert Names(("a",), inside="nest").read(("b", "a")) == (("a", "nest.a"),)


@pytest.mark.parametrize(
    ("names", "param"),
    [
        (("model", "x", "model"), "model"),
        (("x", "x"), None),
        (("Model",), "model"),
        (("model", "MODEL"), "model"),
        (("MAXTOKENS",), "maxTokens"),
        (("maxtokens",), "maxTokens"),
        (("Max_To" + KELVIN + "ens",), "maxTokens"),
        ((LONG_S + "tream",), "stream"),
        (("model\0",), "model"),
        (("model\0x", "model"), "model"),
        (("maxTokens", "max_tokens"), "maxTokens"),
    ],
)
def test_what_some_reader_takes_for_another_is_refused(
    names: tuple[str, ...], param: str | None
) -> None:
    for _ in range(2):  # what is refused is not remembered
        with pytest.raises(AmbiguousNamesError) as caught:
            MEMBERS.read(names)
        assert caught.value.param == param
        assert not MEMBERS.knows(names)


@pytest.mark.parametrize("name", ["\0model", "x\0model", "x\0model\0", "mode", "models", " model"])
def test_what_no_reader_takes_for_it_passes(name: str) -> None:
    assert MEMBERS.read((name,)) == ()
    assert MEMBERS.read((name, "model")) == (("model", "model"),)


@given(st.lists(st.sampled_from(["model", "Model", "stream", "x", "x\0", "\0model", "a\0x"])))
def test_all_at_once_is_as_one_by_one(listed: list[str]) -> None:
    names = tuple(listed)
    try:
        Names(("model", "stream"))._look_closely(names)
    except AmbiguousNamesError:
        with pytest.raises(AmbiguousNamesError):
            Names(("model", "stream")).read(names)
    else:
        found = tuple((name, name) for name in names if name in {"model", "stream"})
        assert Names(("model", "stream")).read(names) == found


def test_what_one_client_makes_up_does_not_keep_others_out() -> None:
    names = Names(("model",))
    for at in range(2000):
        names.read((f"x{at}",))
    names.read(("model", "messages"))
    assert names.knows(("model", "messages"))
    assert sum(names.knows((f"x{at}",)) for at in range(2000)) <= 512
    long = ("x" * 600,)
    names.read(long)
    assert not names.knows(long)


OBJECTS = ",".join(['{"a":[1]}'] * 100_000)
NAMES = ",".join(f'"{at:x}":1' for at in range(110_000))
MANY = {
    "a member that nobody knows": '"messages":[{"role":"user","y":[' + OBJECTS + "]}]",
    "a member that is looked into": '"messages":[],"thinking":{"y":[' + OBJECTS + "]}",
    "parameters of a tensor": '"inputs":[{"parameters":{' + NAMES + "}}]",
}


@pytest.mark.parametrize("members", MANY.values(), ids=list(MANY))
def test_reading_a_mebibyte_of_them_takes_some_milliseconds(members: str) -> None:
    """About 2 ms each; they took 40 to 70 where all values were made and all names looked at."""
    shape = shapes.INFER if "inputs" in members else shapes.CHAT
    raw = f'{{"model":"m",{members}}}'.encode()
    assert len(raw) > 900_000
    took = []
    for _ in range(5):
        began = time.thread_time()
        read_json(raw, shape)
        took.append(time.thread_time() - began)
    assert min(took) < 0.02
