"""The form of a key, its checksum, its digest and its hint. Pure.

FROZEN FORMAT. A key is `<prefix>` + 43 base62 characters (256 random bits) + 6 base62
characters of the CRC32 over everything before them; digits are 0-9, A-Z, a-z in this order.
Keys live in people's configuration for a year: a change of form is a new prefix in front of
the list of prefixes, never another meaning of an old one.

At rest a key is only its digest: HMAC-SHA-256 under a versioned pepper, or plain SHA-256
(version 0) where there is none.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Final

DEFAULT_PREFIX: Final = "sk-tg_"
BODY_CHARS: Final = 43
CHECKSUM_CHARS: Final = 6
UNPEPPERED: Final = 0
MIN_PEPPER_BYTES: Final = 32
MAX_FOREIGN_CHARS: Final = 512

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ANY_KEY: Final = re.compile(
    rf"[a-z0-9_-]*_[0-9A-Za-z]{{{BODY_CHARS + CHECKSUM_CHARS}}}", re.IGNORECASE
)
_PREFIX: Final = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*_")


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), CHECKSUM_CHARS)


def mint(prefix: str = DEFAULT_PREFIX) -> str:
    """A new plaintext key with 256 bits from the system's random source."""
    text = prefix + _base62(secrets.randbits(256), BODY_CHARS)
    return text + _checksum(text)


def without_keys(text: str) -> str:
    """A text that may have keys of our form in it, under whatever prefix, with none of them."""
    return _ANY_KEY.sub("(a key)", text)


def hint(key: str) -> str:
    """What may be shown of a key of our form: enough to recognise it, useless to guess it."""
    return f"{key[: -BODY_CHARS - CHECKSUM_CHARS]}…{key[-4:]}"


@dataclass(frozen=True, slots=True)
class KeyForm:
    """Which strings are keys: the prefixes (newest first), and imported keys' form, if any."""

    prefixes: tuple[str, ...] = (DEFAULT_PREFIX,)
    foreign: str | None = None
    _ours: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _begins: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _foreign: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.prefixes:
            raise ValueError("at least one key prefix is needed")
        for prefix in self.prefixes:
            if not _PREFIX.fullmatch(prefix):
                raise ValueError(f"{prefix!r} is not a key prefix; it looks like 'sk-tg_'")
        compiled = None if self.foreign is None else re.compile(self.foreign)
        begins = "|".join(re.escape(prefix) for prefix in self.prefixes)
        object.__setattr__(self, "_begins", re.compile(f"(?:{begins})[0-9A-Za-z]"))
        object.__setattr__(self, "_ours", re.compile(self.pattern()))
        object.__setattr__(self, "_foreign", compiled)

    def pattern(self) -> str:
        """A regular expression for our form alone, in the subset that RE2 reads too."""
        prefixes = "|".join(re.escape(p).replace(r"\-", "-") for p in self.prefixes)
        return f"(?:{prefixes})[0-9A-Za-z]{{{BODY_CHARS + CHECKSUM_CHARS}}}"

    def is_ours(self, value: str) -> bool:
        """Whether the value has our form; its checksum may still be wrong."""
        return self._ours.fullmatch(value) is not None

    def has_key(self, text: str) -> bool:
        """Whether a key of ours begins somewhere in a text, cut off or mistyped as it may be."""
        return self._begins.search(text) is not None

    def is_foreign(self, value: str) -> bool:
        """Whether the value has the form of keys that were imported."""
        return (
            self._foreign is not None
            and len(value) <= MAX_FOREIGN_CHARS
            and self._foreign.fullmatch(value) is not None
        )


def checksum_holds(key: str) -> bool:
    """Whether a value of our form was minted rather than mistyped or made up."""
    return _checksum(key[:-CHECKSUM_CHARS]) == key[-CHECKSUM_CHARS:]


@dataclass(frozen=True, slots=True)
class Pepper:
    """A secret that digests are keyed with; `version` ≥ 1 is written beside each digest."""

    version: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Digester:
    """Digests under every active pepper, newest first, plain SHA-256 (version 0) last."""

    peppers: tuple[Pepper, ...] = ()

    def versions(self) -> tuple[int, ...]:
        """The versions that this digester can compute."""
        return (*(p.version for p in self.peppers), UNPEPPERED)

    def digests(self, key: str) -> tuple[bytes, ...]:
        """One 32-byte digest for each version, in the order of `versions`."""
        raw = key.encode()
        keyed = (hmac.digest(p.secret, raw, "sha256") for p in self.peppers)
        return (*keyed, hashlib.sha256(raw).digest())

    def newest(self, key: str) -> tuple[int, bytes]:
        """The version and digest that a new key is stored under."""
        return self.versions()[0], self.digests(key)[0]


def read_peppers(text: str) -> tuple[Pepper, ...]:
    """Parse a pepper file, newest first: `version:hex` lines, `#` comments, 32 bytes or more.

    Raises ValueError with a sentence that names the line and never its secret.
    """
    peppers: dict[int, Pepper] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        version, _, secret_hex = line.partition(":")
        try:
            pepper = Pepper(int(version), bytes.fromhex(secret_hex))
        except ValueError:
            raise ValueError(f"line {number}: write it as VERSION:HEX") from None
        if pepper.version < 1 or pepper.version in peppers:
            raise ValueError(f"line {number}: versions are distinct and start at 1")
        if len(pepper.secret) < MIN_PEPPER_BYTES:
            raise ValueError(f"line {number}: a pepper has {MIN_PEPPER_BYTES} bytes or more")
        peppers[pepper.version] = pepper
    if not peppers:
        raise ValueError("it holds no pepper; make one with `openssl rand -hex 32`")
    return tuple(sorted(peppers.values(), key=lambda p: -p.version))
