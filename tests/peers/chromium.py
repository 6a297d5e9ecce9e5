"""A real Chromium: the system's, else Debian's; Playwright drives it.

Best is the one that is built without windows, which Playwright itself would bring: the same
engine takes a third of the CPU, as there is no browser around each page.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from peers.debian import program
from playwright.sync_api import Browser, sync_playwright

WINDOWLESS: Final = "chromium-headless-shell"
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
    try:
        return program(WINDOWLESS)
    except RuntimeError:  # not every system has it in its packages
        return program("chromium", *NAMES)


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
