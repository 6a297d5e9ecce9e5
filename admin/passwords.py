"""Passwords of people: argon2id, with the parameters of RFC 9106 for little memory (64 MiB)."""

from __future__ import annotations

import base64
import secrets
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MIN_CHARS: Final = 12
MAX_CHARS: Final = 1024  # hashing costs by length too: a longer one is an attack
MADE_BYTES: Final = 15

_HASHER: Final = PasswordHasher()


def make_password() -> str:
    """120 random bits in groups that can be read aloud: `k3xv-…`, 24 characters and 5 dashes."""
    letters = base64.b32encode(secrets.token_bytes(MADE_BYTES)).decode().lower()
    return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))


def hash_password(password: str) -> str:
    """The text to store; it names algorithm, parameters and salt. Takes tens of milliseconds."""
    return _HASHER.hash(password)


def password_matches(stored: str, password: str) -> bool:
    """Whether the password is the one that was hashed; False for a text that is no hash."""
    if len(password) > MAX_CHARS:
        return False
    try:
        return _HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False
