"""A gate of several workers and a meter without its network: the money half of each, and callers.

Every call is written into a book of the test's own, as a model server would see it: what was let
through counts with its whole hold until its end, and with its charge after that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from moneyhelp import KEY, draft, mint
from moneysupport import ENDING
from msgspec.structs import replace
from sqlalchemy import Engine
from waiting import until

from authz.bookkeeping import Books
from authz.books import open_books
from authz.metrics import Metrics
from authz.settings import AuthzSettings
from authz.sockets import Role
from authz.usage import Usage
from store.catalog import Catalog
from store.counters.model import MinuteLimit, MoneyLimit, Taken
from store.engines import open_engine
from store.errors import StoreUnavailableError
from store.ledgerreader import LedgerReader
from store.openholds import OpenHolds
from store.records import INT64_MAX, Hold, KeyRecord, Price
from store.replicas import Replica, Replicas

HOLD = 100


@dataclass
class Served:
    """What a model server would have written down. All of it under one lock."""

    open: dict[str, int] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=dict)
    most: int = 0  # that was ever committed at once: charges and open holds
    taken: int = 0
    refused: int = 0
    unavailable: list[float] = field(default_factory=list)  # how long each such answer took
    last_us: float = 0.0
    wrong: list[BaseException] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    @property
    def spent(self) -> int:
        return sum(self.charged.values())

    def begin(self, hold: Hold) -> None:
        with self.lock:
            assert hold.id not in self.open, "one hold, one request"
            self.open[hold.id] = hold.nanousd
            self.taken += 1
            self.most = max(self.most, self.spent + sum(self.open.values()))

    def end(self, hold: Hold, nanousd: int) -> None:
        with self.lock:
            del self.open[hold.id]
            self.charged[hold.id] = nanousd

    def refusal_seconds(self, percent: int) -> float:
        """How long so many of the refusals for a store that is out took at most."""
        found = sorted(self.unavailable)
        return found[(len(found) - 1) * percent // 100] if found else 0.0


class Fleet:
    """Workers, a meter, and their rows in SQL."""

    def __init__(self, stack: ExitStack, engine: Engine, settings: AuthzSettings) -> None:
        self._stack = stack
        self.engine = engine
        self.settings = settings
        self.replicas = Replicas(engine)
        self.catalog = Catalog.read(settings.catalog)
        self.workers: list[Books] = []
        self.meter = self.open(Role.METER)

    def open(self, role: Role) -> Books:
        """Another process, as far as its money goes."""
        name = f"{role.value}-{len(self.workers)}"
        opened = self._stack.enter_context(
            open_books(self.settings, lambda: self.catalog, Metrics(), role, name)
        )
        row = Replica(name, name, "meter" if role is Role.METER else "authz", "1")
        self._stack.enter_context(beating(self.replicas, row))
        if role is not Role.METER:
            self.workers.append(opened)
        return opened

    def take(self, worker: int, hold: Hold, budget: int, rpm: int = 10**6) -> Any:
        limits = (
            MinuteLimit(KEY.id, rpm),
            MoneyLimit(KEY.id, KEY.created_us, budget),
        )
        return self.workers[worker].seeded.take(hold.request_id, hold, limits)

    def end(self, hold: Hold) -> None:
        """What Envoy says of it, and what follows."""
        ended = replace(
            ENDING,
            request_id=hold.request_id,
            hold_id=hold.id,
            account_id=hold.account_id,
            usage=Usage(0, 0, 0, 0),
            final=True,
        )
        found = self.meter.meter.record(ended)
        if found is not None:
            self.meter.settler.end_all([found])

    def rows(self) -> Mapping[str, int]:
        """Every charge in the ledger by its hold."""
        return {row.hold_id: row.charge_nanousd for row in LedgerReader(self.engine).rows()}

    def is_settled(self) -> bool:
        """Whether nothing is open anywhere, and nothing waits."""
        return (
            all(each.settler.waiting == 0 for each in (*self.workers, self.meter))
            and not OpenHolds(self.engine).admitted_before(INT64_MAX)
            and not self.meter.counters.open_holds()
        )

    def agrees_with(self, served: Served) -> None:
        """The ledger has the book's charges and no others, and the counters have the ledger's."""
        until(self.is_settled, 15, "the end of every hold")
        rows = self.rows()
        assert {hold_id: rows.get(hold_id) for hold_id in served.charged} == served.charged
        assert sum(rows.values()) == served.spent
        until(lambda: not LedgerReader(self.engine).verify().faults, 5, "books in order")
        until(lambda: self.meter.drift(KEY.account_id) is not None, 5, "a comparison")
        assert self.meter.drift(KEY.account_id) == 0


@contextmanager
def beating(replicas: Replicas, row: Replica) -> Iterator[None]:
    """Write a process's row, as each does: every second."""
    stopped = Event()

    def run() -> None:
        while not stopped.wait(0.5):
            try:
                replicas.beat(row)
            except StoreUnavailableError:
                continue

    replicas.beat(row)
    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def fleet(
    tmp_path: Path, database_url: str, redis_url: str, workers: int = 2, **given: Any
) -> Iterator[Fleet]:
    """A gate on a fresh database, for one key."""
    (tmp_path / "state").mkdir(exist_ok=True)
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("plans: {pro: {}}\ndefault_plan: pro\nmodels: {}\n")
    settings = AuthzSettings(
        state=tmp_path / "state",
        runtime=tmp_path,
        catalog=catalog,
        database_url=database_url,
        redis_url=redis_url,
        **given,
    )
    with ExitStack() as stack:
        engine = open_engine(database_url)
        stack.callback(engine.dispose)
        mint(engine, KEY)
        made = Fleet(stack, engine, settings)
        for _ in range(workers):
            made.open(Role.CHECKS)
        yield made


@contextmanager
def calling(
    gate: Fleet, served: Served, budget: int, *, threads: int = 12, key: KeyRecord = KEY
) -> Iterator[None]:
    """Callers that never rest, each of whose calls holds HOLD; some cost a little."""
    stopped = Event()

    def call(random_: random.Random) -> None:
        cost = random_.choice((0,) * 15 + (1, 3, 9))
        asked = draft(HOLD, key=key, price=Price(per_request=cost), minute=key.id)
        started = time.monotonic()
        try:
            took = gate.take(random_.randrange(len(gate.workers)), asked, budget)
        except StoreUnavailableError:
            with served.lock:
                served.unavailable.append(time.monotonic() - started)
            time.sleep(0.01)
            return
        if not isinstance(took, Taken):
            with served.lock:
                served.refused += 1
            time.sleep(0.005)
            return
        assert took.hold is not None
        served.begin(took.hold)
        # a few outlast what happens meanwhile: without these, nothing would be open after it
        time.sleep(random_.uniform(0.005, 0.03) if random_.random() < 0.9 else 0.7)
        served.end(took.hold, cost)
        gate.end(took.hold)

    def run(number: int) -> None:
        random_ = random.Random(number)
        try:
            while not stopped.is_set():
                call(random_)
        except BaseException as fault:  # noqa: BLE001  told in the test's own thread
            served.wrong.append(fault)

    running = [Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in running:
            thread.join()
    assert not served.wrong, served.wrong[0]
