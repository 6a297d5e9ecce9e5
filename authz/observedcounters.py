"""How long Redis takes and how often it fails, seen from outside of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, ParamSpec, TypeVar

from authz.metrics import Metrics
from store.counters.link import Link
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
from store.counters.redis import RedisCounters
from store.errors import StoreError, StoreUnavailableError
from store.records import Hold

REDIS: Final = "redis"
_OPERATIONS: Final = (
    "take",
    "peek",
    "give_back",
    "withdraw",
    "settle",
    "beat",
    "hold",
    "overdue",
    "seed",
    "policy",
)
P = ParamSpec("P")
R = TypeVar("R")


class ObservedCounters(RedisCounters):
    """Counters in Redis, observed. Labels are looked up once, as each take comes here."""

    def __init__(self, link: Link, metrics: Metrics) -> None:
        super().__init__(link)
        self._observe = {
            op: (
                metrics.store_seconds.labels(REDIS, op).observe,
                metrics.store_errors.labels(REDIS, op).inc,
            )
            for op in _OPERATIONS
        }

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        """As RedisCounters.take."""
        return self._timed("take", super().take, request_id, draft, limits, account_id)

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings] | NotSeeded:
        """As RedisCounters.peek."""
        return self._timed("peek", super().peek, limits, account_id)

    def give_back(self, hold: Hold, mark: str = "") -> bool:
        """As RedisCounters.give_back."""
        return self._timed("give_back", super().give_back, hold, mark)

    def withdraw(self, draft: Hold) -> Hold | None:
        """As RedisCounters.withdraw."""
        return self._timed("withdraw", super().withdraw, draft)

    def settle_all(self, ends: Sequence[tuple[Hold, int]]) -> list[bool | StoreUnavailableError]:
        """As RedisCounters.settle_all: one operation, which has failed if any of it has."""
        seconds, failed = self._observe["settle"]
        started = perf_counter()
        answers = super().settle_all(ends)
        seconds(perf_counter() - started)
        if any(isinstance(answer, StoreUnavailableError) for answer in answers):
            failed()
        return answers

    def beat(self, account_id: str, hold_id: str) -> bool:
        """As RedisCounters.beat."""
        return self._timed("beat", super().beat, account_id, hold_id)

    def hold(self, account_id: str, hold_id: str) -> Hold | None:
        """As RedisCounters.hold."""
        return self._timed("hold", super().hold, account_id, hold_id)

    def overdue(self, deadline_us: int, claim_us: int = 0) -> list[Hold]:
        """As RedisCounters.overdue."""
        return self._timed("overdue", super().overdue, deadline_us, claim_us)

    def keeps(self) -> None:
        """Raises StoreError where a server would drop what it holds; somebody may change that."""
        self._timed("policy", self._look_at_policy)

    def _look_at_policy(self) -> None:
        dropping = self._link.dropping()
        if dropping is not None:
            raise StoreError(f"Redis would drop what it is to count. {dropping}.")

    def seed(self, generation: Generation, seed: Seed) -> bool:
        """As RedisCounters.seed."""
        return self._timed("seed", super().seed, generation, seed)

    def _timed(self, op: str, ask: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        seconds, failed = self._observe[op]
        started = perf_counter()
        try:
            return ask(*args, **kwargs)
        except StoreError:
            failed()
            raise
        finally:
            seconds(perf_counter() - started)
