"""The parts of one gate as child processes: brought up in order, kept up, brought down in order.

Up: Valkey where several workers count in one of ours, authz (until each of its processes says
SERVING), the dashboard, the demo server where there is no upstream, Envoy (until it answers, and
asks for a key). Down: Envoy first, after a drain, so that authz is there for everything that Envoy
still has to ask and to log; Valkey last.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from authz import logs
from authz.health import serving as is_serving
from authz.sockets import healths
from authz.supervise import Child, Program, Say, Signals, Supervisor, ended
from store.errors import TensorgateError
from tensorgate import ports, valkey, vitals
from tensorgate.binaries import envoy_path
from tensorgate.drain import drain
from tensorgate.envoy.render import render
from tensorgate.ports import Address
from tensorgate.preflight import Setup

START_SECONDS: Final = 60.0
LOOK_EVERY: Final = 0.05
QUIET_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 5.0
FLEET_STOP_SECONDS: Final = 30.0  # workers, then their meter: 3 s, and more only while SQL is out
SHOWN_LINES: Final = 15
BOUND_LOGS_EVERY: Final = 60.0


class StartError(TensorgateError):
    """A part did not come up; the text has the end of its log."""


class Stopped(Exception):  # noqa: N818 -- no error: somebody asked
    """SIGINT or SIGTERM came while the parts were coming up."""


class Stack:
    """The children of one `tensorgate up`."""

    def __init__(self, setup: Setup, runtime: Path, signals: Signals, say: Say) -> None:
        self._setup, self._runtime, self._signals, self._say = setup, runtime, signals, say
        self._supervisor = Supervisor(signals, say)
        self._environ = setup.environ(runtime)
        self.upstream: Address = setup.upstream or Address(
            "127.0.0.1", ports.free_port("127.0.0.1")
        )

    def start(self) -> None:
        """Start every part and wait until each does its work. Raises StartError, Stopped."""
        if self._setup.own_valkey:
            counted = valkey.url(self._runtime)
            self._await(self._begin(self._valkey()), lambda: valkey.fault(counted) is None)
        # started together, for they do not need each other
        authz = self._begin(self._authz())
        admin = self._begin(self._program("admin", ("admin",)))
        demo = None
        if self._setup.upstream is None:
            demo = self._begin(self._program("demo", ("demo", "--listen", str(self.upstream))))
        for health in healths(self._runtime, self._setup.settings.workers).values():
            self._await(authz, partial(is_serving, health))
        if demo is not None:
            self._await(demo, lambda: vitals.http_status(self.upstream, "GET", "/health"))
        self._await(self._begin(self._envoy()), self._asks_for_keys)
        self._await(admin, self._dashboard_answers)

    def watch(self) -> None:
        """Keep the parts running until somebody asks to stop."""
        bounded = time.monotonic()
        while not self._signals.asked:
            due = self._supervisor.tend()
            if self._signals.take_hangup():
                self._supervisor.pass_on("authz", signal.SIGHUP)
            if time.monotonic() - bounded >= BOUND_LOGS_EVERY:
                bounded = time.monotonic()
                self._bound_logs()
            self._signals.wait(min(due, BOUND_LOGS_EVERY))

    def stop(self) -> None:
        """Bring everything down, in order; a second Ctrl-C makes it at once."""
        if self._signals.asked:
            self._say("stopping …")
        try:
            if "envoy" in self._supervisor.children and not self._signals.urgent:
                self._drain()
            for name in ("envoy", "admin", "authz", "demo", "valkey"):
                self._supervisor.stop(name)
        finally:
            self._supervisor.kill_all()

    def _program(self, name: str, words: tuple[str, ...]) -> Program:
        # -P: a module that lies in the present folder must not take the place of one of ours
        argv = (sys.executable, "-P", "-m", "tensorgate", *words)
        return Program(name, argv, self._log(name), self._environ)

    def _authz(self) -> Program:
        program = self._program("authz", ("authz",))
        several = self._setup.settings.workers > 1
        return replace(program, stop_seconds=FLEET_STOP_SECONDS) if several else program

    def _valkey(self) -> Program:
        argv = valkey.argv(self._runtime)
        return Program("valkey", argv, self._log("valkey"), self._environ, own_group=True)

    def _log(self, name: str) -> Path:
        return self._setup.state.logs / f"{name}.log"

    def _envoy(self) -> Program:
        state = self._setup.state
        options = self._setup.envoy(self._runtime, self.upstream)
        state.write(state.envoy_yaml.name, render(options))
        argv = (
            str(envoy_path()),  # the binary itself: a wrapper would take its signals
            *("--config-path", str(state.envoy_yaml)),
            *("--concurrency", str(options.concurrency)),
            *("--log-level", "warning"),
            *("--drain-time-s", "1"),
            *("--drain-strategy", "immediate"),
            "--disable-hot-restart",  # it would bind a name that all Envoys of a machine share
        )
        return Program("envoy", argv, self._log("envoy"), self._environ, own_group=True)

    def _begin(self, program: Program) -> Child:
        logs.bound(self._log(program.name))
        try:
            return self._supervisor.start(program)
        except OSError as fault:
            raise StartError(f"{program.name} cannot be started: {fault.strerror}.") from None

    def _await(self, child: Child, is_up: Callable[[], object]) -> None:
        """Return when `is_up` gives something true. Raises StartError, Stopped."""
        told = False
        while not is_up():
            if self._signals.asked:
                raise Stopped
            waited = time.monotonic() - child.started
            if not child.alive:
                raise StartError(self._story(child, ended(child.process.returncode)))
            if waited > START_SECONDS:
                raise StartError(self._story(child, f"is not ready after {START_SECONDS:.0f} s"))
            if waited > QUIET_SECONDS and not told:
                told = True
                self._say(f"starting {child.program.name} …")
            self._signals.wait(LOOK_EVERY)

    def _story(self, child: Child, what: str) -> str:
        log = self._log(child.program.name)
        last = logs.tail(log, SHOWN_LINES)
        shown = [f"The end of {log}:", *(f"  {line}" for line in last)]
        return "\n".join([f"{child.program.name} {what}.", *(shown if last else ())])

    def _asks_for_keys(self) -> bool:
        """Envoy listens, and what needs a key does not go without one."""
        local = self._setup.local
        health = vitals.http_status(local, "GET", "/healthz")
        if health is None or health[0] != vitals.OK:
            return False
        refused = vitals.http_status(local, "POST", "/v1/chat/completions")
        return refused is not None and refused[0] == vitals.UNAUTHORIZED

    def _dashboard_answers(self) -> bool:
        """It can do its work: its database and the catalog are there."""
        here = self._setup.admin
        ready = vitals.http_status(Address(ports.reach(here.host), here.port), "GET", "/readyz")
        return ready is not None and ready[0] == vitals.OK

    def _drain(self) -> None:
        """No new connections; what is in flight may end; then the access log is sent."""
        drain(
            self._runtime / "envoy-admin.sock",
            seconds=DRAIN_SECONDS,
            pause=self._signals.wait,
            hurry=lambda: self._signals.urgent,
            waiting=lambda left: self._say(
                f"{left} in flight; waiting at most {DRAIN_SECONDS:.0f} s"
                " (Ctrl-C again to stop at once)"
            ),
        )

    def _bound_logs(self) -> None:
        for name in self._supervisor.children:
            log = self._log(name)
            try:
                logs.bound(log)
            except OSError as fault:  # a full disk must not end the gate
                self._say(f"{log} cannot be bounded: {fault.strerror}")
