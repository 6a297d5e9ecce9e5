"""A real Chromium: the system's, else Debian's; Playwright drives it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from peers.venvs import exclusive
from playwright.sync_api import Browser, sync_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium_path() -> str:
    """The browser's program; installed by apt-get where there is none and we may."""
    found = _found()
    if found is None:
        with exclusive("chromium"):
            found = _found() or _installed()
    return found


def _found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _installed() -> str:
    if os.geteuid() or shutil.which("apt-get") is None:
        raise RuntimeError(
            "The browser tests need Chromium and found none. Install it (on Debian: "
            "`apt-get install chromium`), or run the tests once as root there."
        )
    for arguments in (("update",), ("install", "-y", "--no-install-recommends", "chromium")):
        argv = ("apt-get", "-qq", *arguments)
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"The browser tests need Chromium, and `{' '.join(argv)}` failed:\n"
                f"{(done.stdout + done.stderr)[-2000:]}"
            )
    found = _found()
    if found is None:
        raise RuntimeError("Debian's chromium was installed but is not on the PATH.")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser with a profile of its own, until the block ends."""
    with sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=chromium_path(), headless=True, args=list(FLAGS)
        )
        try:
            yield running
        finally:
            running.close()
