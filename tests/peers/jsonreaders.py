"""Other readers of JSON, each in a child process of its own for a whole session."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peers.golang import ensure_go_program
from peers.node import ensure_node
from peers.venvs import ensure_venv

_READERS: Final = Path(__file__).resolve().parent / "readers"

Steps = tuple[str, ...]
"""The names that lead to a member: of the body, of an object in it, …"""


@dataclass(frozen=True)
class Seen:
    """What one reader sees: the value at each path, None if there is none; or why it refuses."""

    values: tuple[Any, ...] = ()
    error: str | None = None


class JsonReaders:
    """All readers at once: a line of JSON to each child, a line of JSON from each."""

    def __init__(self, children: Sequence[subprocess.Popen[str]]) -> None:
        self._children = children

    def read(self, paths: Sequence[Steps], bodies: Sequence[bytes]) -> list[dict[str, Seen]]:
        """What each reader sees of each body."""
        coded = [base64.b64encode(body).decode() for body in bodies]
        line = json.dumps({"paths": paths, "bodies": coded}) + "\n"
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(line)
            child.stdin.flush()
        views: list[dict[str, Seen]] = [{} for _ in bodies]
        for child in self._children:
            for name, answers in _answer(child).items():
                assert len(answers) == len(bodies)
                for view, answer in zip(views, answers, strict=True):
                    view[name] = Seen(tuple(answer.get("seen") or ()), answer.get("error"))
        return views


def _answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, f"{child.args!r} ended"
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextmanager
def json_readers() -> Iterator[JsonReaders]:
    """The readers of `readers/jsons.*` in Python, Node and Go, while the block runs."""
    commands = (
        (ensure_venv("jsons"), _READERS / "jsons.py"),
        (ensure_node(), _READERS / "jsons.js"),
        (ensure_go_program("jsons"),),
    )
    with ExitStack() as stack:
        children = []
        for argv in commands:
            child = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                bufsize=1,
            )
            # closes both pipes, so the child ends by itself, and waits for it
            stack.enter_context(child)
            children.append(child)
        yield JsonReaders(children)
