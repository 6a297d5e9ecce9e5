"""What one of each carries: memory of cached keys, CPU in Valkey by script, CPU of a booked row.

`PYTHONPATH=tests .venv/bin/python tests/load/capacity.py`. Real servers on this machine's own
sockets; about half a minute. The figures are what `tests/load/scale.py` reckons with.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from counterhelp import PATIENT
from moneyhelp import ACCOUNT, KEY, account_money, charge, draft, mint, money
from peers.postgres import Postgres
from peers.process import descendants
from peers.valkey import valkey_node
from support import ManualClock, key_record

from authz.cache import KeyCache
from store.counters.address import parse
from store.counters.link import Link
from store.counters.model import MinuteLimit, Seed, Taken
from store.counters.redis import RedisCounters
from store.counters.scripts import BEAT, HOLDS, RELEASE, SETTLE, TAKE
from store.engines import open_engine
from store.ledger import Ledger
from store.openholds import OpenHolds
from store.records import Hold, KeyRecord, Window

KEYS = 100_000
STEPS = 3000
GROUP = 256
ROWS = 20 * GROUP

T = TypeVar("T")


class Fresh:
    """Records as SQL gives them: every text of a row is its own."""

    def by_digests(self, digests: Sequence[bytes]) -> tuple[bytes, KeyRecord]:
        number = int.from_bytes(digests[0][:8])
        return digests[0], key_record(
            id=f"key_{number:026}",
            account_id=f"acc_{number:026}",
            user=f"user{number}@example.com",
            alias=f"laptop-{number}",
            hint=f"sk-tg_…{number % 10000:04}",
            models=("llama-3.1-8b", "qwen3-coder"),
            created_us=1_700_000_000_000_000 + number,
            account_created_us=1_690_000_000_000_000 + number,
            expires_us=1_790_000_000_000_000 + number,
            budget_nanousd=5_000_000_000 + number,
        )


def cached_bytes() -> float:
    """Of resident memory, for a cached key."""
    cache = KeyCache(Fresh(), ManualClock(), stale_us=0, capacity=KEYS)
    cache.beat()
    gc.collect()
    before = resident()
    for number in range(KEYS):
        cache.get((number.to_bytes(8) + bytes(24),))
    gc.collect()
    assert len(cache) == KEYS
    return (resident() - before) / KEYS


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def scripts() -> Iterator[tuple[str, float]]:
    """µs in the script alone, and of all that the server does for a call of one."""
    limits = (MinuteLimit(KEY.id, 10**9), money(budget=10**15), account_money(10**15))
    with (
        tempfile.TemporaryDirectory(prefix="tg-capacity-") as folder,
        valkey_node(Path(folder) / "node") as node,
        Link(parse(node.url), PATIENT) as link,
    ):
        counters = RedisCounters(link)
        assert counters.seed(counters.generation(ACCOUNT.id), Seed({}, {}))
        drafts = [draft(100, minute=KEY.id) for _ in range(STEPS)]
        for script in (TAKE, BEAT, HOLDS, RELEASE, SETTLE):
            node.ask("SCRIPT", "LOAD", script.source)

        def take(each: Hold) -> None:
            assert isinstance(counters.take(each.request_id, each, limits), Taken)

        steps = {
            "take": take,
            "beat": lambda each: counters.beat(ACCOUNT.id, each.id),
            "hold": lambda each: counters.hold(ACCOUNT.id, each.id),
            "close": counters.close,
        }
        for name, step in steps.items():
            node.ask("CONFIG", "RESETSTAT")
            for each in drafts:
                step(each)
            yield name, script_us(node.ask("INFO", "commandstats"))
        node.ask("CONFIG", "RESETSTAT")
        for at in range(0, STEPS, 128):
            counters.settle_all([(each, 1) for each in drafts[at : at + 128]])
        yield "settle", script_us(node.ask("INFO", "commandstats"))


def script_us(said: dict[str, dict[str, float]]) -> float:
    return float(said["cmdstat_evalsha"]["usec_per_call"])


def booked() -> Iterator[tuple[str, float]]:
    """µs of CPU of a row, in groups as the product's: of PostgreSQL's processes and of ours."""
    with server() as postgres, postgres.database() as url:
        engine = open_engine(url)
        mint(engine, KEY)
        ledger = Ledger(engine)
        opened = [
            draft(100).admitted(time.time_ns() // 1000, (Window(KEY.id, 0), Window(ACCOUNT.id, 0)))
            for _ in range(ROWS)
        ]
        groups = [opened[at : at + GROUP] for at in range(0, ROWS, GROUP)]
        yield from measured(postgres, "hold written", ledger.copy_holds, groups)
        copies = OpenHolds(engine)
        yield from measured(
            postgres, "hold found", lambda each: copies.find([h.id for h in each], []), groups
        )
        ends = [[(each, charge(each, 50)) for each in group] for group in groups]
        yield from measured(postgres, "row booked", ledger.book, ends)
        engine.dispose()


def measured(
    postgres: Postgres, name: str, do: Callable[[T], object], groups: Sequence[T]
) -> Iterator[tuple[str, float]]:
    there, here = cpu_of(postgres), time.process_time()
    for group in groups:
        do(group)
    yield f"{name}, there", (cpu_of(postgres) - there) / ROWS * 1e6
    yield f"{name}, here", (time.process_time() - here) / ROWS * 1e6


def cpu_of(postgres: Postgres) -> float:
    """Seconds, of all its processes that live."""
    pids = (postgres.pid, *descendants(postgres.pid))
    return sum(int(Path(f"/proc/{p}/schedstat").read_text().split()[0]) for p in pids) / 1e9


@contextmanager
def server() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="tg-capacity-") as folder:
        postgres = Postgres(Path(folder))
        try:
            yield postgres
        finally:
            postgres.end()


def main() -> None:
    print(f"bytes of a cached key, of {KEYS}: {cached_bytes():.0f}")
    print("µs of Valkey's in each script, without its network's")
    for name, us in scripts():
        print(f"  {name:24}{us:8.1f}")
    print(f"µs of CPU with PostgreSQL, in groups of {GROUP}")
    for name, us in booked():
        print(f"  {name:24}{us:8.1f}")


if __name__ == "__main__":
    main()
