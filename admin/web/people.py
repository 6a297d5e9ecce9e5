"""For admins: every account, what it has and may, the way in for it, and its keys' end.

Of a key an admin sees the hint, as its owner does; of a password, nothing.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from admin import inputs, planrules
from admin.web import keyforms
from admin.web.desk import (
    Access,
    Page,
    current_account,
    desk,
    service,
    signins,
    text_of,
    visitor_of,
)
from admin.web.pages import redirect, render
from store.accountlist import SPEND_DAYS, AccountLine
from store.errors import InputError, NotFoundError
from store.keylist import KeyLine, KeyList, Show
from store.records import DAY_US, Account, Role
from store.sessions import INVITE_US

SEARCH_CHARS: Final = 100
_USERS: Final = "/admin/users"
_USER: Final = "/admin/users/{account}"
_KEY: Final = "/admin/users/{account}/keys/{key}/revoke"


def users_page(request: Request) -> Response:
    """Every account, a page at a time, searched."""
    search = request.query_params.get("q", "").strip()[:SEARCH_CHARS]
    number = max(1, keyforms.number(request.query_params.get("page", "1")))
    parts = desk(request)
    page = parts.account_list.page(parts.clock(), search=search, number=number)
    return render(request, "users.html", page=page, search=search, days=SPEND_DAYS)


def new_user_page(request: Request) -> Response:
    """The form for a new account."""
    return _new_user(request)


def add_user(request: Request) -> Response:
    """Add an account, and show the link with which its owner sets a password."""
    try:
        added = service(request).add_user(
            text_of(request, "email"),
            plan=text_of(request, "plan"),
            team=text_of(request, "team").strip() or None,
            role=_role(text_of(request, "role")),
            make_one=False,
        )
    except InputError as fault:
        return _new_user(request, status=422, errors=_at_field(fault))
    return _link(request, added.account)


def user_page(request: Request) -> Response:
    """One account: what it may, who is signed in as it, and its keys."""
    return _user(request, _line(request))


def change_user(request: Request) -> Response:
    """Another plan, team or role."""
    line = _line(request)
    email = line.account.email
    use = service(request)
    try:
        # all of it is read before any of it is changed
        role = _role(text_of(request, "role"))
        plan = planrules.plan_named(desk(request).catalog(), text_of(request, "plan")).name
        team = inputs.team(text_of(request, "team").strip() or None)
        if role is not line.account.role:
            _check_other(request, line.account)
            use.set_role(email, role)
        use.set_plan(email, plan)
        use.set_team(email, team)
    except NotFoundError:
        raise
    except InputError as fault:
        return _user(request, line, status=422, errors=_at_field(fault))
    return redirect(f"{_USERS}/{line.account.id}", done="saved")


def make_link(request: Request) -> Response:
    """A new link for the account's owner; older ones are void."""
    return _link(request, _line(request).account)


def end_sessions(request: Request) -> Response:
    """Sign the account out everywhere."""
    account = _line(request).account
    signins(request).end_all(account, visitor_of(request), current_account(request))
    return redirect(f"{_USERS}/{account.id}", done="sessions-ended")


def disable(request: Request) -> Response:
    """Let nobody in as the account, and none of its keys pass."""
    line = _line(request)
    if line.account.id == current_account(request).id:
        return _user(request, line, status=422, errors={"disable": _NOT_ONESELF})
    try:
        service(request).disable(line.account.email)
    except NotFoundError:
        raise
    except InputError as fault:
        return _user(request, line, status=422, errors={"disable": str(fault)})
    return redirect(f"{_USERS}/{line.account.id}", done="disabled")


def enable(request: Request) -> Response:
    """Undo that."""
    account = _line(request).account
    service(request).enable(account.email)
    return redirect(f"{_USERS}/{account.id}", done="enabled")


def revoke_page(request: Request) -> Response:
    """What will fail, and the field for the alias."""
    return _revoke(request)


def revoke(request: Request) -> Response:
    """Revoke somebody's key, if its alias was typed out."""
    account, key = _key(request)
    record = key.record
    typed = text_of(request, "confirm").strip()
    if typed != record.alias:
        words = f"That is not the key's alias. Type {record.alias} to revoke it."
        return _revoke(request, status=422, errors={"confirm": words}, typed=typed)
    service(request).revoke(account.email, record.alias, confirm=typed, key_id=record.id)
    return redirect(f"{_USERS}/{account.id}", done="revoked")


def _line(request: Request) -> AccountLine:
    parts = desk(request)
    found = parts.account_list.line(request.path_params["account"], parts.clock())
    if found is None:
        raise NotFoundError("There is no such account.")
    return found


def _key(request: Request) -> tuple[Account, KeyLine]:
    """The account's key that can still be revoked."""
    parts = desk(request)
    account = _line(request).account
    found = KeyList(parts.engine).line(account.id, request.path_params["key"], parts.clock())
    if found is None or found.record.revoked_us is not None:
        raise NotFoundError("There is no such key, or it was revoked.")
    return account, found


def _new_user(
    request: Request, *, status: int = 200, errors: dict[str, str] | None = None
) -> Response:
    catalog = desk(request).catalog()
    return render(
        request,
        "user_new.html",
        status=status,
        errors=errors or {},
        email=text_of(request, "email"),
        team=text_of(request, "team"),
        plan=text_of(request, "plan") or catalog.default_plan,
        role=text_of(request, "role") or Role.USER.value,
        plans=_plans(request),
        roles=_ROLES,
    )


def _user(
    request: Request,
    line: AccountLine,
    *,
    status: int = 200,
    errors: dict[str, str] | None = None,
) -> Response:
    parts = desk(request)
    now_us = parts.clock()
    show = _show(request)
    number = max(1, keyforms.number(request.query_params.get("page", "1")))
    account = line.account
    return render(
        request,
        "user.html",
        status=status,
        errors=errors or {},
        line=line,
        user=account,
        days=SPEND_DAYS,
        plan=text_of(request, "plan") or account.plan,
        team=text_of(request, "team") if status != 200 else account.team or "",  # noqa: PLR2004  as it was typed
        role=text_of(request, "role") or account.role.value,
        plans=_plans(request, account.plan),
        roles=_ROLES,
        is_me=account.id == current_account(request).id,
        has_password=parts.people.has_password(account.id),
        sessions=signins(request).of(account),
        keys=KeyList(parts.engine).page(account.id, show, now_us, number=number),
        show=show.value,
    )


def _revoke(
    request: Request, *, status: int = 200, errors: dict[str, str] | None = None, typed: str = ""
) -> Response:
    account, key = _key(request)
    return render(
        request,
        "user_key_revoke.html",
        status=status,
        errors=errors or {},
        typed=typed,
        user=account,
        line=key,
    )


def _link(request: Request, account: Account) -> Response:
    """The page that shows a link, in the answer that made it and never again."""
    token = signins(request).invite(account.email, current_account(request), visitor_of(request))
    settings = desk(request).settings
    base = settings.dashboard_url or str(request.base_url).rstrip("/")
    return render(
        request,
        "user_link.html",
        user=account,
        link=f"{base}/invite/{token}",
        days=INVITE_US // DAY_US,
    )


_ROLES: Final = (
    (Role.USER.value, "User", "has keys of their own"),
    (Role.AUDITOR.value, "Auditor", "reads everybody's spend, too"),
    (Role.ADMIN.value, "Admin", "may do everything"),
)
_NOT_ONESELF: Final = "Nobody disables themself. Ask another admin."
_FIELDS: Final = {
    "invalid_email": "email",
    "email_taken": "email",
    "unknown_plan": "plan",
    "invalid_team": "team",
    "invalid_role": "role",
    "last_admin": "role",
    "own_role": "role",
    "invalid_account": "role",
}


def _at_field(fault: InputError) -> dict[str, str]:
    return {_FIELDS.get(fault.code, "email"): str(fault)}


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise InputError("There is no such role. Choose one.", code="invalid_role") from None


def _check_other(request: Request, account: Account) -> None:
    if account.id == current_account(request).id:
        raise InputError("Nobody changes their own role. Ask another admin.", code="own_role")


def _plans(request: Request, also: str | None = None) -> list[tuple[str, str]]:
    names: dict[str, Any] = dict.fromkeys(desk(request).catalog().plans)
    if also is not None:
        names.setdefault(also)
    return [(name, name) for name in names]


def _show(request: Request) -> Show:
    try:
        return Show(request.query_params.get("show", ""))
    except ValueError:
        return Show.LIVE


PAGES: Final = (
    Page("GET", _USERS, users_page, Access.ADMIN),
    Page("POST", _USERS, add_user, Access.ADMIN),
    Page("GET", f"{_USERS}/new", new_user_page, Access.ADMIN),
    Page("GET", _USER, user_page, Access.ADMIN),
    Page("POST", _USER, change_user, Access.ADMIN),
    Page("POST", f"{_USER}/link", make_link, Access.ADMIN),
    Page("POST", f"{_USER}/end-sessions", end_sessions, Access.ADMIN),
    Page("POST", f"{_USER}/disable", disable, Access.ADMIN),
    Page("POST", f"{_USER}/enable", enable, Access.ADMIN),
    Page("GET", _KEY, revoke_page, Access.ADMIN),
    Page("POST", _KEY, revoke, Access.ADMIN),
)
