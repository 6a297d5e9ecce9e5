"""Other readers of JSON, each in a child process of its own for a whole session."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peers.children import READERS, Children, running
from peers.golang import ensure_go_program
from peers.node import ensure_node
from peers.venvs import ensure_venv

Steps = tuple[str, ...]
"""The names that lead to a member: of the body, of an object in it, …"""


@dataclass(frozen=True)
class Seen:
    """What one reader sees: the value at each path, None if there is none; or why it refuses."""

    values: tuple[Any, ...] = ()
    error: str | None = None


class JsonReaders:
    """All readers at once."""

    def __init__(self, children: Children) -> None:
        self._children = children

    def read(self, paths: Sequence[Steps], bodies: Sequence[bytes]) -> list[dict[str, Seen]]:
        """What each reader sees of each body."""
        coded = [base64.b64encode(body).decode() for body in bodies]
        views: list[dict[str, Seen]] = [{} for _ in bodies]
        for said in self._children.ask({"paths": paths, "bodies": coded}):
            for name, answers in said.items():
                assert len(answers) == len(bodies)
                for view, answer in zip(views, answers, strict=True):
                    view[name] = Seen(tuple(answer.get("seen") or ()), answer.get("error"))
        return views


@contextmanager
def json_readers() -> Iterator[JsonReaders]:
    """The readers of `readers/jsons.*` in Python, Node and Go, while the block runs."""
    with running(
        (ensure_venv("jsons"), READERS / "jsons.py"),
        (ensure_node(), READERS / "jsons.js"),
        (ensure_go_program("jsons"),),
    ) as children:
        yield JsonReaders(children)
