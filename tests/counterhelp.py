"""Counters for tests: each backend by name, and what stands between a test and a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from peers.valkey import Cluster, Valkey

from store.clock import Clock
from store.counters.model import Counters
from store.counters.node import Timeouts

PATIENT = Timeouts(connect=5, answer=5)
"""A test that is not about outages waits for a machine that is busy with others."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A backend of counters, by name; called, it makes fresh ones on a clock."""

    name: str
    make: Callable[[Clock], Counters]

    def __call__(self, clock: Clock) -> Counters:
        return self.make(clock)


@contextmanager
def emptied(servers: Valkey | Cluster) -> Iterator[Callable[[], None]]:
    """Called, it empties the servers."""
    nodes = servers.nodes if isinstance(servers, Cluster) else (servers,)
    with ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in nodes]

        def empty() -> None:
            for client in clients:
                client.flushall()

        yield empty
