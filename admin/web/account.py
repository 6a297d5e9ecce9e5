"""Whoever is signed in: plan and limits, sessions, password."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from admin.web.desk import Page, current_account, current_session, desk
from admin.web.pages import render


def account_page(request: Request) -> Response:
    """Plan, limits, sessions, password."""
    parts = desk(request)
    account = current_account(request)
    sessions = parts.people.sessions_of(account.id, parts.clock(), parts.settings.lifetimes)
    return render(request, "account.html", sessions=sessions, this=current_session(request).id)


PAGES = (Page("GET", "/account", account_page),)
