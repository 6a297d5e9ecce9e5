"""What it costs authz to settle: log entries as Envoy sends them, to rows in SQLite. CPU time.

`PYTHONPATH=tests .venv/bin/python tests/load/settling.py [--rate 2000] [--seconds 5]`. Calls are
taken at a rate, each ends a flush of Envoy's log later, and all that is not the taking counts:
reading, charging, journal, rows, counters, metrics, and the copy of open holds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from moneyhelp import KEY, draft, limits, mint, seeded
from statehelp import new_state

from authz.meter import Meter, Nowhere
from authz.metrics import Metrics
from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry
from authz.pb.accesslog_pb2 import StreamAccessLogsMessage
from authz.settle import Settler
from authz.upkeep import Upkeep
from authz.usage import DECISION, RESPONSE
from store.clock import steady_clock
from store.counters.memory import MemoryCounters
from store.counters.model import Taken
from store.engines import open_engine
from store.journal import JOURNAL_NAME, Journal
from store.ledger import Ledger
from store.records import Hold
from store.seeding import drift

HERE = Path(__file__).resolve().parent
CAPTURED = HERE.parent / "contract" / "data" / "log-allowed-0.binpb"
FLUSH_SECONDS = 0.2  # Envoy's buffer_flush_interval
SEEN = {
    "format": "sse",
    "final": "1",
    "events": "98",
    "content_bytes": "431",
    "input": "811",
    "output": "97",
    "cached": "0",
    "cached_inside": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=2000, help="calls a second")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory(prefix="tg-settling-") as folder:
            cpu, ends = settled(Path(folder), args.rate, args.seconds)
        print(f"round {number + 1}: {cpu:.0f} µs of CPU an end, of {ends}", flush=True)


def settled(folder: Path, rate: int, seconds: float) -> tuple[float, int]:
    """Microseconds of CPU an end, and how many there were."""
    engine = open_engine(new_state(folder).sql_url)
    mint(engine, KEY)
    with Journal(folder / JOURNAL_NAME) as journal:
        clock = steady_clock()
        counters = seeded(MemoryCounters(clock, journal.take))
        metrics = Metrics()
        ledger = Ledger(engine)
        settler = Settler(counters, journal, ledger, metrics, {"llama-3.1-8b"}.__contains__)
        meter = Meter(counters, settler, metrics, clock, Nowhere(counters, metrics))
        upkeep = Upkeep(
            counters,
            ledger.copy_holds,
            lambda: 0,
            lambda account_id: drift(counters, ledger, account_id),
            metrics,
            follow=lambda: None,
            deadline_seconds=60,
        )
        coming: SimpleQueue[bytes | None] = SimpleQueue()
        reading = Thread(target=lambda: meter._stream(iter(coming.get, None), None))  # type: ignore[arg-type]
        for thread in (settler, upkeep, reading):
            thread.start()
        spent, taking = time.process_time(), time.thread_time()
        ends = call(counters, coming, rate, seconds)
        reading.join()
        if not settler.stop(10) or counters.outstanding or upkeep.drift_nanousd:
            raise SystemExit("not all was settled, so the figures mean nothing")
        cpu = time.process_time() - spent - (time.thread_time() - taking)
        upkeep.stop()
    engine.dispose()
    return cpu / ends * 1e6, ends


def call(
    counters: MemoryCounters, coming: SimpleQueue[bytes | None], rate: int, seconds: float
) -> int:
    """Take at a rate, and send each flush's ends with the next one."""
    message, ends = b"", 0
    due = time.monotonic()
    while ends < rate * seconds:
        holds = [take(counters) for _ in range(int(rate * FLUSH_SECONDS))]
        coming.put(message)
        message = written(holds)
        ends += len(holds)
        due += FLUSH_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))
    coming.put(message)
    coming.put(None)
    return ends


def take(counters: MemoryCounters) -> Hold:
    asked = draft(0, team=None)
    taken = counters.take(asked.request_id, asked, limits(account=True))
    if not isinstance(taken, Taken) or taken.hold is None:
        raise SystemExit(f"not admitted: {taken}")
    return taken.hold


def written(holds: list[Hold]) -> bytes:
    """A message as Envoy sends it, made of one that it did send."""
    captured = StreamAccessLogsMessage.FromString(CAPTURED.read_bytes())
    entry = HTTPAccessLogEntry.FromString(captured.http_logs.log_entry[0])
    common = entry.common_properties
    decision = common.metadata.filter_metadata[DECISION]
    common.metadata.filter_metadata[RESPONSE].update(SEEN)
    message = StreamAccessLogsMessage()
    for hold in holds:
        common.stream_id = entry.request.request_id = hold.request_id
        decision.fields["hold_id"].string_value = hold.id
        decision.fields["account_id"].string_value = hold.account_id
        message.http_logs.log_entry.append(entry.SerializeToString())
    return message.SerializeToString()


if __name__ == "__main__":
    main()
