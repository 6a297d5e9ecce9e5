"""What the pages work with, made once for a process: `desk(request)` finds it.

A handler is a plain function `(Request) -> Response` that runs on a worker thread. By then
`request.state` has `request_id`, `form` (empty but for a POST), `account` and `session` (None
where nobody is signed in).
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

from anyio import CapacityLimiter
from sqlalchemy import Engine
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from admin.metrics import Metrics
from admin.service import AdminService
from admin.settings import AdminSettings
from admin.signins import SignIns, Visitor, actor_of, nobodys_hash
from store.accountlist import AccountList
from store.catalog import Catalog
from store.clock import Clock
from store.control import Control, nudge
from store.errors import StoreError
from store.keylist import KeyList
from store.keys import KeyRepository
from store.records import Account, Role
from store.sessions import Session, SignInRepository
from store.teamspend import TeamSpend
from store.usagereads import UsageReader

if TYPE_CHECKING:
    from admin.oidc import Provider

HASHING_AT_ONCE: Final = 2  # of 64 MiB each
HASHING_WAITING: Final = 32
FOUND_SECONDS: Final = 10.0
CONTROL_SECONDS: Final = 1.0
OIDC_CALLBACK: Final = "/sign-in/oidc/callback"

Handler = Callable[[Request], Response]

_log = logging.getLogger(__name__)


class Access(IntEnum):
    """Who may see a page. To everybody else it is not there."""

    PUBLIC = 0
    USER = 1
    AUDITOR = 2
    ADMIN = 3


_ACCESS: Final = {Role.USER: Access.USER, Role.AUDITOR: Access.AUDITOR, Role.ADMIN: Access.ADMIN}


def access_of(account: Account | None) -> Access:
    """The most that an account may see."""
    return Access.PUBLIC if account is None else _ACCESS[account.role]


@dataclass(frozen=True, slots=True)
class Page:
    """One route: `method` is GET (HEAD too) or POST; what hashes passwords waits for its turn."""

    method: str
    path: str
    handler: Handler
    access: Access = Access.USER
    hashes: bool = False


class Found(Protocol):
    """What was found of one part of the gate, as `tensorgate doctor` says it."""

    @property
    def part(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def advice(self) -> str: ...


Examine = Callable[[], Iterable[Found]]


@dataclass
class Desk:
    """The store, the settings and the clock, for every page."""

    settings: AdminSettings
    engine: Engine
    clock: Clock
    examine: Examine
    _catalog: tuple[str, Catalog] | None = None
    _looking: Lock = field(default_factory=Lock)
    _findings: tuple[float, list[Found]] = field(default_factory=lambda: (-math.inf, []))

    def prepare(self) -> None:
        """What must not wait for the first visitor: a fault of the settings, a first hash."""
        nobodys_hash()
        if self.provider is not None:
            _log.info("people may come in by %s", self.settings.oidc_issuer)

    @cached_property
    def keys(self) -> KeyRepository:
        return KeyRepository(self.engine)

    @cached_property
    def key_list(self) -> KeyList:
        return KeyList(self.engine)

    @cached_property
    def usage(self) -> UsageReader:
        return UsageReader(self.engine)

    @cached_property
    def people(self) -> SignInRepository:
        return SignInRepository(self.engine)

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics()

    @cached_property
    def hashing(self) -> CapacityLimiter:
        return CapacityLimiter(HASHING_AT_ONCE)

    @cached_property
    def provider(self) -> Provider | None:
        """Who may vouch for people, where one is configured."""
        if self.settings.oidc_issuer is None:
            return None
        from admin.oidc import Provider  # noqa: PLC0415  half a second, for those who have one

        return Provider(self.settings, f"{self.settings.dashboard_url}{OIDC_CALLBACK}")

    @cached_property
    def account_list(self) -> AccountList:
        return AccountList(self.engine)

    @cached_property
    def team_spend(self) -> TeamSpend:
        return TeamSpend(self.engine)

    def found(self) -> list[Found]:
        """What was found of each part of the gate, at most FOUND_SECONDS ago."""
        with self._looking:
            at, findings = self._findings
            if monotonic() - at > FOUND_SECONDS:
                findings = list(self.examine())
                self._findings = monotonic(), findings
            return findings

    def catalog(self) -> Catalog:
        """The catalog that calls are judged by: as authz has it, else as its file has it now.

        It is parsed anew only where its text is another: that takes a while for a long one.
        """
        try:
            found = Control.of(self.settings).ask("catalog", seconds=CONTROL_SECONDS)
            text, path = str(found["text"]), str(found["path"])
        except (StoreError, LookupError, TypeError):
            path = str(self.settings.catalog)
            text = Catalog.text_of(self.settings.catalog)
        known = self._catalog
        if known is None or known[0] != text:
            known = self._catalog = text, Catalog.parse(text, path)
        return known[1]

    def gate_url(self) -> str | None:
        """Where clients reach the gate, as `up` wrote it; None if that is not known."""
        try:
            return (self.settings.state / "url").read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            return None


def desk(request: Request) -> Desk:
    """What this process has."""
    found: Desk = request.app.state.desk
    return found


def current_account(request: Request) -> Account:
    """Who is signed in; only for pages that need somebody to be."""
    account: Account | None = request.state.account
    if account is None:
        raise RuntimeError("a page that needs a session was served without one")
    return account


def current_session(request: Request) -> Session:
    """By which session; only for pages that need one."""
    session: Session | None = request.state.session
    if session is None:
        raise RuntimeError("a page that needs a session was served without one")
    return session


def form_of(request: Request) -> FormData:
    """The fields that were sent."""
    form: FormData = request.state.form
    return form


def text_of(request: Request, name: str) -> str:
    """A field's text; empty where it was not sent."""
    value = form_of(request).get(name)
    return value if isinstance(value, str) else ""


def texts_of(request: Request, name: str) -> Sequence[str]:
    """All texts of a field that may be sent several times."""
    return [value for value in form_of(request).getlist(name) if isinstance(value, str)]


def address_of(request: Request) -> str:
    """Whence a request came, as far as we can tell: an IP address, or `unknown`."""
    try:
        return str(ipaddress.ip_address(request.client.host if request.client else ""))
    except ValueError:
        return "unknown"


def visitor_of(request: Request) -> Visitor:
    """Who comes, as far as the connection says."""
    agent = request.headers.get("user-agent", "")
    return Visitor(address_of(request), agent, request.state.session)


def signins(request: Request) -> SignIns:
    """The use cases of coming in and going out."""
    each = desk(request)
    return SignIns(each.people, each.settings, each.clock)


def service(request: Request) -> AdminService:
    """The use cases, asked for by whoever is signed in. A change is told to a running authz."""
    each = desk(request)
    return AdminService(
        each.keys,
        each.settings,
        actor=actor_of(current_account(request)),
        address=address_of(request),
        clock=each.clock,
        changed=lambda: nudge(each.settings),
    )
