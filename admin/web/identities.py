"""Coming in by a provider of OpenID Connect, and linking an account to one.

Its redirect comes from elsewhere, so the browser leaves our SameSite=Strict cookies out; a page
of ours takes it once more to the same address, and then they are there.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from admin.signins import Entered, Flow, Identity, WrongError, is_token
from admin.web import cookies
from admin.web.desk import (
    OIDC_CALLBACK,
    Access,
    Page,
    current_account,
    current_session,
    desk,
    signins,
    text_of,
    visitor_of,
)
from admin.web.pages import local_path, redirect, render
from admin.web.signin import INVITE, sign_in_form, tried
from store.errors import InputError

if TYPE_CHECKING:
    from admin.oidc import Provider  # its libraries are for whoever has a provider

AFTER_MAX: Final = 512
AGAIN: Final = "again=1"
_ERROR: Final = re.compile(r"[a-z_]{1,40}")
_CODE: Final = re.compile(r"[\x21-\x7e]{1,2048}")
_TEMPLATE: Final = "sign-in.html"


def begin(request: Request) -> Response:
    """Send the browser to the provider."""
    provider = _provider(request)
    after = local_path(request.query_params.get("next")) or ""
    try:
        url, flow = provider.begin(after=after if len(after) <= AFTER_MAX else "")
    except InputError as fault:
        return sign_in_form(request, _TEMPLATE, status=502, error=str(fault))
    response = RedirectResponse(url, 303)
    cookies.keep_flow(request, response, _packed(flow))
    return response


def begin_invited(request: Request) -> Response:
    """Send the browser to the provider, to link who comes back to whom a link is for.

    A form of the link's page, which says whose account that is: by an address, any page could
    link its readers to an account of its choice. It answers as `link` does.
    """
    token = request.path_params["token"]
    if not is_token(token):
        raise HTTPException(404)
    return _sent_on(request, *_provider(request).begin(invite=token))


def link(request: Request) -> Response:
    """Send the browser to the provider, to link who comes back to who is signed in.

    A page and no redirect: a form of ours may send nothing elsewhere.
    """
    return _sent_on(request, *_provider(request).begin(session=current_session(request).id))


def _sent_on(request: Request, url: str, flow: Flow) -> Response:
    response = render(request, "again.html", where=url)
    cookies.keep_flow(request, response, _packed(flow))
    return response


def callback(request: Request) -> Response:
    """Where the provider sends the browser back to."""
    provider = _provider(request)
    kept, query = cookies.flow_text(request), request.url.query
    if kept is None and not query.endswith(AGAIN):
        where = local_path(f"{OIDC_CALLBACK}?{query}&{AGAIN}")
        if where is not None:
            return render(request, "again.html", where=where)
    flow = _unpacked(kept or "")
    if flow is not None and flow.session:
        response = _linked(request, provider, flow)
    else:
        response = _entered(request, provider, flow)
    cookies.drop_flow(request, response)
    return response


def _entered(request: Request, provider: Provider, flow: Flow | None) -> Response:
    def attempt() -> Entered:
        identity = _vouched(request, provider, flow)
        invite = flow.invite if flow is not None else ""
        return signins(request).by_identity(identity, visitor_of(request), invite=invite or None)

    after = local_path(flow.after) if flow is not None else None
    return tried(request, "oidc", attempt, template=_TEMPLATE, after=after)


def _linked(request: Request, provider: Provider, flow: Flow) -> Response:
    session, account = request.state.session, request.state.account
    if session is None or session.id != flow.session:
        return redirect("/sign-in")
    identity = _vouched(request, provider, flow)
    signins(request).link(account, identity, visitor_of(request))
    return redirect("/account", done="linked")


def _vouched(request: Request, provider: Provider, flow: Flow | None) -> Identity:
    """Whom the provider vouches for to this very browser. Raises WrongError, ProviderError."""
    sent = request.query_params.get
    state = sent("state", "")
    if flow is None or not secrets.compare_digest(state.encode(), flow.state.encode()):
        raise WrongError("That took too long, or it was not begun in this browser. Begin anew.")
    settings = desk(request).settings
    if sent("iss", settings.oidc_issuer) != settings.oidc_issuer:
        raise WrongError("Another provider than ours answered. Begin anew.")
    error, code = sent("error"), sent("code", "")
    if error is not None or not _CODE.fullmatch(code):
        why = f" ({error})" if error and _ERROR.fullmatch(error) else ""
        raise WrongError(f"The provider did not let you in{why}. Begin anew, or ask an admin.")
    return provider.finish(flow, code)


def unlink(request: Request) -> Response:
    """Let nobody in by an identity any more."""
    issuer, subject = text_of(request, "issuer"), text_of(request, "subject")
    signins(request).unlink(current_account(request), issuer, subject, visitor_of(request))
    return redirect("/account", done="unlinked")


def _provider(request: Request) -> Provider:
    provider = desk(request).provider
    if provider is None:
        raise HTTPException(404)
    return provider


def _packed(flow: Flow) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(flow)).decode()


def _unpacked(text: str) -> Flow | None:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=Flow)
    except (ValueError, msgspec.MsgspecError):
        return None


PAGES = (
    Page("GET", "/sign-in/oidc", begin, Access.PUBLIC),
    Page("GET", OIDC_CALLBACK, callback, Access.PUBLIC),
    Page("POST", f"{INVITE}/oidc", begin_invited, Access.PUBLIC),
    Page("POST", "/account/identities", link),
    Page("POST", "/account/identities/unlink", unlink),
)
