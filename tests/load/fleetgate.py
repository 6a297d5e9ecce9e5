"""A whole fleet for a test: Envoy, workers, PostgreSQL, Valkey, and a server that keeps a book."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from load.bookserver import Entry, read_book
from load.calls import QUICK_DEADLINES
from load.paced import Answered, Ask, Caller, ask
from moneygate import nanousd, standing, usd
from peers.client import call
from peers.ports import free_port, listens
from peers.postgres import Postgres
from peers.process import Child
from peers.stack import PLENTY_RPM, USER, Stack
from peers.valkey import Valkey
from waiting import until

from admin.service import AdminService, Minted
from authz.health import serving
from store.engines import open_engine
from store.keys import KeyRepository
from store.ledgerreader import LedgerReader
from store.push import open_publisher
from store.records import Basis, LedgerRow
from store.settings import StoreSettings

BOOK_SERVER: Final = Path(__file__).with_name("bookserver.py")
SETTLED_SECONDS: Final = 20.0


@dataclass
class FleetGate:
    """A running gate of several workers, and all that a test asks of what is around it."""

    gate: Stack
    workers: int
    service: AdminService
    ledger: LedgerReader
    book: Path
    _aliases: Iterator[int]

    def mint(self, *, budget: int | None = None, rpm: int = PLENTY_RPM) -> Minted:
        """A key; its budget in nano-USD."""
        return self.service.mint(
            USER,
            f"seen-{next(self._aliases)}",
            models="*",
            budget_usd="none" if budget is None else usd(budget),
            rpm=rpm,
            expires_in_days=365,
        )

    def revoke(self, key: Minted) -> None:
        alias = key.record.alias
        self.service.revoke(USER, alias, confirm=alias)

    def warm(self, key: Minted) -> None:
        """Wait until each worker knows a key: an account's first call waits for all of them."""
        serves = lambda: call(self.gate, "/v1/key", key=key.key).status == 200  # noqa: E731  for `until`
        until(serves, 20, "an answer")
        until(lambda: all(serves() for _ in range(4 * self.workers)), 20, "answers of all")

    def hold(self) -> int:
        """What each call of `ask` holds, in nano-USD."""
        key = self.mint()
        self.warm(key)
        with Caller(self.gate.address) as caller:
            caller.fire([ask("probe", key.key)])
        (answered,) = caller.answers
        assert answered.status == 200, answered
        return answered.held_nanousd

    def entries(self, *keys: Minted) -> list[Entry]:
        """What the server has written of these keys; of all where none is named."""
        ids = {key.record.id for key in keys}
        return [each for each in read_book(self.book) if not ids or each.key_id in ids]

    def rows(self, *keys: Minted) -> list[LedgerRow]:
        """The ledger's rows of these keys; all where none is named."""
        ids = {key.record.id for key in keys}
        return [row for row in self.ledger.rows() if not ids or row.key_id in ids]

    def kill_worker(self, number: int) -> None:
        """End a worker without warning; returns when another serves in its place."""
        name = f"authz-{number}"
        (pid,) = self.gate.children()[name]
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.gate.children().get(name, [pid]) != [pid], 20, "another worker")
        health = self.gate.runtime / f"health-{number}.sock"
        until(lambda: serving(health) is True, 20, "its health")

    def settled(self, answers: Collection[Answered]) -> list[LedgerRow]:
        """Wait until what was admitted has its rows and no hold is open; all rows then."""
        expected = {each.request_id for each in answers if each.status == 200}
        expected |= {each.request_id for each in self.entries()}

        def done() -> bool:
            return (
                expected <= {row.request_id for row in self.ledger.rows()}
                and self.ledger.verify().open_holds == 0
            )

        until(done, SETTLED_SECONDS, "a row for each call, and no open hold")
        verified = self.ledger.verify()
        assert verified.faults == (), verified
        return list(self.ledger.rows())

    def counters_agree(self, *keys: Minted) -> None:
        """Of each key the counters have what its rows come to, and nothing is held."""
        for key in keys:
            charged = sum(row.charge_nanousd for row in self.rows(key))
            secret: dict[str, Any] = {"key": key.key}

            def agrees() -> bool:
                said = standing(self.gate, secret)  # noqa: B023  waits here
                have = nanousd(said["spent_usd"]), nanousd(said["held_usd"])
                return have == (charged, 0)  # noqa: B023  likewise

            until(agrees, SETTLED_SECONDS, f"{charged} nano-USD spent of {key.record.alias}")
        verified = dict[str, Any]()

        def answered() -> bool:  # a Redis that is late on a busy machine is asked once more
            done = self.gate.run("ledger", "verify", "--json")
            verified.clear()
            verified.update(json.loads(done.stdout))
            return "error" not in verified or verified["error"]["code"] != "store_unavailable"

        until(answered, SETTLED_SECONDS, "an answer of all parts")
        assert verified.get("ok"), verified
        assert verified["open_holds"] == 0, verified

    def agrees_with_book(self, answers: Sequence[Answered]) -> str:
        """The ledger is the server's book to the nano-dollar, and clients saw no more than it.

        What the server never got is free. Returns the figures.
        """
        rows = self.settled(answers)
        row_of = {row.request_id: row for row in rows}
        assert len(row_of) == len(rows), "a request has two rows"
        entries = {each.request_id: each for each in self.entries()}
        unlike = [
            (row_of[each.request_id], each)
            for each in entries.values()
            if (row := row_of[each.request_id]).basis is not Basis.METERED
            or (row.charge_nanousd, row.input_tokens, row.output_tokens, row.key_id)
            != (each.nanousd, each.input, each.output, each.key_id)
        ]
        assert not unlike, (len(unlike), unlike[:5])
        strange = [
            row
            for row in rows
            if row.request_id not in entries and (row.charge_nanousd or row.status == 200)
        ]
        assert not strange, (len(strange), strange[:5])
        served = {each.request_id for each in answers if each.status == 200}
        assert served <= entries.keys()
        charged = sum(row.charge_nanousd for row in rows)
        return (
            f"{len(entries)} calls in the server's book, {len(rows)} rows, "
            f"{len(rows) - len(entries)} released, {usd(charged)} USD: exact"
        )


@dataclass
class Parts:
    """A fleet, and what it stands on. What breaks something returns when that is whole again."""

    fleet: FleetGate
    node: Valkey
    server: Postgres

    def emptied(self) -> None:
        self.node.ask("FLUSHALL")

    def taken_back(self) -> None:
        """Valkey is killed, and starts on what it had two seconds ago."""
        self.node.ask("SAVE")
        time.sleep(2)
        self.node.restart()

    def valkey_paused(self, seconds: float) -> None:
        with self.node.paused():
            time.sleep(seconds)

    def postgres_killed(self) -> None:
        self.server.end(signal.SIGKILL)
        self.server.start()

    def postgres_paused(self, seconds: float) -> None:
        with self.server.paused():
            time.sleep(seconds)

    def both_paused(self, seconds: float) -> None:
        with self.node.paused(), self.server.paused():
            time.sleep(seconds)


def most_committed(entries: Collection[Entry], hold: int) -> int:
    """The most that was ever charged and held at once, of what the server had, in nano-USD."""
    steps = [(each.came, hold) for each in entries]
    steps += [(each.ended, each.nanousd - hold) for each in entries if each.ended is not None]
    committed = most = 0
    for _, step in sorted(steps):
        committed += step
        most = max(most, committed)
    return most


def choosing(asks: Sequence[Callable[[], Ask]], weights: Sequence[int]) -> Callable[[], Ask]:
    """Each in turn, so often as its weight says, evenly mixed."""
    order = sorted(
        ((turn + 0.5) / weight, number)
        for number, weight in enumerate(weights)
        for turn in range(weight)
    )
    turns = cycle([asks[number] for _, number in order])

    def choose() -> Ask:
        return next(turns)()

    return choose


@contextmanager
def book_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """The server's address, and its book."""
    port, book = free_port(), folder / "book"
    book.touch()
    argv: list[str | Path] = [sys.executable, BOOK_SERVER, str(port), book]
    child = Child(argv, log=folder / "bookserver.out")
    try:
        child.wait_until(lambda: listens(port), seconds=15, what="a listener")
        yield f"127.0.0.1:{port}", book
    finally:
        child.end()


@contextmanager
def durable(server: Postgres) -> Iterator[str]:
    """A database of which a server that is killed does not lose the last moment."""
    with server.database() as url:
        name = urlsplit(url).path.removeprefix("/")
        server.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")
        yield url


@contextmanager
def fleet_gate(
    folder: Path,
    database_url: str,
    redis_url: str,
    *,
    workers: int,
    told_by: str | None = None,
    **env: str,
) -> Iterator[FleetGate]:
    """A gate. `told_by` is the Redis that the test's own changes are told through, if another."""
    with ExitStack() as stack:
        address, book = stack.enter_context(book_server(folder))
        urls = {"TENSORGATE_DATABASE_URL": database_url, "TENSORGATE_REDIS_URL": redis_url}
        gate = Stack.start(
            address, folder=folder, workers=workers, env=QUICK_DEADLINES | urls | env
        )
        stack.callback(gate.kill)
        settings = StoreSettings(
            state=gate.state,
            catalog=folder / "catalog.yaml",
            database_url=database_url,
            redis_url=told_by or redis_url,
        )
        engine = open_engine(database_url)
        stack.callback(engine.dispose)
        publisher = open_publisher(settings)
        assert publisher is not None
        stack.callback(publisher.close)
        repository = stack.enter_context(KeyRepository(engine, publisher))
        service = AdminService(repository, settings, actor="cli:tester")
        if service.find_user(USER) is None:
            service.add_user(USER, plan="test", service=True)
        yield FleetGate(gate, workers, service, LedgerReader(engine), book, count())
        gate.stop()
