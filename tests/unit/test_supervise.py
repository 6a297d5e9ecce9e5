"""Children: back-off, restart, order and limits of a stop, and that none outlives its parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import until

from authz.supervise import Backoff, Program, Signals, Supervisor, ended

SLEEPER = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)")
STUBBORN = (
    *SLEEPER[:4],
    """if True:
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print('deaf', flush=True)
        time.sleep(60)
    """,
)

SLOW = """if True:
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(0)))
    print('on', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def signals() -> Iterator[Signals]:
    with Signals() as caught:
        yield caught


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(signals: Signals, said: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(signals, said.append)
    yield made
    made.kill_all()


def program(tmp_path: Path, argv: tuple[str, ...] = SLEEPER, **rest: object) -> Program:
    return Program("part", argv, tmp_path / "part.log", dict(os.environ), **rest)  # type: ignore[arg-type]


def test_the_delay_doubles_from_a_tenth_to_five_seconds() -> None:
    backoff = Backoff()
    assert [backoff.after(0.0) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_half_a_minute_of_life_makes_the_delay_short_again() -> None:
    backoff = Backoff()
    for _ in range(8):
        backoff.after(29.9)
    assert backoff.after(29.9) == 5.0
    assert [backoff.after(30.0), backoff.after(0.0)] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with status 0"), (1, "ended with status 1"), (-9, "was killed by SIGKILL")],
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert ended(code) == words


def test_a_child_that_is_killed_is_started_again_after_its_delay_and_that_is_said(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    child = supervisor.start(program(tmp_path))
    assert supervisor.tend() == 60.0  # nothing is due
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: not child.alive)
    due = supervisor.tend()
    assert 0 < due < 0.101
    assert child.process.pid == first
    time.sleep(due)
    supervisor.tend()
    assert child.alive
    assert child.process.pid != first
    (line,) = said
    assert line.startswith("part was killed by SIGKILL; starting it again in 0.1 s")
    assert str(tmp_path / "part.log") in line


def test_a_child_has_the_command_line_that_was_asked_for_and_ignores_ctrl_c(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    child = supervisor.start(program(tmp_path))
    proc = Path(f"/proc/{child.process.pid}")
    until(lambda: proc.joinpath("cmdline").read_bytes().split(b"\0")[:-1] == encoded(SLEEPER))
    os.kill(child.process.pid, signal.SIGINT)
    time.sleep(0.05)
    assert child.alive


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_is_to_be_passed_over_does_not_end_a_child_that_only_begins(
    supervisor: Supervisor, tmp_path: Path, number: signal.Signals
) -> None:
    """As a reload that is asked for just when authz is started again."""
    for _ in range(5):
        child = supervisor.start(program(tmp_path))
        supervisor.pass_on("part", number)
        ignored = 1 << (number - 1)
        until(lambda: not child.alive or signal_mask(child.process.pid, "SigIgn") & ignored)  # noqa: B023  waits here
        assert child.alive, ended(child.process.returncode)
        assert not signal_mask(child.process.pid, "SigBlk") & ignored
        supervisor.stop("part")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def signal_mask(pid: int, name: str) -> int:
    """`SigBlk` or `SigIgn` of a process, as the kernel has it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1], 16)


def encoded(argv: tuple[str, ...]) -> list[bytes]:
    return [word.encode() for word in argv]


def test_only_a_program_that_asks_for_it_has_a_group_of_its_own(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    child = supervisor.start(program(tmp_path))
    assert os.getpgid(child.process.pid) == os.getpgid(0)
    supervisor.stop("part")
    child = supervisor.start(program(tmp_path, own_group=True))
    assert os.getpgid(child.process.pid) == child.process.pid


def test_one_that_is_deaf_to_sigterm_is_killed_at_its_limit(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    made = program(tmp_path, STUBBORN, stop_seconds=0.2)
    child = supervisor.start(made)
    until(lambda: b"deaf" in made.log.read_bytes())
    begun = time.monotonic()
    supervisor.stop("part")
    assert 0.2 <= time.monotonic() - begun < 2
    assert child.process.returncode == -signal.SIGKILL
    assert said == ["part did not stop within 0.2 s; killing it"]


def test_several_are_asked_at_once_and_each_has_its_time(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    slow = (*SLEEPER[:4], SLOW)
    names = ("a", "b", "c")
    made = [replace(program(tmp_path, slow), name=n, log=tmp_path / n) for n in names]
    children = [supervisor.start(each) for each in made]
    until(lambda: all((tmp_path / n).exists() and (tmp_path / n).read_bytes() for n in names))
    begun = time.monotonic()
    supervisor.stop(*names, "nobody")
    assert 0.5 <= time.monotonic() - begun < 1.2, "one after the other"
    assert [child.process.returncode for child in children] == [0, 0, 0]
    assert supervisor.children == {}


def test_who_died_is_told_before_it_is_started_again(signals: Signals, tmp_path: Path) -> None:
    died: list[tuple[str, bool]] = []
    supervisor = Supervisor(
        signals, print, died=lambda name: died.append((name, supervisor.children[name].alive))
    )
    try:
        child = supervisor.start(program(tmp_path))
        child.process.kill()
        until(lambda: not child.alive)
        time.sleep(supervisor.tend())
        supervisor.tend()
        assert child.alive
        assert died == [("part", False)]
    finally:
        supervisor.kill_all()


def test_without_a_log_a_child_writes_where_we_do(tmp_path: Path) -> None:
    script = f"""if True:
        import os, time
        from authz.supervise import Program, Signals, Supervisor
        with Signals() as signals:
            supervisor = Supervisor(signals, print)
            say = "import sys; print('out'); print('err', file=sys.stderr)"
            argv = (*{SLEEPER[:4]!r}, say)
            supervisor.start(Program("part", argv, None, os.environ)).process.wait()
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_to_a_part_of_something_larger_a_hangup_is_a_reload_and_ctrl_c_not_its_own() -> None:
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGHUP)}
    try:
        with Signals(part=True) as signals:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGINT)
            assert signals.take_hangup()
            assert not signals.asked
            signal.raise_signal(signal.SIGTERM)
            assert signals.asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_second_ctrl_c_does_not_wait(
    supervisor: Supervisor, signals: Signals, said: list[str], tmp_path: Path
) -> None:
    made = program(tmp_path, STUBBORN, stop_seconds=30)
    child = supervisor.start(made)
    until(lambda: b"deaf" in made.log.read_bytes())
    for _ in range(2):
        signal.raise_signal(signal.SIGINT)
    assert signals.urgent
    begun = time.monotonic()
    supervisor.stop("part")
    assert time.monotonic() - begun < 1
    assert child.process.returncode == -signal.SIGKILL
    assert said == []


def test_a_signal_ends_a_wait_and_is_counted_and_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        begun = time.monotonic()
        signals.wait(5)
        assert time.monotonic() - begun < 1
        assert signals.asked
        signals.wait(0)  # the pipe is empty again, so this one does wait
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_twice_is_no_hurry(signals: Signals) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
        assert signals.asked
        assert not signals.urgent


def test_under_nohup_a_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert not signals.asked
            assert not signals.take_hangup()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_hangup_is_a_wish_to_reload_and_taken_once() -> None:
    with Signals() as signals:
        signal.raise_signal(signal.SIGHUP)
        assert signals.take_hangup()
        assert not signals.take_hangup()
        assert not signals.asked


def test_a_terminal_that_closes_stops_what_was_started_on_it() -> None:
    script = """if True:
        from authz.supervise import Signals
        with Signals() as signals:
            print('on', flush=True)
            while not signals.asked:
                signals.wait(5)
                print('reload', signals.take_hangup(), flush=True)
    """
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ("setsid", "--ctty", sys.executable, "-c", script), stdin=theirs, stdout=subprocess.PIPE
    ) as child:
        os.close(theirs)
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        child.send_signal(signal.SIGHUP)
        assert child.stdout.readline() == b"reload True\n"
        os.close(ours)
        assert child.wait(5) == 0
        assert b"True" not in child.stdout.read()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_hangup_of_the_terminal_that_we_were_started_on_is_a_wish_to_stop(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [True, False]
    monkeypatch.setattr("authz.supervise.has_terminal", lambda: there.pop(0))
    with Signals() as signals:
        signal.raise_signal(number)
        assert signals.asked
        assert not signals.take_hangup()


def test_a_signal_is_passed_on_to_a_program_that_is_up(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    script = "import signal, sys; signal.signal(signal.SIGHUP, lambda *_: sys.exit(7)); "
    started = supervisor.start(
        program(tmp_path, (*SLEEPER[:4], f"{script}print('on', flush=True); signal.pause()"))
    )
    until(lambda: "on" in started.program.log.read_text())
    supervisor.pass_on("nobody", signal.SIGHUP)
    supervisor.pass_on(started.program.name, signal.SIGHUP)
    assert started.process.wait(5) == 7
    supervisor.pass_on(started.program.name, signal.SIGHUP)


def test_what_is_started_outlives_the_hangup_of_a_terminal(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    started = supervisor.start(program(tmp_path, SLEEPER))
    until(lambda: ignores(started.process.pid, signal.SIGHUP))
    started.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert started.alive


def ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal, as the kernel has it."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_the_death_of_a_child_ends_a_wait(
    supervisor: Supervisor, signals: Signals, tmp_path: Path
) -> None:
    supervisor.start(program(tmp_path, (*SLEEPER[:4], "pass")))
    begun = time.monotonic()
    signals.wait(5)
    assert time.monotonic() - begun < 4
    assert not signals.asked


def test_no_child_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, pathlib, time
        from authz.supervise import Program, Signals, Supervisor
        with Signals() as signals:
            supervisor = Supervisor(signals, print)
            for own in (False, True):
                part = Program(str(own), {SLEEPER!r}, pathlib.Path("part.log"), os.environ, own)
                print(supervisor.start(part).process.pid, flush=True)
            time.sleep(60)
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    cmdlines = [Path(f"/proc/{pid}/cmdline") for pid in children]
    until(lambda: all(b"tether" not in each.read_bytes() for each in cmdlines))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not any(alive(pid) for pid in children))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # dead, and whoever adopted it has not looked yet
