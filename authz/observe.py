"""How long the stores take and how often they fail, seen from outside of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from authz.metrics import Metrics
from store.errors import StoreError
from store.keys import KeyRepository
from store.records import Change, KeyRecord

SQL: Final = "sql"


@contextmanager
def observed(metrics: Metrics, store: str, op: str) -> Iterator[None]:
    """Time what is inside; a StoreError is counted and goes on."""
    started = perf_counter()
    try:
        yield
    except StoreError:
        metrics.store_errors.labels(store, op).inc()
        raise
    finally:
        metrics.store_seconds.labels(store, op).observe(perf_counter() - started)


class ObservedKeys:
    """The reading side of a KeyRepository, observed."""

    def __init__(self, repository: KeyRepository, metrics: Metrics) -> None:
        self._repository = repository
        self._metrics = metrics

    def by_digests(self, digests: Sequence[bytes]) -> tuple[bytes, KeyRecord] | None:
        """As KeyRepository.by_digests."""
        with observed(self._metrics, SQL, "find_key"):
            return self._repository.by_digests(digests)

    def changes_since(self, seq: int) -> list[Change]:
        """As KeyRepository.changes_since."""
        with observed(self._metrics, SQL, "changes"):
            return self._repository.changes_since(seq)

    def last_change(self) -> int:
        """As KeyRepository.last_change."""
        with observed(self._metrics, SQL, "changes"):
            return self._repository.last_change()
