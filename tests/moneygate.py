"""What the tests of money share: how money is written, and looks at a key and its rows."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any, Final

from load.audit import Row, rows
from peers.client import Answer, call
from peers.stack import Stack
from waiting import until

NANOUSD: Final = 10**9
BODY: Final = json.dumps(
    {"model": "recorder", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
).encode()
"""A chat call; its answer by a recorder uses 7 and 2 tokens."""

ANSWERED: Final = 7 * 500 + 2 * 1500
"""What that costs, in nano-USD, at 0.5 and 1.5 USD per million tokens."""


def usd(nanousd: int) -> str:
    return f"{nanousd // NANOUSD}.{nanousd % NANOUSD:09d}"


def nanousd(written: object) -> int:
    return int(Fraction(str(written)) * NANOUSD)


def hold_of(answer: Answer) -> int:
    """What an answer says was held for it, in nano-USD."""
    return nanousd(answer.headers["x-tensorgate-hold-usd"])


def booked(gate: Stack, key: dict[str, Any], count: int = 1) -> list[Row]:
    """Wait until a key has so many rows; all that it has."""

    def mine() -> list[Row]:
        return [row for row in rows(gate) if row["key_id"] == key["id"]]

    until(lambda: len(mine()) >= count, 5, f"{count} rows of a key")
    return mine()


def standing(gate: Stack, key: dict[str, Any]) -> dict[str, Any]:
    """What a key says of itself."""
    found: dict[str, Any] = call(gate, "/v1/key", key=key["key"]).json()
    return found


def metric(gate: Stack, name: str) -> float:
    """The value of a series, 0 where it has none yet."""
    text = call(gate.metrics_url.split("/")[2], "/metrics", method="GET").body.decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
