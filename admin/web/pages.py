"""Making answers: pages from templates, redirects to local paths, what a reader calls a moment."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from admin.web.desk import desk
from admin.web.programs import program
from admin.web.texts import FILTERS
from store.records import Account

HERE: Final = Path(__file__).parent
HOME: Final = "/keys"

NOTICES: Final[dict[str, str]] = {
    "password": "Your password was changed. Whoever else was signed in as you is no more.",
    "session-ended": "That session was ended.",
    "sessions-ended": "Every other session was ended.",
    "signed-out": "You are signed out.",
    "linked": "You can sign in that way from now on.",
    "unlinked": "You can no longer sign in that way.",
    "saved": "Saved.",
    "disabled": "The account is disabled: nobody can sign in as it, and none of its keys passes.",
    "enabled": "The account is enabled: its keys pass again.",
    "revoked": "The key was revoked.",
}
"""What `?done=` says. A link that somebody sends can say nothing else."""

_LOCAL: Final = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    made.filters["program"] = program
    made.globals.update(static=static, new_form=new_form)
    return made


@cache
def static(name: str) -> str:
    """Where a file of ours is; a changed file has another address, so that it can be kept."""
    content = (HERE / "static" / name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


def new_form() -> str:
    """A text that names one showing of a form: sent twice, it works once."""
    return secrets.token_urlsafe(24)


_TEMPLATES: Final = _environment()


def render(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """A page. Beside the context, templates have what `_shared` says."""
    text = _TEMPLATES.get_template(template).render(_shared(request) | context)
    return HTMLResponse(text, status, headers)


def _shared(request: Request) -> dict[str, Any]:
    account: Account | None = getattr(request.state, "account", None)
    return {
        "request": request,
        "account": account,
        "now_us": desk(request).clock(),
        "flash": NOTICES.get(request.query_params.get("done", "")),
    }


def error_page(request: Request, status: int, title: str, message: str, **more: str) -> Response:
    """A quiet page for what went wrong; `more` are headers."""
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    return render(
        request, "error.html", status=status, headers=headers, title=title, message=message
    )


def local_path(text: str | None) -> str | None:
    """A path on this very server with its query, as it was given; None for anything else."""
    return text if text is not None and _LOCAL.fullmatch(text) else None


def redirect(path: str, *, done: str | None = None) -> RedirectResponse:
    """Go on to another page of ours by GET. Raises ValueError for a place that is elsewhere."""
    if local_path(path) is None:
        raise ValueError("redirects stay on this server")
    return RedirectResponse(path if done is None else f"{path}?done={quote(done)}", 303)
