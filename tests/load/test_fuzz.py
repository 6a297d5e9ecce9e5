"""Hostile requests against all that reads one, in a process of its own: see fuzzing.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def fuzz(seconds: int) -> str:
    """What the run says; it fails with the run."""
    done = subprocess.run(
        [sys.executable, TESTS / "load" / "fuzzing.py", str(seconds)],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "large requests" in done.stdout
    assert "slowest of the requests" in done.stdout
    return done.stdout


@pytest.mark.fuzz
def test_a_minute_of_hostile_requests() -> None:
    print(fuzz(60))


@pytest.mark.soak
def test_half_an_hour_of_hostile_requests() -> None:
    print(fuzz(30 * 60))
