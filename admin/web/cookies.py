"""The two cookies: the session's, and one that lives while somebody is at a provider of OpenID.

Under https their names begin with `__Host-`: then no other host can have set them, and they are
never sent without TLS. SameSite=Strict: no page of elsewhere makes a browser send them.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from admin.signins import is_token
from admin.web.desk import desk

SESSION: Final = "tensorgate_session"
FLOW: Final = "tensorgate_sign_in"
FLOW_SECONDS: Final = 600


def session_token(request: Request) -> str | None:
    """The token that the browser holds, if it is the form of one."""
    token = request.cookies.get(_name(request, SESSION), "")
    return token if is_token(token) else None


def keep_session(request: Request, response: Response, token: str) -> None:
    """Have the browser hold the token, as long as a session can live."""
    _set(request, response, SESSION, token, desk(request).settings.session_seconds)


def drop_session(request: Request, response: Response) -> None:
    """Have the browser forget its token."""
    _set(request, response, SESSION, "", 0)


def flow_text(request: Request) -> str | None:
    """What was kept when somebody was sent to the provider."""
    return request.cookies.get(_name(request, FLOW))


def keep_flow(request: Request, response: Response, text: str) -> None:
    """Keep something while somebody is at the provider. `text` is URL-safe."""
    _set(request, response, FLOW, text, FLOW_SECONDS)


def drop_flow(request: Request, response: Response) -> None:
    """Forget it."""
    _set(request, response, FLOW, "", 0)


def _name(request: Request, name: str) -> str:
    return f"__Host-{name}" if desk(request).settings.https else name


def _set(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        _name(request, name),
        value,
        max_age=seconds,
        path="/",
        secure=desk(request).settings.https,
        httponly=True,
        samesite="strict",
    )
