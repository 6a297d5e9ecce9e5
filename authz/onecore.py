"""Keep the process to one core, where the system can.

Python runs one thread at a time. Threads that lie on several cores pass that right to and fro, and
each pass wakes a core: at full load that cost a quarter to a third of the service's CPU and of its
throughput (measured on two cores). On one core a thread that lets go for a system call has it back
before another was ever woken.

What this trades: while something else holds that core, the process waits for its share of it, even
if another core is idle. With others busy on both of two cores, a call alone took 0.1 to 0.3 ms
longer. So it is asked for, and is for a machine on which the gate has room.
"""

from __future__ import annotations

import os


def core_of(worker: int, workers: int, cores: int) -> int | None:
    """The number of the core that one of several workers keeps to; None where there are too few.

    A worker at full load needs one core, and Envoy before it about as much again.
    """
    return worker if cores >= 2 * workers else None


def keep_to_one_core(number: int | None = None) -> int | None:
    """Bind this thread, and every thread that it starts from now on, to one of its cores.

    Which one follows from `number`, or else from the process id, so processes that were started
    one after the other lie on different cores. None where there is no choice, or where the system
    does not let us.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        return None
    core = cores[(os.getpid() if number is None else number) % len(cores)]
    try:
        os.sched_setaffinity(0, {core})
    except OSError:  # it is an optimisation: a sandbox may forbid it
        return None
    return core
