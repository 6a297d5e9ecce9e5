"""The access-log service: every entry is counted, and none that is broken takes another along."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from moneysupport import Settled
from prometheus_client import CollectorRegistry
from support import ManualClock

from authz.meter import SERVICE, Meter
from authz.metrics import Metrics
from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry
from authz.pb.accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from authz.usage import Ending
from store.counters.memory import MemoryCounters

CAPTURED = sorted(Path(__file__).parents[1].glob("contract/data/log-*.binpb"))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def meter_of(metrics: Metrics) -> Meter:
    """A Meter over counters without any hold."""
    clock = ManualClock()
    return Meter(MemoryCounters(clock), Settled(), metrics, clock)  # type: ignore[arg-type]


def counted(registry: CollectorRegistry) -> dict[str, float]:
    """Entries by what became of them."""
    return {
        result: registry.get_sample_value("tensorgate_access_log_entries_total", {"result": result})
        or 0
        for result in ("end", "running", "unreadable")
    }


def entry(*, running: bool = False, path: str = "/", request_id: str = "") -> bytes:
    made = HTTPAccessLogEntry()
    made.common_properties.stream_id = request_id
    made.request.path = path
    made.common_properties.intermediate_log_entry = running
    return made.SerializeToString()


def batch(*entries: bytes) -> bytes:
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.extend(entries)
    return message.SerializeToString()


@contextmanager
def serving(meter: Meter, folder: Path) -> Iterator[grpc.Channel]:
    """The service on a socket, as Envoy meets it."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((meter.handler(),))
        server.add_insecure_port(f"unix:{folder}/log.sock")
        server.start()
        try:
            with grpc.insecure_channel(f"unix:{folder}/log.sock") as channel:
                yield channel
        finally:
            server.stop(None).wait()


def send(meter: Meter, *messages: bytes) -> None:
    """One stream, without a network between."""
    assert meter._stream(iter(messages), _context=None) == StreamAccessLogsResponse()  # type: ignore[arg-type]


def test_a_stream_over_the_wire(metrics: Metrics, tmp_path: Path) -> None:
    first = StreamAccessLogsMessage()
    first.identifier.log_name = "tensorgate"
    with serving(meter_of(metrics), tmp_path) as channel:
        call: grpc.StreamUnaryMultiCallable[bytes, StreamAccessLogsResponse] = channel.stream_unary(
            f"/{SERVICE}/StreamAccessLogs",
            request_serializer=None,
            response_deserializer=StreamAccessLogsResponse.FromString,
        )
        messages = [
            first.SerializeToString(),
            batch(entry(), entry(running=True)),
            b"\xff",
            batch(entry()),
        ]
        assert call(iter(messages), timeout=5) == StreamAccessLogsResponse()
    assert counted(metrics.registry) == {"end": 2, "running": 1, "unreadable": 1}


def test_a_stream_that_breaks_off_keeps_what_came(
    metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="grpc")  # the client's own complaint

    def breaks_off() -> Iterator[bytes]:
        yield batch(entry(), entry())
        yield batch(entry())
        deadline = time.monotonic() + 5
        while counted(metrics.registry)["end"] < 3 and time.monotonic() < deadline:
            time.sleep(0.002)
        raise RuntimeError("Envoy is gone")

    with serving(meter_of(metrics), tmp_path) as channel:
        call: grpc.StreamUnaryMultiCallable[bytes, StreamAccessLogsResponse] = channel.stream_unary(
            f"/{SERVICE}/StreamAccessLogs"
        )
        with pytest.raises(grpc.RpcError):
            call(breaks_off(), timeout=10)
    assert counted(metrics.registry) == {"end": 3, "running": 0, "unreadable": 0}
    assert caplog.records == []


@pytest.mark.parametrize("broken", [b"\xff", b"\x08", b"\x0a\x05abc", entry()[:-1]])
def test_a_broken_entry_costs_itself(metrics: Metrics, broken: bytes) -> None:
    send(meter_of(metrics), batch(entry(), broken, entry(running=True)), batch(entry()))
    assert counted(metrics.registry) == {"end": 2, "running": 1, "unreadable": 1}


def test_a_broken_message_costs_itself(metrics: Metrics) -> None:
    send(meter_of(metrics), b"\xff\xff", batch(entry()), b"\x12\x7f", batch(entry()))
    assert counted(metrics.registry) == {"end": 2, "running": 0, "unreadable": 2}


def test_whatever_goes_wrong_with_an_entry_the_next_one_is_read(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    meter, record = meter_of(metrics), Meter.record

    def fails_once(self: Meter, ending: Ending) -> None:
        if ending.request_id == "bad":
            raise KeyError(ending.outcome)
        record(self, ending)

    monkeypatch.setattr(Meter, "record", fails_once)
    send(meter, batch(entry(path="/?key=secret", request_id="bad"), entry(), entry()))
    assert counted(metrics.registry) == {"end": 2, "running": 0, "unreadable": 1}
    assert "could not be read" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("path", CAPTURED, ids=[path.stem for path in CAPTURED])
def test_what_envoy_really_sent(metrics: Metrics, path: Path) -> None:
    raw = path.read_bytes()
    assert len(StreamAccessLogsMessage.FromString(raw).http_logs.log_entry) == 1
    send(meter_of(metrics), raw)
    running = path.stem == "log-streamed-0"  # a heartbeat of the stream that log-streamed-1 ends
    assert counted(metrics.registry) == {"end": not running, "running": running, "unreadable": 0}
