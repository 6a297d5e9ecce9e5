"""How much longer NFC makes a text, against Python's own NFC."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz.normal import FACTOR, growth


def nfc_bytes(text: str) -> int:
    return len(unicodedata.normalize("NFC", text).encode())


GROWING = [
    chr(code)
    for code in range(0x80, 0x110000)
    if not 0xD800 <= code < 0xE000 and nfc_bytes(chr(code)) > len(chr(code).encode())
]


def test_of_each_character_that_grows_it_is_known() -> None:
    assert len(GROWING) > 90
    for one in GROWING:
        raw = one.encode()
        assert nfc_bytes(one) - len(raw) <= growth(raw) <= (FACTOR - 1) * len(raw)


COMPOSED = [
    chr(code)
    for code in range(0x80, 0x2000)
    if nfc_bytes(chr(code)) > 1 and len(unicodedata.normalize("NFD", chr(code))) > 1
]
MARKS = [chr(code) for code in range(0x300, 0x370)]


def test_of_each_mark_that_takes_a_letter_apart_it_is_known() -> None:
    for letter in COMPOSED:
        for mark in MARKS:
            raw = (letter + mark).encode()
            assert nfc_bytes(letter + mark) <= len(raw) + growth(raw)


@given(
    st.text(
        st.one_of(st.characters(codec="utf-8"), *map(st.sampled_from, (GROWING, COMPOSED, MARKS)))
    )
)
@example("\N{MUSICAL SYMBOL EIGHTH NOTE}" * 3000)
@example("a\N{MUSICAL SYMBOL EIGHTH NOTE}" * 999)
@example("\N{LATIN SMALL LETTER U WITH DIAERESIS AND MACRON}\N{COMBINING DOT BELOW}" * 700)
def test_no_text_grows_by_more(text: str) -> None:
    raw = text.encode()
    assert nfc_bytes(text) <= len(raw) + growth(raw)


PLAIN = ("", "plain", "漢字、かな。", "Grüße", "Привет", "Tiếng Việt", "สวัสดี", "नमस्ते", "😀")


@pytest.mark.parametrize("text", PLAIN)
def test_what_does_not_grow_costs_nothing(text: str) -> None:
    assert growth(unicodedata.normalize("NFC", text).encode()) == 0


@pytest.mark.parametrize("one", [*GROWING[::9], "\N{THAI CHARACTER KO KAI}", "é"])
def test_no_text_takes_long(one: str) -> None:
    raw = one.encode() * ((1 << 20) // len(one.encode()))
    started = time.process_time()
    growth(raw)
    assert time.process_time() - started < 0.5
