"""The dashboard's process: settings, database, HTTP, and an orderly end at SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from admin.settings import AdminSettings
from admin.web.app import make_app
from admin.web.desk import Desk, Examine
from store.clock import wall_us
from store.daytotals import DayTotals, Keeper
from store.errors import InputError
from store.logform import log_as
from store.settings import PREFIX, load
from store.upgrades import open_state

DRAIN_SECONDS: Final = 3
KEEP_ALIVE_SECONDS: Final = 15
CONNECTIONS: Final = 500
BACKLOG: Final = 256

_log = logging.getLogger(__name__)


@contextmanager
def opened(settings: AdminSettings, examine: Examine) -> Iterator[Desk]:
    """The desk on the settings' database, with totals of days being kept; closed at the end."""
    engine = open_state(settings)
    parts = Desk(settings, engine, wall_us, examine)
    keeper = Keeper(DayTotals(engine, wall_us))
    keeper.start()
    try:
        yield parts
    finally:
        keeper.stop()
        parts.keys.close()
        engine.dispose()


class _Server(uvicorn.Server):
    """Ends on SIGTERM or Ctrl-C, and leaves a signal ignored that was so."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        wanted = [
            each
            for each in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(each) != signal.SIG_IGN
        ]
        before = {each: signal.signal(each, self.handle_exit) for each in wanted}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def serve(examine: Examine) -> int:
    """Serve until SIGTERM or Ctrl-C. Raises InputError or StoreError before it listens."""
    settings = load(AdminSettings)
    log_as("", settings.log_format)
    with opened(settings, examine) as parts, _listener(settings) as listener:
        parts.prepare()
        config = uvicorn.Config(
            make_app(parts),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.admin_trusted_proxies),
            forwarded_allow_ips=list(settings.admin_trusted_proxies),
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            lifespan="off",
            ws="none",
        )
        _log.info("the dashboard is at http://%s", settings.admin_listen)
        if settings.dashboard_url is None and not settings.is_local:
            _log.warning(
                "the dashboard listens on %s and is served as %s only: set %sDASHBOARD_URL to the "
                "address at which people reach it",
                settings.admin_listen,
                ", ".join(sorted(settings.hosts)),
                PREFIX,
            )
        asyncio.run(_Server(config).serve(sockets=[listener]))
    return 0


@contextmanager
def _listener(settings: AdminSettings) -> Iterator[socket.socket]:
    host, port = settings.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as fault:
        raise InputError(
            f"The dashboard cannot listen on {settings.admin_listen}: {fault.strerror}. "
            f"Name another address with {PREFIX}ADMIN_LISTEN.",
            code="cannot_listen",
        ) from None
    with made:
        # connections inherit it; asyncio sets it only where a socket says that it is TCP, and
        # without it a page's body waits 40 ms for the acknowledgement of its head
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield made
