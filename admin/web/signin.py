"""Coming in and going out: by password, by a link that an admin made, by registering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from admin.signins import Entered, ProviderError, ThrottledError, WrongError
from admin.web import cookies
from admin.web.desk import Access, Page, desk, signins, text_of, visitor_of
from admin.web.pages import HOME, local_path, redirect, render
from store.errors import InputError
from store.records import Account
from store.sessions import Session

INVITE: Final = "/invite/{token}"


def home(request: Request) -> Response:
    """The first page."""
    del request
    return redirect(HOME)


def sign_in_page(request: Request) -> Response:
    """The form; whoever is signed in goes on."""
    after = local_path(request.query_params.get("next"))
    if request.state.account is not None:
        return redirect(after or HOME)
    return sign_in_form(request, "sign-in.html", after=after)


def sign_in(request: Request) -> Response:
    """Let somebody in, or not."""
    after = local_path(text_of(request, "next"))
    email, password = text_of(request, "email"), text_of(request, "password")
    return tried(
        request,
        "password",
        lambda: signins(request).by_password(email, password, visitor_of(request)),
        after=after,
        template="sign-in.html",
    )


def sign_out(request: Request) -> Response:
    """End this session."""
    session: Session | None = request.state.session
    account: Account | None = request.state.account
    if session is not None and account is not None:
        signins(request).end(account, session.id, visitor_of(request), account)
    response = redirect("/sign-in", done="signed-out")
    cookies.drop_session(request, response)
    response.headers["clear-site-data"] = '"cache"'
    return response


def invite_page(request: Request) -> Response:
    """Where a link leads: the form for a password."""
    token = request.path_params["token"]
    account = signins(request).invited(token)
    status = 404 if account is None else 200
    return sign_in_form(request, "invite.html", status=status, invited=account, token=token)


def accept_invite(request: Request) -> Response:
    """Set the password, and let them in."""
    token, password = request.path_params["token"], text_of(request, "password")
    use = signins(request)
    return tried(
        request,
        "invite",
        lambda: use.accept(token, password, visitor_of(request)),
        template="invite.html",
        invited=use.invited(token),
        token=token,
    )


def register_page(request: Request) -> Response:
    """The form for a new account, where anybody may have one."""
    _open(request)
    return sign_in_form(request, "register.html")


def register(request: Request) -> Response:
    """Add an account, and let its owner in."""
    _open(request)
    email, password = text_of(request, "email"), text_of(request, "password")
    return tried(
        request,
        "registration",
        lambda: signins(request).register(email, password, visitor_of(request)),
        template="register.html",
    )


def enter(request: Request, entered: Entered, after: str | None = None) -> Response:
    """Give the browser its session and go on."""
    response = redirect(after or HOME)
    cookies.keep_session(request, response, entered.token)
    return response


def tried(
    request: Request,
    means: str,
    attempt: Callable[[], Entered],
    *,
    template: str,
    after: str | None = None,
    **context: Any,
) -> Response:
    """The page after an attempt, counted by how it ended."""
    outcomes = desk(request).metrics.sign_ins
    try:
        entered = attempt()
    except ThrottledError as fault:
        outcomes.labels(means, "throttled").inc()
        wait = {"retry-after": str(fault.seconds)}
        status, error = 429, str(fault)
    except WrongError as fault:
        outcomes.labels(means, "refused").inc()
        status, error, wait = 403, str(fault), {}
    except ProviderError as fault:
        outcomes.labels(means, "failed").inc()
        status, error, wait = 502, str(fault), {}
    except InputError as fault:
        outcomes.labels(means, "refused").inc()
        status, error, wait = 422, str(fault), {}
    else:
        outcomes.labels(means, "done").inc()
        return enter(request, entered, after)
    return sign_in_form(
        request, template, status=status, headers=wait, error=error, after=after, **context
    )


def sign_in_form(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    error: str | None = None,
    after: str | None = None,
    **context: Any,
) -> Response:
    """One of the pages before anybody is signed in."""
    settings = desk(request).settings
    return render(
        request,
        template,
        status=status,
        headers=headers,
        error=error,
        email=text_of(request, "email"),
        next_path=after or "",
        oidc_name=settings.oidc_name if settings.oidc_issuer else None,
        open_registration=settings.open_registration,
        **context,
    )


def _open(request: Request) -> None:
    if not desk(request).settings.open_registration:
        raise HTTPException(404)


PAGES = (
    Page("GET", "/", home),
    Page("GET", "/sign-in", sign_in_page, Access.PUBLIC),
    Page("POST", "/sign-in", sign_in, Access.PUBLIC, hashes=True),
    Page("POST", "/sign-out", sign_out, Access.PUBLIC),
    Page("GET", INVITE, invite_page, Access.PUBLIC),
    Page("POST", INVITE, accept_invite, Access.PUBLIC, hashes=True),
    Page("GET", "/register", register_page, Access.PUBLIC),
    Page("POST", "/register", register, Access.PUBLIC, hashes=True),
)
