"""The catalog in force, and how another takes its place while requests are answered.

A process that answers no checks, as a meter, has one in force as well, and never says `begin`.

One assignment puts a new catalog in force. A Check reads what it is answered by once, at its
beginning, so it sees one catalog from top to bottom; holds carry the price that they were made
with. What the servers list is judged by the new catalog from its next reading on (30 s).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock, Thread
from time import perf_counter, time
from typing import Any, Final, Self

from authz.change import RESTART, Change, changes, frame
from authz.check import Checker
from authz.endpoints import Table, table_of
from authz.metrics import Metrics
from store.catalog import Catalog, lost_plan
from store.errors import ConfigError, InputError, StoreUnavailableError

_MARK_CHARS: Final = 16
MOST_SAID: Final = 50  # changes, in a line of the log

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A catalog that can be used, the table that it makes, and the text that says it."""

    catalog: Catalog
    table: Table
    text: str
    mark: str
    """Of the text: two processes with the same have the same catalog in force."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ConfigError naming the line of every fault."""
        text = Catalog.text_of(path)
        catalog = Catalog.parse(text, str(path))
        mark = sha256(text.encode()).hexdigest()[:_MARK_CHARS]
        return cls(catalog, table_of(catalog), text, mark)

    def check_mark(self, envoys: str | None) -> None:
        """Raises ConfigError where Envoy is known to run with another frame than this one's."""
        if envoys is not None and frame(self.catalog, self.table).mark != envoys:
            raise ConfigError(
                f"The catalog {self.catalog.source} cannot be used:",
                (f"its upstreams or its endpoints are not those of the running Envoy; {RESTART}",),
            )


class InForce:
    """What is in force now. `catalog` and `checker` are safe to read from any thread."""

    def __init__(self, path: Path, loaded: Loaded, metrics: Metrics) -> None:
        self._path = path
        self._loaded = loaded
        self._metrics = metrics
        self._checker: Checker | None = None
        self._plans: Callable[[], Mapping[str, int]] = dict
        self._one_at_a_time = Lock()
        metrics.catalog_loaded.set(time())

    def catalog(self) -> Catalog:
        """The catalog in force."""
        return self._loaded.catalog

    def mark(self) -> str:
        """Tells this catalog from others."""
        return self._loaded.mark

    def table(self) -> Table:
        """The table that goes with it."""
        return self._loaded.table

    def written(self) -> dict[str, str]:
        """Where it was read, and what stood there: the file may say something else by now."""
        return {"path": str(self._path), "text": self._loaded.text}

    def begin(self, checker: Checker, plans: Callable[[], Mapping[str, int]]) -> None:
        """Checks are answered by this checker, until a catalog takes the place of its own.

        `plans` tells how many accounts are on each plan; it raises StoreUnavailableError.
        """
        self._checker = checker
        self._plans = plans

    @property
    def checker(self) -> Checker:
        """What the next Check is answered by, whole."""
        if self._checker is None:
            raise AssertionError("a Check was asked before `begin`")
        return self._checker

    def reload(self) -> dict[str, Any]:
        """Read the file again and put it in force. Every request is answered meanwhile.

        {path, changes (see authz.change), warnings, seconds}. Raises ConfigError that names every
        fault: then the old one stays in force.
        """
        with self._one_at_a_time:
            started = perf_counter()
            try:
                found = self._turn(Loaded.read(self._path))
            except Exception as fault:
                self._metrics.catalog_reload_failures.inc()
                if isinstance(fault, InputError):
                    _log.error("the old catalog stays in force: %s", fault)
                raise
            self._metrics.catalog_loaded.set(time())
            warnings = self._lost()
        _log.info("catalog %s in force: %s", self._path, _said(found))
        for warning in warnings:
            _log.warning("%s", warning)
        return {
            "path": str(self._path),
            "changes": found,
            "warnings": warnings,
            "seconds": round(perf_counter() - started, 3),
        }

    def try_out(self) -> None:
        """Read the file again and change nothing. Raises ConfigError where `reload` would."""
        self._fits(Loaded.read(self._path))

    def _fits(self, new: Loaded) -> None:
        old = self._loaded
        faults = frame(old.catalog, old.table).faults(frame(new.catalog, new.table))
        if faults:
            raise ConfigError(
                f"The catalog {self._path} cannot take the place of the one in force:", faults
            )

    def _turn(self, new: Loaded) -> list[Change]:
        self._fits(new)
        found = changes(self._loaded.catalog, new.catalog)
        checker = self._checker
        if checker is not None:
            reader = replace(checker.reader, table=new.table)
            self._checker = replace(checker, catalog=new.catalog, reader=reader)
        self._loaded = new
        return found

    def _lost(self) -> list[str]:
        """A sentence for each plan that accounts are on and the catalog does not name."""
        try:
            lost = self.catalog().lost(self._plans())
        except StoreUnavailableError:
            return ["Which plans accounts are on could not be read: the database does not answer."]
        return [lost_plan(plan, number) for plan, number in sorted(lost.items())]


def _said(found: list[Change]) -> str:
    shown = [f"{each['what']} {each['name']} {each['change']}" for each in found[:MOST_SAID]]
    more = [f"{len(found) - MOST_SAID} more"] if found[MOST_SAID:] else []
    return ", ".join(shown + more) or "nothing changed"


def note_hangups() -> None:
    """From here on SIGHUP ends nothing: it is kept until `reloading` takes it.

    To be called before there is any other thread. No handler is waited for: it would run when the
    main thread wakes, which waits for an end.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)  # what is ignored is not kept
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


@contextmanager
def reloading(reload: Callable[[], Any]) -> Iterator[None]:
    """Reload on every SIGHUP, in a thread of its own; several that are kept are one."""
    ended = Event()

    def run() -> None:
        while signal.sigwait({signal.SIGHUP}) and not ended.is_set():
            try:
                reload()
            except InputError:
                pass  # told and counted where it was raised
            except Exception:  # noqa: BLE001  counted as well; the next file may do
                _log.exception("the catalog was not reloaded")

    thread = Thread(target=run, name="reload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            signal.pthread_kill(thread.ident, signal.SIGHUP)  # to it alone: nobody else may take it
        thread.join()
