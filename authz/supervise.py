"""Child processes: started, watched, restarted with back-off, stopped in order.

Everything here runs on the main thread: the tether (see tether.py) is to the *thread* that
started a child, and Python runs signal handlers there.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

from authz import tether
from authz.logs import open_log

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 5.0
SETTLED_AFTER: Final = 30.0

Say = Callable[[str], None]


class Backoff:
    """Seconds to wait before a restart: 0.1 doubling to 5, anew after 30 s of life."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY

    def after(self, lived: float) -> float:
        """The delay for a child that died after `lived` seconds."""
        if lived >= SETTLED_AFTER:
            self._next = FIRST_DELAY
        delay = self._next
        self._next = min(self._next * 2, LONGEST_DELAY)
        return delay


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `own_group`: for one that cannot ignore SIGINT (Envoy, Valkey).

    It writes to `log`, or with None to where this process writes.
    """

    name: str
    argv: tuple[str, ...]
    log: Path | None
    environ: Mapping[str, str]
    own_group: bool = False
    stop_seconds: float = 5.0


@dataclass(slots=True)
class Child:
    """A program and its present process; `restart_at` is set while it waits for a new one."""

    program: Program
    process: subprocess.Popen[bytes]
    started: float
    backoff: Backoff = field(default_factory=Backoff)
    restart_at: float | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs now."""
        return self.process.poll() is None


class Signals:
    """SIGINT and SIGTERM as a wish to stop that the main loop reads, and a wait that they end.

    SIGHUP is a wish to reload, unless it says that the terminal which we were started on is gone.
    To a `part` of something larger it is never anything else, and SIGINT, where that is ignored,
    stays so: whoever started it says when it is to stop.
    A handler only notes, so nothing is ever interrupted half-way. Used as a context manager,
    which puts back what was there before.
    """

    WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self, *, part: bool = False) -> None:
        self.asked = False
        self._interrupts = 0
        self._hangup = False
        self._part = part
        self._on_terminal = not part and has_terminal()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        # nohup ignores SIGHUP, and means it
        kept = {signal.SIGINT} if self._part else {signal.SIGHUP}
        for number in self.WATCHED:
            if signal.getsignal(number) != signal.SIG_IGN or number not in kept:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave us
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    @property
    def urgent(self) -> bool:
        """Somebody pressed Ctrl-C twice. SIGTERM may well come twice: from make, from a cgroup."""
        return self._interrupts > 1

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP and (self._part or self._on_terminal == has_terminal()):
            self._hangup = True
        elif number != signal.SIGCHLD:
            self.asked = True
        self._interrupts += number == signal.SIGINT

    def take_hangup(self) -> bool:
        """Whether somebody wished a reload since this was last asked."""
        if not self._hangup:
            return False
        self._hangup = False  # one that comes just now is the same wish
        return True

    def wait(self, seconds: float) -> None:
        """Sleep, but wake when a signal comes (a child's death is one)."""
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        if ready:
            with suppress(BlockingIOError):
                while os.read(self._read, 4096):
                    pass


class Supervisor:
    """Owns the children. `say` prints one line for people; `died` is told whose process ended."""

    def __init__(
        self,
        signals: Signals,
        say: Say,
        now: Callable[[], float] = time.monotonic,
        *,
        died: Callable[[str], object] = lambda _name: None,
    ) -> None:
        self._signals, self._say, self._now, self._died = signals, say, now, died
        self.children: dict[str, Child] = {}

    def start(self, program: Program) -> Child:
        """Start a program; its name is free from then on only after `stop`. Raises OSError."""
        child = Child(program, _spawn(program), self._now())
        self.children[program.name] = child
        return child

    def tend(self) -> float:
        """Restart what has died and whose delay is over. Returns seconds until the next due."""
        now = self._now()
        for child in self.children.values():
            if child.restart_at is None and not child.alive:
                delay = child.backoff.after(now - child.started)
                child.restart_at = now + delay
                where = f" (its log: {child.program.log})" if child.program.log else ""
                self._say(
                    f"{child.program.name} {ended(child.process.returncode)}; starting it again"
                    f" in {delay:.1f} s{where}"
                )
                self._died(child.program.name)
            if child.restart_at is not None and child.restart_at <= now:
                self._restart(child, now)
        due = [c.restart_at - now for c in self.children.values() if c.restart_at is not None]
        return max(0.0, min(due, default=60.0))

    def _restart(self, child: Child, now: float) -> None:
        try:
            child.process = _spawn(child.program)
        except OSError as fault:  # no memory, no pids: try again, as for one that died at once
            child.restart_at = now + child.backoff.after(0.0)
            self._say(f"{child.program.name} cannot be started: {fault.strerror}; trying again")
        else:
            child.started, child.restart_at = now, None

    def stop(self, *names: str) -> None:
        """SIGTERM to all of them, then SIGKILL after a program's `stop_seconds`.

        On a second Ctrl-C without waiting.
        """
        begun = self._now()
        found = [self.children.pop(name) for name in names if name in self.children]
        stopping = [child for child in found if child.alive]
        for child in stopping:
            child.process.terminate()
        for child in stopping:
            self._see_off(child, begun + child.program.stop_seconds)

    def _see_off(self, child: Child, deadline: float) -> None:
        """Wait until it has ended, at most until then."""
        while child.alive and self._now() < deadline and not self._signals.urgent:
            # at most 0.1 s at a time: a death between the look and the wait must not cost more
            self._signals.wait(min(0.1, deadline - self._now()))
        if child.alive:
            program = child.program
            if not self._signals.urgent:
                self._say(
                    f"{program.name} did not stop within {program.stop_seconds:g} s; killing it"
                )
            child.process.kill()
            child.process.wait()

    def pass_on(self, name: str, number: int) -> None:
        """Send a signal to a program, if it is up; one that will start reads all anew anyway."""
        child = self.children.get(name)
        if child is not None and child.alive:
            child.process.send_signal(number)

    def kill_all(self) -> None:
        """SIGKILL whatever is left, and reap it."""
        for child in self.children.values():
            if child.alive:
                child.process.kill()
            child.process.wait()
        self.children.clear()


def has_terminal() -> bool:
    """Whether this process has a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def ended(code: int) -> str:
    """An exit status in words: `was killed by SIGKILL`, `ended with status 1`."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


@contextmanager
def _kept_from(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Block signals, here and in what is started meanwhile; here they come a moment later.

    A new child has them as they kill, until the tether ignores them: it would die of one that it
    is to pass over, or to obey once it can.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(program: Program) -> subprocess.Popen[bytes]:
    # -I -S: nothing but the standard library, at 10 ms; the program that follows has its own
    tied = (sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *program.argv)
    with (
        nullcontext() if program.log is None else open_log(program.log) as log,
        _kept_from(tether.IGNORED),
    ):
        return subprocess.Popen(  # noqa: S603 -- argv is ours, no shell
            tied,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            env=dict(program.environ),
            process_group=0 if program.own_group else None,
        )
