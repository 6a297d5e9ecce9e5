"""What becomes of the process where one of its threads ends that it cannot do without.

Each of these goes on whatever happens in it, and logs what did. Should one end all the same, the
process does too, with an error: whoever supervises it starts it again, and the journal knows what
was open. Going on without would look like health, and end no hold any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

ESSENTIAL: Final = frozenset(
    {"settle", "upkeep", "pulse", "journal", "feed", "listings", "listen", "presence", "lease"}
)
"""The names of the threads."""

_log = logging.getLogger(__name__)


class Watch:
    """Whether a thread has ended that was essential."""

    def __init__(self, end: Callable[[], object]) -> None:
        self._end = end
        self.failed = False

    def fail(self) -> None:
        """The process cannot go on, for a reason that was logged."""
        self.failed = True
        self._end()

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        """As threading.excepthook: what a thread died of."""
        if args.exc_value is None:  # only as the interpreter ends
            return
        name = "?" if args.thread is None else args.thread.name
        stack = (args.exc_type, args.exc_value, args.exc_traceback)
        _log.critical("thread %s ended", name, exc_info=stack)
        if name in ESSENTIAL:
            self.fail()


@contextmanager
def watching(end: Callable[[], object]) -> Iterator[Watch]:
    """Watch the threads of this process. `end`, called in the one that ends, has it stop."""
    before, watch = threading.excepthook, Watch(end)
    threading.excepthook = watch
    try:
        yield watch
    finally:
        threading.excepthook = before
