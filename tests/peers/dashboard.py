"""The real `tensorgate admin` on a state of a test's own, and browsers that visit it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
from peers.ports import free_port
from peers.process import Child
from sqlalchemy import Engine
from statehelp import CATALOG, new_state

from admin.service import AdminService
from admin.signins import new_token
from store.clock import wall_us
from store.engines import open_engine
from store.keys import KeyRepository
from store.records import Account, Role
from store.sessions import Lifetimes, Session, SignInRepository
from store.settings import StoreSettings

READY_SECONDS: Final = 30.0
PASSWORD: Final = "correct horse battery staple"
COOKIE: Final = "tensorgate_session"
WEEK: Final = Lifetimes(12 * 3600 * 1_000_000, 7 * 86_400 * 1_000_000)


class Browser:
    """As a browser sends it from one of our own pages; cookies are kept, redirects not followed."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.client = httpx2.Client(
            base_url=url, headers={"sec-fetch-site": "same-origin"}, timeout=20, trust_env=False
        )
        if token is not None:
            self.client.cookies.set(COOKIE, token)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self.client.get(path, **more)

    def post(
        self, path: str, form: Mapping[str, object] | None = None, **more: Any
    ) -> httpx2.Response:
        headers = {"content-type": "application/x-www-form-urlencoded"} | more.pop("headers", {})
        if form is None:
            return self.client.post(path, headers=headers, **more)
        return self.client.post(path, data=dict(form), headers=headers, **more)

    def sign_in(self, email: str, password: str = PASSWORD, **form: str) -> httpx2.Response:
        return self.post("/sign-in", {"email": email, "password": password} | form)

    @property
    def token(self) -> str | None:
        """The session that this browser holds."""
        return self.client.cookies.get(COOKIE)


@dataclass
class Dashboard:
    """A running one. `service` is the use cases on the same state, as another process has them."""

    url: str
    settings: StoreSettings
    engine: Engine
    service: AdminService
    people: SignInRepository
    child: Child
    browsers: list[Browser]

    def browser(self, account: Account | None = None) -> Browser:
        """A new browser; signed in, if an account is given, without its password."""
        made = Browser(self.url, None if account is None else self.session_of(account))
        self.browsers.append(made)
        return made

    def session_of(self, account: Account, *, age_us: int = 0, idle_us: int = 0) -> str:
        """The token of a new session of the account."""
        token, now_us = new_token(), wall_us()
        name = f"ses_{token[:16].lower()}"
        session = Session(
            name, account.id, "password", "192.0.2.1", "a test", now_us - age_us, now_us - idle_us
        )
        with self.people.changing("test", now_us) as writer:
            writer.add_session(session, token, Lifetimes(1 << 60, 1 << 60))
        return token

    def user(
        self, email: str, *, plan: str | None = None, role: Role = Role.USER, **more: Any
    ) -> Account:
        """A new account, with PASSWORD unless it is told otherwise."""
        return self.service.add_user(
            email, plan=plan, role=role, **({"make_one": False} | more)
        ).account

    @property
    def log(self) -> str:
        return self.child.output


@contextmanager
def dashboard(
    folder: Path,
    *,
    catalog: str = CATALOG,
    settings: StoreSettings | None = None,
    port: int | None = None,
    **environ: str,
) -> Iterator[Dashboard]:
    """Start one on a new state, or on that of `settings`, and end it."""
    settings = settings or new_state(folder, catalog)
    port = port or free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith("TENSORGATE_")}
    own |= {
        "TENSORGATE_STATE": str(settings.state),
        "TENSORGATE_CATALOG": str(settings.catalog),
        "TENSORGATE_RUNTIME": str(settings.state / "run"),
        "TENSORGATE_ADMIN_LISTEN": f"127.0.0.1:{port}",
    }
    own |= {f"TENSORGATE_{name.upper()}": value for name, value in environ.items()}
    argv = (sys.executable, "-P", "-m", "tensorgate", "admin")
    child = Child(argv, log=folder / f"admin-{port}.log", env=own, cwd=folder)
    engine = open_engine(settings.sql_url)
    url = f"http://127.0.0.1:{port}"
    keys = KeyRepository(engine)
    made = Dashboard(
        url,
        settings,
        engine,
        AdminService(keys, settings, actor="cli:tester"),
        SignInRepository(engine),
        child,
        [],
    )
    try:
        child.wait_until(lambda: _ready(url), seconds=READY_SECONDS, what="answer")
        yield made
        code = child.end()
        assert code == 0, child.output
    finally:
        if child.process.poll() is None:
            child.end()
        for each in made.browsers:
            each.client.close()
        keys.close()
        engine.dispose()


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def text_of(page: httpx2.Response) -> str:
    """What a page says, without what differs from showing to showing."""
    text = re.sub(r"Request [0-9a-f]{32}", "", page.text)
    return re.sub(r'name="form" value="[^"]*"', "", text)
