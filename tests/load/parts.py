"""What a check's parts cost in this process alone: microseconds of CPU, the best of several runs.

One thread, warm caches, no gRPC: it tells which part grew, not what a request costs.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from moneysupport import Settled, SpentNothing
from support import DIGESTER, FORM, KeyTable, bearer, key_record, message, minted

from authz import shapes
from authz.body import read_json
from authz.cache import KeyCache
from authz.check import Checker, Site
from authz.metrics import Metrics
from authz.pb.auth_pb2 import CheckRequest
from authz.wire import Reader
from store.catalog import Catalog
from store.clock import steady_clock, wall_us
from store.counters.memory import MemoryCounters
from store.journal import Journal
from store.records import DAY_US

CATALOG = """
default: {price: {input: 0.5, output: 1.5}, context_tokens: 131072, max_output_tokens: 4096}
plans: {free: {}}
default_plan: free
"""
AIMS = {2_000: 3, 100_000: 100}
MESSAGE = 240  # characters of one message in a talk of many


def cost_us(run: Callable[[], object], times: int, repeats: int = 9) -> float:
    spent = []
    for _ in range(repeats):
        began = time.thread_time_ns()
        for _ in range(times):
            run()
        spent.append(time.thread_time_ns() - began)
    return min(spent) / times / 1000


def body(size: int, characters: int) -> bytes:
    """About so many bytes, in messages of so many characters."""
    said = {"role": "user", "content": "x" * characters}
    messages = [said] * max(1, size // len(json.dumps(said)))
    return json.dumps({"model": "bench", "max_tokens": 100, "messages": messages}).encode()


@contextmanager
def checker() -> Iterator[Callable[[bytes], object]]:
    """A Checker with a journal on disk, for one key; its holds are let go as it checks."""
    now_us, clock, metrics = wall_us(), steady_clock(), Metrics()
    record = key_record(
        budget_nanousd=10**18,
        rpm=10**6,
        created_us=now_us - 10 * DAY_US,
        account_created_us=now_us - 20 * DAY_US,
        expires_us=now_us + 80 * DAY_US,
    )
    keys = KeyCache(
        KeyTable((DIGESTER.digests(minted(1))[0], record)),
        clock,
        stale_us=0,
        observe=metrics.cache_request,
    )
    with (
        tempfile.TemporaryDirectory(prefix="tg-parts-") as folder,
        Journal(Path(folder) / "journal") as journal,
    ):
        counters = MemoryCounters(clock, journal.take)
        made = Checker(
            reader=Reader(FORM, DIGESTER),
            keys=keys,
            catalog=Catalog.parse(CATALOG, "the benchmark's"),
            counters=SpentNothing(counters),
            give_back=counters.give_back,
            settler=Settled(),  # type: ignore[arg-type]
            listed=lambda: (),
            metrics=metrics,
            clock=wall_us,
            site=Site(None, "sk-tg_", 600),
        )

        def check(raw: bytes) -> object:
            keys.beat()
            return made.check(CheckRequest.FromString(raw))

        yield check


def check_us(times: int = 300, repeats: int = 15) -> float:
    """One whole Check of 2 KB, bytes to bytes, each with an id of its own."""
    numbers, spent = count(), []
    raw = body(2_000, 1_900)
    with checker() as check:
        for _ in range(repeats):
            asked = [
                message(headers=bearer(minted(1)), body=raw, request_id=f"req-{next(numbers)}")
                for _ in range(times)
            ]
            packed = [each.SerializeToString() for each in asked]
            began = time.thread_time_ns()
            for each in packed:
                check(each)
            spent.append(time.thread_time_ns() - began)
    return min(spent) / times / 1000


def report() -> None:
    print("reading a body, µs             the model   and what it asks for")
    for size, aim in AIMS.items():
        for many, raw in (("one message", body(size, size)), ("a talk", body(size, MESSAGE))):
            times = 400_000 // size * 5
            model = cost_us(lambda raw=raw: read_json(raw), times)  # type: ignore[misc]
            whole = cost_us(lambda raw=raw: read_json(raw, shapes.CHAT), times)  # type: ignore[misc]
            name = f"{size // 1000} KB, {many}"
            print(f"{name:>26} {model:13.1f} {whole:12.1f}   (aim: {aim} or less)")
    print(f"a whole check in one thread: {check_us():.0f} µs\n", flush=True)
