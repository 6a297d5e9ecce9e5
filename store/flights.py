"""Something slow that many want at once: done once, and waited for as long as each of them can.

Who waits for a store itself has no way back: it waits for that store's timeouts, one after the
other. So it is done in a thread beside, and goes on when nobody waits for it any more; who comes
later finds it done. What has been under way for longer than somebody would wait is not waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar

from store.errors import StoreError, StoreUnavailableError

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Flights(Generic[Key, Result]):
    """Thread-safe. At most `threads` are done at the same time; those beyond wait for their turn.

    Worst case: `threads` of them wait for a store that is out, and all others for these.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = Lock()
        self._under_way: dict[Key, tuple[Future[Result], float]] = {}

    def close(self) -> None:
        """Wait for what is being done, and do nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def join(self, key: Key, do: Callable[[], Result], seconds: float) -> Result:
        """What `do` returns or raises; another's call of the same key that is under way counts.

        Raises StoreUnavailableError where it is not over `seconds` after its beginning.
        """
        with self._lock:
            found = self._under_way.get(key)
            if found is None:
                found = self._begin(key, do)
        future, until = found[0], found[1] + seconds
        try:
            return future.result(max(0.0, until - monotonic()))
        except LateError:
            if future.done():
                return future.result()
            raise StoreUnavailableError(
                "The stores did not answer in time. Try again in a second."
            ) from None

    def _begin(self, key: Key, do: Callable[[], Result]) -> tuple[Future[Result], float]:
        made: Future[Result] = Future()
        found = self._under_way[key] = (made, monotonic())
        try:
            self._pool.submit(self._fly, key, do, made)
        except RuntimeError:  # it is closed, as the process ends
            del self._under_way[key]
            raise StoreUnavailableError("This process ends. Try again in a second.") from None
        return found

    def _fly(self, key: Key, do: Callable[[], Result], made: Future[Result]) -> None:
        try:
            result = do()
        except BaseException as fault:  # noqa: BLE001  raised where it is waited for
            if not isinstance(fault, StoreError):
                _log.exception("what nobody may be waiting for failed")
            self._over(key)
            made.set_exception(fault)
        else:
            self._over(key)
            made.set_result(result)

    def _over(self, key: Key) -> None:
        with self._lock:
            del self._under_way[key]
