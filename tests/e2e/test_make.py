"""The Makefile on machines as they are found: help, a Python that will not do, a fresh clone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from peers.process import Child

from tensorgate.ports import free_port

ROOT = Path(__file__).parents[2]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # what an outer make put into the environment must not reach this one
    clean = {n: v for n, v in os.environ.items() if n not in {"MAKEFLAGS", "MAKELEVEL", "PYTHON"}}
    return subprocess.run(
        ["make", *words],
        cwd=folder,
        env=clean,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_make_alone_prints_every_target_that_has_a_comment() -> None:
    printed = make(ROOT).stdout
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) >= {
        *(
            "run",
            "test",
            "check",
            "fuzz",
            "quick",
            "lint",
            "types",
            "arrows",
            "soak",
            "bench",
            "proto",
        ),
        *("lock", "clean"),
    }
    for target in targets:
        assert f"  make {target} " in printed
    for variable in ("UPSTREAM", "PORT", "ADMIN_PORT", "STATE", "WORKERS", "LISTEN"):
        assert variable in printed


def test_a_python_that_is_too_old_or_cannot_make_a_venv_is_told(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    # says that it is not 3.11, whatever it is asked
    old = program(tmp_path / "old", "exit 1")
    ran = make(tmp_path, "run", f"PYTHON={old}")
    assert ran.returncode != 0
    assert f"Tensorgate needs Python 3.11 or newer, and none of these is: {old}." in ran.stderr
    bare = program(tmp_path / "bare", 'case "$*" in *venv*) exit 1;; esac')
    ran = make(tmp_path, "run", f"PYTHON={bare}")
    assert ran.returncode != 0
    assert f"{bare} cannot make virtual environments." in ran.stderr
    assert "apt-get install python3-venv" in ran.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.soak
def test_make_run_on_a_fresh_clone_sets_up_and_starts(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    clone = tmp_path / "clone"
    for name in listed.stdout.rstrip("\0").split("\0"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name, follow_symlinks=False)
    port = free_port("127.0.0.1")
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("TENSORGATE_", "MAKE"))}
    for seconds in (600, 30):  # the second start installs nothing
        started = Child(
            ["make", "run", f"PORT={port}", "STATE=the state"],
            log=tmp_path / f"{seconds}.out",
            env=clean,
            cwd=clone,
        )
        started.line("Ctrl-C stops it.", seconds=seconds)
        assert started.output.count("installing ") == (1 if seconds > 30 else 0)
        assert (clone / "the state" / "tensorgate.db").exists()
        assert started.end(signal.SIGINT) in {0, -signal.SIGINT}
        assert "Error" not in started.output
