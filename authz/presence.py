"""This process's row among those that live (store/replicas.py), kept fresh by a thread.

It is written every second, and at once when there is something to say: whoever revokes a key waits
for that. A row that cannot be written is written the next time; meanwhile whoever waits is told
that this process has not answered, which is true.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Final

from store.background import Background
from store.errors import StoreError
from store.replicas import BEAT_SECONDS, Replica, Replicas

NAME_CHARS: Final = 255
_ID_BYTES: Final = 12

_log = logging.getLogger(__name__)


def name_of(worker: str, pid: int | None = None) -> str:
    """How people tell a process, this one or that of a pid: its machine, what it is there, pid."""
    return f"{socket.gethostname()}/{worker}:{pid or os.getpid()}"[:NAME_CHARS]


def new_id() -> str:
    """A process's own, never used again."""
    return secrets.token_hex(_ID_BYTES)


class Presence(Background):
    """Says that a process lives until it is stopped: nobody need wait for it then. Thread-safe.

    `catalog` gives the mark of the catalog in force.
    """

    def __init__(
        self, replicas: Replicas, replica: Replica, catalog: Callable[[], str | None]
    ) -> None:
        super().__init__("presence")
        self._replicas = replicas
        self._replica = replica
        self._catalog = catalog
        self._lock = Lock()
        self._failing = False

    @property
    def replica_id(self) -> str:
        """The row's."""
        return self._replica.id

    def applied(self, seq: int) -> None:
        """The cache is up to date with this change."""
        with self._lock:
            self._replica = replace(self._replica, applied_seq=seq)
        self._wake()

    def start(self) -> None:
        """Write the row, then keep it. A database that is out is waited for by the thread."""
        self._write(first=True)
        super().start()

    def _run(self) -> None:
        while not self._rest(BEAT_SECONDS):
            self._write()
        with suppress(StoreError):  # it is old soon
            self._replicas.leave(self._replica.id)

    def _write(self, *, first: bool = False) -> None:
        try:
            with self._lock:
                self._replica = replace(self._replica, catalog=self._catalog())
                now = self._replica
            self._replicas.beat(now)
            if first:
                self._replicas.forget()
        except StoreError as fault:
            if not self._failing:
                _log.warning("who revokes a key cannot hear of this process: %s", fault)
            self._failing = True
        except Exception:  # noqa: BLE001  a defect of ours; without the thread nobody hears of us
            _log.exception("the row of this process could not be written")
        else:
            self._failing = False
