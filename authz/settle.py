"""How holds end: written down, booked in groups off the path, then settled in the counters.

    journal END → ledger row (ours, or the one that is there) → counters, with that row's charge
    → journal DONE

Whoever ends a hold does all of it, in this order, so two who end the same one do no harm: the
row that is there first is final, and both settle with it.

Counters outside of the process have no journal: there SQL has the open holds. What they cannot be
told of is kept here until they can be, and the ledger does not wait for that.

Worst cases. A row is in SQL 0.1 s after the end, plus SQL's own time. While SQL is out, ends wait
here, at most `MAX_WAITING`; those beyond stay in the journal and are booked as held once swept.
While Redis is out, as many booked ends wait to be settled; of those beyond, and of a process that
dies meanwhile, the holds stay open there: swept, they find their row and are settled by it.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic
from typing import Final, NamedTuple, Protocol

from authz.bound import MAX_NANOUSD
from authz.groupwriter import GroupWriter
from authz.metrics import Metrics
from authz.observe import SQL, observed
from store.errors import StoreError
from store.records import Basis, Charge, Hold, LedgerRow
from store.text import usd

GROUP_SECONDS: Final = 0.05
GROUP_ROWS: Final = 1024
RETRY_SECONDS: Final = (0.1, 0.2, 0.4, 1.0)
SETTLE_RETRY_SECONDS: Final = 0.1  # who is out fails at once, and rows must not wait for it
MAX_WAITING: Final = 100_000
TOGETHER: Final = 128  # are settled in one go

End = tuple[Hold, Charge]
"""A hold and how it ended."""

_log = logging.getLogger(__name__)


class Books(Protocol):
    """The ledger, as settling needs it."""

    def book(self, ended: Sequence[End]) -> dict[str, LedgerRow]: ...


class OpenHolds(Protocol):
    """The counters, as settling needs them."""

    def close(self, hold: Hold) -> bool: ...

    def settle(self, hold: Hold, charge_nanousd: int) -> bool: ...


class EndsJournal(Protocol):
    """The journal, as settling needs it."""

    def end(self, *charges: Charge) -> None: ...

    def done(self, *hold_ids: str) -> None: ...


SettleAll = Callable[[Sequence[tuple[Hold, int]]], Sequence[bool | StoreError]]


class _Booked(NamedTuple):
    """An end whose row is in SQL. `ours`: the row says what `charge` says."""

    hold: Hold
    charge: Charge
    nanousd: int
    ours: bool


class Settler(GroupWriter[End]):
    """Ends holds, in a thread of its own. `end` never waits for SQL.

    `settle_all` settles many in one go, where counters can, and answers for each.
    `missed` is told of each hold whose row is new and which the counters did not know: of its
    account SQL knows more than they do.
    """

    def __init__(
        self,
        counters: OpenHolds,
        journal: EndsJournal,
        books: Books,
        metrics: Metrics,
        known_model: Callable[[str], bool],
        *,
        settle_all: SettleAll | None = None,
        missed: Callable[[Hold], None] = lambda _hold: None,
    ) -> None:
        super().__init__("settle", "ends of holds", RETRY_SECONDS)
        self._counters = counters
        self._settle_all = settle_all
        self._missed = missed
        self._journal = journal
        self._books = books
        self._metrics = metrics
        self._known_model = known_model
        self._disbelieved: set[str] = set()  # models of which that was said
        self._waiting: deque[tuple[Hold, Charge, float]] = deque()
        self._waiting_ids: set[str] = set()
        self._booked: deque[_Booked] = deque()  # and not settled yet
        self._counters_out = False
        metrics.follow(metrics.ledger_lag, self.lag_seconds)

    def start(self, ends: Sequence[End] = ()) -> None:
        """Begin, with the ends that a journal still knew of."""
        now = monotonic()
        self._waiting.extend((hold, charge, now) for hold, charge in ends)
        self._waiting_ids.update(hold.id for hold, _ in ends)
        super().start()

    def is_ending(self, hold_id: str) -> bool:
        """Whether an end of this hold waits for the ledger, or for the counters."""
        return hold_id in self._waiting_ids

    def end(self, hold: Hold, charge: Charge) -> None:
        """A hold has ended with this charge, if nobody ended it otherwise before."""
        self.end_all([(hold, charge)])

    def end_all(self, ends: Sequence[End]) -> None:
        """As `end`, for all that ended together: it costs little more than one does."""
        now = monotonic()
        known = dropped = 0
        new: list[tuple[Hold, Charge, float]] = []
        with self._changed:
            room = MAX_WAITING - len(self._waiting)
            for hold, charge in ends:
                if hold.id in self._waiting_ids:
                    known += 1
                elif len(new) >= room:
                    dropped += 1
                else:
                    self._waiting_ids.add(hold.id)
                    new.append((hold, charge, now))
        if known:
            self._metrics.late_settlements.inc(known)
        if dropped:
            self._metrics.settlements_dropped.inc(dropped)
        if new:
            self._write_down(new)
            with self._changed:
                self._waiting.extend(new)
                self._changed.notify()

    def exceeded(self, hold: Hold) -> None:
        """What the server reports for a hold cannot be, and the hold is charged instead."""
        model = self._label(hold)
        self._metrics.hold_exceeded.labels(model).inc()
        if model not in self._disbelieved:
            self._disbelieved.add(model)
            _log.error(
                "the server of model %r reports a usage of more than %s for request %s: it is not "
                "believed, and the whole hold is charged. Look at what that server says it used",
                hold.model,
                usd(MAX_NANOUSD),
                hold.request_id,
            )

    def _label(self, hold: Hold) -> str:
        return hold.model if self._known_model(hold.model) else "other"

    def _write_down(self, ends: Sequence[tuple[Hold, Charge, float]]) -> None:
        for hold, _, _ in ends:
            self._close(hold)
        try:
            self._journal.end(*[charge for _, charge, _ in ends])
        except StoreError as fault:  # only a crash before they are booked forgets how they ended
            _log.warning("the journal did not take %d ends: %s", len(ends), fault)
        except Exception:  # noqa: BLE001  a defect of ours: likewise, or they would wait for ever
            _log.exception("%d ends cannot be written down", len(ends))

    def _close(self, hold: Hold) -> None:
        try:
            self._counters.close(hold)
        except StoreError:  # they are out: a Check that repeats its request finds it open still
            _log.debug("hold %s could not be closed", hold.id)
        except Exception:  # noqa: BLE001  a defect of ours: it is booked all the same
            _log.exception("hold %s cannot be closed", hold.id)

    @property
    def waiting(self) -> int:
        """How many ends are not in the ledger yet."""
        return len(self._waiting)

    def lag_seconds(self) -> float:
        """The age of the oldest of them, 0 if there is none."""
        try:
            return monotonic() - self._waiting[0][2]
        except IndexError:
            return 0.0

    def _turn(self) -> bool:
        """Book the next group once there is one. True if there is no more to be done."""
        with self._changed:
            while not (self._waiting or self._booked or self._stopping):
                self._changed.wait()
            if not self._waiting and not self._booked:
                return True
            if self._waiting:
                self._changed.wait_for(self._is_full, GROUP_SECONDS)
            group = [(hold, charge) for hold, charge, _ in islice(self._waiting, GROUP_ROWS)]
        if group and not self._write(group):
            return self._pause(self._back_off())
        settled = self._settle()
        with self._changed:
            for _ in group:
                self._waiting.popleft()
        return not settled and self._pause(SETTLE_RETRY_SECONDS)

    def _is_full(self) -> bool:
        return self._stopping or len(self._waiting) >= GROUP_ROWS

    def _put(self, group: Sequence[End]) -> None:
        """Book them."""
        with observed(self._metrics, SQL, "book"):
            others = self._books.book(group)
        for hold, charge in group:
            row = others.get(hold.id)
            if row is None:
                self._booked.append(_Booked(hold, charge, charge.nanousd, ours=True))
            else:
                ours = row.settled_us == charge.settled_us
                self._booked.append(_Booked(hold, charge, row.charge_nanousd, ours))

    def _drop(self, one: End) -> None:
        hold, _ = one
        _log.exception("the end of hold %s cannot be booked", hold.id)
        self._metrics.settlements_dropped.inc()
        self._forget(hold)

    def _is_left(self) -> bool:
        return bool(self._waiting or self._booked)

    def _forget(self, hold: Hold) -> None:
        with self._changed:
            self._waiting_ids.discard(hold.id)

    def _settle(self) -> bool:
        """Settle what is booked with the charge of the row that stands, which may be another's.

        False if counters are out: theirs are to be tried again. One that fails otherwise counts
        as open still: it is swept, finds its row, and is settled then.
        """
        ours: list[End] = []
        settled: list[str] = []
        left: deque[_Booked] = deque()
        failed: StoreError | None = None
        while self._booked:
            part = [self._booked.popleft() for _ in range(min(TOGETHER, len(self._booked)))]
            failures = 0
            for booked, answer in zip(part, self._ask(part), strict=True):
                if isinstance(answer, StoreError):
                    left.append(booked)
                    failures, failed = failures + 1, answer
                    continue
                self._forget(booked.hold)
                if answer is not None:
                    settled.append(booked.hold.id)
                    if booked.ours:
                        ours.append((booked.hold, booked.charge))
            if failures == len(part):
                break  # nobody answers, or a node of several: the next turn begins behind these
        self._booked.extend(left)
        self._say_whether_out(failed)
        self._finish(ours, settled)
        return failed is None

    def _ask(self, part: Sequence[_Booked]) -> list[bool | StoreError | None]:
        """What became of each: None if that cannot be done."""
        answers: Sequence[bool | StoreError | None] | None = None
        if self._settle_all is not None:
            try:
                answers = self._settle_all([(each.hold, each.nanousd) for each in part])
            except Exception:  # noqa: BLE001  a defect of ours in one: the rest must be settled
                _log.exception("%d ends cannot be settled together", len(part))
        if answers is None:
            answers = [self._one(each) for each in part]
        return [self._look(*each) for each in zip(part, answers, strict=True)]

    def _one(self, booked: _Booked) -> bool | StoreError | None:
        try:
            return self._counters.settle(booked.hold, booked.nanousd)
        except StoreError as fault:
            return fault
        except Exception:  # noqa: BLE001  a defect of ours: the rest must be settled
            _log.exception("hold %s is booked and cannot be settled", booked.hold.id)
            return None

    def _look(self, booked: _Booked, answer: bool | StoreError | None) -> bool | StoreError | None:
        if answer is False and booked.ours:
            try:
                self._missed(booked.hold)
            except StoreError as fault:
                return fault
        return answer

    def _say_whether_out(self, fault: StoreError | None) -> None:
        """Once, and that it is over; and let go of what is beyond the bound."""
        if fault is not None and not self._counters_out:
            _log.warning("%d booked ends cannot be settled yet: %s", len(self._booked), fault)
        elif fault is None and self._counters_out:
            _log.info("booked ends can be settled again")
        self._counters_out = fault is not None
        while len(self._booked) > MAX_WAITING:
            self._forget(self._booked.popleft().hold)

    def _finish(self, ours: list[End], settled: list[str]) -> None:
        """Say of what is settled that it is done, and count it."""
        if len(ours) < len(settled):
            self._metrics.late_settlements.inc(len(settled) - len(ours))
        try:
            self._count(ours)
        except Exception:  # noqa: BLE001  a defect of ours: metrics are not worth a charge
            _log.exception("%d ends cannot be counted in metrics", len(ours))
        try:
            self._journal.done(*settled)
        except StoreError as fault:
            _log.warning("the journal did not take that %d holds are done: %s", len(settled), fault)
        except Exception:  # noqa: BLE001  they are booked; a start that finds them finds their rows
            _log.exception("%d holds cannot be marked as done", len(settled))

    def _count(self, ends: list[End]) -> None:
        """Added up first, as each touch of a metric costs as much as a row."""
        bases, spent, exceeded = Counter[str](), Counter[str](), Counter[str]()
        tokens: Counter[tuple[str, str]] = Counter()
        for hold, charge in ends:
            model = self._label(hold)
            bases[charge.basis.value] += 1
            spent[model] += charge.nanousd
            if charge.nanousd > hold.nanousd and charge.basis is Basis.METERED:
                exceeded[model] += 1
            tokens[model, "input"] += charge.input_tokens
            tokens[model, "cached_input"] += charge.cached_input_tokens
            tokens[model, "cache_write"] += charge.cache_write_tokens
            tokens[model, "output"] += charge.output_tokens
        metrics = self._metrics
        for basis, number in bases.items():
            metrics.settlements.labels(basis).inc(number)
        for model, number in exceeded.items():
            metrics.hold_exceeded.labels(model).inc(number)
        for model, nanousd in spent.items():
            metrics.spend_usd.labels(model).inc(nanousd / 1e9)
        for (model, kind), number in tokens.items():
            if number:
                metrics.tokens.labels(model, kind).inc(number)
