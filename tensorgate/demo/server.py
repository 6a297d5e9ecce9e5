"""The demo's process: routes, errors in the caller's dialect, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Generator
from http import HTTPStatus
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from store.errors import InputError
from tensorgate.demo import anthropic, openai
from tensorgate.demo.answers import MODEL
from tensorgate.demo.calls import BadCallError, Json
from tensorgate.ports import parse_address, why_not

SERVER: Final = "tensorgate-demo"
DEFAULT_LISTEN: Final = "127.0.0.1:8000"
TOKEN_SECONDS: Final = 0.02
KEEP_ALIVE_SECONDS: Final = 75
GRACE_SECONDS: Final = 2


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok", "model": MODEL})


_ROUTES: Final = [
    Route("/health", _health),
    Route("/v1/models", openai.models),
    Route("/v1/models/{model:path}", openai.model),
    Route("/v1/chat/completions", openai.chat_completions, methods=["POST"]),
    Route("/v1/completions", openai.completions, methods=["POST"]),
    Route("/v1/responses", openai.responses, methods=["POST"]),
    Route("/v1/embeddings", openai.embeddings, methods=["POST"]),
    Route("/v1/messages", anthropic.messages, methods=["POST"]),
    Route("/v1/messages/count_tokens", anthropic.count_tokens, methods=["POST"]),
]


async def _bad_call(request: Request, fault: Exception) -> Response:
    if isinstance(fault, HTTPException):
        message = f"This server does not know {request.method} {request.url.path}."
        fault = BadCallError(message, status=fault.status_code)
    if not isinstance(fault, BadCallError):
        raise fault
    not_found = fault.status == HTTPStatus.NOT_FOUND
    error: Json = {
        "type": "not_found_error" if not_found else "invalid_request_error",
        "message": str(fault),
    }
    if request.url.path.startswith("/v1/messages"):
        return JSONResponse({"type": "error", "error": error}, fault.status)
    error |= {"param": fault.param, "code": fault.code}
    return JSONResponse({"error": error}, fault.status)


async def _unforeseen(request: Request, fault: Exception) -> Response:
    where = f"{request.method} {request.url.path}"
    sys.stderr.write(f"demo: {type(fault).__name__} while answering {where}\n")
    error = {"type": "server_error", "message": "The demo failed.", "param": None, "code": None}
    return JSONResponse({"error": error}, HTTPStatus.INTERNAL_SERVER_ERROR)


def application(token_seconds: float = TOKEN_SECONDS) -> Starlette:
    """The demo as an ASGI application; a stream sends a token every `token_seconds`."""
    app = Starlette(
        routes=_ROUTES,
        exception_handlers={
            BadCallError: _bad_call,
            HTTPException: _bad_call,
            Exception: _unforeseen,
        },
    )
    app.state.token_seconds = token_seconds
    return app


class _Server(uvicorn.Server):
    """Ends with exit code 0 on SIGTERM or Ctrl-C, and leaves a signal ignored that was so."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        wanted = [
            s for s in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(s) != signal.SIG_IGN
        ]
        before = {each: signal.signal(each, self.handle_exit) for each in wanted}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._app.state.token_seconds = 0  # what still streams is said without pauses


def demo(listen: str = DEFAULT_LISTEN, token_seconds: float = TOKEN_SECONDS) -> None:
    """Serve on `host:port` until SIGTERM or Ctrl-C. Raises InputError if it cannot listen."""
    app = application(token_seconds)
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="critical",  # its errors are stack traces; ours are in `_unforeseen`
        access_log=False,
        server_header=False,
        headers=[("server", SERVER)],
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    with _listener(listen) as listener:
        asyncio.run(_Server(config, app).serve(sockets=[listener]))


def _listener(listen: str) -> socket.socket:
    try:
        address = parse_address(listen)
    except ValueError as fault:
        raise InputError(f"--listen {listen!r}: {fault}.") from None
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as fault:
        why = why_not(address) or fault.strerror
        raise InputError(
            f"The demo cannot listen on {address}: {why}. Choose another with --listen."
        ) from None
