"""One node of Redis or Valkey: its connections, each bound to the node's epoch, and its breaker.

An **epoch** is one reign of one process: the node's run id, and its replication id, which changes
when it is made master. Both are read in the handshake of every connection, and the replication id
again where a connection was not looked at for `LOOK_SECONDS`; every script is told. What was
written in another epoch, by a node that has been restarted, replaced, or demoted and promoted
again, was perhaps behind, and is not believed.

Worst case: a connection that lives through its node's demotion and promotion within `LOOK_SECONDS`
passes the epoch before. (Sentinel closes clients' connections when it demotes.) A replica that is
attached for the first time changes the replication id: accounts are then seeded anew.

Who asks a node waits for it no longer than its timeouts, and not at all while its breaker is open:
whether it is back is found out beside, on a connection of its own, whenever somebody asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from threading import Thread
from time import monotonic
from typing import Any, Final, NoReturn, Protocol

from redis.backoff import NoBackoff
from redis.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as BrokenError
from redis.exceptions import TimeoutError as LateError
from redis.retry import Retry

from store.breaker import Breaker
from store.counters.address import Address, Credentials
from store.counters.scripts import Script
from store.counters.tls import SecureConnection, distrust
from store.errors import StoreUnavailableError, UnansweredError

CONNECT_SECONDS: Final = 0.05
ANSWER_SECONDS: Final = 0.07
LOOK_SECONDS: Final = 1.0
PROBE_SECONDS: Final = 0.1
MOST_IDLE: Final = 64

Place = tuple[str, int] | str
"""A host and a port, or the path of a socket."""

Words = Sequence[bytes | str | int]
Reply = Any
"""What redis-py makes of an answer: bytes, int, None, or a list of these."""

_NOT_NOW: Final = (BusyLoadingError, ClusterDownError, ReadOnlyError)


class Wire(Protocol):
    """A connection of redis-py's, as far as it is used here."""

    def send_command(self, *words: bytes | str | int) -> None: ...

    def pack_command(self, *words: bytes | str | int) -> list[bytes]: ...

    def send_packed_command(self, command: list[bytes]) -> None: ...

    def read_response(self) -> Reply: ...

    def disconnect(self) -> None: ...


class Timeouts:
    """Seconds to connect and to wait for an answer."""

    __slots__ = ("answer", "connect")

    def __init__(self, connect: float = CONNECT_SECONDS, answer: float = ANSWER_SECONDS) -> None:
        self.connect = connect
        self.answer = answer


class Redirected(Exception):  # noqa: N818  no error: the answer of a cluster whose slot is elsewhere
    """Ask there; with `asking`, only this once. Without a host it is the one that was asked."""

    def __init__(self, fault: AskError, asked: Place) -> None:
        super().__init__(str(fault))
        self.slot = int(fault.slot_id)
        host = str(fault.host) or (asked if isinstance(asked, str) else asked[0])
        self.place = (host, int(fault.port))
        self.asking = not isinstance(fault, MovedError)


class UnwantedError(StoreUnavailableError):
    """One of the two does not want the other: no waiting helps, somebody has to do something."""


class _UnreachedError(BrokenError):
    """There was no connection, so nothing was asked."""


class _Line:
    """A connection, the epoch of its node, and when that was last looked at."""

    __slots__ = ("connection", "epoch", "looked", "run_id")

    def __init__(self, connection: Wire) -> None:
        self.connection = connection
        try:
            self.run_id = _field(self._info(b"server"), b"run_id")
            self.look()
        except BaseException:
            connection.disconnect()
            raise

    def look(self) -> None:
        """Read the epoch. Raises RedisError where the node is no master."""
        said = self._info(b"replication")
        if _field(said, b"role") != b"master":
            raise ReadOnlyError("it is a replica")
        reign = self.run_id + b"." + _field(said, b"master_replid")
        self.epoch = blake2b(reign, digest_size=12).hexdigest().encode()
        self.looked = monotonic()

    def _info(self, section: bytes) -> bytes:
        try:
            self.connection.send_command(b"INFO", section)
            said: Reply = self.connection.read_response()
        except UnicodeError as fault:  # redis-py connects as it sends, and lets this one through
            raise BrokenError(f"no host can have this name: {fault}") from fault
        if not isinstance(said, bytes):
            raise InvalidResponse("INFO is answered by no text")
        return said


class Node:
    """Thread-safe. Raises StoreUnavailableError, and UnansweredError where a step may be taken."""

    def __init__(self, place: Place, address: Address, timeouts: Timeouts) -> None:
        self.place = place
        self.breaker = Breaker(probe_seconds=PROBE_SECONDS)
        self._connect = connector(place, address, timeouts)
        self._idle: deque[_Line] = deque()
        self._closed = False

    def __str__(self) -> str:
        return self.place if isinstance(self.place, str) else f"{self.place[0]}:{self.place[1]}"

    def close(self) -> None:
        """Let go of all connections that nobody uses just now; the others follow."""
        self._closed = True
        self.hang_up()

    def command(self, *words: bytes | str | int) -> Reply:
        """A plain command. It has to be one that may run twice."""
        return self._within(lambda line, _: _ask(line, words))

    def run(
        self,
        script: Script,
        keys: Words,
        words: Words,
        again: Words | None = None,
        *,
        asking: bool = False,
    ) -> Reply:
        """A script. Behind the keys it is given the epoch, then `words`.

        `again` is given in their place where the same may have run before. Raises Redirected.
        """

        def talk(line: _Line, repeated: bool) -> Reply:
            if asking:
                _ask(line, (b"ASKING",))
            said = again if repeated and again is not None else words
            behind = (len(keys), *keys, line.epoch, *said)
            try:
                return _ask(line, (b"EVALSHA", script.sha, *behind))
            except NoScriptError:
                if asking:
                    _ask(line, (b"ASKING",))
                return _ask(line, (b"EVAL", script.source, *behind))

        return self._within(talk)

    def run_all(self, script: Script, calls: Sequence[tuple[Words, Words]]) -> list[Reply]:
        """A script for many, in one go. A RedisError stands where one could not be answered."""

        def talk(line: _Line, _: bool) -> list[Reply]:
            connection = line.connection
            packed = [
                connection.pack_command(
                    b"EVALSHA", script.sha, len(keys), *keys, line.epoch, *words
                )
                for keys, words in calls
            ]
            connection.send_packed_command([b"".join([b"".join(each) for each in packed])])
            return [_read(line) for _ in calls]

        replies: list[Reply] = self._within(talk)
        return replies

    def _within(self, talk: Callable[[_Line, bool], Reply]) -> Reply:
        if self.breaker.is_open:
            if self.breaker.enter():
                with suppress(RuntimeError):  # no thread can be had: the next probe may do
                    Thread(target=self._probe, name="probe", daemon=True).start()
            raise StoreUnavailableError(f"Redis at {self} does not answer. It is tried again.")
        try:
            reply = self._talk(talk)
        except (AskError, TryAgainError, *_NOT_NOW) as fault:
            self._refuse(fault)
        except _UnreachedError as fault:
            self.breaker.failed()
            kind, why = why_not(fault)
            raise kind(f"Redis at {self} cannot be reached: {why}") from fault
        except (BrokenError, LateError) as fault:
            self.breaker.failed()
            raise UnansweredError(f"Redis at {self} did not answer: {fault}") from fault
        except ResponseError as fault:
            self.breaker.succeeded()
            kind, why = why_not(fault)
            raise kind(f"Redis at {self} refuses what it is asked: {why}") from fault
        except RedisError as fault:  # what came is no answer of Redis's
            self.breaker.failed()
            raise UnansweredError(f"{self} did not answer as Redis does: {fault}") from fault
        self.breaker.succeeded()
        return reply

    def _probe(self) -> None:
        """Find out whether it serves again."""
        try:
            line = _Line(self._connect())
            _ask(line, (b"PING",))  # INFO is answered while it loads, too
        except RedisError:
            self.breaker.failed()
            return
        self._keep(line)
        self.breaker.succeeded()

    def _refuse(self, fault: RedisError) -> NoReturn:
        if isinstance(fault, AskError):
            self.breaker.succeeded()
            raise Redirected(fault, self.place) from None
        if isinstance(fault, TryAgainError):  # a slot that is just being moved; others are served
            self.breaker.succeeded()
            raise StoreUnavailableError(f"Redis at {self} moves it just now: {fault}") from fault
        self.breaker.failed()
        self.hang_up()
        raise StoreUnavailableError(f"Redis at {self} cannot serve now: {fault}") from fault

    def _talk(self, talk: Callable[[_Line, bool], Reply]) -> Reply:
        """On a connection that was used before, or on a new one where that turns out dead."""
        line = None
        with suppress(IndexError):
            line = self._idle.pop()
        if line is not None:
            try:
                return self._exchange(line, talk, repeated=False)
            except (AuthenticationError, BusyLoadingError, LateError):
                raise
            except BrokenError:
                self.hang_up()  # the others were closed with it, most likely
        try:
            fresh = _Line(self._connect())
        except RedisError as fault:
            if line is not None:
                raise
            raise _UnreachedError(str(fault)) from fault
        return self._exchange(fresh, talk, repeated=line is not None)

    def _exchange(
        self, line: _Line, talk: Callable[[_Line, bool], Reply], *, repeated: bool
    ) -> Reply:
        try:
            if monotonic() - line.looked > LOOK_SECONDS:
                line.look()
            reply = talk(line, repeated)
        except ResponseError:
            self._keep(line)  # an answer like others
            raise
        except BaseException:
            line.connection.disconnect()
            raise
        self._keep(line)
        return reply

    def _keep(self, line: _Line) -> None:
        if self._closed or len(self._idle) >= MOST_IDLE:
            line.connection.disconnect()
        else:
            self._idle.append(line)

    def hang_up(self) -> None:
        """Let go of all connections that nobody uses just now; there may be others soon."""
        with suppress(IndexError):
            while True:
                self._idle.pop().connection.disconnect()


def connector(
    place: Place, address: Address, timeouts: Timeouts, credentials: Credentials | None = None
) -> Callable[[], Wire]:
    """What makes connections to a place. Without `credentials` they are the data nodes'."""
    kind, given = connection_to(place, address, timeouts, credentials)

    def connect() -> Wire:
        made: Wire = kind(**given)
        return made

    return connect


def connection_to(
    place: Place, address: Address, timeouts: Timeouts, credentials: Credentials | None = None
) -> tuple[Any, dict[str, Any]]:
    """As `connector`: redis-py's kind of connection, and what it is made with."""
    known = address.data if credentials is None else credentials
    given: dict[str, Any] = {
        "username": known.username,
        "password": known.password,
        "db": address.db if credentials is None else 0,
        "socket_timeout": timeouts.answer,
        "socket_connect_timeout": timeouts.connect,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if isinstance(place, str):
        given.pop("socket_connect_timeout")
        return UnixDomainSocketConnection, given | {"path": place}
    given |= {"host": place[0], "port": place[1]}
    if address.tls is None:
        return Connection, given
    return SecureConnection, given | {"tls": address.tls}


def why_not(fault: RedisError) -> tuple[type[StoreUnavailableError], str]:
    """What kind of error it is to whoever asked, and why."""
    untrusted = distrust(fault)
    unwanted = untrusted is not None or _is_refusal(fault)
    return UnwantedError if unwanted else StoreUnavailableError, untrusted or str(fault).rstrip(".")


def _is_refusal(fault: BaseException | None) -> bool:
    while fault is not None:
        if isinstance(fault, AuthenticationError | NoPermissionError):
            return True
        fault = fault.__cause__
    return False


def _ask(line: _Line, words: Words) -> Reply:
    connection = line.connection
    connection.send_packed_command(connection.pack_command(*words))
    return connection.read_response()


def _read(line: _Line) -> Reply:
    """The next answer; one that says that something is wrong is returned too."""
    try:
        return line.connection.read_response()
    except ResponseError as fault:
        return fault


def _field(said: bytes, name: bytes) -> bytes:
    """One field of what INFO says."""
    for line in said.split(b"\r\n"):
        found, colon, value = line.partition(b":")
        if colon and found == name:
            return value
    raise ResponseError(f"INFO does not tell {name.decode()}")
