"""A person at the dashboard: a browser's page that complains of whatever it complains of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from peers.node import ensure_node_modules
from playwright.sync_api import Browser, ConsoleMessage, Page

PASSWORD: Final = "correct horse battery staple"
_STATUS: Final = "Failed to load resource: the server responded with a status of 4"
"""Chromium reports every 4xx; tests look at them themselves."""


@dataclass
class Visitor:
    """One browser context at one dashboard."""

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> Page:
        """Open a page of the dashboard; raises AssertionError unless it answers 200."""
        answer = self.page.goto(self.base + path)
        assert answer is not None
        assert answer.status == 200, (path, answer.status)
        return self.page

    def sign_in(self, email: str) -> Page:
        """Sign in, and arrive at the keys."""
        self.go("/sign-in")
        self.page.get_by_label("E-mail").fill(email)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign in", exact=True).click()
        self.page.wait_for_url("**/keys")
        return self.page

    def violations(self) -> list[str]:
        """What axe finds wrong with the page as it stands: rule, and where."""
        self.page.evaluate(f"{axe()};0")
        found: dict[str, Any] = self.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']})"
        )
        return [
            f"{each['id']} ({each['help']}): {node['target']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(_STATUS):
            self.complaints.append(message.text)


@contextmanager
def visitor(chromium: Browser, base: str, **options: Any) -> Iterator[Visitor]:
    """Somebody new. At the end the browser must have had nothing to complain of.

    Nothing means: no error of a script, and nothing that the content security policy stopped.
    """
    options.setdefault("viewport", {"width": 1280, "height": 800})
    context = chromium.new_context(**options)
    context.set_default_timeout(10_000)
    try:
        page = context.new_page()
        someone = Visitor(page, base)
        page.on("console", someone._hear)
        page.on("pageerror", lambda fault: someone.complaints.append(str(fault)))
        yield someone
        assert someone.complaints == []
    finally:
        context.close()


@cache
def axe() -> str:
    """The rules of accessibility, as a script."""
    folder = ensure_node_modules("axe")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()
