"""How limits and holds are told to the scripts, and read from what these answer (see the .lua)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from store.counters.model import Limit, MinuteLimit, MoneyStanding, Standing, Standings
from store.errors import StoreUnavailableError
from store.holdformat import pack_hold, unpack_hold
from store.records import Hold, Window


def words_of(limits: Iterable[Limit]) -> list[str | int]:
    """Limits as limits.lua reads them."""
    told: list[str | int] = []
    for limit in limits:
        if isinstance(limit, MinuteLimit):
            told += ("m", limit.max_requests, "", "")
        elif limit.budget_nanousd is None:
            told += ("c", limit.scope, limit.created_us, "")
        else:
            kind = "s" if limit.ceiling == "start" else "h"
            told += (kind, limit.scope, limit.created_us, limit.budget_nanousd)
    return told


def standings_in(limits: Iterable[Limit], words: Sequence[bytes]) -> Standings:
    """As limits.lua says them."""
    said = iter(map(int, words))
    standings: list[Standing | MoneyStanding] = []
    for limit in limits:
        if isinstance(limit, MinuteLimit):
            standings.append(Standing(limit, next(said), next(said)))
        else:
            standings.append(MoneyStanding(limit, next(said), next(said), next(said), next(said)))
    return tuple(standings)


def as_kept(hold: Hold) -> str:
    """A hold as take.lua keeps it, given to one Check."""
    windows = [f"{window.number}:{window.scope}" for window in hold.windows]
    draft = msgspec.structs.replace(hold, windows=(), admitted_us=0)
    figures = f"1 {hold.admitted_us} {hold.nanousd} {' '.join(windows)}"
    return f"{figures}\n{pack_hold(draft).decode()}"


def hold_in(kept: bytes, draft: Hold | None) -> Hold:
    """What take.lua keeps of a hold; without its draft there, that is the one given.

    Raises StoreUnavailableError for what cannot be read.
    """
    figures, _, packed = kept.partition(b"\n")
    _, admitted, _, *named = figures.decode().split(" ")
    windows = []
    for each in named:
        number, _, scope = each.partition(":")
        windows.append(Window(scope, int(number)))
    try:
        found = unpack_hold(packed) if packed else draft
    except (ValueError, TypeError) as fault:
        raise StoreUnavailableError(
            "Redis has a hold in a form that this Tensorgate cannot read. "
            "Start the newest version that has been used with it."
        ) from fault
    if found is None:
        raise StoreUnavailableError("Redis has a hold that cannot be read.")
    return found.admitted(int(admitted), tuple(windows))


def by_age(hold: Hold) -> tuple[int, str]:
    """To sort by: the oldest first."""
    return hold.admitted_us, hold.id
