"""Programs from Debian's packages: the system's own, else installed, where we may."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from peers.venvs import exclusive

_PATH: Final = ":".join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def program(package: str, *names: str) -> str:
    """The path of the first of these programs that is there; a package is installed for none.

    Without names it is called as its package. Raises RuntimeError where it cannot be had.
    """
    names = names or (package,)
    found = _found(names)
    if found is None:
        with exclusive("debian"):  # apt-get is for one at a time
            found = _found(names) or _installed(package, names)
    return found


def _found(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name, path=_PATH))), None)


def _installed(package: str, names: tuple[str, ...]) -> str:
    if os.geteuid() or shutil.which("apt-get") is None:
        raise RuntimeError(
            f"The tests need {package} and found none. Install it (on Debian: "
            f"`apt-get install {package}`), or run the tests once as root there."
        )
    install = ("install", "-y", "--no-install-recommends", package)
    with _no_services():
        for arguments in (install, ("update",), install):  # the lists that there are may do
            argv = ("apt-get", "-qq", *arguments)
            env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
            found = _found(names)
            if found is not None:
                return found
    raise RuntimeError(
        f"The tests need {package}, and after `{' '.join(argv)}` there is none:\n"
        f"{(done.stdout + done.stderr)[-2000:]}"
    )


@contextmanager
def _no_services() -> Iterator[None]:
    """A package that brings a service must not start it."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():  # somebody has one already: it stays
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()
