"""Which process of a gate is which, and the sockets in the runtime folder that each of them has.

                     checks         entries    health           questions
  authz, one worker  authz-0.sock   log.sock   health.sock      control.sock
  authz, worker I    authz-I.sock              health-I.sock    control-I.sock
  meter                             log.sock   health-log.sock  control-log.sock
  their supervisor                             health.sock      control.sock

A supervisor's health and answers are those of all its processes (authz/fleet.py). Envoy asks each
process itself. A socket's path has at most 107 bytes; the longest name here has 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

HEALTH: Final = "health.sock"
CONTROL: Final = "control.sock"
LOG: Final = "log.sock"
MOST_WORKERS: Final = 64


class Role(StrEnum):
    """What a process does: all of it, only checks (a worker), or only the metering."""

    ALL = "all"
    CHECKS = "checks"
    METER = "meter"


@dataclass(frozen=True, slots=True)
class Place:
    """One process of a gate. `worker` is the number of one that answers checks."""

    role: Role = Role.ALL
    worker: int = 0

    @classmethod
    def all_of(cls, workers: int) -> tuple[Self, ...]:
        """The processes of a gate with so many workers: the meter first."""
        if workers == 1:
            return (cls(),)
        checks = (cls(Role.CHECKS, worker) for worker in range(workers))
        return (cls(Role.METER), *checks)

    @property
    def name(self) -> str:
        """What it is called in logs and metrics, and by its supervisor."""
        match self.role:
            case Role.ALL:
                return "authz"
            case Role.CHECKS:
                return f"authz-{self.worker}"
            case Role.METER:
                return "meter"

    @property
    def check(self) -> str:
        """Where Envoy asks."""
        return f"authz-{self.worker}.sock"

    @property
    def health(self) -> str:
        """Where it says whether it wants calls."""
        return self._own(HEALTH)

    @property
    def control(self) -> str:
        """Where it answers questions (authz/control.py)."""
        return self._own(CONTROL)

    def _own(self, name: str) -> str:
        if self.role is Role.ALL:
            return name
        mark = LOG.removesuffix(".sock") if self.role is Role.METER else str(self.worker)
        return f"{name.removesuffix('.sock')}-{mark}.sock"


def healths(runtime: Path, workers: int) -> dict[str, Path]:
    """The health socket of each process of a gate, by its name."""
    return {place.name: runtime / place.health for place in Place.all_of(workers)}
