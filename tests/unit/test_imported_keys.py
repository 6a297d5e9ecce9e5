"""Keys that were made by another gate: which are looked up, and what guessing them costs."""

from __future__ import annotations

import hashlib

import pytest
from support import FORM, KeyTable, ManualClock, bearer, key_record, minted

from admin.litellmkeys import FOREIGN_FORM
from authz.cache import KeyCache
from authz.credential import read_credential
from authz.model import Fault, Reason
from store.keyformat import Digester, KeyForm, Pepper
from store.records import Change

HERE = KeyForm(foreign=FOREIGN_FORM)
PEPPERED = Digester((Pepper(3, b"p" * 32), Pepper(2, b"q" * 32)))
IMPORTED = "sk-imported_by-somebody0"


def digests(key: str, form: KeyForm = HERE) -> tuple[bytes, ...] | Fault:
    return read_credential(bearer(key), "/v1/chat/completions", form, PEPPERED)


def test_an_imported_key_is_found_by_its_plain_sha_256_whatever_pepper_there_is() -> None:
    found = digests(IMPORTED)
    assert isinstance(found, tuple)
    assert found[-1] == hashlib.sha256(IMPORTED.encode()).digest()
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("key", "form"),
    [
        (IMPORTED, FORM),
        (IMPORTED, KeyForm(foreign="sk-[0-9]+")),
        ("sk-short", HERE),
        ("sk-" + "x" * 129, HERE),
        (IMPORTED + "\n", HERE),
        ("x" + IMPORTED, HERE),
        (hashlib.sha256(IMPORTED.encode()).hexdigest(), HERE),
    ],
)
def test_what_has_not_the_named_form_asks_no_store(key: str, form: KeyForm) -> None:
    assert digests(key, form) == Fault(Reason.INVALID_API_KEY)


def test_a_key_of_ours_that_is_mistyped_is_not_looked_up_as_an_imported_one() -> None:
    key = minted(1)
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert HERE.is_foreign(wrong), "its form alone would let it pass"
    assert digests(wrong) == Fault(Reason.INVALID_API_KEY)


def test_guesses_are_kept_apart_bounded_and_answered_without_the_store() -> None:
    real = digests(IMPORTED)
    assert isinstance(real, tuple)
    table, clock = KeyTable((real[-1], key_record())), ManualClock()
    cache = KeyCache(table, clock, stale_us=0, capacity=50)
    cache.beat()
    assert cache.get(real) is not None
    for number in range(500):
        guess = digests(f"sk-guess-number-{number:06d}")
        assert isinstance(guess, tuple)
        assert cache.get(guess) is None
        asked = table.asked
        assert cache.get(guess) is None
        assert table.asked == asked, "a guess that is repeated costs nothing"
    assert len(cache) == 51
    asked = table.asked
    assert cache.get(real) is not None
    assert table.asked == asked, "no guess has pushed it out"


def test_a_key_that_was_asked_for_before_it_was_imported_is_found_with_the_change() -> None:
    found = digests(IMPORTED)
    assert isinstance(found, tuple)
    table = KeyTable()
    cache = KeyCache(table, ManualClock(), stale_us=0)
    cache.beat()
    assert cache.get(found) is None
    table.rows[found[-1]] = key_record()
    assert cache.get(found) is None
    cache.apply(Change(1, found[-1], "acc_1"))
    assert cache.get(found) is not None
