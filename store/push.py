"""Changes of the feed, told at once: what is said, and where.

A push is a hint and never the truth: it makes a cache forget a key a moment earlier than the next
look at SQL would, and its absence is noticed. Whoever could send a false one could at most have
keys read again. So nobody need trust a message, and one that cannot be read is a reason to look.

A message is one line: `beat`, or `change SEQ AT_US DIGEST ACCOUNT` with the digest in hexadecimal,
`-` where there is none. FROZEN FORMAT: versions that run beside each other share the channel; a
first word that is not known is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from store.errors import StoreError
from store.records import Change

if TYPE_CHECKING:
    from store.settings import StoreSettings  # its pydantic is not needed to say a message

CHANNEL: Final = "tensorgate_feed"  # a name that PostgreSQL takes as it is
PUSH_SECONDS: Final = 0.5
"""The most that telling of a change may take away from who made it."""
BEAT: Final = "beat"

_CHANGE: Final = "change"
_NONE: Final = "-"
_LONGEST: Final = 200
_MAX_NUMBER: Final = (1 << 63) - 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """What came.

    `number` is one more than that of the message before it; None where the channel
    itself loses nothing while it stands. `change` is None for a beat, and for what is unknown.
    """

    number: int | None
    change: Change | None


class Channel(Protocol):
    """One end of the channel, for one thread. Raises StoreUnavailableError; it is `close`d then."""

    def open(self) -> None:
        """Listen: what is sent from now on is received."""

    def receive(self, seconds: float) -> Sequence[Message]:
        """What came, in order; nothing after so long without any."""

    def send(self, text: str) -> None:
        """Tell everybody who listens, ourselves too."""

    def close(self) -> None:
        """Hang up. `open` may be called again."""


def text_of(change: Change) -> str:
    """The line that says a change."""
    digest = _NONE if change.digest is None else change.digest.hex()
    return f"{_CHANGE} {change.seq} {change.at_us} {digest} {change.account_id or _NONE}"


def change_in(text: str) -> Change | None:
    """The change that a line says, None where it says none. Raises ValueError for a broken one."""
    match text.split(" ") if len(text) <= _LONGEST else ():
        case [str(word), seq, at_us, digest, account] if word == _CHANGE:
            return Change(
                _number(seq),
                None if digest == _NONE else bytes.fromhex(digest),
                None if account == _NONE else account,
                _number(at_us),
            )
        case [str(word), *_] if word not in {"", _CHANGE}:
            return None
    raise ValueError("no line of the feed")


def _number(text: str) -> int:
    """One that a database can keep. Raises ValueError."""
    if not text.isascii() or not text.isdecimal() or int(text) > _MAX_NUMBER:
        raise ValueError("no number of the feed")
    return int(text)


class Publisher:
    """Tells of changes that are committed, through a channel that only sends. Thread-safe.

    Best effort: what cannot be told is found by looking at SQL, within a second.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __call__(self, made: Sequence[Change]) -> None:
        """Tell. Nothing is raised."""
        try:
            for change in made:
                self._channel.send(text_of(change))
        except StoreError as fault:
            _log.warning("a change could not be told of, and is found within a second: %s", fault)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def open_publisher(settings: StoreSettings) -> Publisher | None:
    """Who tells of changes beside the database; None where that does it, or nobody can."""
    if settings.redis_url is None:
        return None
    from store.pushredis import RedisChannel  # noqa: PLC0415  its driver is not always needed

    return Publisher(RedisChannel(settings.redis_url, seconds=PUSH_SECONDS))
