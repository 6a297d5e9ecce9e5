"""The key's form: what is minted is recognised, what is altered is not, what is stored is mute."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import string
import zlib
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from store import keyformat
from store.keyformat import Digester, KeyForm, Pepper, checksum_holds, hint, mint, read_peppers

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
FORM = KeyForm()
BITS = st.integers(0, 2**256 - 1)
PREFIXES = st.from_regex(r"[a-z][a-z0-9]{0,5}([-_][a-z0-9]{1,5}){0,2}_", fullmatch=True)


def minted(bits: int, prefix: str = keyformat.DEFAULT_PREFIX) -> str:
    """A key of chosen bits: as `mint` makes it, without its random source."""
    text = prefix + keyformat._base62(bits, keyformat.BODY_CHARS)
    return text + keyformat._checksum(text)


def accepted(value: str) -> bool:
    return FORM.is_ours(value) and checksum_holds(value)


def test_frozen_vector() -> None:
    """Keys live a year in people's configuration: this one must stay a key for ever."""
    key = "sk-tg_" + "0" * 42 + "1" + "3fCPOl"
    assert minted(1) == key
    assert hashlib.sha256(key.encode()).digest() == Digester().digests(key)[0]


def test_mint_has_the_form_and_256_fresh_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {mint() for _ in range(200)}
    assert len(keys) == 200
    assert all(accepted(key) for key in keys)
    asked = []

    def randbits(bits: int) -> int:
        asked.append(bits)
        return 2**bits - 1

    monkeypatch.setattr("secrets.randbits", randbits)
    assert accepted(mint()), "the largest number still fits into 43 characters"
    assert asked == [256]


@given(BITS, PREFIXES)
def test_any_bits_and_prefix_make_a_key(bits: int, prefix: str) -> None:
    key = minted(bits, prefix)
    form = KeyForm((prefix,))
    assert form.is_ours(key)
    assert checksum_holds(key)
    assert len(key) == len(prefix) + 43 + 6


@given(BITS, st.data())
def test_any_changed_character_is_caught(bits: int, data: st.DataObject) -> None:
    key = minted(bits)
    at = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.one_of(st.sampled_from(ALPHABET), st.characters(codec="utf-8")))
    assume(other != key[at])
    assert not accepted(key[:at] + other + key[at + 1 :])


@given(BITS, st.data())
def test_swapped_lost_and_added_characters_are_caught(bits: int, data: st.DataObject) -> None:
    key = minted(bits)
    at = data.draw(st.integers(0, len(key) - 2))
    added = data.draw(st.sampled_from(ALPHABET))
    if key[at] != key[at + 1]:
        assert not accepted(key[:at] + key[at + 1] + key[at] + key[at + 2 :])
    assert not accepted(key[:at] + key[at + 1 :])
    assert not accepted(key[:at] + added + key[at:])


@pytest.mark.parametrize("around", [" {}", "{} ", "{}\n", "\n{}", "Bearer {}", "{},{}", "\x00{}"])
def test_nothing_may_stand_around_a_key(around: str) -> None:
    key = mint()
    assert not FORM.is_ours(around.replace("{}", key))


@given(st.text(max_size=80))
def test_made_up_text_is_no_key(text: str) -> None:
    assert not accepted(text)


@given(BITS)
def test_a_digest_is_never_a_key(bits: int) -> None:
    """Who has read the table cannot call with what stands there, however it is spelled."""
    digester = Digester((Pepper(1, b"p" * 32),))
    key = minted(bits)
    for digest in digester.digests(key):
        spellings = (
            digest.hex(),
            digest.decode("latin-1"),
            base64.b64encode(digest).decode(),
            base64.urlsafe_b64encode(digest).decode().rstrip("="),
        )
        for spelled in spellings:
            assert not FORM.is_ours(spelled)
            assert digest not in digester.digests(spelled)


@given(BITS, PREFIXES)
def test_hint_tells_the_last_four_and_nothing_else(bits: int, prefix: str) -> None:
    key = minted(bits, prefix)
    assert hint(key) == f"{prefix}…{key[-4:]}"


def test_newest_prefix_first_and_old_ones_still_count() -> None:
    form = KeyForm(("acme_", "sk-tg_"))
    assert form.is_ours(mint("acme_"))
    assert form.is_ours(mint("sk-tg_"))
    assert not form.is_ours(mint("other_"))
    assert not checksum_holds("acme_" + mint("sk-tg_").removeprefix("sk-tg_")), (
        "it covers the prefix"
    )


@pytest.mark.parametrize("prefix", ["", "sk", "SK_", "_", "sk tg_", "1a_", "a.b_", "sk-tg_\n"])
def test_prefixes_that_are_none(prefix: str) -> None:
    with pytest.raises(ValueError, match="not a key prefix"):
        KeyForm((prefix,))
    with pytest.raises(ValueError, match="at least one"):
        KeyForm(())


def test_pattern_is_plain_enough_for_envoy() -> None:
    """RE2 reads it: no look-around, no back-reference, no escaped dash."""
    assert KeyForm(("a-b_", "sk-tg_")).pattern() == "(?:a-b_|sk-tg_)[0-9A-Za-z]{49}"


def test_what_scanners_are_told_finds_keys_and_nothing_else() -> None:
    page = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    (told,) = re.findall(r"(?m)^```\n(.*)\n```$", page)
    for _ in range(20):
        key = mint()
        assert re.findall(told, f'{{"Authorization": "Bearer {key}"}}') == [key]
        # the checksum as the page describes it, for scanners that look twice
        left, word = zlib.crc32(key[:-6].encode()), ""
        for _ in range(6):
            left, digit = divmod(left, 62)
            word = (string.digits + string.ascii_uppercase + string.ascii_lowercase)[digit] + word
        assert key.endswith(word)
        for other in (hint(key), key[:-1], key.replace("sk-tg_", "sk-"), key.upper()):
            assert re.findall(told, other) == [], other
    for other in ("sk-" + "a" * 48, "sk-ant-api03-" + "a" * 95, "ghp_" + "a" * 36, "a" * 64):
        assert re.findall(told, other) == [], other


def test_foreign_keys_only_where_a_form_is_named_and_never_long() -> None:
    assert not FORM.is_foreign("sk-1234567890")
    form = KeyForm(foreign=r"sk-[A-Za-z0-9]+")
    assert form.is_foreign("sk-1234567890")
    assert not form.is_foreign("sk-1234567890,")
    assert not form.is_foreign("x sk-1234567890")
    assert form.is_foreign("sk-" + "a" * (keyformat.MAX_FOREIGN_CHARS - 3))
    assert not form.is_foreign("sk-" + "a" * (keyformat.MAX_FOREIGN_CHARS - 2))


def test_digests_are_one_for_each_pepper_newest_first() -> None:
    old, new = Pepper(1, b"1" * 32), Pepper(7, b"7" * 32)
    digester = Digester((new, old))
    key = mint()
    raw = key.encode()
    assert digester.versions() == (7, 1, 0)
    assert digester.digests(key) == (
        hmac.new(new.secret, raw, hashlib.sha256).digest(),
        hmac.new(old.secret, raw, hashlib.sha256).digest(),
        hashlib.sha256(raw).digest(),
    )
    assert digester.newest(key) == (7, digester.digests(key)[0])
    assert Digester().newest(key) == (0, hashlib.sha256(raw).digest())


def test_pepper_file() -> None:
    text = f"# two\n\n2:{'ab' * 32}  # new\n1:{'cd' * 40}\n"
    peppers = read_peppers(text)
    assert [(p.version, p.secret) for p in peppers] == [(2, b"\xab" * 32), (1, b"\xcd" * 40)]
    assert "ab" * 4 not in repr(peppers)
    assert r"\xab" not in repr(Digester(peppers))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no pepper"),
        ("# nothing\n", "no pepper"),
        ("secret", "line 1: write it as"),
        ("1:zz", "line 1: write it as"),
        (f"x:{'ab' * 32}", "line 1: write it as"),
        (f"\n0:{'ab' * 32}", "line 2: versions"),
        (f"1:{'ab' * 32}\n1:{'cd' * 32}", "line 2: versions"),
        (f"1:{'ab' * 31}", "line 1: a pepper has 32"),
    ],
)
def test_pepper_file_faults_name_the_line_and_never_the_secret(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read_peppers(text)
    for secret in ("abab", "cdcd", "zz", "secret"):
        assert secret not in str(caught.value)
