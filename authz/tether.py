"""Start a program that cannot outlive the process that starts it.

    python -I -S tether.py PARENT_PID PROGRAM ARGUMENT …

Asks the kernel to kill the program when its parent is gone, however that ended, ignores SIGINT and
SIGHUP (a terminal sends them to everybody; stopping is the parent's to order), and then *becomes*
the program: same pid, its own command line. A file of its own because doing this between fork and
exec, in a parent that has threads, can deadlock. Imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
IGNORED = (signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then run `arguments[1:]` in its place."""
    parent, program = int(arguments[0]), arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the line above: the kernel would never tell us
        sys.exit("the parent is gone")
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)  # they were kept from us until here
    try:
        os.execv(program[0], program)  # noqa: S606 -- no shell is what is wanted
    except OSError as fault:
        sys.exit(f"{program[0]}: {fault.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
