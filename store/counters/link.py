"""The way to Redis or Valkey: one node, the master that Sentinels name, or a cluster.

Every call finds the node that has its key, and asks there. Where a node fails, whoever comes next
has it found out what has changed: the Sentinels are asked again, or the cluster's slots are read
again, by one thread at a time and at most every `LOOK_SECONDS`. Nobody waits for that but the
first who asks at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Final, Protocol, Self

from redis.crc import key_slot
from redis.exceptions import RedisError

from store.counters.address import Address
from store.counters.node import (
    Node,
    Place,
    Redirected,
    Reply,
    Timeouts,
    UnwantedError,
    Wire,
    Words,
    connector,
    why_not,
)
from store.counters.scripts import Script
from store.errors import ConfigError, StoreUnavailableError

LOOK_SECONDS: Final = 0.2
REDIRECTS: Final = 4
TOGETHER: Final = 128  # calls in one go
_POLICY: Final = "noeviction"


class _Map(Protocol):
    """Which node has a slot; None where that is not known. `why` says why none is."""

    why: str

    def node(self, slot: int) -> Node | None: ...

    def nodes(self) -> list[Node]:
        """Those that are asked for what lies in a slot."""
        ...

    def known(self) -> list[Node]:
        """These, and any that was asked for something else."""
        ...

    def look(self) -> None:
        """Find out what has changed. Never raises."""
        ...

    def moved(self, redirected: Redirected) -> Node: ...


class Link:
    """Thread-safe. Raises StoreUnavailableError; UnansweredError where a step may be taken yet."""

    def __init__(self, address: Address, timeouts: Timeouts | None = None) -> None:
        self.address = address
        self._map = _map_of(address, timeouts or Timeouts())
        self._changes = address.kind != "single"
        self._looking = Lock()
        self._look_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections."""
        for node in self._map.known():
            node.close()

    def hang_up(self) -> None:
        """Let go of all connections that nobody uses just now; there may be others soon."""
        for node in self._map.known():
            node.hang_up()

    def place(self, key: bytes) -> Place:
        """Where a key is, after a word with who has it."""
        self.command(key, b"EXISTS", key)
        node = self._map.node(key_slot(key))
        if node is None:
            raise self._unavailable()
        return node.place

    def command(self, key: bytes, *words: bytes | str | int) -> Reply:
        """A plain command on a key, of a kind that may run twice."""
        slot = key_slot(key)
        return self._at(slot, lambda node, _: node.command(*words))

    def run(self, script: Script, keys: Words, words: Words, again: Words | None = None) -> Reply:
        """A script. See Node.run; the keys all lie in the slot of the first."""
        slot = key_slot(_bytes(keys[0]))
        return self._at(
            slot, lambda node, asking: node.run(script, keys, words, again, asking=asking)
        )

    def run_all(
        self, script: Script, calls: Sequence[tuple[Words, Words]]
    ) -> list[Reply | StoreUnavailableError]:
        """A script for many, each with its keys and words: a round trip for `TOGETHER` of a node.

        Where one could not be answered, the error stands in its place.
        """
        found: list[Reply | StoreUnavailableError] = [None] * len(calls)
        parts: dict[Node | None, list[int]] = {}
        for at, (keys, _) in enumerate(calls):
            parts.setdefault(self._where(key_slot(_bytes(keys[0]))), []).append(at)
        for node, places in parts.items():
            for start in range(0, len(places), TOGETHER):
                part = places[start : start + TOGETHER]
                replies = self._part(node, script, [calls[at] for at in part])
                for at, reply in zip(part, replies, strict=True):
                    found[at] = self._alone(script, calls[at], reply)
        return found

    def masters(self) -> list[str]:
        """The nodes that are asked, for people."""
        return [str(node) for node in self._map.nodes()]

    def verify(self, seconds: float = 0.0) -> None:
        """Refuse a server that would drop what it holds. Tries for so long to reach one.

        Raises ConfigError, also where no waiting would help, and StoreUnavailableError where it
        cannot be asked.
        """
        unreadable = self.address.tls and self.address.tls.unreadable()
        if unreadable:
            raise ConfigError("TENSORGATE_REDIS_URL cannot be used.", (unreadable,))
        until = monotonic() + seconds
        while True:
            try:
                self._verify()
            except UnwantedError as fault:
                raise ConfigError("Redis cannot be used.", (str(fault),)) from fault
            except StoreUnavailableError:
                if monotonic() >= until:
                    raise
                sleep(LOOK_SECONDS)
            else:
                return

    def dropping(self) -> str | None:
        """Which server would drop what it holds, and what to do there; None: none would.

        Raises StoreUnavailableError.
        """
        self._where(0)
        nodes = self._map.nodes()
        if not nodes:
            raise self._unavailable()
        for node in nodes:
            said: bytes = node.command(b"INFO", b"memory")
            _, _, rest = said.partition(b"maxmemory_policy:")
            policy = rest.partition(b"\r\n")[0].decode()
            if policy != _POLICY:
                return f"{node} has maxmemory-policy {policy}: set it to {_POLICY} there"
        return None

    def _verify(self) -> None:
        dropping = self.dropping()
        if dropping is not None:
            raise ConfigError("Redis would drop what it is to count.", (dropping,))

    def _at(self, slot: int, ask: Callable[[Node, bool], Reply]) -> Reply:
        node, asking = self._where(slot), False
        for _ in range(REDIRECTS):
            if node is None:
                raise self._unavailable()
            try:
                return ask(node, asking)
            except Redirected as redirected:
                node, asking = self._map.moved(redirected), redirected.asking
        raise self._unavailable()

    def _where(self, slot: int) -> Node | None:
        node = self._map.node(slot)
        if node is not None and not (self._changes and node.breaker.is_open):
            return node
        if self._looking.acquire(blocking=False):
            if monotonic() < self._look_at:
                self._looking.release()
            elif self._map.nodes():
                try:
                    Thread(target=self._look, name="look", daemon=True).start()
                except RuntimeError:  # no thread can be had: the next who asks looks
                    self._looking.release()
            else:  # nothing is known yet
                self._look()
                node = self._map.node(slot)
        return node

    def _look(self) -> None:
        try:
            self._map.look()
        finally:
            self._look_at = monotonic() + LOOK_SECONDS
            self._looking.release()

    def _part(
        self, node: Node | None, script: Script, calls: Sequence[tuple[Words, Words]]
    ) -> Sequence[Reply]:
        if node is None:
            return [self._unavailable()] * len(calls)
        try:
            return node.run_all(script, calls)
        except StoreUnavailableError as fault:
            return [fault] * len(calls)
        except Redirected:
            return [RedisError("ask again")] * len(calls)

    def _alone(self, script: Script, call: tuple[Words, Words], reply: Reply) -> Reply:
        """What could not be answered with the others (a script unknown, a slot moved) is now."""
        if not isinstance(reply, RedisError):
            return reply
        try:
            return self.run(script, *call)
        except StoreUnavailableError as fault:
            return fault

    def _unavailable(self) -> StoreUnavailableError:
        why = f": {self._map.why}" if self._map.why else ""
        return StoreUnavailableError(f"No Redis at {self.address} is known that can be asked{why}")


class _One:
    """A single node."""

    why = ""

    def __init__(self, address: Address, timeouts: Timeouts) -> None:
        place: Place = address.hosts[0] if address.path is None else address.path
        self._node = Node(place, address, timeouts)

    def node(self, _: int) -> Node | None:
        return self._node

    def nodes(self) -> list[Node]:
        return [self._node]

    known = nodes

    def look(self) -> None:
        """There is nothing to find out: its breaker probes it."""

    def moved(self, redirected: Redirected) -> Node:
        raise StoreUnavailableError(
            f"{self._node} is one node of a cluster ({redirected}). "
            "Begin TENSORGATE_REDIS_URL with redis+cluster://."
        )


class _Sentinels:
    """The master that Sentinels name: the first of them that names another than one that is out.

    (One that is cut off from the others goes on naming the master that was.)
    """

    def __init__(self, address: Address, timeouts: Timeouts) -> None:
        self._address = address
        self._timeouts = timeouts
        self._node: Node | None = None
        self.why = ""

    def node(self, _: int) -> Node | None:
        return self._node

    def nodes(self) -> list[Node]:
        return [] if self._node is None else [self._node]

    known = nodes

    def look(self) -> None:
        before = self._node
        for host in self._address.hosts:
            place = self._master(host)
            if place is None or (before is not None and before.place == place):
                continue
            self._node = Node(place, self._address, self._timeouts)
            if before is not None:
                before.close()
            return

    def moved(self, redirected: Redirected) -> Node:
        raise StoreUnavailableError(f"The master is one node of a cluster ({redirected}).")

    def _master(self, host: Place) -> Place | None:
        asked = (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._address.master.encode())
        credentials = self._address.sentinel
        try:
            said = _once(connector(host, self._address, self._timeouts, credentials), asked)
        except RedisError as fault:
            self.why = why_not(fault)[1]
            return None
        self.why = "" if said else f"its Sentinels know no {self._address.master}"
        return (said[0].decode(), int(said[1])) if said else None


class _Slots:
    """A cluster's masters, by slot."""

    def __init__(self, address: Address, timeouts: Timeouts) -> None:
        self._address = address
        self._timeouts = timeouts
        self._lock = Lock()
        self._known: dict[Place, Node] = {}
        self._slots: dict[int, Node] = {}
        self.why = ""

    def node(self, slot: int) -> Node | None:
        return self._slots.get(slot)

    def nodes(self) -> list[Node]:
        return sorted(set(self._slots.values()), key=str)

    def known(self) -> list[Node]:
        with self._lock:
            return list(self._known.values())

    def look(self) -> None:
        well = [node.place for node in self.known() if not node.breaker.is_open]
        for place in (*well, *self._address.hosts):
            try:
                said = _once(
                    connector(place, self._address, self._timeouts), (b"CLUSTER", b"SLOTS")
                )
            except RedisError as fault:
                self.why = why_not(fault)[1]
                continue
            slots: dict[int, Node] = {}
            for first, last, master, *_ in said:
                host = (master[0] or b"").decode() or place[0]
                node = self._at((host, int(master[1])))
                slots.update(dict.fromkeys(range(first, last + 1), node))
            if slots:
                self._slots, self.why = slots, ""
                self._forget()
                return

    def moved(self, redirected: Redirected) -> Node:
        node = self._at(redirected.place)
        if not redirected.asking:
            self._slots[redirected.slot] = node
        return node

    def _at(self, place: Place) -> Node:
        with self._lock:
            found = self._known.get(place)
            if found is None:
                found = self._known[place] = Node(place, self._address, self._timeouts)
            return found

    def _forget(self) -> None:
        with self._lock:
            used = set(self._slots.values())
            for place in [place for place, node in self._known.items() if node not in used]:
                self._known.pop(place).close()


def _map_of(address: Address, timeouts: Timeouts) -> _Map:
    if address.kind == "single":
        return _One(address, timeouts)
    if address.kind == "sentinel":
        return _Sentinels(address, timeouts)
    return _Slots(address, timeouts)


def _once(connect: Callable[[], Wire], words: Words) -> Reply:
    """One command on a connection of its own."""
    connection = connect()
    try:
        connection.send_command(*words)
        return connection.read_response()
    finally:
        connection.disconnect()


def _bytes(key: bytes | str | int) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()
