"""What an account has spent and holds, by scope and window, while it is known in this process.

A window's sums live until it is over and its last hold ended, so a scope has one set of sums for
the present window and one for each older window that something still runs in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from store.counters.model import HELD_RETRY_US, MoneyLimit, MoneyStanding, Refused, Seed
from store.records import Window, window_at, window_ends_us

_UNKNOWN: Final = -1


class Sums:
    """One window of one scope: nano-USD spent, nano-USD held, how many holds, when it is over."""

    __slots__ = ("ends_us", "held", "holds", "spent", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.ends_us = _UNKNOWN  # until a limit tells when the scope was created
        self.spent = 0
        self.held = 0
        self.holds = 0

    def admits(self, limit: MoneyLimit, nanousd: int) -> bool:
        """Whether a hold of so much fits. One of 0 always does."""
        budget = limit.budget_nanousd
        if budget is None or not nanousd:
            return True
        if limit.ceiling == "start":
            return self.spent + self.held < budget
        return self.spent + self.held + nanousd <= budget

    def would_admit(self, limit: MoneyLimit, nanousd: int) -> bool:
        """Whether it would fit if nothing were held, so that waiting for holds can help."""
        budget = limit.budget_nanousd
        if budget is None or not nanousd:
            return True
        return self.spent < budget if limit.ceiling == "start" else self.spent + nanousd <= budget


class _Scope:
    """The windows of a scope that are still needed, and which of them is the present one."""

    __slots__ = ("present", "windows")

    def __init__(self, present: Sums) -> None:
        self.present = present
        self.windows = {present.window.number: present}


class AccountMoney:
    """The money of one account. Not thread-safe: whoever has it locks. `now` never goes back."""

    __slots__ = ("_scopes", "generation", "open_holds", "seeded", "used_us")

    def __init__(self, now: int, generation: int) -> None:
        self.generation = generation
        self.seeded = False
        self.used_us = now
        self.open_holds: set[str] = set()
        self._scopes: dict[str, _Scope] = {}

    def present(self, limit: MoneyLimit, now: int) -> Sums:
        """The sums of the limit's window as of now."""
        scope = self._scopes.get(limit.scope)
        if scope is not None and now < scope.present.ends_us:
            return scope.present
        number = window_at(limit.created_us, now)
        sums = self.sums(Window(limit.scope, number))
        sums.ends_us = window_ends_us(limit.created_us, number)
        scope = self._scopes[limit.scope]
        scope.present = sums
        scope.windows = {n: s for n, s in scope.windows.items() if s.holds or n >= number}
        return sums

    def standing(self, now: int, limit: MoneyLimit) -> MoneyStanding:
        sums = self.present(limit, now)
        return MoneyStanding(limit, sums.spent, sums.held, sums.window.number, sums.ends_us)

    def hold(self, hold_id: str, nanousd: int, windows: Iterable[Sums]) -> None:
        """Count a hold in the sums of its windows."""
        self.open_holds.add(hold_id)
        for sums in windows:
            sums.held += nanousd
            sums.holds += 1

    def settle(
        self, hold_id: str, nanousd: int, windows: Iterable[Window], charge_nanousd: int
    ) -> None:
        """Turn a hold into a charge, in the hold's own windows."""
        self.open_holds.remove(hold_id)
        for window in windows:
            scope = self._scopes[window.scope]
            sums = scope.windows[window.number]
            sums.held -= nanousd
            sums.holds -= 1
            sums.spent += charge_nanousd
            if not sums.holds and window.number < scope.present.window.number:
                del scope.windows[window.number]

    def seed(self, seed: Seed) -> None:
        """Replace what was spent by what SQL knows; what is held stays."""
        for scope in self._scopes.values():
            for sums in scope.windows.values():
                sums.spent = 0
        for window, spent in seed.spent.items():
            if spent:
                self.sums(window).spent = spent
        self.seeded = True

    def drift(self, seed: Seed) -> int:
        """By how much the sums are off from SQL's, added up over windows, in nano-USD."""
        known = {
            Window(name, number): sums.spent
            for name, scope in self._scopes.items()
            for number, sums in scope.windows.items()
        }
        return drift_of(known, seed)

    def windows(self) -> tuple[Window, ...]:
        """Every window that is counted."""
        return tuple(
            [sums.window for scope in self._scopes.values() for sums in scope.windows.values()]
        )

    def sums(self, window: Window) -> Sums:
        """The sums of a window, also of one that is over."""
        scope = self._scopes.get(window.scope)
        if scope is None:
            sums = Sums(window)
            self._scopes[window.scope] = _Scope(sums)
            return sums
        found = scope.windows.get(window.number)
        if found is None:
            found = scope.windows[window.number] = Sums(window)
        return found


def drift_of(known: Mapping[Window, int], seed: Seed) -> int:
    """By how much what is known as spent differs from SQL's, added up over windows, in nano-USD.

    Windows before the first of a scope that SQL was asked for are left out: they are past.
    """
    first: dict[str, int] = {}
    for window in seed.spent:
        first[window.scope] = min(window.number, first.get(window.scope, window.number))
    present = {
        window: spent
        for window, spent in known.items()
        if window.scope in first and window.number >= first[window.scope]
    }
    return sum(
        abs(present.get(window, 0) - seed.spent.get(window, 0))
        for window in present.keys() | seed.spent.keys()
    )


def refusal(now: int, nanousd: int, money: Sequence[tuple[MoneyLimit, Sums]]) -> Refused | None:
    """What is answered if a hold of so much does not fit, without its standings.

    If for any limit waiting for holds cannot help, that is the answer: of these, the one that
    resets last.
    """
    tight = [(limit, sums) for limit, sums in money if not sums.admits(limit, nanousd)]
    if not tight:
        return None
    spent = [(limit, sums) for limit, sums in tight if not sums.would_admit(limit, nanousd)]
    if not spent:
        return Refused(now, tight[0][0], HELD_RETRY_US, (), held=True)
    limit, sums = max(spent, key=lambda pair: pair[1].ends_us)
    return Refused(now, limit, sums.ends_us - now, ())
