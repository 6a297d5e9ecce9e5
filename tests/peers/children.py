"""Foreign readers, each a child process that lives on: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

READERS: Final = Path(__file__).resolve().parent / "readers"


class Children:
    """All of them at once."""

    def __init__(self, children: Sequence[subprocess.Popen[str]]) -> None:
        self._children = children

    def ask(self, question: object) -> Iterator[dict[str, Any]]:
        """What each of them answers. All have the question before the first is waited for."""
        line = json.dumps(question) + "\n"
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(line)
            child.stdin.flush()
        return map(_answer, self._children)


def _answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, f"{child.args!r} ended"
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextmanager
def running(*commands: Sequence[object]) -> Iterator[Children]:
    """The children of these command lines, while the block runs."""
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
        yield Children(children)
