"""Signing in by password, and signing out.

Whether an account is unknown, has no password, or has another one: the answer is the same, and so
is the time that it takes, as a password is hashed in each case.
"""

from __future__ import annotations

import base64
import secrets
from contextlib import AbstractContextManager
from functools import cache
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from admin import inputs
from admin.passwords import hash_password, password_matches
from admin.web import cookies
from admin.web.desk import Access, Page, actor_of, address_of, desk, text_of
from admin.web.pages import HOME, local_path, redirect, render
from admin.web.throttle import buckets_of
from store.errors import InputError
from store.records import SECOND_US, Account
from store.sessions import Session, SignInWriter, agent_text

WRONG: Final = "That e-mail and password do not belong together. Try again."


@cache
def nobodys_hash() -> str:
    """What a password is held against where there is none: as slow as any."""
    return hash_password(secrets.token_urlsafe(32))


def home(request: Request) -> Response:
    """The first page."""
    del request
    return redirect(HOME)


def sign_in_page(request: Request) -> Response:
    """The form; whoever is signed in goes on."""
    after = local_path(request.query_params.get("next"))
    if request.state.account is not None:
        return redirect(after or HOME)
    return _form(request, next_path=after or "")


def sign_in(request: Request) -> Response:
    """Let somebody in, or not."""
    parts = desk(request)
    typed, password = text_of(request, "email"), text_of(request, "password")
    try:
        email = inputs.email(typed)
    except InputError:
        email = ""
    buckets = buckets_of(email or typed, address_of(request))
    outcomes = parts.metrics.sign_ins
    wait_us = parts.people.attempt(buckets, parts.clock())
    if wait_us:
        outcomes.labels("password", "throttled").inc()
        seconds = -(-wait_us // SECOND_US)
        return _form(
            request,
            status=429,
            headers={"retry-after": str(seconds)},
            error=f"There were too many attempts. Try again in {_span(seconds)}.",
        )
    known = parts.people.credentials(email) if email else None
    stored = None if known is None or known.account.service else known.password_hash
    matches = password_matches(stored or nobodys_hash(), password)
    if known is None or stored is None or not matches:
        outcomes.labels("password", "refused").inc()
        return _form(request, status=403, error=WRONG)
    with begin(request, actor_of(known.account)) as writer:
        # the password may have been changed while this one was being hashed
        now = writer.lock_with_password(email)
        if now is None or now.password_hash != stored:
            return _form(request, status=403, error=WRONG)
        token = let_in(request, writer, now.account, "password")
    parts.people.forgive(buckets)
    outcomes.labels("password", "done").inc()
    response = redirect(local_path(text_of(request, "next")) or HOME)
    cookies.keep_session(request, response, token)
    return response


def begin(request: Request, actor: str) -> AbstractContextManager[SignInWriter]:
    """A transaction that lets people in and out."""
    parts = desk(request)
    return parts.people.changing(actor, parts.clock(), address_of(request))


def let_in(request: Request, writer: SignInWriter, account: Account, means: str) -> str:
    """Begin a session, always a new one, and end the one that the browser had; the new token."""
    before: Session | None = request.state.session
    if before is not None:
        writer.end_session(before.account_id, before.id)
    token = cookies.new_token()
    session = Session(
        id=f"ses_{base64.b32encode(secrets.token_bytes(10)).decode().lower()}",
        account_id=account.id,
        means=means,
        address=address_of(request),
        agent=agent_text(request.headers.get("user-agent", "")),
        created_us=writer.now_us,
        seen_us=writer.now_us,
    )
    writer.add_session(session, token, desk(request).settings.lifetimes)
    return token


def sign_out(request: Request) -> Response:
    """End this session."""
    session: Session | None = request.state.session
    if session is not None:
        with begin(request, actor_of(request.state.account)) as writer:
            writer.end_session(session.account_id, session.id)
    response = redirect("/sign-in", done="signed-out")
    cookies.drop_session(request, response)
    response.headers["clear-site-data"] = '"cache"'
    return response


def _form(
    request: Request,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    error: str | None = None,
    next_path: str | None = None,
) -> Response:
    after = next_path if next_path is not None else local_path(text_of(request, "next")) or ""
    settings = desk(request).settings
    return render(
        request,
        "sign-in.html",
        status=status,
        headers=headers,
        error=error,
        email=text_of(request, "email"),
        next_path=after,
        oidc_name=settings.oidc_name if settings.oidc_issuer else None,
        open_registration=settings.open_registration,
    )


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{-(-seconds // 60)} minutes"  # noqa: PLR2004  two minutes


PAGES = (
    Page("GET", "/", home),
    Page("GET", "/sign-in", sign_in_page, Access.PUBLIC),
    Page("POST", "/sign-in", sign_in, Access.PUBLIC, hashes=True),
    Page("POST", "/sign-out", sign_out, Access.PUBLIC),
)
