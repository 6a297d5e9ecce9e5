"""Waiting until a change is obeyed wherever the gate runs, and saying so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from store.errors import StoreError
from store.records import MINUTE_US
from store.text import rfc3339, utc_time

if TYPE_CHECKING:
    from store.replicas import Replica, Replicas  # the database is not needed to say a sentence

WAIT_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 0.02
STILL_SEEN_US: Final = MINUTE_US
"""A row that was fresh when the waiting began is looked at for so long."""
FOLLOWER: Final = "authz"
"""The kind of process that has a cache of keys."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a change was committed: by the monotonic clock, and in µs by the one of the wall."""

    monotonic: float
    us: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Which replicas obey a change. `silent` are those that have not said so in time.

    `fault` is set where the database went out meanwhile, and nobody knows.
    """

    seconds: float
    made_us: int
    heard: tuple[Replica, ...] = ()
    silent: tuple[Replica, ...] = ()
    fault: str | None = None


def acknowledged(
    replicas: Replicas, newest: Callable[[], int], made: Moment, *, seconds: float = WAIT_SECONDS
) -> Acknowledged:
    """Wait until every process that lives has applied the change that is the newest now.

    A process that starts later reads everything anew; one that stops cleanly is not waited for;
    one that was killed is, as it may only be cut off. Raises nothing.
    """
    until = monotonic() + seconds
    live: list[Replica] = []
    try:
        seq = newest()
        live = _followers(replicas.live())
        awaited = {each.id for each in live}
        while True:
            took = monotonic() - made.monotonic
            silent = [each for each in live if each.id in awaited and each.applied_seq < seq]
            if not silent or monotonic() >= until:
                heard = tuple(each for each in live if each.applied_seq >= seq)
                return Acknowledged(took, made.us, heard, tuple(silent))
            sleep(LOOK_SECONDS)
            live = _followers(replicas.live(STILL_SEEN_US))
    except StoreError as fault:
        return Acknowledged(monotonic() - made.monotonic, made.us, (), tuple(live), str(fault))


def _followers(found: list[Replica]) -> list[Replica]:
    return [each for each in found if each.kind == FOLLOWER]


def as_text(found: Acknowledged, verb: str) -> str:
    """What follows a colon, without its full stop; `verb` is `revoked` or `obeyed`."""
    if found.fault is not None:
        return f"where it is {verb} by now is not known, as the database went out"
    count = len(found.heard)
    if found.silent:
        told = ", ".join(
            f"{each.name} (by {utc_time(each.obeys_by_us(found.made_us))} at the latest)"
            for each in found.silent
        )
        return (
            f"{verb} by {count} of {count + len(found.silent)} replicas. No answer within "
            f"{found.seconds:.1f} s from {told}: killed, or cut off"
        )
    if not count:
        return f"no gate runs on this database now, so it is {verb} from the start of the next"
    return f"{verb} everywhere in {found.seconds * 1000:.0f} ms ({count} replica{'s'[: count > 1]})"


def as_json(found: Acknowledged) -> dict[str, object]:
    """The same for programs; `everywhere` is null where that is not known."""
    return {
        "everywhere": None if found.fault is not None else not found.silent,
        "seconds": round(found.seconds, 3),
        "replicas": len(found.heard),
        "silent": [
            {"name": each.name, "obeys_by": rfc3339(each.obeys_by_us(found.made_us))}
            for each in found.silent
        ],
    }
