"""What this machine gives: processors that Envoy may use beside authz."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MOST_ENVOY_THREADS: Final = 4
CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")


def spare_processors(workers: int = 1, cpu_max: Path = CPU_MAX) -> int:
    """Envoy's worker threads: the processors that authz leaves, 1 to 4 for each of its workers.

    An authz worker uses one processor whole and bounds the throughput; four Envoy threads are
    more than it can keep busy.
    """
    usable = len(os.sched_getaffinity(0))
    quota = _quota(cpu_max)
    spare = (min(usable, quota) if quota else usable) - workers
    return max(1, min(MOST_ENVOY_THREADS * workers, spare))


def _quota(cpu_max: Path) -> int | None:
    """Whole processors of a container's CPU quota, None without one."""
    try:
        limit, period = cpu_max.read_text().split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError):
        return None
