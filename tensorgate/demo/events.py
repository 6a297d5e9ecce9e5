"""Event streams: their form, and the pace at which a model would speak."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

from starlette.requests import Request
from starlette.responses import StreamingResponse

from tensorgate.demo.calls import Json


def event(data: Json, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """A streamed answer that no cache and no proxy holds back."""
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


async def pace(request: Request, pieces: Sequence[str]) -> AsyncIterator[str]:
    """The pieces one by one, `app.state.token_seconds` apart."""
    for piece in pieces:
        await asyncio.sleep(request.app.state.token_seconds)
        yield piece
