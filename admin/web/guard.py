"""Before any page: what a browser of ours sends, and what every answer tells it.

A change (whatever is no GET) has to come from a page of ours: `Sec-Fetch-Site` says so, which no
page can forge, or `Origin`, where a browser sends no `Sec-Fetch-Site` (plain http that is not of
this machine). A cookie alone is never enough. Only names that we know of are served
(`AdminSettings.hosts`), so that no page of elsewhere reaches us under a name of its own that it
points here, and no link is made of a name that somebody sent.
"""

from __future__ import annotations

import logging
import re
import secrets
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin.settings import AdminSettings
from admin.web.desk import desk
from admin.web.pages import error_page

SAFE: Final = frozenset({"GET", "HEAD"})
OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by programs, by whatever name they know us."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_EVERYWHERE: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")
_YEAR: Final = "max-age=31536000"

_log = logging.getLogger(__name__)


class Guard:
    """The outermost part of ours: request ids, headers, origins, and one line of log each."""

    def __init__(self, app: ASGIApp, settings: AdminSettings) -> None:
        self._app = app
        self._headers = dict(_EVERYWHERE)
        self._scheme = "https" if settings.https else "http"
        if settings.https:
            self._headers["strict-transport-security"] = _YEAR
        self._hosts = settings.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope)
        request.state.request_id = secrets.token_hex(16)
        request.state.account = request.state.session = None
        request.state.route = "other"
        begun = perf_counter()
        status: int | None = None

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers["x-request-id"] = request.state.request_id
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await (self._refused(request) or self._app)(scope, receive, sending)
        except Exception:  # noqa: BLE001  even the page for faults failed
            _log.exception("%s failed (%s)", request.state.route, request.state.request_id)
            if status is None:
                plain = PlainTextResponse("Something went wrong here. Try again.\n", 500)
                await plain(scope, receive, sending)
        _account_for(request, status or 500, perf_counter() - begun)

    def _refused(self, request: Request) -> Response | None:
        refusal = self._refusal(request)
        if refusal is None:
            return None
        status, reason, message = refusal
        desk(request).metrics.refused.labels(reason).inc()
        return error_page(request, status, "That was refused", message)

    def _refusal(self, request: Request) -> tuple[int, str, str] | None:
        """(status, reason, words), or None where a page may be asked."""
        host = request.headers.get("host", "")
        if request.url.path not in OPEN and _name(host) not in self._hosts:
            return 421, "host", "The dashboard has another address. Ask whoever runs it for that."
        if b"%00" in request.scope["query_string"] or "\0" in request.scope["path"]:
            return 400, "request", "The address holds a character that no address of ours has."
        if request.method not in SAFE and not self._is_ours(request, host):
            return (
                403,
                "origin",
                "This did not come from a page of the dashboard. Open it, and do it there.",
            )
        return None

    def _is_ours(self, request: Request, host: str) -> bool:
        sites = request.headers.getlist("sec-fetch-site")
        if sites:
            return sites == ["same-origin"]
        return request.headers.getlist("origin") == [f"{self._scheme}://{host}"]


def _name(host: str) -> str | None:
    """The name in a Host header, None in what is none: a name and a port, and nothing else."""
    if not _HOST.fullmatch(host):
        return None
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _account_for(request: Request, status: int, seconds: float) -> None:
    """Metrics and log. The route, not the path: a path may hold an invite's token."""
    metrics = desk(request).metrics
    route = request.state.route
    method = request.method if request.method in {"GET", "HEAD", "POST"} else "other"
    metrics.requests.labels(route, method, str(status)).inc()
    metrics.seconds.labels(route).observe(seconds)
    account = request.state.account
    _log.info(
        "%s %s %d %.0f ms %s %s",
        method,
        route,
        status,
        seconds * 1000,
        request.state.request_id,
        "-" if account is None else account.id,
    )
