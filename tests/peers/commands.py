"""The command line without its imports: one process has made them, and each command is its fork.

A command of `tensorgate` costs a second of CPU, nearly all of it for imports, and the tests of the
whole gate run hundreds. Here it is a process of its own as ever, with arguments, environment,
folder and streams of its own, and it ends as a Python program does; only the imports are not its
own. That a command starts from nothing is proven where commands are, in test_cli.py.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Final

_PROGRAM: Final = Path(__file__).resolve().with_name("commands_forked.py")


def tensorgate(
    *words: str, env: Mapping[str, str], cwd: Path, stdin: str = "", seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run `tensorgate WORDS` to its end: its status, and all that it printed.

    Raises subprocess.TimeoutExpired where it takes longer; it has been killed then.
    """
    ours, theirs = socket.socketpair()
    with (
        ours,
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        given.write(stdin.encode())
        given.seek(0)
        with theirs:
            streams = [each.fileno() for each in (given, out, err)]
            socket.send_fds(_forks(), [b"."], [theirs.fileno(), *streams])
        told = {"words": words, "env": dict(env), "cwd": str(cwd)}
        ours.sendall(json.dumps(told).encode() + b"\n")
        with ours.makefile("r") as answers:
            pid = int(answers.readline())
            ours.settimeout(seconds)
            try:
                status = int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(words, seconds) from None
        return subprocess.CompletedProcess(words, status, _text(out), _text(err))


def _text(written: IO[bytes]) -> str:
    written.seek(0)
    return written.read().decode()


@cache
def _forks() -> socket.socket:
    """Where the process that forks is asked. It ends as this is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    clean = {name: value for name, value in os.environ.items() if "TENSORGATE" not in name}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", _PROGRAM, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=clean,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
