"""A model server that records every request as it came and answers as a test scripts it.

A threaded HTTP/1.1 server of a few lines, because it must normalise nothing: header names keep
their spelling and order, the target is what stood in the request line, a body is its bytes.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

Headers = tuple[tuple[str, str], ...]

REASONABLE_SECONDS: Final = 30
_LINE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Recorded:
    """One request. `headers` are in the order and the spelling in which they came."""

    method: str
    target: str
    headers: Headers
    body: bytes
    at: float = field(default_factory=time.monotonic)

    def values(self, name: str) -> list[str]:
        """All values of a header; its name in any case."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Pause:
    """Say nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Until:
    """Say nothing until the event is set."""

    event: threading.Event


@dataclass(frozen=True)
class Abort:
    """Reset the connection (RST); nothing after it is sent."""


@dataclass(frozen=True)
class Hangup:
    """Close the connection (FIN) without ending the answer."""


Step = bytes | Pause | Until | Abort | Hangup


@dataclass(frozen=True)
class Reply:
    """An answer: `before` happens ahead of the status line; `body` is bytes, or steps.

    Bytes get a Content-Length; steps go out chunked, one chunk each, as they come. With a
    Content-Length or Transfer-Encoding in `headers` the body is written raw instead.
    """

    status: int = 200
    headers: Headers = ()
    body: bytes | Sequence[Step] = b""
    before: Sequence[Step] = ()


def json_reply(value: Any, status: int = 200, headers: Headers = ()) -> Reply:
    return Reply(
        status, (("content-type", "application/json"), *headers), json.dumps(value).encode()
    )


def sse_reply(*steps: Any, headers: Headers = ()) -> Reply:
    """An event stream: a step, or any JSON value as the data of one event, or "[DONE]"."""
    body = [step if isinstance(step, Step) else _event(step) for step in steps]
    return Reply(headers=(("content-type", "text/event-stream"), *headers), body=body)


def _event(data: Any) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


def chat_completion(text: str = "Hello.", *, sent: int = 7, said: int = 2) -> dict[str, Any]:
    """The body of a chat completion with its usage."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-recorder",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "recorder",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said},
    }


Answer = Reply | Callable[[Recorded], Reply]


class Recorder:
    """The server, on a free loopback port, from its making until `close`.

    `requests` holds what came, but for `GET /v1/models`, which the gate itself asks now and
    then: those are in `listings`, and get the names in `models`. `next` is a queue of answers
    for the next requests; when it is empty, `answer` is the answer.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._lock = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self.address = "127.0.0.1:{1}".format(*self._listener.getsockname())
        self.forget()
        self._start(self._accept)

    def forget(self) -> None:
        """Drop all records and scripts: as new, while connections stay."""
        with self._lock:
            self.requests: list[Recorded] = []
            self.listings: list[Recorded] = []
            self.models: list[str] = ["recorder"]
            self.next: deque[Answer] = deque()
            self.answer: Answer = json_reply(chat_completion())
            self._running = 0

    def wait_for(self, count: int, *, seconds: float = REASONABLE_SECONDS) -> list[Recorded]:
        """Wait until `count` requests have been recorded; returns all that were."""
        with self._lock:
            if not self._lock.wait_for(lambda: len(self.requests) >= count, seconds):
                raise AssertionError(
                    f"{len(self.requests)} requests came in {seconds:g} s, not {count}"
                )
            return list(self.requests)

    @contextmanager
    def held(self) -> Iterator[threading.Event]:
        """Within the block every answer waits; setting the event, or leaving, lets them go."""
        release = threading.Event()
        before = self.answer

        def waiting(request: Recorded) -> Reply:
            reply = before if isinstance(before, Reply) else before(request)
            return Reply(reply.status, reply.headers, reply.body, (Until(release), *reply.before))

        self.answer = waiting
        try:
            yield release
        finally:
            self.answer = before
            release.set()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Within the block nobody listens. What is in flight when it begins is cut off."""
        self._hang_up()
        yield
        host, _, port = self.address.partition(":")
        self._listener = socket.create_server((host, int(port)), backlog=512)
        self._start(self._accept)

    def _hang_up(self) -> None:
        # a blocked accept() does not notice a close(), but a shutdown()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the server and wait for its threads."""
        self._closing.set()
        self._hang_up()
        for thread in self._threads:
            thread.join(REASONABLE_SECONDS)
            assert not thread.is_alive(), "a recorder's thread hangs"

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="recorder", daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._connections.add(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader, suppress(OSError, EOFError):
            while not self._closing.is_set():
                reply = self._record(_read_request(reader))
                if not self._write(connection, reply):
                    break
        with self._lock:
            self._connections.discard(connection)

    def _record(self, request: Recorded) -> Reply:
        with self._lock:
            if (request.method, request.target) == ("GET", "/v1/models"):
                self.listings.append(request)
                data = [{"id": name, "object": "model"} for name in self.models]
                return json_reply({"object": "list", "data": data})
            self.requests.append(request)
            self._lock.notify_all()
            answer = self.next.popleft() if self.next else self.answer
        return answer if isinstance(answer, Reply) else answer(request)

    def _write(self, connection: socket.socket, reply: Reply) -> bool:
        """Send a reply; whether the connection can serve another request after it."""
        names = {name.lower() for name, _ in reply.headers}
        raw = bool(names & {"content-length", "transfer-encoding"})
        whole = isinstance(reply.body, bytes)
        headers = reply.headers
        if not raw:
            framing = (
                ("content-length", str(len(reply.body)))
                if whole
                else ("transfer-encoding", "chunked")
            )
            headers = (*headers, framing)
        lines = [
            f"HTTP/1.1 {reply.status} Scripted",
            *(f"{name}: {value}" for name, value in headers),
        ]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        body = [reply.body] if isinstance(reply.body, bytes) else list(reply.body)
        if not raw and not whole:
            body = [_chunk(step) if isinstance(step, bytes) else step for step in body] + [
                _chunk(b"")
            ]
        return all(self._step(connection, step) for step in (*reply.before, head, *body))

    def _step(self, connection: socket.socket, step: Step) -> bool:
        match step:
            case bytes():
                connection.sendall(step)
            case Pause(seconds):
                self._closing.wait(seconds)
            case Until(event):
                while not (event.wait(0.05) or self._closing.is_set()):
                    pass
            case Abort():
                # a linger time of zero makes close() send RST
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case Hangup():
                return False
        return True


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _line(reader: BinaryIO) -> str:
    line = reader.readline(_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError
    return line.rstrip(b"\r\n").decode("latin-1")


def _exactly(reader: BinaryIO, count: int) -> bytes:
    data = reader.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _read_request(reader: BinaryIO) -> Recorded:
    """Read one request. Raises EOFError where the client went away first."""
    method, target, _version = _line(reader).split(" ")
    headers: list[tuple[str, str]] = []
    while line := _line(reader):
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    named = {name.lower(): value for name, value in headers}
    body = b""
    if named.get("transfer-encoding", "").lower() == "chunked":
        while size := int(_line(reader), 16):
            body += _exactly(reader, size)
            _line(reader)
        while _line(reader):  # trailers
            pass
    elif "content-length" in named:
        body = _exactly(reader, int(named["content-length"]))
    return Recorded(method, target, tuple(headers), body)
