"""`tensorgate authz --workers N`: the supervisor of N workers and their meter.

    supervisor ─┬─ meter     reads the access log, ends holds, sweeps
                ├─ authz-0   answers checks, on a core of its own where there are enough
                └─ authz-1 …

It starts them, starts again with back-off whoever ends, answers for all of them at one health, one
control socket and one `/metrics`, and has the catalog read again on SIGHUP by all or by none. On
SIGTERM it says NOT_SERVING, has the workers drain (each says NOT_SERVING, serves on for 1.2 s, then
stops), then the meter, so that the workers' last calls are heard of. None outlives it, however it
ends. It decides nothing, and of the stores it opens SQL alone: whoever waits for the word of a
process that died need not, once its row is taken away (store/replicas.py).

What ends before all were ready for the first time ends the gate: its configuration is wrong, and
its log says how. A process that says nothing at its health socket any more, not even that it lives,
is killed after SILENT_LOOKS seconds of that.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from authz.control import Responder, serving
from authz.exposition import SharedNumbers, exposing
from authz.health import Health, telling
from authz.health import serving as is_serving
from authz.joined import Joined
from authz.lease import sockets_of
from authz.metrics import FOLDER
from authz.presence import name_of
from authz.reload import Loaded
from authz.settings import AuthzSettings
from authz.sockets import CONTROL, HEALTH, Place, Role
from authz.supervise import Program, Signals, Supervisor, ended
from store.engines import open_engine
from store.errors import InputError, StoreError
from store.replicas import Replicas
from store.settings import PREFIX

METRICS_NAME: Final = "metrics"
LOOK_SECONDS: Final = 1.0
FIRST_LOOK_SECONDS: Final = 0.1  # until all were ready once
SILENT_LOOKS: Final = 30  # of a second each
STOP_SECONDS: Final = 12.0  # 1.2 s of drain, 2 s for calls, and what waits for the ledger

_log = logging.getLogger(__name__)


def supervise(settings: AuthzSettings) -> bool:
    """The whole life of the supervisor. False if it ended without having been asked to.

    Raises ConfigError, StoreError or OSError where it cannot begin.
    """
    Loaded.read(settings.catalog).check_mark(settings.envoy_mark)  # one error and not one for each
    with Signals(part=True) as signals, ExitStack() as stack:
        stack.enter_context(sockets_of(settings.runtime))
        fleet = Fleet(settings, signals)
        stack.callback(fleet.kill)
        stack.enter_context(fleet.answering())
        fleet.start()
        if not fleet.watch():
            return False
        _log.info("draining")
        fleet.stop()
    _log.info("stopped")
    return True


class Fleet:
    """The processes of a gate with workers. Its methods belong to the main thread."""

    def __init__(self, settings: AuthzSettings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._places = Place.all_of(settings.workers)
        self._workers = [place.name for place in self._places if place.role is Role.CHECKS]
        self._registry = CollectorRegistry()
        self._numbers = SharedNumbers(settings.runtime / METRICS_NAME)
        self._numbers.clear()
        self._registry.register(self._numbers)
        self._restarts = Counter(
            "tensorgate_process_restarts",
            "Processes of this gate that ended and were started again.",
            ("process",),
            registry=self._registry,
        )
        for place in self._places:
            self._restarts.labels(place.name)
        self._supervisor = Supervisor(signals, _log.warning, died=self._died)
        self._joined = Joined(
            settings.runtime,
            settings.state,
            self._places,
            lambda name: self._supervisor.pass_on(name, signal.SIGHUP),
        )
        self._health = Health()
        self._was_ready = False
        self._silent: dict[str, int] = {}  # looks, of who has said something since it was started
        self._reload_wanted = Event()
        self._ending = Event()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Health, control socket and `/metrics`, for all processes."""
        settings = self._settings
        responder = Responder(settings.state, self._joined.methods())
        threads = [
            Thread(target=self._look, name="look", daemon=True),
            Thread(target=self._reload_when_asked, name="reload", daemon=True),
        ]
        with (
            telling(settings.runtime / HEALTH, self._health, settings.health_listen),
            serving(settings.runtime / CONTROL, responder),
            exposing(settings.metrics_address, self._registry),
        ):
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._end()
                for thread in threads:
                    thread.join()

    def start(self) -> None:
        """Start every process. Raises OSError."""
        for place in self._places:
            self._supervisor.start(self._program(place))

    def watch(self) -> bool:
        """Keep them running until somebody asks to stop: True. False: it makes no sense to."""
        while not self._signals.asked:
            if not self._was_ready and (failed := self._failed()):
                _log.error("%s, before all processes were ready once", failed)
                return False
            due = self._supervisor.tend()
            if self._signals.take_hangup():
                self._reload_wanted.set()
            self._signals.wait(due)
        return True

    def stop(self) -> None:
        """Drain the workers, then the meter."""
        self._end()
        self._health.drain()
        self._supervisor.stop(*self._workers)
        self._supervisor.stop(Place(Role.METER).name)

    def kill(self) -> None:
        """Whatever is left."""
        self._supervisor.kill_all()

    def _failed(self) -> str:
        """Which process has ended, in words; empty for none."""
        for name, child in self._supervisor.children.items():
            if not child.alive:
                return f"{name} {ended(child.process.returncode)}"
        return ""

    def _died(self, name: str) -> None:
        pid = self._supervisor.children[name].process.pid
        Thread(target=self._bury, args=(name_of(name, pid),), name="bury", daemon=True).start()
        self._silent.pop(name, None)
        self._numbers.died(name)
        self._restarts.labels(name).inc()

    def _bury(self, name: str) -> None:
        """Take away the row of a process; where SQL is out it is old in three seconds anyway."""
        engine = open_engine(self._settings.sql_url)
        try:
            Replicas(engine).died(name)
        except StoreError as fault:
            _log.warning("the row of %s cannot be taken away: %s", name, fault)
        finally:
            engine.dispose()

    def _program(self, place: Place) -> Program:
        # -P: a module that lies in the present folder must not take the place of one of ours
        command = "meter" if place.role is Role.METER else "authz"
        argv = (sys.executable, "-P", "-m", "tensorgate", command)
        environ = {
            **os.environ,
            FOLDER: str(self._settings.runtime / METRICS_NAME),
            f"{PREFIX}WORKERS": str(self._settings.workers),
        }
        if place.role is Role.CHECKS:
            environ[f"{PREFIX}WORKER"] = str(place.worker)
        return Program(place.name, argv, None, environ, stop_seconds=STOP_SECONDS)

    def _end(self) -> None:
        """Have the threads end once they have done what they are at."""
        self._ending.set()
        self._reload_wanted.set()

    def _reload_when_asked(self) -> None:
        """On SIGHUP; several that come meanwhile are one. What was done, each process logs."""
        while True:
            self._reload_wanted.wait()
            self._reload_wanted.clear()
            if self._ending.is_set():
                return
            try:
                self._joined.reload()
            except (InputError, StoreError) as fault:
                _log.error("the catalog was not reloaded: %s", fault)
            except Exception:  # noqa: BLE001  a defect of ours; the next hangup may do
                _log.exception("the catalog was not reloaded")

    def _look(self) -> None:
        """Ask each process whether it wants calls; one worker that does is enough for the gate."""
        runtime = self._settings.runtime
        while not self._ending.wait(LOOK_SECONDS if self._was_ready else FIRST_LOOK_SECONDS):
            said = {place.name: is_serving(runtime / place.health) for place in self._places}
            self._health.serving = any(said[name] for name in self._workers)
            if not self._was_ready and all(said.values()):
                self._was_ready = True
                listen = self._settings.metrics_listen
                _log.info("all %d processes are ready, metrics on %s", len(said), listen)
            elif self._was_ready:
                for name, answer in said.items():
                    self._hear(name, silent=answer is None)

    def _hear(self, name: str, *, silent: bool) -> None:
        """Kill who has spoken and lives on without a word; the dead are started again anyway."""
        if not silent:
            self._silent[name] = 0
        elif name in self._silent:
            self._silent[name] = looks = self._silent.get(name, 0) + 1
            if looks == SILENT_LOOKS:
                _log.error("%s has said nothing for %d looks, and is killed", name, looks)
                self._supervisor.pass_on(name, signal.SIGKILL)
