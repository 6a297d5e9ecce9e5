"""One run of the proof that the ledger is the server's book, at any size, with its figures.

Calls of every dialect, from many keys, some of which are refused for money or for their minute;
budget windows that turn under load, by a clock that leaps; moments in which no server listens, so
that Envoy calls it a second time; and blows, if there are to be any, that kill parts of the gate.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from load import clocked
from load.audit import Audit, Row, admitted_ids, all_booked
from load.calls import CATALOG, DEADLINE_SECONDS, QUICK_DEADLINES, Call, Key, draw
from load.clocked import Leap
from load.mixed import Clients, Outcome, drive
from load.standing import check_budgets, check_filters, envoy_stats, present, window_said
from moneygate import metric
from peers.book import Book
from peers.orders import ENDPOINTS
from peers.recorder import Recorder
from peers.stack import PLENTY_RPM, Stack
from waiting import until

from admin.service import open_service
from store.records import DAY_US, WINDOW_US
from store.settings import StoreSettings

THREADS: Final = 32
LEAPS: Final = 3
LEAP_US: Final = 31 * DAY_US
"""Every window turns once with each."""

REFUSED_CONNECTIONS: Final = 24
ROUNDS: Final = 5
_SAMPLE_SECONDS: Final = 0.2
_LOST_SECONDS: Final = 60

Blow = tuple[str, signal.Signals]
_Key = tuple[str, str, str, int]

KEYS: Final[Sequence[_Key]] = (
    # account, budget in USD, plan, requests a minute
    *(("free@example.com", "none", "test", PLENTY_RPM),) * 4,
    *(("team@example.com", "none", "test", PLENTY_RPM),) * 3,
    *(("rich@example.com", "500", "test", PLENTY_RPM),) * 5,
    ("one@example.com", "2", "test", PLENTY_RPM),
    ("one@example.com", "0.3", "test", PLENTY_RPM),
    ("pair@example.com", "none", "shared", PLENTY_RPM),
    ("pair@example.com", "0.07", "shared", PLENTY_RPM),
    ("slow@example.com", "none", "test", 6),
    ("slow@example.com", "none", "test", 600),
    ("slow@example.com", "0.5", "test", 300),
    ("poor@example.com", "0", "test", PLENTY_RPM),
)
"""Twenty, on seven accounts."""


@contextmanager
def running(server: Recorder, folder: Path) -> Iterator[tuple[Stack, Leap]]:
    """A gate with short deadlines whose authz has a clock that leaps; stopped at the end."""
    leap = Leap(folder / "leap")
    env = QUICK_DEADLINES | {
        clocked.LEAP_FILE: str(leap.path),
        "TENSORGATE_STREAM_SECONDS": "60",  # or a price by the second holds that of an hour
    }
    program = (sys.executable, "-P", clocked.__file__, "tensorgate")
    gate = Stack.start(server.address, folder=folder, catalog=CATALOG, env=env, program=program)
    try:
        yield gate, leap
        gate.stop()
    finally:
        gate.kill()


def mint_keys(gate: Stack) -> list[Key]:
    """The keys, minted in this process: twenty commands would take longer than a small run."""
    made: list[Key] = []
    settings = StoreSettings(state=gate.state, catalog=gate.folder / "catalog.yaml")
    with open_service(settings, actor="cli:soak") as service:
        for user, _, plan, _ in dict.fromkeys(KEYS):
            if service.find_user(user) is None:
                service.add_user(user, plan=plan, service=True)
        for number, (user, budget, plan, rpm) in enumerate(KEYS):
            minted = service.mint(
                user,
                f"soak-{number}",
                models="*",
                budget_usd=budget,
                rpm=rpm,
                expires_in_days=365,
            )
            record = minted.record
            made.append(
                Key(record.id, record.alias, user, minted.key, record.budget_nanousd, plan, rpm)
            )
    return made


@dataclass
class Figures:
    """What a run came to."""

    calls: int
    attempts: int
    seconds: float
    counted: Counter[str]
    endpoints: Counter[str]
    tokens: Counter[str]
    charged_nanousd: int
    windows: int
    retried: int
    verified: dict[str, Any]
    drift_nanousd: int
    lags: list[float]

    def __str__(self) -> str:
        counted = ", ".join(f"{name} {count:,}" for name, count in sorted(self.counted.items()))
        tokens = ", ".join(f"{kind} {count:,}" for kind, count in self.tokens.items())
        lags = sorted(self.lags) or [0.0]
        return "\n".join(
            [
                f"{self.calls:,} calls, made {self.attempts:,} times in {self.seconds:.1f} s, "
                f"{self.attempts / self.seconds:.0f} a second; of {len(self.endpoints)} endpoints",
                f"  {counted}",
                f"  tokens: {tokens}",
                f"  {self.charged_nanousd / 1e9:.9f} USD in {self.verified['rows']:,} rows, "
                f"{self.windows} windows of each key; {self.retried} second tries of Envoy",
                f"  ledger verify: {'ok' if self.verified['ok'] else self.verified['faults']}, "
                f"open holds {self.verified['open_holds']}, drift {self.drift_nanousd} nano-USD",
                f"  from an answer's end to its row: median {statistics.median(lags):.3f} s, "
                f"most {lags[-1]:.3f} s, of {len(self.lags)}",
            ]
        )


@dataclass
class Soak:
    """One run on a gate of its own."""

    gate: Stack
    server: Recorder
    leap: Leap
    blows: Sequence[Blow] = ()
    book: Book = field(default_factory=Book)
    _ended: int = 0
    _last: Outcome | None = None

    def run(self, count: int, seed: int) -> Figures:
        """Make the calls, judge each of them and the whole. Raises AssertionError."""
        self.server.answer = self.book.answer
        keys = mint_keys(self.gate)
        calls = [draw(number, seed, keys) for number in range(count)]
        began = time.monotonic()
        outcomes, made = list[Outcome](), 0
        while made < ROUNDS * REFUSED_CONNECTIONS and not _retries(self.gate):
            outcomes += self._refused_connections(calls[made : made + REFUSED_CONNECTIONS])
            made += REFUSED_CONNECTIONS
        retried = _retries(self.gate)
        lags, over = list[float](), Event()
        sampler = Thread(target=self._sample, args=(lags, over), name="lag")
        sampler.start()
        try:
            rest = calls[made:]
            outcomes += drive(
                self.gate.address,
                rest,
                threads=THREADS,
                meanwhile=lambda: self._meanwhile(len(rest), keys[0]),
                seen=self._saw,
            )
            seconds = time.monotonic() - began
        finally:
            over.set()
            sampler.join()
        expected = admitted_ids(outcomes, self.book)
        patience = 2 * DEADLINE_SECONDS + (4 if self.blows else 0) + count / 1000
        ledger = all_booked(self.gate, expected, seconds=patience)
        killed = bool(self.blows)
        audit = Audit(outcomes, self.book, ledger, lossy=killed, outage=killed)
        counted = audit.run()
        check_budgets(self.gate, keys, ledger, self.leap.ahead_us)
        return self._figures(count, outcomes, ledger, counted, retried, seconds=seconds, lags=lags)

    def _figures(
        self,
        count: int,
        outcomes: Sequence[Outcome],
        ledger: Sequence[Row],
        counted: Counter[str],
        retried: int,
        *,
        seconds: float,
        lags: list[float],
    ) -> Figures:
        check_filters(self.gate)
        verified = self.gate.cli("ledger", "verify")
        assert (verified["ok"], verified["open_holds"]) == (True, 0), verified
        assert verified["rows"] == len(ledger), verified
        assert verified["authz"]["accounts_moving"] == 0, verified
        charged = sum(row["charge_nanousd"] for row in ledger)
        assert verified["charged_nanousd"] == charged, verified
        drift = int(metric(self.gate, "tensorgate_drift_nanousd"))
        assert drift == 0
        kinds = ("input", "cached_input", "cache_write", "output")
        tokens = Counter({kind: sum(row[f"{kind}_tokens"] for row in ledger) for kind in kinds})
        return Figures(
            calls=count,
            attempts=len(outcomes),
            seconds=seconds,
            counted=counted,
            endpoints=Counter(row["endpoint"] for row in ledger),
            tokens=tokens,
            charged_nanousd=charged,
            windows=1 + self.leap.ahead_us // WINDOW_US,
            retried=retried,
            verified=verified,
            drift_nanousd=drift,
            lags=lags,
        )

    # -- what happens beside the calls

    def _refused_connections(self, calls: Sequence[Call]) -> list[Outcome]:
        """Calls that begin while nobody listens; before the second try of some, somebody does.

        Nothing else is under way: what a server has in its queue when it goes is lost otherwise.
        """
        with (
            closing(Clients(self.gate.address)) as clients,
            ThreadPoolExecutor(len(calls)) as pool,
        ):
            before = _failed_connections(self.gate)
            with self.server.unreachable():
                made = [pool.submit(clients.make, call) for call in calls]
                until(lambda: _failed_connections(self.gate) > before, 10, "a refusal")
            return [outcome for each in made for outcome in each.result()]

    def _meanwhile(self, count: int, key: Key) -> None:
        """Leaps and blows in turn, spread evenly over the calls."""
        steps = [*(lambda blow=blow: self._strike(*blow) for blow in self.blows)]
        for number in range(LEAPS):
            place = (number + 1) * len(steps) // (LEAPS + 1) + number
            steps.insert(place, lambda: self._leap(key))
        for number, step in enumerate(steps, 1):
            due = count * number // (len(steps) + 1)
            until(lambda: self._ended >= due, 600, f"{due} calls")  # noqa: B023  waits here
            step()

    def _leap(self, key: Key) -> None:
        """Set the clock ahead; returns when the gate has followed."""
        before = present(self.gate, "keys", key.id, self.leap.ahead_us)
        self.leap.leap(LEAP_US)
        until(lambda: window_said(self.gate, key) > before, 30, "a window that turns")

    def _strike(self, part: str, how: signal.Signals) -> None:
        pid = self.gate.children()[part][0]
        os.kill(pid, how)
        until(lambda: self.gate.children().get(part, [pid])[0] != pid, 20, f"another {part}")

    def _saw(self, outcome: Outcome) -> None:
        self._ended += 1  # approximate, as threads count it: it only spreads what happens
        if outcome.complete and outcome.admitted:
            self._last = outcome

    def _sample(self, lags: list[float], over: Event) -> None:
        """How long it takes from the end of an answer to its row, of a few calls a second."""
        waiting: dict[str, float] = {}
        taken = 0.0
        while waiting or not over.is_set():
            outcome, now = self._last, time.monotonic()
            if outcome is not None and now - taken >= _SAMPLE_SECONDS and not over.is_set():
                waiting[str(outcome.request_id)], self._last, taken = outcome.at, None, now
            there = [each for each in waiting if self._is_booked(each)]
            lags += [time.monotonic() - waiting.pop(each) for each in there]
            if waiting and now - max(waiting.values()) > _LOST_SECONDS:
                return  # whose rows are missing, the audit says
            time.sleep(0.02)

    def _is_booked(self, request_id: str) -> bool:
        return bool(self.gate.sql("select 1 from ledger where request_id = ?", request_id))


def _retries(gate: Stack) -> int:
    """How often a second try at a model server went well, since Envoy's start."""
    return _of_servers(gate, "upstream_rq_retry_success")


def _failed_connections(gate: Stack) -> int:
    return _of_servers(gate, "upstream_cx_connect_fail")


def _of_servers(gate: Stack, name: str) -> int:
    found = envoy_stats(gate, f"^cluster.model.*{name}$")
    return sum(found.values())


def all_endpoints(seen: Collection[str]) -> bool:
    """Whether every endpoint that the book knows is among those of the ledger."""
    return set(ENDPOINTS.values()) <= set(seen)
