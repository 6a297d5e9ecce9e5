"""Foreign tools, each in a virtual environment of its own under `.venvs/` at the repo root.

What a tool needs stands in `requirements/NAME.in`; `NAME.lock` is compiled from it by

    uv pip compile --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header NAME.in -o NAME.lock
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
VENVS: Final = ROOT / ".venvs"
REQUIREMENTS: Final = Path(__file__).resolve().parent / "requirements"


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """One process at a time in here; the kernel lets the next one in when this one ends."""
    VENVS.mkdir(exist_ok=True)
    with (VENVS / f"{name}.flock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure_venv(name: str, lock: Path | None = None) -> Path:
    """The python of a venv that holds just what the lock says; made, or made anew, if need be."""
    lock = lock or REQUIREMENTS / f"{name}.lock"
    folder = VENVS / name
    python = folder / "bin" / "python"
    stamp = folder / "made-from"
    # the venv is bound to the interpreter and to the place that it was made with
    wanted = hashlib.sha256(f"{sys.version}\n{folder}\n{lock.read_text()}".encode()).hexdigest()
    with exclusive(name):
        if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            run(sys.executable, "-m", "venv", "--without-pip", str(folder))
            pip = (sys.executable, "-m", "pip", "--python", str(python), "--quiet")
            flags = ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
            flags.append("--no-compile")  # of what is imported Python does it: a small part
            run(*pip, "install", *flags, "--requirement", str(lock))
            # last: a venv without its stamp is half made
            stamp.write_text(wanted)
    return python


def run(*argv: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """A step of setting something up: it works, or RuntimeError says what it printed."""
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{said}")
