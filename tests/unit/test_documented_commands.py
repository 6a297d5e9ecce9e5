"""Each `tensorgate …` that a page or an alert tells people to run is one that there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from tensorgate.cli import app
from tensorgate.envoy.cli import app as envoy_app

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    *("README.md", "deploy/README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("deploy/istio/README.md", "deploy/envoy-gateway/README.md"),
    "deploy/prometheus/rules.yaml",
)
LEAST: Final = {"README.md": 20, "deploy/README.md": 10, "SECURITY.md": 1}
PROGRAM: Final = re.compile(r"(?:^|[\s(\"'`$])tensorgate (?=[a-z-])(.*)")
BLOCK: Final = re.compile(r"(?ms)^( *)```\w*\n(.*?)^\1```")
INLINE: Final = re.compile(r"(?s)(?<!`)`([^`]+)`(?!`)")
VERBS: Final = {  # what starts a sentence of ours in the same way, and is no command
    "ready",
}


def _lines(path: str) -> Iterator[str]:
    """What stands where a command may: in blocks, between backticks, after `first:`."""
    text = (ROOT / path).read_text()
    if path.endswith(".yaml"):
        yield from re.findall(r"(?m)^ +first: (.*)$", text)
        return
    for _, block in BLOCK.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    for inline in INLINE.findall(BLOCK.sub("", text)):
        if inline.startswith("tensorgate "):  # not the middle of a line that is talked about
            yield " ".join(inline.split())


def _commands(path: str) -> Iterator[str]:
    """The words behind `tensorgate`, up to what is the shell's."""
    for line in _lines(path):
        said = line.replace("-n tensorgate ", "")  # kubectl's, of a namespace
        found = None if said.startswith("ACL ") else PROGRAM.search(said)  # a user of Redis's
        if found:
            words = re.split(r"\s(?:#|\||>|<|&&|…|→)|;", found[1])[0]
            if words.split()[0] not in VERBS:
                yield words.strip()


ALL: Final = [(path, words) for path in PAGES for words in dict.fromkeys(_commands(path))]


@pytest.mark.parametrize(("path", "words"), ALL, ids=lambda part: str(part)[:60])
def test_it_can_be_run(path: str, words: str) -> None:
    faults = list(_faults(words))
    assert faults == [], f"{path}: tensorgate {words}"


def test_pages_have_commands() -> None:
    for path, least in LEAST.items():
        assert sum(each == path for each, _ in ALL) >= least, path


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("keys mint --user a@b.example --alias a", None),
        ("keys mind --user a@b.example", "mind"),
        ("keys mint --users a@b.example", "--users"),
        ("doctor --json", None),
        ("envoy render --workers 2", None),
        ("envoy render --worker 2", "--worker"),
        ("envoy paint", "paint"),
        ("doctor --jsn", "--jsn"),
    ],
)
def test_a_command_that_there_is_not_is_found(words: str, fault: str | None) -> None:
    assert list(_faults(words)) == ([] if fault is None else [fault])


def _faults(words: str) -> Iterator[str]:
    """Subcommands and options that are none."""
    command: Any = typer.main.get_command(app)
    root = command
    for word in shlex.split(words):
        if word.startswith("-"):
            name = word.partition("=")[0]
            known = {each for one in command.params for each in (*one.opts, *one.secondary_opts)}
            if name not in known | {"--help"}:
                yield name
        elif word == "envoy" and command is root:
            command = typer.main.get_command(envoy_app)  # only read where it is asked for
        elif hasattr(command, "commands"):
            if word not in command.commands:
                yield word
                return
            command = command.commands[word]
