"""What the demo says, counted in tokens, and its embeddings. Pure and deterministic.

A token is a word, a punctuation mark, or what is left of white space. Nothing here is a model.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MODEL: Final = "demo-model"
QUOTED_CHARS: Final = 160

_TOKEN: Final = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


def tokens(text: str) -> list[str]:
    """The text in pieces; joined they are the text again."""
    return _TOKEN.findall(text)


@dataclass(frozen=True, slots=True)
class Prompt:
    """All the text that a call sent (`text` is what counts as input), and what was said last."""

    text: str
    last: str

    @property
    def tokens(self) -> int:
        """The input tokens of this prompt."""
        return len(tokens(self.text))


@dataclass(frozen=True, slots=True)
class Wish:
    """How an answer shall end: at most `bound` tokens, before any of `stops`."""

    bound: int | None = None
    stops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the demo says to one prompt. `stop` is the sequence that ended it, `cut` the bound."""

    pieces: tuple[str, ...]
    stop: str | None = None
    cut: bool = False

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)


def answer(prompt: Prompt, wish: Wish, caller: str | None = None) -> Answer:
    """Say the demo's words; `caller` names the key that the gate let through."""
    through = f" The gate let this call through for {caller}." if caller else ""
    said = " ".join(prompt.last.split())
    quoted = said if len(said) <= QUOTED_CHARS else said[: QUOTED_CHARS - 1] + "…"
    # a lone surrogate, which JSON can carry, cannot leave as UTF-8
    quoted = quoted.encode("utf-8", "replace").decode()
    text = (
        f"This is Tensorgate's demo server: no model runs here.{through}"
        f" Your prompt had {prompt.tokens} tokens and ended in “{quoted}”."
        " Start the gate with UPSTREAM=host:port to put your own model server behind it."
    )
    return _cut(text, wish)


def _cut(text: str, wish: Wish) -> Answer:
    found = [(text.index(stop), stop) for stop in wish.stops if stop in text]
    end, stop = min(found, default=(len(text), None))
    pieces = tokens(text[:end])
    if wish.bound is not None and wish.bound < len(pieces):
        return Answer(tuple(pieces[: wish.bound]), cut=True)
    return Answer(tuple(pieces), stop=stop)


def vector(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on nothing but the text."""
    raw = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(4 * dimensions)
    numbers = [
        int.from_bytes(raw[at : at + 4], "little") / 2**31 - 1 for at in range(0, len(raw), 4)
    ]
    # the tiny addend keeps the length above zero whatever the hash says
    length = math.sqrt(sum(number * number for number in numbers)) + 1e-30
    return [number / length for number in numbers]


def packed(numbers: Sequence[float]) -> bytes:
    """Little-endian float32, as OpenAI's `encoding_format: base64` carries it."""
    return struct.pack(f"<{len(numbers)}f", *numbers)
