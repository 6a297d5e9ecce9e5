"""What counters in Valkey cost: CPU a step on both sides, and memory of what they keep.

`PYTHONPATH=tests .venv/bin/python tests/load/redis_cost.py [--rounds 5]`. A real server on a unix
socket and on loopback; CPU is user and system time, of the best round, one thread, one connection.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from counterhelp import PATIENT
from moneyhelp import ACCOUNT, KEY, account_money, draft, money
from peers.valkey import Valkey, valkey_node

from store.counters.address import parse
from store.counters.link import Link
from store.counters.model import Limit, MinuteLimit, Seed, Taken
from store.counters.redis import RedisCounters
from store.records import Hold

STEPS = 2000
LIMITS: tuple[Limit, ...] = (
    MinuteLimit(KEY.id, 10**9),
    money(budget=10**15),
    account_money(10**15),
)

LISTING: tuple[Limit, ...] = (MinuteLimit("lane", 10**9),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="tg-cost-") as folder:
        socket = Path(folder) / "s"
        with valkey_node(Path(folder) / "node", "--unixsocket", str(socket)) as node:
            for url in (f"unix://{socket}", node.url):
                with Link(parse(url), PATIENT) as link:
                    print(f"{url.partition(':')[0]}: µs of CPU of the client, of Valkey; µs waited")
                    for name, figures in steps(RedisCounters(link), node, rounds).items():
                        print(f"  {name:28}" + "".join(f"{figure:8.1f}" for figure in figures))
            with Link(parse(node.url), PATIENT) as link:
                print("bytes, by MEMORY USAGE of all that each of many adds")
                for name, size in memory(RedisCounters(link), node).items():
                    print(f"  {name:28}{size:8.0f}")


def steps(
    counters: RedisCounters, node: Valkey, rounds: int
) -> dict[str, tuple[float, float, float]]:
    """Each step's CPU here, CPU there, and time, in µs."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(rounds):
        node.ask("FLUSHALL")
        assert counters.seed(counters.generation(ACCOUNT.id), Seed({}, {}))
        drafts = [draft(100, minute=KEY.id) for _ in range(STEPS)]
        for name, step in {
            "take, three limits": lambda d: counters.take(d.request_id, d, LIMITS),
            "take again": lambda d: counters.take(d.request_id, d, LIMITS),
            "take refused": lambda d: counters.take(f"x{d.id}", d_other(d), REFUSING),
            "peek, three limits": lambda _: counters.peek(LIMITS, ACCOUNT.id),
            "listing, one minute": lambda d: counters.take(f"l{d.id}", None, LISTING, ACCOUNT.id),
            "beat": lambda d: counters.beat(ACCOUNT.id, d.id),
            "hold": lambda d: counters.hold(ACCOUNT.id, d.id),
            "close": counters.close,
        }.items():
            found.setdefault(name, []).append(measured(node, step, drafts))
        parts = [drafts[at : at + 128] for at in range(0, STEPS, 128)]
        cost = measured(node, lambda part: counters.settle_all([(d, 1) for d in part]), parts)
        each = tuple(figure * len(parts) / STEPS for figure in cost)
        found.setdefault("settle, 128 in one go", []).append((each[0], each[1], each[2]))
    return {
        name: (min(c for c, _, _ in all_), min(s for _, s, _ in all_), min(w for _, _, w in all_))
        for name, all_ in found.items()
    }


REFUSING: tuple[Limit, ...] = (*LIMITS[:1], money(budget=10), account_money(10**15))


def d_other(of: Hold) -> Hold:
    return draft(100, id=f"y{of.id}", request_id=f"x{of.id}")


def measured(
    node: Valkey, step: Callable[[Any], object], over: Sequence[Any]
) -> tuple[float, float, float]:
    before, cpu, began = server_cpu(node), time.process_time(), time.perf_counter()
    for each in over:
        step(each)
    waited, here = time.perf_counter() - began, time.process_time() - cpu
    there = server_cpu(node) - before
    return tuple(figure / len(over) * 1e6 for figure in (here, there, waited))  # type: ignore[return-value]


def server_cpu(node: Valkey) -> float:
    """Seconds, of its main thread, which runs every script."""
    return int(Path(f"/proc/{node.pid}/schedstat").read_text().split()[0]) / 1e9


def memory(counters: RedisCounters, node: Valkey) -> dict[str, float]:
    """Bytes that one more of each adds, of the server's own account of its data."""
    number = 2000

    def used() -> int:
        with node.client() as client:
            return int(client.info("memory")["used_memory_dataset"])

    def adds(what: Callable[[int], object]) -> float:
        before = used()
        for at in range(number):
            what(at)
        return (used() - before) / number

    def account(at: int) -> None:
        key = f"acc_{at:028}"
        generation = counters.generation(key)
        assert counters.seed(generation, Seed({}, {}))

    def spend(at: int) -> None:
        mine = money(budget=10**12), account_money(10**12)
        asked = draft(10**7, account_id=f"acc_{at:028}")
        taken = counters.take(asked.request_id, asked, mine)
        assert isinstance(taken, Taken)
        assert taken.hold is not None
        counters.settle(taken.hold, 123_456_789)

    def hold_one(_: int) -> None:
        asked = draft(100)
        counters.take(asked.request_id, asked, (money(budget=None),))

    node.ask("FLUSHALL")
    assert counters.seed(counters.generation(ACCOUNT.id), Seed({}, {}))
    found = {"open hold": adds(hold_one)}
    counters.settle_all([(each, 1) for each in counters.open_holds()])
    node.ask("FLUSHALL")
    found["account that was seeded"] = adds(account)
    found["its two windows, one mark"] = adds(spend)
    found["listing: mark and minute"] = adds(
        lambda at: counters.take(f"{at:036}", None, LISTING, ACCOUNT.id)
    )
    found["of these, the minute"] = (
        node.ask("MEMORY", "USAGE", f"tg:{{{ACCOUNT.id}}}:m:lane") / number
    )
    return found


if __name__ == "__main__":
    main()
