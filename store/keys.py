"""Accounts and keys in SQL: what a digest stands for, and the feed of what changed.

Reading is here; whatever changes something is a verb of `store.keywriter.Writer`, which
`KeyRepository.changing` opens.

The feed. Rows of `changes` are numbered by the writer under a lock that it holds until its
commit, so numbers appear in commit order without holes, and "what is above the last number I saw"
misses nothing. A database's own sequence would not do: PostgreSQL hands a number out before its
commit, and a reader that has seen 8 would never see the 7 that is committed after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

from sqlalchemy import Connection, Engine, Select, and_, bindparam, func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from store.breaker import Breaker
from store.engines import driver_errors, is_hung_up, read_options, unavailable, writing
from store.errors import InputError, StoreUnavailableError
from store.keyrows import DISABLED, read_account, read_key, select_keys
from store.keywriter import Writer
from store.records import Account, Change, KeyRecord
from store.schema import accounts, changes, keys

FEED_BATCH: Final = 1000

_LAST_CHANGE: Final = select(func.coalesce(func.max(changes.c.seq), 0))
_FEED: Final = (
    select(changes.c.seq, changes.c.digest, changes.c.account_id, changes.c.at_us)
    .where(changes.c.seq >= bindparam("seq"))
    .order_by(changes.c.seq)
    .limit(FEED_BATCH + 1)
)


def everything_changed(change: Change) -> bool:
    """Whether a change stands for a gap: entries were missed, all that is known is suspect."""
    return change.digest is None and change.account_id is None


class KeyRepository:
    """Accounts and keys of one database. Thread-safe; StoreUnavailableError on driver errors.

    `by_digests` and the feed hold connections of their own (as many as threads ask at once);
    `close` gives them back.
    """

    def __init__(
        self, engine: Engine, publish: Callable[[Sequence[Change]], None] | None = None
    ) -> None:
        """`publish` is told of changes that are committed, and raises nothing."""
        self._engine = engine
        self._publish = publish
        self._idle: deque[Connection] = deque()
        self._breaker = Breaker(failures=1)
        self._lookups: dict[int, Select[Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """The database's, for who reads other tables of it."""
        return self._engine

    def close(self) -> None:
        """Close the held connections; the engine stays its owner's."""
        while self._idle:
            with suppress(SQLAlchemyError):
                self._idle.pop().close()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A held connection in autocommit, so that each statement sees the newest commit."""
        connection = self._held() or self._open()
        try:
            yield connection
        except BaseException as fault:
            self._drop(connection)
            if isinstance(fault, SQLAlchemyError):
                raise unavailable(fault) from fault
            raise
        self._idle.append(connection)

    @contextmanager
    def _watched(self) -> Iterator[Connection]:
        """As `_reading`; whether it answers is known to all who would ask for a key."""
        try:
            with self._reading() as connection:
                yield connection
        except StoreUnavailableError:
            self._breaker.failed()
            raise
        self._breaker.succeeded()

    def _held(self) -> Connection | None:
        """One that is idle, and that the database has not ended meanwhile."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread has it
                break
            if not is_hung_up(connection):
                return connection
            self._drop(connection)
        return None

    def _drop(self, connection: Connection) -> None:
        with suppress(SQLAlchemyError):
            connection.invalidate()
            connection.close()

    def _open(self) -> Connection:
        with driver_errors():
            return self._engine.connect().execution_options(**read_options(self._engine))

    def plans(self) -> dict[str, int]:
        """The plans that accounts are on, and how many are on each."""
        asked = select(accounts.c.plan, func.count()).group_by(accounts.c.plan)
        with self._reading() as connection:
            return dict(connection.execute(asked).all())

    def by_digests(self, digests: Sequence[bytes]) -> tuple[bytes, KeyRecord] | None:
        """The key that one of the digests stands for, and which; the earliest of them counts.

        One indexed query. Revoked and expired keys are found too. While the database is out (it
        has not answered this, or the feed) only one asker in 0.2 s waits for it, and the others
        are told at once.
        """
        if not digests:
            return None
        if not self._breaker.enter():
            raise StoreUnavailableError(
                "The database did not answer a moment ago, and is being tried. "
                "Try again in a second."
            )
        names = {f"digest_{number}": digest for number, digest in enumerate(digests)}
        with self._watched() as connection:
            rows = connection.execute(self._lookup(len(digests)), names).all()
        if not rows:
            return None
        found = (read_key(row) for row in rows)
        return min(found, key=lambda pair: digests.index(pair[0])) if rows[1:] else next(found)

    def is_out(self) -> bool:
        """Whether the database did not answer when it was last asked for a key, or a change."""
        return self._breaker.is_open

    def _lookup(self, width: int) -> Select[Any]:
        """The statement for so many digests, built once: SQLAlchemy then finds it compiled."""
        statement = self._lookups.get(width)
        if statement is None:
            slots: list[Any] = [bindparam(f"digest_{number}") for number in range(width)]
            statement = select_keys().where(keys.c.digest.in_(slots))
            self._lookups[width] = statement
        return statement

    def changes_since(self, seq: int) -> list[Change]:
        """What changed after number `seq`, ascending, at most FEED_BATCH; ask on from the last.

        If entries after `seq` may be gone (pruned, or another database stands here now), the
        answer is one Change without digest and account (see `everything_changed`), whose `seq`
        is the position to go on from.
        """
        with self._watched() as connection:
            rows = connection.execute(_FEED, {"seq": seq}).all()
            # The newest row is never pruned: no row at or above `seq` is another database.
            known = rows[0].seq <= seq + 1 if rows else seq == 0
            if not known:
                newest = int(connection.execute(_LAST_CHANGE).scalar_one())
                return [Change(newest, None, None)]
        return [
            Change(row.seq, None if row.digest is None else bytes(row.digest), *row[2:])
            for row in rows
            if row.seq > seq
        ][:FEED_BATCH]

    def last_change(self) -> int:
        """The newest number of the feed, 0 if nothing ever changed."""
        with self._reading() as connection:
            return int(connection.execute(_LAST_CHANGE).scalar_one())

    def pepper_versions_in_use(self, now_us: int = 0) -> frozenset[int]:
        """Versions under which live keys are stored; without a time, expired keys count as live."""
        asked = (
            select(keys.c.pepper_version)
            .distinct()
            .where(keys.c.revoked_us.is_(None), keys.c.expires_us > now_us)
        )
        with self._reading() as connection:
            return frozenset(connection.execute(asked).scalars())

    def account(self, email: str) -> Account | None:
        """The account of a lower-case e-mail."""
        asked = select(accounts, DISABLED).where(accounts.c.email == email)
        with self._reading() as connection:
            row = connection.execute(asked).mappings().first()
        return None if row is None else read_account(row)

    def accounts(self, now_us: int) -> list[tuple[Account, int]]:
        """Every account by e-mail, with how many live keys it holds."""
        live = and_(
            keys.c.account_id == accounts.c.id,
            keys.c.revoked_us.is_(None),
            keys.c.expires_us > now_us,
        )
        asked = (
            select(accounts, DISABLED, func.count(keys.c.id).label("live"))
            .outerjoin(keys, live)
            .group_by(accounts.c.id)
            .order_by(accounts.c.email)
        )
        with self._reading() as connection:
            rows = connection.execute(asked).mappings().all()
        return [(read_account(row), int(row["live"])) for row in rows]

    def live_keys(self, account_id: str, now_us: int) -> int:
        """How many of the account's keys are neither revoked nor expired."""
        asked = select(func.count()).where(
            keys.c.account_id == account_id, keys.c.revoked_us.is_(None), keys.c.expires_us > now_us
        )
        with self._reading() as connection:
            return int(connection.execute(asked).scalar_one())

    def keys_of(self, account_id: str) -> list[KeyRecord]:
        """Every key that the account ever had, the oldest first."""
        asked = (
            select_keys()
            .where(keys.c.account_id == account_id)
            .order_by(keys.c.created_us, keys.c.id)
        )
        with self._reading() as connection:
            return [read_key(row)[1] for row in connection.execute(asked)]

    @contextmanager
    def changing(self, actor: str, now_us: int, address: str | None = None) -> Iterator[Writer]:
        """One transaction for reading under lock and changing; an exception undoes all of it."""
        with altering(self._engine) as connection:
            writer = Writer(connection, actor, now_us, address)
            yield writer
        if self._publish is not None and writer.announced:
            self._publish(writer.announced)


@contextmanager
def altering(engine: Engine) -> Iterator[Connection]:
    """As `store.engines.writing`, for what people change.

    Raises InputError (`conflict`) where two did the same at the same moment.
    """
    try:
        with writing(engine) as connection:
            yield connection
    except StoreUnavailableError as fault:
        if isinstance(fault.__cause__, IntegrityError):
            raise InputError(
                "Somebody changed the same thing at the same moment. Look, and try again.",
                code="conflict",
            ) from fault
        raise
