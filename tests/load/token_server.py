"""A model server for measuring: streams tokens at an even pace, each with the time it was sent.

`python token_server.py PORT TOKENS GAP_SECONDS`. It serves chat completions over HTTP/1.1 on
127.0.0.1, in one thread, and knows nothing but `stream_options`. The time is CLOCK_MONOTONIC,
which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}


def event(data: str) -> bytes:
    framed = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(framed), framed)


def token() -> bytes:
    delta = {"content": f"@{time.monotonic_ns()}@"}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    content = {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}
    return event(json.dumps(content))


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tokens: int, gap: float
) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            body = await reader.readexactly(int(length or 0))
            writer.write(HEAD)
            began = loop.time()
            for number in range(tokens):
                writer.write(token())
                await asyncio.sleep(began + (number + 1) * gap - loop.time())
            if b'"include_usage":true' in body:
                writer.write(event(json.dumps({"choices": [], "usage": USAGE})))
            writer.write(event("[DONE]") + b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def main(port: int, tokens: int, gap: float) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, tokens=tokens, gap=gap), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
