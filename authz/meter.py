"""The access-log service: where Envoy says how each request ended.

It has a server of its own, as every stream keeps a thread for as long as it lives. Entries are
decoded one by one, in here, so that one that cannot be read costs itself and not the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from typing import Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from authz.metrics import Metrics
from authz.pb.accesslog_entry_pb2 import HTTPAccessLogEntry
from authz.pb.accesslog_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from authz.pricing import charge, disbelieved, released
from authz.seek import LOOKS, ONE_LOOK
from authz.settle import End, Settler
from authz.usage import Ending, read_ending
from store.clock import Clock, elapsed_seconds
from store.errors import StoreError
from store.records import Hold

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"

LOG_STREAMS: Final = 576
"""How many streams are read at once: one for each worker thread that `envoy render` lets Envoy
have, twice, as those of a broken network may linger; and some. More are refused."""

DRAIN_POLL_SECONDS: Final = 0.2
IDLE_POLLS: Final = 3  # without a message a stream is idle: Envoy sends what it has every 0.2 s
MESSAGES: Final = 256  # of a stream that wait in here; more wait in Envoy, which has a bound
TOGETHER: Final = 256  # ends at a time; a message after a gap may have tens of thousands

_log = logging.getLogger(__name__)


class MeteredHolds(Protocol):
    """The counters, as metering needs them. Those outside of the process raise StoreError."""

    def hold(self, account_id: str, hold_id: str) -> Hold | None: ...

    def beat(self, account_id: str, hold_id: str) -> bool: ...


class RequestHolds(Protocol):
    """Counters in process: they know a request whosever it is."""

    def by_request(self, request_id: str) -> Hold | None: ...

    def abandon(self, request_id: str) -> Hold | None: ...


class Elsewhere(Protocol):
    """What is done about holds that the counters do not know."""

    def heard(self, account_id: str) -> None:
        """Such a one, of this account, gave a sign of life."""
        ...

    def ended(self, ending: Ending) -> None:
        """Such a one has ended."""
        ...

    def unnamed(self, ending: Ending) -> Hold | None:
        """A request ended that no server got, and it names no hold: the one that it has."""
        ...


class Nowhere:
    """With counters in process: what they do not know has ended before."""

    def __init__(self, counters: RequestHolds, metrics: Metrics) -> None:
        self._counters = counters
        self._late = metrics.late_settlements

    def heard(self, account_id: str) -> None:
        """Nothing."""

    def ended(self, ending: Ending) -> None:  # noqa: ARG002  as Elsewhere
        """Counted, and nothing else."""
        self._late.inc()

    def unnamed(self, ending: Ending) -> Hold | None:
        """Without a decision, one may be on its way that Envoy does not wait for any more.

        With one, an earlier Check of the request may have taken a hold, and its answer was lost.
        """
        if ending.outcome and self._counters.by_request(ending.request_id) is None:
            return None
        return self._counters.abandon(ending.request_id)


class Fleetwide:
    """With counters in Redis: SQL may know them.

    `seek` looks for the hold of an end (authz/seek.py), `revive` brings an account back to Redis
    (authz/revive.py).
    """

    def __init__(
        self,
        seek: Callable[[Ending, tuple[float, ...]], None],
        revive: Callable[[str], None],
    ) -> None:
        self._seek = seek
        self._revive = revive

    def heard(self, account_id: str) -> None:
        """Redis may have lost the account."""
        self._revive(account_id)

    def ended(self, ending: Ending) -> None:
        """Looked for."""
        self._seek(ending, LOOKS)

    def unnamed(self, ending: Ending) -> Hold | None:
        """Looked for; once is enough where there was a decision, as any hold is older than that."""
        self._seek(ending, ONE_LOOK if ending.outcome else LOOKS)
        return None


class Meter:
    """Receives entries and ends the holds that they speak of. Thread-safe."""

    def __init__(
        self,
        counters: MeteredHolds,
        settler: Settler,
        metrics: Metrics,
        clock: Clock,
        elsewhere: Elsewhere,
    ) -> None:
        self._counters = counters
        self._elsewhere = elsewhere
        self._settler = settler
        self._clock = clock
        self._ended = metrics.log_entries.labels("end")
        self._running = metrics.log_entries.labels("running")
        self._unreadable = metrics.log_entries.labels("unreadable")
        self._lock = Lock()
        self._unbroken_since = elapsed_seconds()
        self._streams = 0
        self._refusing = False
        self._draining = Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC method, taking raw messages: decoding is ours to survive."""
        method: grpc.RpcMethodHandler[Iterator[bytes], StreamAccessLogsResponse]
        method = grpc.stream_unary_rpc_method_handler(
            self._stream, response_serializer=StreamAccessLogsResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": method})

    def unbroken_seconds(self) -> float:
        """For how long there was no gap: what came in that time came to us."""
        return elapsed_seconds() - self._unbroken_since

    def gap(self) -> None:
        """Something that came until now may not have come to us."""
        with self._lock:
            self._unbroken_since = elapsed_seconds()

    def drain(self) -> None:
        """End every stream as soon as nothing more comes on it."""
        self._draining.set()

    def _stream(
        self, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> StreamAccessLogsResponse:
        try:
            if not self._enter():
                # one that nobody reads would keep its entries until Envoy drops them
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many log streams")
            self._read(messages)
        finally:
            with self._lock:
                self._streams -= 1
            self.gap()
        return StreamAccessLogsResponse()

    def _enter(self) -> bool:
        """Count a stream. False if there are too many."""
        with self._lock:
            self._streams += 1
            refused, before = self._streams > LOG_STREAMS, self._refusing
            self._refusing = refused
        if refused and not before:
            _log.error(
                "Envoy has %d log streams open, and more are refused: what it says on them is "
                "lost. Start Envoy with fewer threads (--concurrency)",
                LOG_STREAMS,
            )
        return not refused

    def _read(self, messages: Iterator[bytes]) -> None:
        received: Queue[bytes | None] = Queue(MESSAGES)
        over, idle = Event(), 0
        pump = Thread(target=_pump, args=(messages, received, over), name="log stream", daemon=True)
        pump.start()
        try:
            while True:
                try:
                    raw = received.get(timeout=DRAIN_POLL_SECONDS)
                except Empty:
                    idle += 1
                    if self._draining.is_set() and idle >= IDLE_POLLS:
                        break  # a proper end: Envoy goes on with another stream
                    continue
                if raw is None:
                    break
                idle = 0
                self._receive(raw)
                # Just after a message, as the next is a while away: what Envoy sends while the
                # end is on its way to it would be lost.
                if self._draining.is_set() and received.empty():
                    break
        finally:
            over.set()

    def _receive(self, raw: bytes) -> None:
        try:
            entries = StreamAccessLogsMessage.FromString(raw).http_logs.log_entry
        except DecodeError:
            self._unreadable.inc()
            return
        for at in range(0, len(entries), TOGETHER):
            self._record(entries[at : at + TOGETHER])

    def _record(self, entries: Sequence[bytes]) -> None:
        """End together what ended together: Envoy sends what it saw in 0.2 s in one message."""
        ends: list[End] = []
        ended = running = 0
        for entry in entries:
            try:
                ending = read_ending(HTTPAccessLogEntry.FromString(entry))
                end = self.record(ending)
            except Exception:  # noqa: BLE001  see below
                # Whatever it is, the entries behind it must not be lost with it.
                self._unreadable.inc()
                _log.exception("an access-log entry could not be read")
                continue
            if ending.running:
                running += 1
            else:
                ended += 1
            if end is not None:
                ends.append(end)
        if ended:
            self._ended.inc(ended)
        if running:
            self._running.inc(running)
        if ends:
            self._settler.end_all(ends)

    def record(self, ending: Ending) -> End | None:
        """One entry: of a request that ended, or of one that still runs. The end of which hold."""
        if ending.running:
            if ending.hold_id is not None:
                self._beat(ending.account_id, ending.hold_id)
            return None
        if ending.hold_id is not None:
            hold = self._hold(ending.account_id, ending.hold_id)
            if hold is None:
                self._elsewhere.ended(ending)
        else:
            hold = None if ending.reached else self._elsewhere.unnamed(ending)
        return None if hold is None else self.end(hold, ending)

    def end(self, hold: Hold, ending: Ending) -> End:
        """What a hold costs whose request ended like this."""
        if ending.hold_id is None:
            return hold, released(hold, ending.status, self._clock())
        charged = charge(hold, ending, self._clock())
        if disbelieved(ending, charged):
            self._settler.exceeded(hold)
        return hold, charged

    def _beat(self, account_id: str, hold_id: str) -> None:
        try:
            known = self._counters.beat(account_id, hold_id)
        except StoreError:
            self.gap()  # the hold will look as if it had been silent
        else:
            if not known:
                self._elsewhere.heard(account_id)

    def _hold(self, account_id: str, hold_id: str) -> Hold | None:
        try:
            return self._counters.hold(account_id, hold_id)
        except StoreError:
            return None


def _pump(messages: Iterator[bytes], received: Queue[bytes | None], over: Event) -> None:
    """Pass messages on until `over`; None is their end, however it came."""
    try:
        for raw in messages:
            if not _put(received, raw, over):
                return
    except Exception:  # noqa: BLE001  grpc raises whatever ends a stream; it is over then
        _log.debug("a log stream broke")
    _put(received, None, over)


def _put(received: Queue[bytes | None], raw: bytes | None, over: Event) -> bool:
    """Wait for room. False if nobody reads any more."""
    while not over.is_set():
        try:
            received.put(raw, timeout=DRAIN_POLL_SECONDS)
        except Full:
            continue
        return True
    return False
