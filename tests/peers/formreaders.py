"""Other readers of multipart forms, each in a child process of its own for a whole session."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peers.children import READERS, Children, running
from peers.golang import ensure_go_program
from peers.node import ensure_node, ensure_node_modules
from peers.venvs import ensure_venv


@dataclass(frozen=True)
class Seen:
    """What one reader sees: (name, value) of each field, None being a file; or why it refuses."""

    fields: tuple[tuple[str, str | None], ...] = ()
    error: str | None = None


class FormReaders:
    """All readers at once."""

    def __init__(self, children: Children) -> None:
        self._children = children

    def read(self, content_type: str, body: bytes, chunk: int = 0) -> dict[str, Seen]:
        """What each reader sees; `chunk` is how many bytes it gets at a time, 0 for all."""
        coded = base64.b64encode(body).decode()
        answers = self._children.ask({"type": content_type, "body": coded, "chunk": chunk})
        return {name: _seen(said) for answer in answers for name, said in answer.items()}


def _seen(said: dict[str, Any]) -> Seen:
    fields = tuple((name, value) for name, value in said.get("fields") or ())
    return Seen(fields, said.get("error"))


@contextmanager
def form_readers() -> Iterator[FormReaders]:
    """The readers of `readers/forms.*` in Python, Node and Go, while the block runs."""
    with running(
        (ensure_venv("forms"), READERS / "forms.py"),
        (ensure_node(), READERS / "forms.js", ensure_node_modules("busboy")),
        (ensure_go_program("forms"),),
    ) as children:
        yield FormReaders(children)
