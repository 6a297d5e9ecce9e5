"""Child processes whose output is kept, and what /proc says of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class PeerError(AssertionError):
    """A peer did not do its part; the text ends with what it printed."""


class Child:
    """A program in a process group of its own; all that it prints goes to a file."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = " ".join(Path(str(word)).name for word in argv[:2])
        self.log = log
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Return as soon as `ready()` holds. Raises PeerError if it ends first or takes longer."""
        deadline = time.monotonic() + seconds
        while not ready():
            code = self.process.poll()
            if code is not None:
                raise PeerError(f"{self.name} ended with {code} before {what}:\n{self.output}")
            if time.monotonic() > deadline:
                raise PeerError(f"{self.name}: no {what} in {seconds:g} s:\n{self.output}")
            time.sleep(0.02)

    def line(self, start: str, *, seconds: float) -> str:
        """Wait for the first whole line that begins with `start`, and return it."""
        found: list[str] = []

        def seen() -> bool:
            lines = self.output.splitlines(keepends=True)
            found[:] = [x.rstrip("\n") for x in lines if x.startswith(start) and x.endswith("\n")]
            return bool(found)

        self.wait_until(seen, seconds=seconds, what=f"line {start!r}")
        return found[0]

    def end(self, signal_number: int = signal.SIGTERM, *, seconds: float = 15) -> int:
        """Send a signal to its process group and return the exit code.

        Raises PeerError, after SIGKILL, if it does not end in time.
        """
        if self.process.poll() is None:
            os.killpg(self.pid, signal_number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            name = signal.Signals(signal_number).name
            raise PeerError(
                f"{self.name} outlived {name} by {seconds:g} s:\n{self.output}"
            ) from None


def processes() -> list[int]:
    """The pids of all processes that are alive, zombies left out."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [pid for pid in pids if parent(pid) is not None]


def parent(pid: int) -> int | None:
    """The pid of a process's parent, None where the process is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # the command stands in parentheses and may hold anything, also parentheses
    state, ppid = stat[stat.rindex(")") + 2 :].split()[:2]
    return None if state in "ZX" else int(ppid)


def command(pid: int) -> list[str]:
    """A process's argv, [] where it is gone."""
    return _nul_separated(Path(f"/proc/{pid}/cmdline"))


def environment(pid: int) -> list[str]:
    """A process's environment as NAME=value, [] where it is gone."""
    return _nul_separated(Path(f"/proc/{pid}/environ"))


def _nul_separated(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """All processes below one, at this moment."""
    found, waiting = [], [pid]
    parents = {each: parent(each) for each in processes()}
    while waiting:
        above = waiting.pop()
        below = [each for each, its in parents.items() if its == above]
        found += below
        waiting += below
    return found


def freeze(pid: int) -> None:
    """Stop a process, and wait until it stands: on a busy machine its threads run on for a while.

    SIGCONT has it go on. Raises ProcessLookupError or FileNotFoundError where it has ended.
    """
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    deadline = time.monotonic() + 20
    while not all(_state(task) in "TZX" for task in tasks.iterdir()):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.001)


def _state(task: Path) -> str:
    """As in /proc: T is stopped, Z has ended; X is a thread that is gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
