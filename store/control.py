"""Asking a running authz: `control.sock` in its runtime folder, which only its user can reach.

One connection is one question and one answer, each a line of JSON:

  {"method": "drift", "state": "66306:1835", "arguments": {"accounts": ["acc_…"]}}
  {"result": …}   or   {"error": {"code": "unknown_method", "message": "…"}}

`state` is the device and the inode of the state folder that is meant. An authz of another state
refuses: two gates on one machine may share the default runtime folder, and what the one counts
says nothing about the other's ledger. The methods are described in authz/control.py.

It is not gRPC because a command must not wait for an import that is longer than its work.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

from store.errors import InputError, NotRunningError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from store.settings import StoreSettings  # its pydantic is not needed to ask

SOCKET_NAME: Final = "control.sock"
RUNTIME_NAME: Final = "runtime"  # the file in the state folder in which `up` names the folder
MAX_QUESTION_BYTES: Final = 64 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
OTHER_STATE: Final = "other_state"
CONFIG: Final = "config"  # as ConfigError has it

ASK_SECONDS: Final = 10.0
NUDGE_SECONDS: Final = 1.0
_RECEIVE_BYTES: Final = 64 * 1024
_ABSENT: Final = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)


def state_mark(state: Path) -> str:
    """Which state folder that is, however its path is written. Raises OSError without one."""
    seen = state.stat()
    return f"{seen.st_dev}:{seen.st_ino}"


def runtime_folder(settings: StoreSettings) -> Path:
    """Where the sockets are: as `up` wrote it to the state, else as the settings say."""
    try:
        named = (settings.state / RUNTIME_NAME).read_text().strip()
    except (OSError, UnicodeDecodeError):
        named = ""
    return Path(named or settings.runtime)


@dataclass(frozen=True, slots=True)
class Control:
    """The control socket of the authz that serves a state, whether or not one does."""

    path: Path
    state: Path

    @classmethod
    def of(cls, settings: StoreSettings) -> Self:
        return cls(runtime_folder(settings) / SOCKET_NAME, settings.state)

    def ask(self, method: str, *, seconds: float = ASK_SECONDS, **arguments: object) -> Any:
        """The result of a method, as JSON has it.

        Raises NotRunningError where no authz serves this state, StoreUnavailableError where it
        does not answer in time, or refuses, and InputError for a configuration that is none.
        """
        try:
            mark = state_mark(self.state)
        except OSError:
            raise self._nobody() from None
        question = {"method": method, "state": mark, "arguments": arguments}
        return self._result(self._exchange(json.dumps(question).encode() + b"\n", seconds))

    def _exchange(self, question: bytes, seconds: float) -> bytes:
        deadline = monotonic() + seconds
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(seconds)
                connection.connect(str(self.path))
                connection.sendall(question)
                return _receive(connection, deadline)
        except _ABSENT:
            raise self._nobody() from None
        except OSError as fault:
            raise self._silent(fault.strerror or "no answer in time") from fault

    def _result(self, raw: bytes) -> Any:
        try:
            answer = json.loads(raw)
            if "result" in answer:
                return answer["result"]
            code, message = str(answer["error"]["code"]), str(answer["error"]["message"])
        except (ValueError, TypeError, LookupError):
            raise self._silent("what it answers is cut off, or no answer") from None
        if code == OTHER_STATE:
            raise self._nobody()
        if code == CONFIG:
            raise InputError(message, code=code)
        raise StoreUnavailableError(message)

    def _nobody(self) -> NotRunningError:
        return NotRunningError(
            f"No authz serves the state in {self.state} (looked at {self.path}). "
            "Start the gate: `make run` or `tensorgate up`."
        )

    def _silent(self, why: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"The authz at {self.path} does not answer ({why}). "
            "Try again; `tensorgate doctor` looks at each part."
        )


def nudge(settings: StoreSettings) -> bool:
    """Have a running authz read the change feed now, so that a change holds when this returns.

    False where none answers within a second: it polls the feed by itself.
    """
    try:
        Control.of(settings).ask("feed", seconds=NUDGE_SECONDS)
    except StoreError:
        return False
    return True


def _receive(connection: socket.socket, deadline: float) -> bytes:
    """Everything until the other side closes. Raises OSError: too late, or too much."""
    parts: list[bytes] = []
    size = 0
    while True:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(_RECEIVE_BYTES)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise OSError("too long an answer")
