"""The process that each command of `commands.py` is a fork of; its argument is its socket."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from tensorgate import cli

Run = Callable[[], None]
NEEDED: Final = (  # what commands import when they run
    *("admin.explain", "admin.ledgercli", "admin.movingcli", "admin.service"),
    *("store.control", "store.engines", "store.seeding", "store.upgrades", "tensorgate.share"),
    *("sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite"),
)


def serve(asked: socket.socket) -> Run | None:
    """Fork for each that asks, until nobody can; what a fork has to do, in the fork."""
    gc.freeze()  # or each fork writes to all that is here, to count it, and gets copies
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    while True:
        message, fds, _, _ = socket.recv_fds(asked, 1, 4)
        if not message:
            return None
        if os.fork() == 0:
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _command(socket.socket(fileno=fds[0]), fds[1:])
        for each in fds:
            os.close(each)


def _command(caller: socket.socket, streams: Sequence[int]) -> Run:
    """Run it in a fork of its own and tell how it ended; what that one has to do, in there."""
    with caller, caller.makefile("r") as lines:
        told = json.loads(lines.readline())
        pid = os.fork()
        if pid:
            caller.sendall(f"{pid}\n".encode())
            _, status = os.waitpid(pid, 0)
            caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
    for number, each in enumerate(streams):
        os.dup2(each, number)
        os.close(each)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["env"])
    time.tzset()
    sys.argv[:] = ["tensorgate", *told["words"]]
    return cli.main


if __name__ == "__main__":
    for name in NEEDED:
        import_module(name)
    todo = serve(socket.socket(fileno=int(sys.argv[1])))
    if todo is not None:
        todo()
