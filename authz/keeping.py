"""Takes in Redis as a worker does them: each hold kept until SQL has it, no answer forgotten.

A take of which no answer came may have been done, or may be done yet: the command can lie in the
socket of a server that does not run. Such a draft is withdrawn, by its hold's id, before anything
else of its account is taken once Redis answers again: the hold ends as released, and a take that
comes only then is refused. (Other accounts do not wait for that: theirs may lie on another node,
which is well.)

Worst case. At most `MAX_LOST` of these are kept; a hold beyond that, or of a worker that died
meanwhile, stands until it is swept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from secrets import token_hex
from threading import Lock
from typing import Final, Protocol

from authz.holdwriter import HoldWriter
from store.counters.model import (
    Ended,
    Generation,
    Limit,
    NotSeeded,
    Refused,
    Seed,
    Standings,
    Taken,
)
from store.errors import StoreUnavailableError, UnansweredError
from store.records import Hold
from store.seeding import Seedable

MAX_LOST: Final = 1000
RECOVER_WAIT_SECONDS: Final = 0.02
"""How long a take waits for another that withdraws them."""


class Takes(Seedable, Protocol):
    """Counters outside of the process, as a worker needs them."""

    def give_back(self, hold: Hold, mark: str = "") -> bool: ...

    def withdraw(self, draft: Hold) -> Hold | None: ...


class KeptCounters:
    """Thread-safe. `release` is told of each hold that nobody has any more, to end it."""

    def __init__(
        self, counters: Takes, writer: HoldWriter, release: Callable[[Hold], None]
    ) -> None:
        self._counters = counters
        self._writer = writer
        self._release = release
        self._lost = _Lost()
        self._withdrawing = Lock()

    @property
    def lost(self) -> int:
        """Of how many takes and returns it is not known whether they were done."""
        return len(self._lost)

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        """As Counters.take. Raises StoreUnavailableError also where too many holds wait for SQL."""
        account_id = account_id if draft is None else draft.account_id
        if account_id in self._lost:
            self.recover(RECOVER_WAIT_SECONDS, account_id)
        if draft is None:
            return self._counters.take(request_id, None, limits, account_id)
        hold: Hold | None = None
        self._writer.begin(draft.id)
        try:
            answer = self._counters.take(request_id, draft, limits, account_id)
            if isinstance(answer, Taken):
                hold = answer.hold
        except UnansweredError:
            self._lost.add(draft, "")
            raise
        finally:
            self._writer.finish(draft.id, hold)
        return answer

    def recover(self, seconds: float = -1, account_id: str | None = None) -> None:
        """Undo what no answer came of, of one account or of all that can be asked for.

        Raises StoreUnavailableError: Redis is out still, or the node that has one of them. Also
        where another does so, and is not ready after so many seconds.
        """
        if not self._withdrawing.acquire(timeout=seconds):
            raise StoreUnavailableError(
                "What Redis did not answer to is being withdrawn. Try again in a second."
            )
        try:
            out = None
            for hold, mark in self._lost.of(account_id):
                try:
                    self._undo(hold, mark)
                except StoreUnavailableError as fault:
                    out = fault
            if out is not None:
                raise out
        finally:
            self._withdrawing.release()

    def _undo(self, hold: Hold, mark: str) -> None:
        if mark:
            left = hold if self._counters.give_back(hold, mark) else None
        else:
            left = self._counters.withdraw(hold)
        self._lost.remove(hold, mark)
        if left is not None:
            self._release(left)

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings] | NotSeeded:
        """As Counters.peek."""
        return self._counters.peek(limits, account_id)

    def give_back(self, hold: Hold) -> bool:
        """As Counters.give_back. Where that is not known, it is asked again later: False."""
        mark = token_hex(8)
        try:
            last = self._counters.give_back(hold, mark)
        except StoreUnavailableError:
            self._lost.add(hold, mark)
            return False
        if last:
            self._writer.drop(hold.id)
        return last

    def generation(self, account_id: str) -> Generation:
        """As Counters.generation."""
        return self._counters.generation(account_id)

    def seed(self, generation: Generation, seed: Seed) -> bool:
        """As Counters.seed."""
        return self._counters.seed(generation, seed)


class _Lost:
    """What is to be undone: a hold by itself, or, with a mark, given back. Thread-safe.

    The oldest go where there are more than `MAX_LOST`.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._holds: dict[tuple[str, str], Hold] = {}  # by id and mark, the oldest first
        self._accounts = Counter[str]()

    def __len__(self) -> int:
        return len(self._holds)

    def __contains__(self, account_id: str | None) -> bool:
        return account_id in self._accounts

    def add(self, hold: Hold, mark: str) -> None:
        with self._lock:
            if (hold.id, mark) not in self._holds:
                self._accounts[hold.account_id] += 1
                self._holds[hold.id, mark] = hold
            if len(self._holds) > MAX_LOST:
                self._drop(next(iter(self._holds)))

    def remove(self, hold: Hold, mark: str) -> None:
        with self._lock:
            self._drop((hold.id, mark))

    def of(self, account_id: str | None) -> list[tuple[Hold, str]]:
        """Those of an account, or all, the oldest first."""
        with self._lock:
            return [
                (hold, mark)
                for (_, mark), hold in self._holds.items()
                if account_id is None or hold.account_id == account_id
            ]

    def _drop(self, name: tuple[str, str]) -> None:
        hold = self._holds.pop(name, None)
        if hold is not None:
            self._accounts[hold.account_id] -= 1
            if not self._accounts[hold.account_id]:
                del self._accounts[hold.account_id]
