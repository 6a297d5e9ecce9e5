"""A wire before a Redis, in a process of its own, of which the listeners' part can fail alone.

`python feedwire.py PORT REDIS_PORT`. What subscribes can be hung up on, or go half open: nothing
comes through either way, and nobody is told, as where a network drops packets. All other
connections go on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

CHUNK_BYTES = 65536
READY_SECONDS = 15.0


class Way(Enum):
    """What befalls listeners, by the signal that says so."""

    WHOLE = signal.SIGHUP
    HALF_OPEN = signal.SIGUSR1
    CUT = signal.SIGUSR2


class FeedWire:
    """All connections, and what is done to those that listen."""

    def __init__(self, redis_port: int) -> None:
        self._redis_port = redis_port
        self._way = Way.WHOLE
        self._listeners: set[StreamWriter] = set()

    def become(self, way: Way) -> None:
        self._way = way
        if way is not Way.HALF_OPEN:  # what lost bytes cannot go on
            for writer in self._listeners:
                writer.transport.abort()
            self._listeners.clear()

    async def serve(self, near: StreamReader, to_near: StreamWriter) -> None:
        try:
            far, to_far = await asyncio.open_connection("127.0.0.1", self._redis_port)
        except OSError:
            to_near.close()
            return
        async with asyncio.TaskGroup() as both:
            both.create_task(self._forward(near, to_far, to_near))
            both.create_task(self._forward(far, to_near, to_near))

    async def _forward(self, source: StreamReader, sink: StreamWriter, near: StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if sink is not near and b"SUBSCRIBE" in data:
                    self._listeners.add(near)
                    if self._way is Way.CUT:
                        near.transport.abort()
                if near in self._listeners and self._way is not Way.WHOLE:
                    continue
                sink.write(data)
        self._listeners.discard(near)
        sink.close()


async def main(argv: Sequence[str]) -> None:
    port, redis_port = map(int, argv)
    wire, loop = FeedWire(redis_port), asyncio.get_running_loop()
    for way in Way:
        loop.add_signal_handler(way.value, wire.become, way)
    listening = await asyncio.start_server(wire.serve, "127.0.0.1", port, backlog=512)
    await listening.serve_forever()


class Wire:
    """The process, from outside."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._pid = pid

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @contextmanager
    def listeners(self, way: Way) -> Iterator[None]:
        """What subscribes fares so within the block."""
        os.kill(self._pid, way.value)
        try:
            yield
        finally:
            os.kill(self._pid, Way.WHOLE.value)


@contextmanager
def feed_wire(folder: Path, redis_port: int) -> Iterator[Wire]:
    """A wire before a Redis."""
    from peers.ports import free_port, listens
    from peers.process import Child

    port = free_port()
    argv: list[str | Path] = [sys.executable, __file__, str(port), str(redis_port)]
    child = Child(argv, log=folder / "feedwire.out")
    try:
        child.wait_until(lambda: listens(port), seconds=READY_SECONDS, what="a listener")
        yield Wire(port, child.pid)
    finally:
        child.end()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
