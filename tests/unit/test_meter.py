"""The access-log service: each entry does its part, and none that is broken takes another along."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import grpc
import pytest
from moneyhelp import draft, limits, seeded
from moneysupport import Settled, entry
from support import ManualClock
from waiting import until

from authz.meter import LOG_STREAMS, SERVICE, Fleetwide, Meter, Nowhere
from authz.metrics import Metrics
from authz.pb.accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from authz.seek import LOOKS, ONE_LOOK
from authz.usage import Ending, read_ending
from store.counters.memory import MemoryCounters
from store.counters.model import Ended, Taken
from store.errors import StoreUnavailableError
from store.records import MINUTE_US, Basis, Hold, Price
from tensorgate.envoy.options import MOST_CONCURRENCY

CAPTURED = sorted(Path(__file__).parents[1].glob("contract/data/log-*.binpb"))
WHOLE = {"input": "11", "output": "7", "cached_inside": "1", "final": "1", "format": "json"}


def batch(*entries: bytes) -> bytes:
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.extend(entries)
    return message.SerializeToString()


class Rig:
    """A meter before counters in memory, and what it ended."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.counters = seeded(MemoryCounters(self.clock))
        self.settled = Settled()
        self.metrics = Metrics()
        self.meter = Meter(
            self.counters,
            self.settled,  # type: ignore[arg-type]
            self.metrics,
            self.clock,
            Nowhere(self.counters, self.metrics),
        )

    def take(self, **given: Any) -> Hold:
        asked = draft(**given)
        taken = self.counters.take(asked.request_id, asked, limits())
        assert isinstance(taken, Taken)
        assert taken.hold is not None
        return taken.hold

    def send(self, *messages: bytes) -> None:
        """One stream, without a network between."""
        answer = self.meter._stream(iter(messages), context=None)  # type: ignore[arg-type]
        assert answer == StreamAccessLogsResponse()

    def entry(self, *args: Any, **given: Any) -> None:
        self.send(batch(entry(*args, **given).SerializeToString()))

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"tensorgate_{name}") or 0

    def counted(self) -> dict[str, float]:
        """Entries by what became of them."""
        name = "tensorgate_access_log_entries_total"
        value = self.metrics.registry.get_sample_value
        return {
            each: value(name, {"result": each}) or 0 for each in ("end", "running", "unreadable")
        }


@pytest.fixture
def rig() -> Rig:
    return Rig()


def decided(hold: Hold) -> dict[str, str]:
    return {"outcome": "allowed", "hold_id": hold.id, "account_id": hold.account_id}


# -- ends


def test_an_end_settles_the_hold_that_it_names(rig: Rig) -> None:
    hold, other = rig.take(), rig.take()
    rig.clock.advance(seconds=3)
    rig.entry(decided(hold), WHOLE, request_id=hold.request_id)
    [(ended, charge)] = rig.settled.ends
    assert ended == hold != other
    assert (charge.basis, charge.input_tokens, charge.output_tokens) == (Basis.METERED, 11, 7)
    assert charge.settled_us == rig.clock.now_us


def test_a_usage_that_cannot_be_is_told_of(rig: Rig) -> None:
    believed, hold = rig.take(), rig.take(price=Price(input=10**15, output=10**15))
    rig.entry(decided(believed), WHOLE)
    rig.entry(decided(hold), WHOLE | {"output": "999999999999"})
    assert rig.settled.bases == [Basis.METERED, Basis.HELD]
    assert rig.settled.disbelieved == [hold]


def test_an_end_of_a_hold_that_has_ended_is_counted(rig: Rig) -> None:
    hold = rig.take()
    rig.counters.settle(hold, 5)
    rig.entry(decided(hold), WHOLE)
    rig.entry({"outcome": "allowed", "hold_id": "of another life"}, WHOLE)
    assert rig.settled.ends == []
    assert rig.value("late_settlements_total") == 2


def test_what_a_message_tells_is_ended_together(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.meter.TOGETHER", 4)
    holds = [rig.take() for _ in range(6)]
    entries = [entry(decided(hold), WHOLE).SerializeToString() for hold in holds]
    rig.send(batch(*entries[:2], b"\xff", *entries[2:]))
    assert [hold for hold, _ in rig.settled.ends] == holds
    assert rig.settled.groups == [3, 3]  # the fourth of the first four is broken
    assert rig.counted() == {"end": 6, "running": 0, "unreadable": 1}


def test_a_call_that_holds_nothing_ends_nothing(rig: Rig) -> None:
    rig.entry({"outcome": "allowed"}, None, status=200)
    rig.entry({"outcome": "answered"}, None, sent=False)
    rig.entry({"outcome": "denied"}, None, sent=False, status=429)
    assert rig.settled.ends == []
    assert rig.counted() == {"end": 3, "running": 0, "unreadable": 0}


def test_a_heartbeat_keeps_a_hold_alive_and_ends_nothing(rig: Rig) -> None:
    hold, silent = rig.take(), rig.take()
    rig.clock.advance(seconds=50)
    rig.entry(decided(hold), {"events": "3", "format": "sse"}, running=True)
    rig.clock.advance(seconds=20)
    assert rig.counters.overdue(MINUTE_US) == [silent]
    assert rig.settled.ends == []
    assert rig.counted()["running"] == 1


def test_a_heartbeat_of_an_unknown_hold_is_nothing(rig: Rig) -> None:
    rig.entry({"outcome": "allowed", "hold_id": "unknown"}, None, running=True)
    rig.entry(None, None, running=True)
    assert rig.value("late_settlements_total") == 0
    assert rig.counted()["running"] == 2


# -- ends without our word


def test_without_our_metadata_the_requests_hold_is_released(rig: Rig) -> None:
    """Envoy gave the Check up before its answer came."""
    hold = rig.take()
    rig.entry(None, None, sent=False, status=503, request_id=hold.request_id)
    [(ended, charge)] = rig.settled.ends
    assert (ended, charge.basis, charge.nanousd, charge.status) == (hold, Basis.RELEASED, 0, 503)


def test_and_the_check_that_is_still_on_its_way_takes_nothing(rig: Rig) -> None:
    late = draft()
    rig.entry(None, None, sent=False, status=0, request_id=late.request_id)
    assert rig.settled.ends == []
    assert isinstance(rig.counters.take(late.request_id, late, limits()), Ended)


def test_a_refused_repetition_ends_what_the_first_check_took(rig: Rig) -> None:
    """The first answer was lost; the second Check came when the key was revoked."""
    hold = rig.take()
    rig.entry({"outcome": "denied"}, None, sent=False, status=401, request_id=hold.request_id)
    [(ended, charge)] = rig.settled.ends
    assert (ended, charge.basis) == (hold, Basis.RELEASED)


def test_a_refusal_leaves_no_trace_in_the_counters(rig: Rig) -> None:
    asked = draft()
    rig.entry({"outcome": "denied"}, None, sent=False, status=429, request_id=asked.request_id)
    assert isinstance(rig.counters.take(asked.request_id, asked, limits()), Taken)


def test_an_entry_of_a_route_that_is_not_ours_ends_nothing(rig: Rig) -> None:
    hold = rig.take()
    rig.entry(None, None, sent=True, request_id=hold.request_id)
    assert rig.settled.ends == []


def test_who_said_it_first_ends_it(rig: Rig) -> None:
    hold = rig.take()
    assert rig.counters.give_back(hold)
    rig.entry(None, None, sent=False, request_id=hold.request_id)
    assert rig.settled.ends == []  # it was the Check that ended it


def test_an_allowed_call_that_reached_no_server_is_released(rig: Rig) -> None:
    hold = rig.take()
    rig.entry(decided(hold), None, sent=False, status=503, request_id=hold.request_id)
    assert rig.settled.bases == [Basis.RELEASED]


# -- what cannot be read


END = entry(None, None, sent=False, request_id="").SerializeToString()


@pytest.mark.parametrize("broken", [b"\xff", b"\x08", b"\x0a\x05abc", END[:-1]])
def test_a_broken_entry_costs_itself(rig: Rig, broken: bytes) -> None:
    hold = rig.take()
    mine = entry(decided(hold), WHOLE).SerializeToString()
    beat = entry(decided(hold), None, running=True).SerializeToString()
    rig.send(batch(END, broken, beat, mine), batch(END))
    assert rig.counted() == {"end": 3, "running": 1, "unreadable": 1}
    assert [ended for ended, _ in rig.settled.ends] == [hold]


def test_a_broken_message_costs_itself(rig: Rig) -> None:
    rig.send(b"\xff\xff", batch(END), b"\x12\x7f", batch(END))
    assert rig.counted() == {"end": 2, "running": 0, "unreadable": 2}


def test_whatever_goes_wrong_with_an_entry_the_next_one_is_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = Meter.record

    def fails_once(self: Meter, ending: Ending) -> None:
        if ending.request_id == "bad":
            raise KeyError(ending.status)
        record(self, ending)

    monkeypatch.setattr(Meter, "record", fails_once)
    bad = entry(None, None, request_id="bad")
    bad.request.path = "/bad?key=secret"
    rig.send(batch(bad.SerializeToString(), END, END))
    assert rig.counted() == {"end": 2, "running": 0, "unreadable": 1}
    assert "could not be read" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("path", CAPTURED, ids=[path.stem for path in CAPTURED])
def test_what_envoy_really_sent(rig: Rig, path: Path) -> None:
    raw = path.read_bytes()
    assert len(StreamAccessLogsMessage.FromString(raw).http_logs.log_entry) == 1
    rig.send(raw)
    running = path.stem == "log-streamed-0"  # a heartbeat of the stream that log-streamed-1 ends
    assert rig.counted() == {"end": not running, "running": running, "unreadable": 0}


# -- streams


@contextmanager
def serving(meter: Meter, folder: Path, *, threads: int = 2) -> Iterator[grpc.Channel]:
    """The service on a socket, as Envoy meets it."""
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((meter.handler(),))
        server.add_insecure_port(f"unix:{folder}/log.sock")
        server.start()
        try:
            with grpc.insecure_channel(f"unix:{folder}/log.sock") as channel:
                yield channel
        finally:
            server.stop(None).wait()


def test_a_stream_over_the_wire(rig: Rig, tmp_path: Path) -> None:
    first = StreamAccessLogsMessage()
    first.identifier.log_name = "tensorgate"
    hold = rig.take()
    mine = entry(decided(hold), WHOLE).SerializeToString()
    with serving(rig.meter, tmp_path) as channel:
        call: Any = channel.stream_unary(
            f"/{SERVICE}/StreamAccessLogs",
            request_serializer=None,
            response_deserializer=StreamAccessLogsResponse.FromString,
        )
        beat = entry(decided(hold), None, running=True).SerializeToString()
        messages = [first.SerializeToString(), batch(beat, END, mine), b"\xff", batch(END)]
        assert call(iter(messages), timeout=5) == StreamAccessLogsResponse()
    assert rig.counted() == {"end": 3, "running": 1, "unreadable": 1}
    assert [ended for ended, _ in rig.settled.ends] == [hold]


def test_a_stream_that_breaks_off_keeps_what_came_and_is_a_gap(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="grpc")  # the client's own complaint

    def breaks_off() -> Iterator[bytes]:
        yield batch(END, END)
        yield batch(END)
        deadline = time.monotonic() + 5
        while rig.counted()["end"] < 3 and time.monotonic() < deadline:
            time.sleep(0.002)
        raise RuntimeError("Envoy is gone")

    time.sleep(0.05)
    before, opened = rig.meter.unbroken_seconds(), time.monotonic()
    with serving(rig.meter, tmp_path) as channel:
        call: Any = channel.stream_unary(f"/{SERVICE}/StreamAccessLogs")
        with pytest.raises(grpc.RpcError):
            call(breaks_off(), timeout=10)
    assert rig.counted() == {"end": 3, "running": 0, "unreadable": 0}
    assert caplog.records == []
    assert before >= 0.05
    assert rig.meter.unbroken_seconds() < time.monotonic() - opened


def test_no_stream_is_no_gap(rig: Rig) -> None:
    """Envoy opens one with its first entry."""
    before = rig.meter.unbroken_seconds()
    time.sleep(0.02)
    assert rig.meter.unbroken_seconds() >= before + 0.02


def test_the_end_of_a_stream_begins_the_count_anew(rig: Rig) -> None:
    time.sleep(0.4)
    rig.send(batch(END))
    assert rig.meter.unbroken_seconds() < 0.4


def test_more_streams_than_are_read_are_refused_and_that_is_a_gap(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("authz.meter.LOG_STREAMS", 2)
    coming = Event()

    def idle() -> Iterator[bytes]:
        yield batch(END)
        coming.wait(10)

    with serving(rig.meter, tmp_path, threads=4) as channel:
        call: Any = channel.stream_unary(f"/{SERVICE}/StreamAccessLogs")
        read = [call.future(idle()) for _ in range(2)]
        until(lambda: rig.counted()["end"] == 2)
        time.sleep(0.4)
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as refused:
                call(iter([batch(END)]), timeout=5)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert rig.counted()["end"] == 2
        assert rig.meter.unbroken_seconds() < 0.4
        coming.set()
        for each in read:
            each.result(timeout=5)
        call(iter([batch(END)]), timeout=5)
    assert rig.counted()["end"] == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]  # said once
    assert "2 log streams" in caplog.text


def test_there_is_room_for_the_streams_of_every_envoy_that_can_be_rendered() -> None:
    """One a worker thread, and as many that linger from before the network broke."""
    assert LOG_STREAMS > 2 * MOST_CONCURRENCY


@pytest.mark.parametrize("gone", [False, True])
def test_what_cannot_be_read_yet_is_left_in_the_network(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, gone: bool
) -> None:
    monkeypatch.setattr("authz.meter.MESSAGES", 4)
    monkeypatch.setattr("authz.meter.DRAIN_POLL_SECONDS", 0.02)
    fetched, reading, going_on = [], Event(), Event()

    def stop_here(_raw: bytes) -> None:
        reading.set()
        assert going_on.wait(5)
        if gone:
            raise RuntimeError("a defect of ours")

    def messages() -> Iterator[bytes]:
        for number in range(100):
            fetched.append(number)
            yield batch(END)

    monkeypatch.setattr(rig.meter, "_receive", stop_here)

    def stream() -> None:
        with suppress(RuntimeError):
            rig.meter._stream(messages(), context=None)  # type: ignore[arg-type]

    before = {thread for thread in threading.enumerate() if thread.name == "log stream"}
    reader = Thread(target=stream)
    reader.start()
    assert reading.wait(5)
    time.sleep(0.1)
    assert len(fetched) == 1 + 4 + 1  # being read, waiting, and the one that finds no room
    going_on.set()
    reader.join(5)
    assert len(fetched) == (6 if gone else 100)
    until(lambda: {t for t in threading.enumerate() if t.name == "log stream"} <= before)


def test_draining_ends_streams_that_say_nothing_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz.meter.DRAIN_POLL_SECONDS", 0.02)
    coming: SimpleQueue[bytes | None] = SimpleQueue()
    ended = Event()

    def stream() -> None:
        rig.meter._stream(iter(coming.get, None), context=None)  # type: ignore[arg-type]
        ended.set()

    thread = Thread(target=stream)
    thread.start()
    coming.put(batch(END))
    time.sleep(0.06)
    assert not ended.is_set()  # an idle stream is kept
    rig.meter.drain()
    assert ended.wait(2)
    assert rig.counted()["end"] == 1
    coming.put(None)
    thread.join()


def test_draining_ends_a_stream_just_after_a_message_and_with_all_that_had_come(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz.meter.DRAIN_POLL_SECONDS", 5.0)  # silence does not end it here
    coming: SimpleQueue[bytes | None] = SimpleQueue()

    def stream() -> None:
        rig.meter._stream(iter(coming.get, None), context=None)  # type: ignore[arg-type]

    thread = Thread(target=stream)
    thread.start()
    coming.put(batch(END))
    until(lambda: rig.counted()["end"] == 1)
    rig.meter.drain()
    time.sleep(0.1)
    assert thread.is_alive(), "what Envoy sends next would be lost"
    receive, both_came = rig.meter._receive, Event()

    def slowly(raw: bytes) -> None:
        assert both_came.wait(5)
        receive(raw)

    monkeypatch.setattr(rig.meter, "_receive", slowly)
    coming.put(batch(END))
    coming.put(batch(END))
    until(coming.empty)
    time.sleep(0.05)
    both_came.set()
    thread.join(2)
    assert not thread.is_alive()
    assert rig.counted()["end"] == 3
    coming.put(None)


# -- with counters outside of the process


class Afar:
    """Counters in Redis that may be out, and what the meter has sought and heard elsewhere."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.counters = seeded(MemoryCounters(self.clock))
        self.out = False
        self.sought: list[tuple[str | None, tuple[float, ...]]] = []
        self.heard: list[str] = []
        self.settled = Settled()
        self.meter = Meter(
            self,
            self.settled,  # type: ignore[arg-type]
            Metrics(),
            self.clock,
            Fleetwide(
                lambda ended, looks: self.sought.append((ended.hold_id, looks)), self.heard.append
            ),
        )

    def hold(self, account_id: str, hold_id: str) -> Hold | None:
        if self.out:
            raise StoreUnavailableError("the counters do not answer")
        return self.counters.hold(account_id, hold_id)

    def beat(self, account_id: str, hold_id: str) -> bool:
        if self.out:
            raise StoreUnavailableError("the counters do not answer")
        return self.counters.beat(account_id, hold_id)

    def take(self) -> Hold:
        asked = draft()
        taken = self.counters.take(asked.request_id, asked, limits())
        assert isinstance(taken, Taken)
        assert taken.hold is not None
        return taken.hold

    def record(self, of: Hold | None, **given: Any) -> bool:
        """Whether an end is known at once."""
        decision = None if of is None else decided(of)
        return self.meter.record(read_ending(entry(decision, **given))) is not None


def test_what_redis_knows_ends_at_once() -> None:
    afar = Afar()
    assert afar.record(afar.take())
    assert afar.sought == []


def test_what_it_does_not_know_and_what_cannot_be_asked_for_is_sought() -> None:
    afar = Afar()
    known, gone = afar.take(), draft()
    assert not afar.record(gone)
    afar.out = True
    assert not afar.record(known)
    assert afar.sought == [(gone.id, LOOKS), (known.id, LOOKS)]


def test_a_request_without_a_hold_that_no_server_got_is_sought_by_its_id() -> None:
    afar = Afar()
    assert not afar.record(None, sent=False)
    assert not afar.meter.record(read_ending(entry({"outcome": "denied"}, sent=False)))
    assert afar.sought == [(None, LOOKS), (None, ONE_LOOK)]
    assert not afar.record(None)
    assert len(afar.sought) == 2, "what a server got and has no hold is not ours"


def test_a_beat_that_redis_does_not_hear_is_a_gap_and_remembered() -> None:
    afar = Afar()
    known, gone = afar.take(), draft()
    afar.meter._unbroken_since -= 100
    afar.record(known, running=True)
    assert afar.heard == []
    afar.record(gone, running=True)
    assert afar.heard == [gone.account_id], "it may be of an account that Redis has lost"
    assert afar.meter.unbroken_seconds() > 99
    afar.out = True
    afar.record(known, running=True)
    assert afar.heard == [gone.account_id]
    assert afar.meter.unbroken_seconds() < 1, "who only now looks silent may not be swept for it"
