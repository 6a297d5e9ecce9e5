"""A model server with a book of its own, in a process of its own: who called, when, what it used.

`python bookserver.py PORT FILE`. It serves chat completions over HTTP/1.1 on 127.0.0.1, in one
thread. A body's `x_pause` is how many seconds an answer is long in coming. FILE gets a line when
a call comes and one when its answer goes; times are CLOCK_MONOTONIC's, which all processes of a
machine share.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LISTING = json.dumps({"object": "list", "data": [{"id": "recorder", "object": "model"}]}).encode()
_PAUSE = re.compile(rb'"x_pause": ?([0-9.]+)')


@dataclass(slots=True)
class Entry:
    """One call: monotonic seconds (`ended` None while it runs), and the tokens of its answer."""

    request_id: str
    key_id: str
    came: float
    input: int
    output: int
    ended: float | None = None

    @property
    def nanousd(self) -> int:
        """What it costs, at 0.5 and 1.5 USD per million tokens."""
        return self.input * 500 + self.output * 1500


def read_book(file: Path) -> list[Entry]:
    """All that a server has written so far, in the order in which calls came.

    Fails where a request came twice.
    """
    entries: dict[str, Entry] = {}
    for line in file.read_text().splitlines():
        match line.split():
            case ["came", at, request_id, key_id, sent, said]:
                assert request_id not in entries, f"{request_id} reached the server twice"
                came = int(at) / 1e9
                entries[request_id] = Entry(request_id, key_id, came, int(sent), int(said))
            case ["went", at, request_id]:
                entries[request_id].ended = int(at) / 1e9
    return list(entries.values())


def answer(sent: int, said: int) -> bytes:
    usage = {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said}
    message = {"role": "assistant", "content": "x" * said}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
    ).encode()


class Server:
    """What all connections share: the book."""

    def __init__(self, book: TextIO) -> None:
        self._book = book
        self._count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = _headers(head)
                body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
                listed = head.startswith(b"GET ")
                said = LISTING if listed else await self._answer(headers, body)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%s" % (len(said), said)
                )
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    async def _answer(self, headers: dict[bytes, bytes], body: bytes) -> bytes:
        self._count += 1
        sent, said = 7 + self._count % 50, 2 + self._count % 30
        request_id, key_id = (
            headers[name].decode() for name in (b"x-request-id", b"x-tensorgate-key-id")
        )
        self._write("came", request_id, key_id, sent, said)
        pause = _PAUSE.search(body)
        if pause is not None:
            await asyncio.sleep(float(pause[1]))
        self._write("went", request_id)
        return answer(sent, said)

    def _write(self, what: str, *words: str | int) -> None:
        self._book.write(f"{what} {time.monotonic_ns()} {' '.join(map(str, words))}\n")


def _headers(head: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in pairs}


async def listen(port: int, book: TextIO) -> None:
    listening = await asyncio.start_server(Server(book).serve, "127.0.0.1", port, backlog=512)
    await listening.serve_forever()


def main(port: str, file: str) -> None:
    with Path(file).open("a", buffering=1) as book:  # a line at a time
        asyncio.run(listen(int(port), book))


if __name__ == "__main__":
    main(*sys.argv[1:])
