"""Whoever is signed in: plan and limits, sessions, password, other ways to sign in."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from admin.signins import ThrottledError, WrongError
from admin.web.desk import (
    Page,
    current_account,
    current_session,
    desk,
    signins,
    text_of,
    visitor_of,
)
from admin.web.pages import redirect, render
from store.errors import InputError


def account_page(request: Request) -> Response:
    """All of it, on one page."""
    return _page(request)


def change_password(request: Request) -> Response:
    """Replace one's password; whoever else is signed in as one is no more."""
    new, again = text_of(request, "new"), text_of(request, "again")
    if new != again:
        return _page(request, status=422, errors={"again": "That is not the same. Type it again."})
    try:
        signins(request).change_password(
            current_account(request),
            text_of(request, "current"),
            new,
            visitor_of(request),
            unlink=bool(text_of(request, "unlink")),
        )
    except ThrottledError as fault:
        wait = {"retry-after": str(fault.seconds)}
        return _page(request, status=429, errors={"current": str(fault)}, headers=wait)
    except WrongError:
        wrong = {"current": "That is not your password. Try again."}
        return _page(request, status=403, errors=wrong)
    except InputError as fault:
        return _page(request, status=422, errors={"new": str(fault)})
    return redirect("/account", done="password")


def end_session(request: Request) -> Response:
    """End one of one's sessions, this one too."""
    account = current_account(request)
    ended = request.path_params["session"]
    signins(request).end(account, ended, visitor_of(request), account)
    if ended == current_session(request).id:
        return redirect("/sign-in", done="signed-out")
    return redirect("/account", done="session-ended")


def end_others(request: Request) -> Response:
    """End every session but this one."""
    account = current_account(request)
    keep = current_session(request).id
    signins(request).end_all(account, visitor_of(request), account, keep=keep)
    return redirect("/account", done="sessions-ended")


def _page(
    request: Request,
    *,
    status: int = 200,
    errors: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    parts, account = desk(request), current_account(request)
    return render(
        request,
        "account.html",
        status=status,
        headers=headers,
        errors=errors or {},
        plan=parts.catalog().plans.get(account.plan),
        live=parts.keys.live_keys(account.id, parts.clock()),
        sessions=signins(request).of(account),
        this=current_session(request).id,
        has_password=parts.people.has_password(account.id),
        identities=parts.people.identities_of(account.id),
        oidc_name=parts.settings.oidc_name if parts.settings.oidc_issuer else None,
    )


PAGES = (
    Page("GET", "/account", account_page),
    Page("POST", "/account/password", change_password, hashes=True),
    Page("POST", "/account/sessions/end-others", end_others),
    Page("POST", "/account/sessions/{session}/end", end_session),
)
