"""One answer of several processes: the control socket of a gate with workers.

Each process answers for itself on a socket of its own (authz/control.py). Here the same questions
are put to whom they concern:

  counters, accounts, drift, holds   the meter; what waits for the ledger is added up over all
  catalog                            whoever answers first, as all have the same in force
  refusal                            the worker that refused the call
  feed                               every worker
  catalog_check, catalog_reload      all: first whether each would take it, so that a catalog which
                                     one refuses is put in force nowhere

A process that has no socket is being started, and reads all anew. One that read the catalog just
before it was changed gets a SIGHUP, which it keeps until it is ready to reload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

from authz.control import Method
from authz.sockets import Place, Role
from store.control import Control
from store.errors import InputError, NotRunningError, StoreError, StoreUnavailableError

ASK_SECONDS: Final = 5.0
CATALOG_SECONDS: Final = 25.0  # each of two; who asks waits for a minute


class Joined:
    """Asks the processes of a gate, all at once. Thread-safe.

    `hang_up` sends SIGHUP to the process of a name.
    """

    def __init__(
        self,
        runtime: Path,
        state: Path,
        places: Iterable[Place],
        hang_up: Callable[[str], object],
    ) -> None:
        self._controls = {place.name: Control(runtime / place.control, state) for place in places}
        self._workers = tuple(p.name for p in places if p.role is Role.CHECKS)
        self._hang_up = hang_up
        self._meter = Place(Role.METER).name

    def methods(self) -> dict[str, Method]:
        """What can be asked, by name, as `authz.control.methods` has it."""
        return {
            "counters": lambda _: self.counters(),
            "accounts": lambda _: self._ask_meter("accounts"),
            "drift": lambda arguments: self._ask_meter("drift", **arguments),
            "holds": lambda _: self._ask_meter("holds"),
            "settling": lambda _: self.settling(),
            "refusal": self.refusal,
            "feed": lambda _: self.feed(),
            "catalog": lambda _: self.catalog(),
            "catalog_check": lambda _: self.try_out(),
            "catalog_reload": lambda _: self.reload(),
        }

    def counters(self) -> dict[str, Any]:
        """As the meter has them, with what waits in every process. Raises StoreError."""
        return {**self._ask_meter("counters"), **self.settling()}

    def settling(self) -> dict[str, Any]:
        """How many ends wait for the ledger in all processes, and for how long the oldest."""
        found = self._everybody("settling").values()
        return {
            "ends_waiting": sum(each["ends_waiting"] for each in found),
            "ledger_lag_seconds": max(each["ledger_lag_seconds"] for each in found),
        }

    def refusal(self, arguments: Mapping[str, Any]) -> Any:
        """What the worker knows that refused a call, or None. Raises StoreError."""
        found = self._everybody("refusal", self._workers, **arguments)
        return next((each for each in found.values() if each is not None), None)

    def feed(self) -> None:
        """Once every worker has applied what was committed before. Raises StoreError."""
        self._everybody("feed", self._workers)

    def catalog(self) -> Any:
        """The catalog in force: all have the same, so who answers first. Raises StoreError."""
        pool = ThreadPoolExecutor(len(self._controls), thread_name_prefix="ask")
        asked = [
            pool.submit(each.ask, "catalog", seconds=ASK_SECONDS)
            for each in self._controls.values()
        ]
        pool.shutdown(wait=False)  # nobody waits for one that says nothing
        faults: list[Exception] = []
        for future in as_completed(asked):
            try:
                return future.result()
            except (InputError, StoreError) as fault:
                faults.append(fault)
        there = [each for each in faults if not isinstance(each, NotRunningError)]
        raise (there or faults)[0]

    def try_out(self) -> None:
        """Whether all would take the catalog as it lies. Raises InputError where one would not."""
        self._everybody("catalog_check", seconds=CATALOG_SECONDS)

    def reload(self) -> dict[str, Any]:
        """As `authz.reload.InForce.reload`, by all or by none. Raises InputError, StoreError."""
        answers = self._answers("catalog_check", self._controls, CATALOG_SECONDS)
        refused = [name for name, each in answers.items() if isinstance(each, InputError)]
        if refused:
            # it refuses once more, and that counts as one and stands in its log
            self._controls[refused[0]].ask("catalog_reload", seconds=CATALOG_SECONDS)
            raise StoreUnavailableError(
                "The catalog was changed while it was read, so not every process has it now. "
                "Reload it once more."
            )
        _raise_first(answers)
        answers = self._answers("catalog_reload", self._controls, CATALOG_SECONDS)
        for name in self._controls.keys() - answers.keys():
            self._hang_up(name)
        _raise_first(answers)
        found = list(answers.values())
        warnings = dict.fromkeys(text for each in found for text in each["warnings"])
        return {
            **found[0],
            "warnings": list(warnings),
            "seconds": max(each["seconds"] for each in found),
        }

    def _ask_meter(self, method: str, **arguments: Any) -> Any:
        return self._controls[self._meter].ask(method, seconds=ASK_SECONDS, **arguments)

    def _everybody(
        self,
        method: str,
        names: Iterable[str] | None = None,
        seconds: float = ASK_SECONDS,
        **arguments: Any,
    ) -> dict[str, Any]:
        """The answers of all that are there. Raises what one of them raises."""
        answers = self._answers(method, names or self._controls, seconds, **arguments)
        _raise_first(answers)
        return answers

    def _answers(
        self, method: str, names: Iterable[str], seconds: float, **arguments: Any
    ) -> dict[str, Any]:
        """By name the answer, or the fault that is one. Raises NotRunningError if nobody is there.

        Those that are not there are left out.
        """
        asked = tuple(names)
        with ThreadPoolExecutor(len(asked), thread_name_prefix="ask") as pool:
            futures = {
                name: pool.submit(self._controls[name].ask, method, seconds=seconds, **arguments)
                for name in asked
            }
        answers = {name: _outcome(future) for name, future in futures.items()}
        there = {n: a for n, a in answers.items() if not isinstance(a, NotRunningError)}
        if not there:
            raise NotRunningError(
                "The gate's processes are not there; they may be starting. Try again."
            )
        return there


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except (InputError, StoreError) as fault:
        return fault


def _raise_first(answers: Mapping[str, Any]) -> None:
    for each in answers.values():
        if isinstance(each, InputError | StoreError):
            raise each
