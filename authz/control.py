"""The control socket: what commands on this machine may ask of a running authz.

store/control.py has the form of a question and of an answer. The methods, each with its arguments
and its result; money is nano-USD:

  counters  {}                    {open_holds, held_nanousd, ends_waiting, ledger_lag_seconds,
                                  accounts (how many are counted), drift_nanousd (last compared),
                                  journaled (whether open holds are in the state's journal)}
  accounts  {}                    [account id, …]: those whose counters can be compared now
  drift     {accounts: [id, …]}   {id: by how much counters and ledger differ, or null if the
                                  account moved meanwhile, or is not counted (any more)}
  holds     {}                    {hold id: nano-USD}: every open hold
  settling  {}                    {ends_waiting, ledger_lag_seconds}: of this process alone
  refusal   {id: "…"}             what is known of a call that was refused lately, by its request
                                  id, or null (authz/refusals.py)
  models    {}                    [name, …]: what the model servers list, of each its own
  feed      {}                    null, once every change that was committed before has been applied
  catalog   {}                    {path, text}: the catalog in force, whatever its file says by now
  catalog_check   {}              null where catalog_reload would be done; else its error
  catalog_reload  {}              {path, changes, warnings, seconds}, once the file is in force (see
                                  authz/reload.py); else the error names every fault by its line

A meter knows neither refusal nor feed. Of several processes each has a socket of its own, and
their supervisor answers for all of them (authz/joined.py).

Whoever may open the socket (mode 0600) is this user or root, who can read and change all of this
without it. It is bounded all the same: a few questions at once, each of them small and in time.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from threading import BoundedSemaphore, Thread
from typing import Any, Final

from authz.bookkeeping import Books
from authz.feed import Feed
from authz.refusals import Refusals
from store.control import MAX_QUESTION_BYTES, OTHER_STATE, state_mark
from store.errors import InputError, StoreError

MAX_ACCOUNTS: Final = 100  # in one question of `drift`; each costs a reading of SQL
AT_ONCE: Final = 8
QUESTION_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)

Method = Callable[[Mapping[str, Any]], object]


def methods(
    books: Books,
    *,
    reload: Callable[[], object],
    try_out: Callable[[], object],
    catalog: Callable[[], object],
    feed: Feed | None = None,
    refusals: Refusals | None = None,
    listed: Callable[[], Sequence[str]] = tuple,
) -> dict[str, Method]:
    """What can be asked, by name. A method raises InputError or StoreError.

    Without a feed, or refusals, those cannot be asked for.
    """

    def settling(_: Mapping[str, Any]) -> dict[str, object]:
        return {
            "ends_waiting": books.settler.waiting,
            "ledger_lag_seconds": round(books.settler.lag_seconds(), 3),
        }

    def counters(_: Mapping[str, Any]) -> object:
        holds = books.counters.open_holds()
        return {
            "open_holds": len(holds),
            "held_nanousd": sum(hold.nanousd for hold in holds),
            **settling({}),
            "accounts": len(books.counters.accounts()),
            "drift_nanousd": books.drift_nanousd,
            "journaled": books.journaled,
        }

    def drift(arguments: Mapping[str, Any]) -> object:
        counted = frozenset(books.counters.accounts())
        return {
            account_id: books.drift(account_id) if account_id in counted else None
            for account_id in _account_ids(arguments)
        }

    known: dict[str, Method] = {
        "counters": counters,
        "accounts": lambda _: sorted(books.counters.accounts()),
        "drift": drift,
        "holds": lambda _: {hold.id: hold.nanousd for hold in books.counters.open_holds()},
        "settling": settling,
        "models": lambda _: list(listed()),
        "catalog": lambda _: catalog(),
        "catalog_check": lambda _: try_out(),
        "catalog_reload": lambda _: reload(),
    }
    if refusals is not None:
        known["refusal"] = lambda arguments: refusals.find(_request_id(arguments))
    if feed is not None:
        known["feed"] = lambda _: feed.poll()
    return known


def _request_id(arguments: Mapping[str, Any]) -> str:
    asked = arguments.get("id")
    if not isinstance(asked, str):
        raise InputError("`id` has to be a text.")
    return asked


def _account_ids(arguments: Mapping[str, Any]) -> list[str]:
    given = arguments.get("accounts")
    if (
        not isinstance(given, list)
        or len(given) > MAX_ACCOUNTS
        or not all(isinstance(each, str) for each in given)
    ):
        raise InputError(f"`accounts` has to be a list of at most {MAX_ACCOUNTS} account ids.")
    return given


class Responder:
    """Question in, answer out: bytes, and nothing is raised."""

    def __init__(self, state: Path, known: Mapping[str, Method]) -> None:
        self._state = state
        self._known = known

    def answer(self, question: bytes) -> bytes:
        """The answer's line."""
        return json.dumps(self._answer(question)).encode() + b"\n"

    def _answer(self, raw: bytes) -> dict[str, object]:
        try:
            question = json.loads(raw) if raw.endswith(b"\n") else None
        except (ValueError, RecursionError):
            question = None
        match question:
            case {"method": str(name), "state": str(mark), "arguments": dict(arguments)}:
                return self._call(name, mark, arguments)
        return _error(
            "invalid_question",
            f"A question is one line of JSON with method, state and arguments, of at most "
            f"{MAX_QUESTION_BYTES} bytes.",
        )

    def _call(self, name: str, mark: str, arguments: Mapping[str, Any]) -> dict[str, object]:
        try:
            if mark != state_mark(self._state):
                return _error(OTHER_STATE, "This authz serves another state.")
            method = self._known.get(name)
            if method is None:
                return _error(
                    "unknown_method",
                    f"The running authz does not know `{name[:64]}`; it knows "
                    f"{', '.join(self._known)}. It may be of another version: restart the gate.",
                )
            return {"result": method(arguments)}
        except InputError as fault:
            return _error(fault.code, str(fault))
        except StoreError as fault:
            return _error("store_unavailable", str(fault))
        except Exception as fault:  # noqa: BLE001  whoever asks is told something, the log the rest
            _log.exception("the question %r could not be answered", name[:64])
            return _error("internal", f"internal error: {type(fault).__name__}; see authz's log.")


def _error(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}


@contextmanager
def serving(path: Path, responder: Responder) -> Iterator[None]:
    """Answer on a socket that only this user can open. Raises OSError where it cannot be made.

    At the end no question is being answered any more.
    """
    path.unlink(missing_ok=True)  # left by one that was killed: the lease says that it is ours
    before = os.umask(0o177)
    try:
        server = _Server(path, responder)
    except OSError as fault:
        raise OSError(f"{path} cannot be listened on: {fault.strerror or fault}") from None
    finally:
        os.umask(before)
    thread = Thread(target=server.serve_forever, args=(0.1,), name="control", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        path.unlink(missing_ok=True)


class _Server(ThreadingMixIn, UnixStreamServer):
    """A thread for each question, at most AT_ONCE; who comes beyond is hung up on."""

    request_queue_size = 64

    def __init__(self, path: Path, responder: Responder) -> None:
        self.responder = responder
        self._places = BoundedSemaphore(AT_ONCE)
        super().__init__(str(path), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(timeout=QUESTION_SECONDS):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        _log.exception("a question on the control socket failed")


class _Handler(StreamRequestHandler):
    """One question, one answer."""

    timeout = QUESTION_SECONDS
    server: _Server
    connection: socket

    def handle(self) -> None:
        with suppress(OSError):  # who asked went away, or never said what they want
            question = self.rfile.readline(MAX_QUESTION_BYTES)
            if question:
                self.wfile.write(self.server.responder.answer(question))
