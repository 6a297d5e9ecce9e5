"""The lease: one holder at a time, freed with the process however it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from authz.lease import LOCK_NAME, Lease

HOLDER = """
import sys, time
from pathlib import Path
from authz.lease import Lease
assert Lease(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = Lease(tmp_path), Lease(tmp_path)
    assert first.acquire()
    assert not second.acquire()
    assert second.holder() == str(os.getpid())
    first.release()
    assert second.acquire()
    assert not first.acquire()
    second.release()
    second.release()


def test_only_the_owner_can_open_its_file(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    lease.acquire()
    assert (tmp_path / LOCK_NAME).stat().st_mode & 0o777 == 0o600
    lease.release()


def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not lease.acquire()
        assert lease.holder() == str(holder.pid)
        holder.send_signal(signal.SIGKILL)
    assert lease.acquire()
    assert lease.holder() == str(os.getpid())
    lease.release()


def test_without_a_state_folder_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Lease(tmp_path / "nowhere").acquire()
    assert Lease(tmp_path / "nowhere").holder() == "unknown"
