"""No account is seeded before every live worker has written down the holds that it took until then.

Redis may have been emptied, restarted, or taken back to an old snapshot at any moment before the
one in which an account is found to be without a seed. What workers took just before that, only
they know. So whoever seeds asks SQL's clock what time it is, and then waits until each worker's row
says that all that it took before that time is in SQL (`flushed_us`, store/replicas.py). Asking
through Redis makes the others do it at once: a hint; without it (in a cluster it lies on one node,
which may be out alone) they do it every second.

That is a round, and a thread's to make; whoever needs one waits for it as long as it can, and
finds it made when it is asked again.

Worst cases. A worker alone waits for its own writing only, in a fleet an account's first call takes
about 0.1 s longer. A worker that was killed is waited for until its row is taken away, or is old:
until then accounts without a seed are unavailable. A worker that reaches Redis and not SQL is
waited for no longer than its row is new (3 s); if Redis is lost after that, and before its keys are
stale (`KEY_STALE_SECONDS`), what it took in between counts nowhere until it is in SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from time import monotonic, sleep
from typing import Final, Protocol

from authz.holdwriter import HoldWriter
from store.background import Background
from store.errors import StoreError, StoreUnavailableError
from store.replicas import Replica

ROUND_SECONDS: Final = 1.5  # more than passes between two words of a worker that is not asked
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


class Barrier(Background):
    """Passed before an account is seeded. Thread-safe."""

    def __init__(self, writer: HoldWriter, fleet: Fleet, hint: Hint, replica_id: str) -> None:
        super().__init__("barrier")
        self._writer = writer
        self._fleet = fleet
        self._hint = hint
        self._replica_id = replica_id
        self._wanted = False
        self._began = 0.0  # by the monotonic clock: the last round that came to its end

    def __call__(self, since: float, seconds: float) -> None:
        """Return once all that was taken before a moment of the monotonic clock is in SQL.

        Raises StoreUnavailableError where that takes longer than so many seconds.
        """
        with self._changed:
            if self._began > since:
                return
            self._wanted = True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._began > since, max(0.0, seconds)):
                raise StoreUnavailableError(
                    "Not all workers have said in time what they took. Try again in a second."
                )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopping)
                if self._stopping:
                    return
                self._wanted = False
            began = monotonic()
            try:
                made = self._round()
            except StoreError as fault:
                _log.warning("accounts cannot be seeded: %s", fault)
                made = False
            except Exception:  # noqa: BLE001  a defect of ours; without this thread nobody seeds
                _log.exception("accounts cannot be seeded")
                made = False
            if not made:
                self._rest(LOOK_SECONDS)
                continue
            with self._changed:
                self._began = began
                self._changed.notify_all()

    def _round(self) -> bool:
        """False where somebody did not say in time what it took."""
        until = monotonic() + ROUND_SECONDS
        moment = self._fleet.now_us()
        behind = self._behind(moment)
        if behind:
            with suppress(StoreError):
                self._hint.ask_flush()
        if not self._writer.flush(until - monotonic()):
            return False
        while behind:
            if monotonic() >= until or self._stopping:
                _log.warning("%s did not say in time what it took", ", ".join(behind))
                return False
            sleep(LOOK_SECONDS)
            behind = self._behind(moment)
        return True

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
        self._takers = 1
        self._asked = 0
        self._failing = False
        self._stopped = Event()
        self._thread: Thread | None = None

    def takers(self) -> int:
        """How many workers live, as last known."""
        return self._takers

    def start(self, answers: Callable[[], None]) -> None:
        """Begin to look. `answers` is called while Redis does, to do what was left undone."""
        self._thread = Thread(target=self._run, args=(answers,), name="flush mark", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, answers: Callable[[], None]) -> None:
        said = 0.0
        while not self._stopped.wait(ASKED_SECONDS):
            try:
                if self._is_asked(answers) or monotonic() - said >= FLUSH_SECONDS:
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

    def _is_asked(self, answers: Callable[[], None]) -> bool:
        try:
            asked = self._hint.flush_asked()
        except StoreError:
            return False  # it is said every second all the same
        with suppress(StoreError):  # a node of several is out: the next time
            answers()
        before, self._asked = self._asked, asked
        return asked != before  # less than before: what was there is lost, and somebody asked anew

    def flush(self) -> None:
        """Write all down, and say so. Raises StoreError."""
        moment = self._fleet.now_us()
        if self._writer.flush(ROUND_SECONDS):
            self._fleet.flushed(self._replica_id, moment)
        self._takers = max(1, sum(each.kind == TAKER for each in self._fleet.live()))
