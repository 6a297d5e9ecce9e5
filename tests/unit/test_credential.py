"""From four headers and a URL to one digest: every way to present a key, rightly and wrongly."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import minted, mistyped

from authz.credential import BARE_HEADERS, CREDENTIAL_HEADERS, read_credential
from authz.model import Fault, Reason
from store.keyformat import DEFAULT_PREFIX, Digester, KeyForm, Pepper

K, K2, OLD = minted(1), minted(2), minted(3, "sk-old_")
BAD = mistyped(K)
F, F2 = "fk-abcdefgh", "fk-12345678"
JUNK = "nonsense"
FORM = KeyForm((DEFAULT_PREFIX, "sk-old_"))
WITH_FOREIGN = KeyForm((DEFAULT_PREFIX, "sk-old_"), r"fk-[a-z0-9]{8}")
DIGESTER = Digester((Pepper(2, b"2" * 32), Pepper(1, b"1" * 32)))
PATH = "/v1/chat/completions"

MISSING = Reason.MISSING_API_KEY
INVALID = Reason.INVALID_API_KEY
AMBIGUOUS = Reason.AMBIGUOUS_CREDENTIALS


def read(
    headers: dict[str, str], target: str = PATH, form: KeyForm = WITH_FOREIGN
) -> tuple[bytes, ...] | Fault:
    return read_credential(headers, target, form, DIGESTER)


def outcome(
    headers: dict[str, str], target: str = PATH, form: KeyForm = WITH_FOREIGN
) -> str | Reason:
    """Which of the keys above was read, or why none was."""
    found = read(headers, target, form)
    if isinstance(found, Fault):
        assert found == Fault(found.reason)  # nothing of the request goes along
        return found.reason
    return next(key for key in (K, K2, OLD, F, F2) if DIGESTER.digests(key) == found)


HEADERS: list[tuple[dict[str, str], str | Reason]] = [
    ({}, MISSING),
    # one header
    *[({name: K}, K) for name in BARE_HEADERS],
    *[({name: OLD}, OLD) for name in BARE_HEADERS],
    *[({name: F}, F) for name in BARE_HEADERS],
    *[({name: BAD}, INVALID) for name in BARE_HEADERS],
    *[({name: JUNK}, INVALID) for name in BARE_HEADERS],
    *[({name: ""}, MISSING) for name in BARE_HEADERS],
    *[({name: f"Bearer {K}"}, INVALID) for name in BARE_HEADERS],
    ({"authorization": f"Bearer {K}"}, K),
    ({"authorization": f"bearer {K}"}, K),
    ({"authorization": f"BEARER   {K} "}, K),
    ({"authorization": f"Bearer {F}"}, F),
    ({"authorization": f"Bearer {BAD}"}, INVALID),
    ({"authorization": f"Bearer {JUNK}"}, INVALID),
    ({"authorization": f"Bearer {K} {K}"}, INVALID),
    ({"authorization": f'Bearer "{K}"'}, INVALID),
    ({"authorization": f"Bearer {K}\N{ZERO WIDTH SPACE}"}, INVALID),
    ({"authorization": f"Bearer {K[:-1]}"}, INVALID),
    ({"authorization": f"Bearer {K}0"}, INVALID),
    ({"authorization": f"Bearer {K.upper()}"}, INVALID),
    ({"authorization": "Bearer"}, MISSING),
    ({"authorization": "Bearer "}, MISSING),
    ({"authorization": ""}, MISSING),
    ({"authorization": K}, MISSING),
    ({"authorization": f"Basic {K}"}, MISSING),
    ({"authorization": f"Token {K}"}, MISSING),
    ({"authorization": f"Bearer\t{K}"}, MISSING),
    # the same value in several headers is one
    ({"authorization": f"Bearer {K}", "x-api-key": K}, K),
    ({"authorization": f"Bearer {K}"} | dict.fromkeys(BARE_HEADERS, K), K),
    (dict.fromkeys(BARE_HEADERS, F), F),
    # ours before foreign, and before what is none
    ({"authorization": f"Bearer {JUNK}", "x-api-key": K}, K),
    ({"authorization": f"Bearer {K}", "x-api-key": JUNK, "api-key": "junk"}, K),
    ({"authorization": f"Bearer {F}", "x-api-key": K}, K),
    ({"authorization": f"Bearer {F}", "x-api-key": K, "api-key": F2}, K),
    ({"authorization": f"Basic {JUNK}", "x-api-key": K}, K),
    ({"authorization": "Bearer", "x-api-key": K}, K),
    ({"authorization": f"Bearer {JUNK}", "x-goog-api-key": F}, F),
    # two of a rank
    ({"authorization": f"Bearer {K}", "x-api-key": K2}, AMBIGUOUS),
    ({"x-api-key": K, "api-key": K, "x-goog-api-key": K2}, AMBIGUOUS),
    ({"x-api-key": K, "api-key": OLD}, AMBIGUOUS),
    ({"x-api-key": K, "api-key": BAD}, AMBIGUOUS),
    ({"x-api-key": F, "api-key": F2}, AMBIGUOUS),
    # values, but no candidate that holds
    ({"x-api-key": JUNK, "api-key": "junk"}, INVALID),
    ({"x-api-key": BAD, "api-key": F}, INVALID),
    # Envoy joins repeated headers with a comma
    ({"authorization": f"Bearer {K},Bearer {K}"}, AMBIGUOUS),
    ({"authorization": f"Bearer {K},Bearer {K2}"}, AMBIGUOUS),
    ({"authorization": f"Bearer {K}, {K}"}, AMBIGUOUS),
    ({"authorization": f"Bearer ,{K}"}, AMBIGUOUS),
    ({"authorization": f"Basic {JUNK},Bearer {K}"}, MISSING),
    ({"x-api-key": f"{K},{K2}"}, AMBIGUOUS),
    ({"x-api-key": f"{JUNK},{JUNK}"}, AMBIGUOUS),
    ({"x-api-key": f"{JUNK},{JUNK}", "api-key": K}, AMBIGUOUS),
]


@pytest.mark.parametrize(("headers", "expected"), HEADERS)
def test_headers(headers: dict[str, str], expected: str | Reason) -> None:
    assert outcome(headers) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-api-key": F}, INVALID),
        ({"x-api-key": F, "api-key": F2}, INVALID),
        ({"x-api-key": F, "api-key": K}, K),
    ],
)
def test_where_none_were_imported_a_foreign_value_is_no_candidate(
    headers: dict[str, str], expected: str | Reason
) -> None:
    assert outcome(headers, form=FORM) == expected


@pytest.mark.parametrize("name", ["x-auth-token", "proxy-authorization", "cookie", "apikey"])
def test_other_headers_carry_no_key(name: str) -> None:
    assert outcome({name: f"Bearer {K}"}) == MISSING
    assert outcome({name: K}) == MISSING


def test_a_foreign_value_beyond_reason_is_none() -> None:
    anything = KeyForm((DEFAULT_PREFIX,), r".+")
    assert not isinstance(read({"x-api-key": "f" * 512}, form=anything), Fault)
    assert read({"x-api-key": "f" * 513}, form=anything) == Fault(INVALID)


def test_one_digest_for_each_pepper_newest_first_and_none_is_a_key() -> None:
    digests = read({"x-api-key": K})
    assert digests == (
        hmac.digest(b"2" * 32, K.encode(), "sha256"),
        hmac.digest(b"1" * 32, K.encode(), "sha256"),
        hashlib.sha256(K.encode()).digest(),
    )
    for digest in digests:
        assert isinstance(read({"x-api-key": digest.hex()}), Fault)


# ── The URL ──────────────────────────────────────────────────────────────────────────────────────

IN_URL = [
    f"{PATH}?key={K}",
    f"{PATH}?key={JUNK}",
    f"{PATH}?KeY={JUNK}",
    f"{PATH}?a;%4B%65%79=={JUNK}",
    f"{PATH}?\N{KELVIN SIGN}ey={JUNK}",
    f"{PATH}?b&%e2%84%AA%45%59={JUNK}",
    f"{PATH}?key={F}",
    f"{PATH}?KEY={JUNK}",
    f"{PATH}?Key={JUNK}",
    f"{PATH}?%6bey={JUNK}",
    f"{PATH}?%6B%65%79={JUNK}",
    f"{PATH}?a=1&key={JUNK}",
    f"{PATH}?a=1;key={JUNK}",
    f"{PATH}?key=&key={JUNK}",
    f"{PATH}?api_key={K}",
    f"{PATH}?access_token={K}",
    f"{PATH}?a={BAD}",
    f"{PATH}?a={OLD}",
    f"{PATH}?{K}",
    f"{PATH}?{K}=1",
    f"{PATH}?a=Bearer%20{K}",
    f"{PATH}?a=Bearer+{K}",
    f"{PATH}?a=%22{K}%22",
    f"{PATH}?a=" + K.replace("-", "%2D").replace("_", "%5f"),
    f"{PATH}?a=" + "".join(f"%{ord(c):02x}" for c in K),
    f"/{K}/v1/chat/completions",
    f"/v1/models/{K}",
    "/v1/models/" + K.replace("_", "%5F"),
]
NOT_IN_URL = [
    PATH,
    f"{PATH}?",
    f"{PATH}?key",
    f"{PATH}?key=",
    f"{PATH}?key=&a=key",
    f"{PATH}?key%3D{JUNK}",
    f"{PATH}?%2b%6bey={JUNK}",
    f"{PATH}?keys={JUNK}",
    f"{PATH}?monkey={JUNK}",
    f"{PATH}?a=key",
    f"{PATH}?a={F}",
    f"{PATH}?a={K[:-1]}",
    f"{PATH}?beta=true&api-version=2024-10-21",
    "/v1/key",
    "/v1/key=1",
]


@pytest.mark.parametrize("target", IN_URL)
def test_a_key_in_the_url_answers_before_all_else(target: str) -> None:
    for headers in ({}, {"x-api-key": K}, {"x-api-key": K, "api-key": K2}, {"x-api-key": JUNK}):
        assert outcome(headers, target) == Reason.KEY_IN_URL


@pytest.mark.parametrize("target", NOT_IN_URL)
def test_what_only_looks_like_one(target: str) -> None:
    assert outcome({"x-api-key": K}, target) == K
    assert outcome({}, target) == MISSING


# ── Whatever is sent ─────────────────────────────────────────────────────────────────────────────

PIECES = st.sampled_from([K, K2, BAD, F, JUNK, "Bearer ", "Basic ", " ", ",", ""])
VALUES = st.lists(PIECES, max_size=4).map("".join)


@given(
    headers=st.dictionaries(st.sampled_from(CREDENTIAL_HEADERS), VALUES),
    target=VALUES.map(lambda tail: f"{PATH}?{tail}"),
)
def test_the_plaintext_ends_here(headers: dict[str, str], target: str) -> None:
    said = repr(read(headers, target))
    assert not any(key in said for key in (K, K2, BAD, F, JUNK))
