"""Node: the system's, else Debian's; and packages of npm's, each set in a folder of its own.

What a set needs stands in `requirements/NODE_SET/package.json`; its `package-lock.json` pins each
package by version and hash. It is made there with

    npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved

so that no registry is named in it: npm asks the one that it is set up with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from peers.venvs import REQUIREMENTS, VENVS, exclusive, run

_LOCK: Final = "package-lock.json"


def ensure_node() -> Path:
    """Node's program; installed by apt-get where there is none and we may."""
    return _ensure_program("node")


def ensure_node_modules(name: str) -> Path:
    """A folder whose `node_modules` has just what the lock of this set says; made if need be."""
    source = REQUIREMENTS / name
    folder = VENVS / name
    stamp = folder / "made-from"
    wanted = hashlib.sha256((source / _LOCK).read_bytes()).hexdigest()
    npm = _ensure_program("npm")
    with exclusive(name):
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for each in ("package.json", _LOCK):
                shutil.copy(source / each, folder)
            flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
            # in the folder: with `--prefix` some npm take a folder in a git tree for a dependency
            run(str(npm), "ci", *flags, cwd=folder)
            # last: a folder without its stamp is half made
            stamp.write_text(wanted)
    return folder


def _ensure_program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        with exclusive("node"):
            found = shutil.which(name) or _installed(name)
    return Path(found)


def _installed(name: str) -> str:
    if os.geteuid() or shutil.which("apt-get") is None:
        raise RuntimeError(
            f"The tests need Node and found no `{name}`. Install it (on Debian: `apt-get install "
            "nodejs npm`), or run the tests once as root there."
        )
    # npm only where Node's own package brings none: Debian's npm wants Debian's Node
    packages = ("nodejs",) if name == "node" else ("npm",)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
        run("apt-get", "-qq", *arguments, env=env)
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"Debian's {packages[0]} was installed but {name} is not on the PATH.")
    return found
