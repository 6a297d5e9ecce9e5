"""What the gate adds to a stream: time to the first token, time on the way, gaps between tokens.

Two Envoys before one server that stamps each token with the time it was sent: one is the gate,
the other a plain proxy on as many threads. They are asked in turns, so that what the machine
does meanwhile falls on both. A token's time on the way is from the server's write to the
client's read; only the differences between the two Envoys mean anything.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import envoy
import yaml
from load.mixed import CATALOG
from peers.ports import free_port, listens
from peers.process import Child, command
from peers.stack import Stack

TOKEN_SERVER: Final = Path(__file__).with_name("token_server.py")
STAMP: Final = re.compile(rb"@(\d+)@")
END: Final = b"[DONE]\n\n\r\n0\r\n\r\n"
MILLI: Final = 1e6  # nanoseconds


@dataclass
class Figures:
    """Of one Envoy. Milliseconds, one value a stream or a token."""

    first: list[float] = field(default_factory=list)
    transit: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.transit)

    def line(self, name: str) -> str:
        parts = (("first token", self.first), ("on the way", self.transit), ("gap", self.gaps))
        said = [f"{what} {middle(of):7.3f} (p99 {high(of):7.3f})" for what, of in parts]
        return f"{name:>6}  " + "   ".join(said)


@dataclass
class Compared:
    """Both Envoys, and what the gate adds to the medians, in milliseconds."""

    alone: Figures = field(default_factory=Figures)
    gate: Figures = field(default_factory=Figures)

    @property
    def added_first(self) -> float:
        return middle(self.gate.first) - middle(self.alone.first)

    @property
    def added_transit(self) -> float:
        return middle(self.gate.transit) - middle(self.alone.transit)

    @property
    def added_gap(self) -> float:
        return middle(self.gate.gaps) - middle(self.alone.gaps)

    def __str__(self) -> str:
        added = (
            f" added  first token {self.added_first:+.3f}   on the way {self.added_transit:+.3f}   "
            f"gap {self.added_gap:+.3f}"
        )
        head = f"{len(self.gate.first)} streams each, {self.gate.count} tokens; medians in ms"
        return "\n".join([head, self.alone.line("alone"), self.gate.line("gate"), added])


def middle(values: list[float]) -> float:
    return statistics.median(values)


def high(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


# -- the client


async def stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, figures: Figures
) -> None:
    """One stream on a connection that stays open."""
    began = time.monotonic_ns()
    writer.write(request)
    unread, before = b"", None
    while END not in unread[-64:]:
        data = await reader.read(65536)
        now = time.monotonic_ns()
        assert data, unread
        unread += data
        *whole, unread = unread.rpartition(b"\n\n\r\n") if END not in unread else ("", unread)
        for stamp in STAMP.findall(b"".join(whole) if END not in unread else unread):
            figures.transit.append((now - int(stamp)) / MILLI)
            if before is None:
                figures.first.append((now - began) / MILLI)
            else:
                figures.gaps.append((now - before) / MILLI)
            before = now
