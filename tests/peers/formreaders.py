"""Other readers of multipart forms, each in a child process of its own for a whole session."""

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
from peers.node import ensure_node, ensure_node_modules
from peers.venvs import ensure_venv

_READERS: Final = Path(__file__).resolve().parent / "readers"


@dataclass(frozen=True)
class Seen:
    """What one reader sees: (name, value) of each field, None being a file; or why it refuses."""

    fields: tuple[tuple[str, str | None], ...] = ()
    error: str | None = None


class FormReaders:
    """All readers at once: a line of JSON to each child, a line of JSON from each."""

    def __init__(self, children: Sequence[subprocess.Popen[str]]) -> None:
        self._children = children

    def read(self, content_type: str, body: bytes, chunk: int = 0) -> dict[str, Seen]:
        """What each reader sees; `chunk` is how many bytes it gets at a time, 0 for all."""
        coded = base64.b64encode(body).decode()
        line = json.dumps({"type": content_type, "body": coded, "chunk": chunk}) + "\n"
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(line)
            child.stdin.flush()
        return {name: each for child in self._children for name, each in _answer(child)}


def _answer(child: subprocess.Popen[str]) -> Iterator[tuple[str, Seen]]:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, f"{child.args!r} ended"
    answer: dict[str, Any] = json.loads(line)
    for name, seen in answer.items():
        fields = tuple((name, value) for name, value in seen.get("fields") or ())
        yield name, Seen(fields, seen.get("error"))


@contextmanager
def form_readers() -> Iterator[FormReaders]:
    """The readers of `readers/forms.*` in Python, Node and Go, while the block runs."""
    commands = (
        (ensure_venv("forms"), _READERS / "forms.py"),
        (ensure_node(), _READERS / "forms.js", ensure_node_modules("busboy")),
        (ensure_go_program("forms"),),
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
        yield FormReaders(children)
