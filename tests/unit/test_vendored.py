"""What browsers get: vendored scripts as they were published, and nothing inline anywhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from admin.web.pages import HERE

VENDOR = HERE / "static" / "vendor"
ROW = re.compile(
    r"\| (?P<file>\S+) \|.*\| \S+ \| .*, (?P<licence>\S+) \| (?P<sha256>[0-9a-f]{64}) \|"
)
TEMPLATES = sorted((HERE / "templates").rglob("*.html"))
INLINE = re.compile(
    r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?![^>]*\ssrc=)|hx-on|hx-vals=.js:",
    re.IGNORECASE,
)


def test_vendored_scripts_are_as_published() -> None:
    listed = {row["file"]: row for row in ROW.finditer((VENDOR / "README.md").read_text())}
    assert set(listed) == {path.name for path in VENDOR.glob("*.js")}
    for name, row in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == row["sha256"]
        assert "copy" in (VENDOR / row["licence"]).read_text().lower()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_needs_what_the_policy_forbids(template: Path) -> None:
    found = [match.group() for match in INLINE.finditer(template.read_text())]
    assert found == []


def test_every_icon_that_is_named_is_drawn() -> None:
    drawn = set(re.findall(r'<symbol id="([^"]+)"', (HERE / "static" / "icons.svg").read_text()))
    named = {
        name
        for template in TEMPLATES
        for name in re.findall(r'\bicon\("([^"]+)"', template.read_text())
    }
    assert named
    assert named <= drawn
