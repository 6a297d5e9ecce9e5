"""The scripts that Redis runs: `.lua` files beside this one, each behind the parts it needs."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final

import msgspec


class Script(msgspec.Struct, frozen=True):
    """Running it twice is as good as once, so a lost answer may be asked for again."""

    name: str
    source: bytes
    sha: bytes


def _load(name: str, *parts: str) -> Script:
    folder = files(__package__)
    source = b"\n".join((folder / f"{part}.lua").read_bytes() for part in (*parts, name))
    sha = sha1(source, usedforsecurity=False).hexdigest().encode()
    return Script(name, source, sha)


TAKE: Final = _load("take", "common", "money", "minute", "limits")
PEEK: Final = _load("peek", "common", "money", "minute", "limits")
RELEASE: Final = _load("release", "common")
SETTLE: Final = _load("settle", "common", "money")
BEAT: Final = _load("beat", "common")
HOLDS: Final = _load("holds", "common")
GENERATION: Final = _load("generation", "common")
ENDED: Final = _load("ended", "common")
SEED: Final = _load("seed", "common", "money")
LEAVE: Final = _load("leave")
FEED: Final = _load("feed")
