"""No account is seeded before every live worker has written down the holds that it took until then.

Redis may have been emptied, restarted, or taken back to an old snapshot at any moment before the
one in which an account is found to be without a seed. What workers took just before that, only
they know. So whoever seeds asks SQL's clock what time it is, and then waits until each worker's row
says that all that it took before that time is in SQL (`flushed_us`, store/replicas.py). Asking
through Redis makes the others do it at once: a hint; without it they do it every second.

Worst cases. A worker alone waits for its own writing only, in a fleet an account's first call takes
about 0.1 s longer. A worker that was killed is waited for until its row is taken away, or is old:
until then accounts without a seed are unavailable.
"""

from __future__ import annotations

import logging
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import Final, Protocol

from authz.holdwriter import HoldWriter
from store.errors import StoreError, StoreUnavailableError
from store.replicas import Replica

BARRIER_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.02
ASKED_SECONDS: Final = 0.1
"""How often a worker looks whether somebody waits for it."""

FLUSH_SECONDS: Final = 1.0
"""How often it says without being asked what it has written."""

TAKER: Final = "authz"
"""The kind of process that takes."""

_log = logging.getLogger(__name__)


class Fleet(Protocol):
    """The processes of the data path, as waiting for them needs them."""

    def now_us(self) -> int: ...

    def live(self) -> list[Replica]: ...

    def flushed(self, replica_id: str, flushed_us: int) -> None: ...


class Hint(Protocol):
    """A number that all can see, and raise: somebody waits. It may be lost at any time."""

    def ask_flush(self) -> int: ...

    def flush_asked(self) -> int: ...


class Barrier:
    """Called before an account is seeded. Thread-safe; who comes together waits together."""

    def __init__(self, writer: HoldWriter, fleet: Fleet, hint: Hint, replica_id: str) -> None:
        self._writer = writer
        self._fleet = fleet
        self._hint = hint
        self._replica_id = replica_id
        self._lock = Lock()
        self._began = 0.0  # by the monotonic clock: the last wait that came to its end

    def __call__(self) -> None:
        """Wait until all that was taken before this call is in SQL.

        Raises StoreUnavailableError where that takes longer than `BARRIER_SECONDS`.
        """
        came = monotonic()
        until = came + BARRIER_SECONDS
        if not self._lock.acquire(timeout=BARRIER_SECONDS):
            raise _unavailable()
        try:
            if self._began <= came:  # else somebody's wait began after that, and is over
                began = monotonic()
                self._wait(until)
                self._began = began
        finally:
            self._lock.release()

    def _wait(self, until: float) -> None:
        moment = self._fleet.now_us()
        behind = self._behind(moment)
        if behind:
            self._hint.ask_flush()
        if not self._writer.flush(until - monotonic()):
            raise _unavailable()
        while behind:
            if monotonic() >= until:
                _log.warning("%s did not say in time what it took", ", ".join(behind))
                raise _unavailable()
            sleep(LOOK_SECONDS)
            behind = self._behind(moment)

    def _behind(self, moment_us: int) -> list[str]:
        return [
            each.name
            for each in self._fleet.live()
            if each.kind == TAKER and each.id != self._replica_id and each.flushed_us < moment_us
        ]


class FlushMark:
    """A worker's word for what it has written, kept up to date in its row by a thread."""

    def __init__(self, writer: HoldWriter, fleet: Fleet, hint: Hint, replica_id: str) -> None:
        self._writer = writer
        self._fleet = fleet
        self._hint = hint
        self._replica_id = replica_id
        self._flushed_us = 0
        self._takers = 1
        self._asked = 0
        self._failing = False
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="flush mark", daemon=True)

    @property
    def flushed_us(self) -> int:
        """The database's time before which every hold that was taken here is in SQL."""
        return self._flushed_us

    def takers(self) -> int:
        """How many workers live, as last known."""
        return self._takers

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        said = 0.0
        while not self._stopped.wait(ASKED_SECONDS):
            try:
                if self._is_asked() or monotonic() - said >= FLUSH_SECONDS:
                    self.flush()
                    said = monotonic()
            except StoreError as fault:
                if not self._failing:
                    _log.warning("it cannot be said which holds are written: %s", fault)
                self._failing = True
            except Exception:  # noqa: BLE001  a defect of ours; without this thread nobody seeds
                _log.exception("saying which holds are written failed, and goes on")
            else:
                self._failing = False

    def _is_asked(self) -> bool:
        try:
            asked = self._hint.flush_asked()
        except StoreError:
            return False  # nobody can seed either
        before, self._asked = self._asked, asked
        return asked != before  # less than before: what was there is lost, and somebody asked anew

    def flush(self) -> None:
        """Write all down, and say so. Raises StoreError."""
        moment = self._fleet.now_us()
        if self._writer.flush(BARRIER_SECONDS):
            self._flushed_us = moment
            self._fleet.flushed(self._replica_id, moment)
        self._takers = max(1, sum(each.kind == TAKER for each in self._fleet.live()))


def _unavailable() -> StoreUnavailableError:
    return StoreUnavailableError(
        "Not all workers have said in time what they took. Try again in a second."
    )
