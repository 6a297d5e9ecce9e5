"""Calls at a rate that does not wait for their answers, and many at once; what came of each.

One thread with an event loop makes them all. Connections are kept alive and never used for two
calls at once, so no call waits for another.
"""

from __future__ import annotations

import asyncio
import json
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, Final, Self

from moneygate import nanousd
from peers.client import CHAT

MOST_AT_ONCE: Final = 384
"""What is due while so many are under way waits: a machine that cannot keep up is not drowned."""

_PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What to send; `label` says whose calls these are."""

    label: str
    wire: bytes = field(repr=False)


def ask(label: str, secret: str, pause: float = 0.0) -> Ask:
    """A chat call with a key, whose answer the book's server is to be so long about."""
    body = json.dumps(
        {
            "model": "recorder",
            "max_tokens": 100,
            "x_pause": round(pause, 3),
            "messages": [{"role": "user", "content": "hi"}],
        }
    ).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return Ask(label, head.encode() + body)


@dataclass(slots=True)
class Answered:
    """One call. Monotonic seconds; `status` 0 where no whole answer came, and `why` then."""

    label: str
    sent: float
    ended: float = 0.0
    status: int = 0
    why: str = ""
    """The gate's reason, for a refusal."""
    request_id: str = ""
    held_nanousd: int = 0

    @property
    def seconds(self) -> float:
        return self.ended - self.sent

    @property
    def outcome(self) -> str:
        return f"{self.status} {self.why}".strip()


class Caller:
    """Makes calls from its entering to its leaving. `answers` are in the order of their ends."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.partition(":")
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="caller")
        self._idle: list[tuple[StreamReader, StreamWriter]] = []
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()
        self.answers: list[Answered] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(2 * _PATIENCE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def fire(self, asks: Sequence[Ask]) -> None:
        """Make these calls at once; returns before they end."""
        asyncio.run_coroutine_threadsafe(self._start(asks), self._loop).result()

    def finish(self) -> None:
        """Wait for the end of all calls."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result(2 * _PATIENCE_SECONDS)

    @contextmanager
    def paced(self, rate: float, choose: Callable[[], Ask]) -> Iterator[None]:
        """So many calls a second within the block; at its end, wait for theirs."""
        running = asyncio.run_coroutine_threadsafe(self._pace(rate, choose), self._loop)
        try:
            yield
        finally:
            running.cancel()
            self.finish()

    async def _start(self, asks: Sequence[Ask]) -> None:
        for each in asks:
            self._begin(each)

    def _begin(self, each: Ask) -> None:
        task = self._loop.create_task(self._call(each))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _pace(self, rate: float, choose: Callable[[], Ask]) -> None:
        began, number = self._loop.time(), 0
        while True:
            number += 1
            await asyncio.sleep(began + number / rate - self._loop.time())
            if len(self._under_way) >= MOST_AT_ONCE:
                await asyncio.wait(set(self._under_way), return_when=asyncio.FIRST_COMPLETED)
            self._begin(choose())

    async def _finish(self) -> None:
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    async def _end(self) -> None:
        await self._finish()
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()

    async def _call(self, each: Ask) -> None:
        async with self._room:
            made = Answered(each.label, time.monotonic())
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._converse(each, made)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as fault:
                made.status, made.why = 0, repr(fault)
            made.ended = time.monotonic()
            self.answers.append(made)

    async def _converse(self, each: Ask, made: Answered) -> None:
        connection = self._idle.pop() if self._idle else None
        reader, writer = connection or await asyncio.open_connection(self._host, int(self._port))
        try:
            writer.write(each.wire)
            status, headers = await _answer(reader)
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        made.status = status
        made.why = headers.get("x-tensorgate-reason", "")
        made.request_id = headers.get("x-request-id", "")
        made.held_nanousd = nanousd(headers.get("x-tensorgate-hold-usd", 0))


async def _answer(reader: StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    else:
        await reader.readexactly(int(headers.get("content-length", 0)))
    return int(first.split()[1]), headers


def outcomes(answers: Sequence[Answered]) -> dict[str, dict[str, Any]]:
    """How often each outcome was had, by label."""
    labels = sorted({each.label for each in answers})
    return {
        label: dict(Counter(each.outcome for each in answers if each.label == label))
        for label in labels
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """0 for none."""
    found = sorted(values)
    return found[(len(found) - 1) * percent // 100] if found else 0.0
