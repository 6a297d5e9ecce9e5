"""The dashboard as an ASGI application: the guard, the routes, and what becomes of a fault."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl, quote

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from admin.web import cookies
from admin.web.desk import HASHING_WAITING, Access, Desk, Page, access_of, desk, signins
from admin.web.guard import SAFE, Guard
from admin.web.pages import HERE, error_page, local_path, redirect, render
from admin.web.routes import PAGES
from store.errors import InputError, NotFoundError, PlanLimitError, StoreError, TensorgateError

FORM_BYTES: Final = 64 * 1024
FORM_FIELDS: Final = 1000
FORM_SECONDS: Final = 10.0
FORM_TYPE: Final = "application/x-www-form-urlencoded"
STATIC_KEPT: Final = "public, max-age=31536000, immutable"

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_WORDS: Final[dict[int, tuple[str, str]]] = {
    404: (
        "There is no such page",
        "It may be gone, or never have been yours. Go back, or begin at your keys.",
    ),
    405: ("That cannot be done here", "Go back, and use the page's own buttons."),
    413: ("That is too much", f"A form has at most {FORM_BYTES // 1024} KiB. Send less."),
    415: ("That is no form", f"Send it as {FORM_TYPE}."),
    400: ("That form cannot be read", "Go back, and send it again from the page."),
    408: ("That took too long", "Go back, and send it again."),
}

_UNREAD: Final = frozenset({408, 413, 415})

_log = logging.getLogger(__name__)


def make_app(parts: Desk) -> Starlette:
    """The application over a desk."""
    routes: list[BaseRoute] = [
        Route(page.path, _endpoint(page), methods=[page.method]) for page in PAGES
    ]
    routes.append(Mount("/static", _Static(directory=HERE / "static")))
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, settings=parts.settings)],
        exception_handlers={HTTPException: _http_fault},
    )
    app.router.redirect_slashes = False
    app.state.desk = parts
    return app


class _Static(StaticFiles):
    """Files that never change under the address that pages give them."""

    def file_response(self, *args: object, **more: object) -> Response:
        response = super().file_response(*args, **more)  # type: ignore[arg-type]  # handed through
        response.headers["cache-control"] = STATIC_KEPT
        return response


def _endpoint(page: Page) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        request.state.route = page.path
        request.state.form = FormData()
        limiter: CapacityLimiter | None = None
        if page.hashes:
            limiter = desk(request).hashing
            if limiter.statistics().tasks_waiting >= HASHING_WAITING:
                desk(request).metrics.sign_ins.labels("password", "busy").inc()
                return _busy(request)
        try:
            if request.method not in SAFE:
                request.state.form = await read_form(request)
            return await to_thread.run_sync(_serve, page, request, limiter=limiter)
        except HTTPException:
            raise
        except TensorgateError as fault:
            return _told(request, fault)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:  # noqa: BLE001  the last line of defence: no trace for a user
            _log.exception("%s failed (%s)", page.path, request.state.request_id)
            return error_page(
                request,
                500,
                "Something went wrong here",
                f"It was written down as {request.state.request_id}. Try again.",
            )

    return answer


def _serve(page: Page, request: Request) -> Response:
    """On a worker thread: who is it, may they, and then the page."""
    _recognise(request)
    mine = access_of(request.state.account)
    if mine < page.access:
        if mine is Access.PUBLIC:
            return _sign_in_first(request)
        raise HTTPException(404)
    return page.handler(request)


def _recognise(request: Request) -> None:
    """Find whose session the cookie names."""
    token = cookies.session_token(request)
    if token is None:
        return
    found = signins(request).current(token)
    if found is not None:
        request.state.session, request.state.account = found


def _sign_in_first(request: Request) -> Response:
    """Where nobody is signed in.

    A browser that comes from elsewhere does not send a SameSite=Strict cookie, though there may
    be one: a page of ours takes it once more to where it goes, and then it does.
    """
    where = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"hx-redirect": "/sign-in"})
    if request.method not in SAFE or local_path(where) is None:
        return redirect("/sign-in")
    sent = request.headers.get
    if sent("sec-fetch-site") == "cross-site" and sent("sec-fetch-dest") == "document":
        return render(request, "again.html", where=where)
    return redirect("/sign-in" if where == "/" else f"/sign-in?next={quote(where, safe='/')}")


async def read_form(request: Request) -> FormData:
    """The fields of a form, strictly read. Raises HTTPException."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise HTTPException(415)
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:12]) > FORM_BYTES:
        raise HTTPException(413)
    raw = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):
            async for part in request.stream():
                raw += part
                if len(raw) > FORM_BYTES:
                    raise HTTPException(413)
    except TimeoutError:
        raise HTTPException(408) from None
    try:
        fields = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            errors="strict",
            max_num_fields=FORM_FIELDS,
        )
    except ValueError:
        raise HTTPException(400) from None
    if any(_CONTROLS.search(text) for pair in fields for text in pair):
        raise HTTPException(400)
    return FormData([*fields])


def _told(request: Request, fault: TensorgateError) -> Response:
    """A page for a fault of ours that no handler made one of."""
    match fault:
        case NotFoundError():
            title, message = _WORDS[404]
            return error_page(request, 404, title, message)
        case PlanLimitError():
            return error_page(request, 409, "Your plan does not allow that", str(fault))
        case InputError():
            return error_page(request, 422, "That cannot be done", str(fault))
    kind = "Something that the dashboard needs is out"
    _log.warning("%s: %s", request.state.request_id, fault)
    if not isinstance(fault, StoreError):
        return error_page(request, 500, kind, "Try again.")
    return error_page(request, 503, kind, "Keys go on working. Try again.", retry_after="2")


def _busy(request: Request) -> Response:
    return error_page(
        request,
        503,
        "Many people sign in at this moment",
        "Try again in a few seconds.",
        retry_after="3",
    )


async def _http_fault(request: Request, fault: Exception) -> Response:
    status = fault.status_code if isinstance(fault, HTTPException) else 500
    title, message = _WORDS.get(status, ("That did not work", "Go back, and try again."))
    if status in _UNREAD:  # the rest of what is sent is not even looked at
        return error_page(request, status, title, message, connection="close")
    return error_page(request, status, title, message)
