"""`tensorgate up`: the whole gate on one machine, from nothing to the first call.

    check → state folder → database → Valkey, authz, admin, demo, Envoy → first user and key
          → ready → watch → stop

Valkey only where there are several workers and no Redis was named.

What is printed to be used (the ready line, the key, the curl line) goes to stdout; what tells of
progress and trouble goes to stderr. SIGINT, SIGTERM and a terminal that is closed stop it in order
with status 0; SIGHUP has authz read its catalog again.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from authz.supervise import Signals
from store import engines, upgrades
from tensorgate import preflight, welcome
from tensorgate.preflight import Asked, Setup
from tensorgate.stack import QUIET_SECONDS, Stack, StartError, Stopped
from tensorgate.upstream import ProbeThread, probe


def up(
    *,
    upstream: str | None = None,
    upstream_grpc: str | None = None,
    port: int = 8080,
    admin_port: int | None = None,
    state: Path | None = None,
    workers: int | None = None,
    listen: str = "127.0.0.1",
    metrics_listen: str | None = None,
) -> int:
    """Run the gate until it is asked to stop; the exit status.

    None is "not given": TENSORGATE_UPSTREAM, _UPSTREAM_GRPC, _STATE, _WORKERS, _METRICS_LISTEN,
    _ADMIN_LISTEN or a default speaks then.
    Raises InputError or StoreError for what a person can mend before anything has started.
    """
    asked = Asked(upstream, port, admin_port, state, workers, listen, metrics_listen, upstream_grpc)
    with Signals() as signals:
        try:
            _run(asked, signals)
        except Stopped:
            return 0
        except StartError as fault:
            _print(sys.stderr, f"error: {fault}")
            return 1
    return 0


def _run(asked: Asked, signals: Signals) -> None:
    setup = preflight.check(asked)
    asking = ProbeThread.asking(setup.upstream)
    setup.state.prepare()
    lock = setup.state.lock()
    try:
        for note in setup.notes:
            _say(note)
        _migrate(setup)
        stack = Stack(setup, setup.state.make_runtime(), signals, _say)
        try:
            stack.start()
            _announce(setup, stack, asking)
            stack.watch()
        finally:
            stack.stop()
            setup.state.remove_runtime()
    finally:
        os.close(lock)


def _migrate(setup: Setup) -> None:
    begun = time.monotonic()
    engine = engines.open_engine(setup.settings.sql_url)
    try:
        before = upgrades.upgrade(engine)
    finally:
        engine.dispose()
    took = time.monotonic() - begun
    if took > QUIET_SECONDS and before != upgrades.HEAD:
        _say(f"database brought to revision {upgrades.HEAD} in {took:.1f} s")


def _announce(setup: Setup, stack: Stack, asking: ProbeThread | None) -> None:
    """The gate is up: write where it is, make the first key, tell."""
    found = asking.answer() if asking else probe(stack.upstream)
    setup.state.write("url", f"{setup.url}\n")
    setup.state.write_running(
        setup.url,
        setup.local,
        stack.upstream,
        metrics=setup.metrics,
        admin=setup.admin,
        workers=setup.settings.workers,
    )
    lines = welcome.greet(setup, found)
    _print(sys.stdout, "\n".join([f"tensorgate ready  {setup.url}", *lines]))


def _say(line: str) -> None:
    _print(sys.stderr, f"tensorgate: {line}")


def _print(stream: TextIO, text: str) -> None:
    """Print at once. Nobody reading any more is no reason to stop the gate."""
    with suppress(OSError, ValueError):
        print(text, file=stream, flush=True)
