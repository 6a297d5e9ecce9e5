"""Who is signed in to the dashboard, and who tries to: in SQL, so that a restart forgets nothing.

A session is found by the SHA-256 of its token. It ends by itself when it was idle for too long,
when it is too old, and when the account's password changes (store.keywriter).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    and_,
    delete,
    insert,
    select,
    update,
)

from store.engines import driver_errors, read_options
from store.errors import InputError, StoreUnavailableError
from store.keyrows import DISABLED, read_account
from store.keys import altering
from store.keywriter import Writer
from store.records import DAY_US, MINUTE_US, Account
from store.schema import accounts
from store.webschema import attempts, identities, invites, sessions

TOUCH_US: Final = MINUTE_US
"""How exactly it is known when a session was last used: reading is no reason to write each time."""

MOST_SESSIONS: Final = 50
"""Of an account; one more ends the one that was used longest ago."""

INVITE_US: Final = 3 * DAY_US

RACES: Final = 5
"""How often an attempt is counted anew because somebody made the first one at the same moment."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """When sessions end by themselves, in microseconds: unused for `idle`, or `absolute` old."""

    idle_us: int
    absolute_us: int

    def alive(self, now_us: int) -> ColumnElement[bool]:
        """The condition on rows of `sessions`."""
        return and_(
            sessions.c.seen_us > now_us - self.idle_us,
            sessions.c.created_us > now_us - self.absolute_us,
        )


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in. `means` is how: password, invite, oidc or registration."""

    id: str
    account_id: str
    means: str
    address: str
    agent: str
    created_us: int
    seen_us: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A leaky bucket: `burst` attempts at once, then one in `every_us`."""

    scope: str
    burst: int
    every_us: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a password is held against. `password_hash` None: there is none."""

    account: Account
    password_hash: str | None


def token_hash(token: str) -> bytes:
    """What is kept of a token of 256 random bits."""
    return hashlib.sha256(token.encode()).digest()


def _read_session(row: RowMapping) -> Session:
    return Session(
        id=row["session_id"],
        account_id=row["id"],
        means=row["means"],
        address=row["address"],
        agent=row["agent"],
        created_us=row["session_created_us"],
        seen_us=row["session_seen_us"],
    )


_SESSIONS: Final = select(
    accounts,
    DISABLED,
    sessions.c.id.label("session_id"),
    sessions.c.means,
    sessions.c.address,
    sessions.c.agent,
    sessions.c.created_us.label("session_created_us"),
    sessions.c.seen_us.label("session_seen_us"),
).join(accounts, accounts.c.id == sessions.c.account_id)


class SignInWriter(Writer):
    """The verbs that let people in and out, inside one transaction."""

    def lock_with_password(self, email: str) -> Credentials | None:
        """The account, nobody else's to change until this ends, and its password's hash."""
        account = self.lock_account(email)
        if account is None:
            return None
        asked = select(accounts.c.password_hash).where(accounts.c.id == account.id)
        return Credentials(account, self._connection.execute(asked).scalar_one())

    def add_session(self, session: Session, token: str, lifetimes: Lifetimes) -> None:
        """Let somebody in. Sessions that have ended go, and the oldest of too many."""
        self._connection.execute(delete(sessions).where(~lifetimes.alive(self.now_us)))
        mine = (
            select(sessions.c.id)
            .where(sessions.c.account_id == session.account_id)
            .order_by(sessions.c.seen_us.desc(), sessions.c.id)
            .offset(MOST_SESSIONS - 1)
        )
        surplus = self._connection.execute(mine).scalars().all()
        if surplus:
            self._connection.execute(delete(sessions).where(sessions.c.id.in_(surplus)))
        self._connection.execute(
            insert(sessions).values(
                id=session.id,
                token_hash=token_hash(token),
                account_id=session.account_id,
                means=session.means,
                address=session.address,
                agent=session.agent,
                created_us=session.created_us,
                seen_us=session.seen_us,
            )
        )
        self._seen(session.account_id)
        self._audit("session.begin", session.account_id, None, _session_facts(session))

    def end_session(self, account_id: str, session_id: str) -> bool:
        """End one of the account's sessions; False if it has none of this id."""
        mine = and_(sessions.c.id == session_id, sessions.c.account_id == account_id)
        gone = self._connection.execute(delete(sessions).where(mine)).rowcount
        if gone:
            self._audit("session.end", account_id, {"session": session_id}, None)
        return bool(gone)

    def end_sessions(self, account_id: str, *, keep: str | None = None) -> int:
        """End all of the account's sessions but `keep`; how many those were."""
        mine = sessions.c.account_id == account_id
        if keep is not None:
            mine &= sessions.c.id != keep
        gone = self._connection.execute(delete(sessions).where(mine)).rowcount
        if gone:
            self._audit("session.end_all", account_id, {"sessions": gone}, None)
        return int(gone)

    def touch(self, session: Session) -> None:
        """Note that the session is being used."""
        self._connection.execute(
            update(sessions).where(sessions.c.id == session.id).values(seen_us=self.now_us)
        )
        self._seen(session.account_id)

    def _seen(self, account_id: str) -> None:
        self._connection.execute(
            update(accounts).where(accounts.c.id == account_id).values(seen_us=self.now_us)
        )

    def add_invite(self, account: Account, token: str, expires_us: int) -> None:
        """Make a link for the account; those made before are void, and those that expired go."""
        self._connection.execute(
            delete(invites).where(
                (invites.c.account_id == account.id) | (invites.c.expires_us <= self.now_us)
            )
        )
        self._connection.execute(
            insert(invites).values(
                token_hash=token_hash(token), account_id=account.id, expires_us=expires_us
            )
        )
        self._audit("account.invite", account.id, None, {"expires_us": expires_us})

    def take_invite(self, token: str) -> Account | None:
        """The account that a link is for, locked; the link is used up. None for one that is not."""
        mine = invites.c.token_hash == token_hash(token)
        asked = select(invites.c.account_id).where(mine, invites.c.expires_us > self.now_us)
        account_id = self._connection.execute(asked.with_for_update()).scalar()
        if account_id is None:
            return None
        self._connection.execute(delete(invites).where(mine))
        locked = select(accounts, DISABLED).where(accounts.c.id == account_id).with_for_update()
        return read_account(self._connection.execute(locked).mappings().one())

    def identity(self, issuer: str, subject: str) -> Account | None:
        """The account that a provider's subject was linked to, locked."""
        asked = (
            select(accounts, DISABLED)
            .join(identities, identities.c.account_id == accounts.c.id)
            .where(identities.c.issuer == issuer, identities.c.subject == subject)
            .with_for_update(of=accounts)
        )
        row = self._connection.execute(asked).mappings().first()
        return None if row is None else read_account(row)

    def add_identity(self, account: Account, issuer: str, subject: str) -> None:
        """Link a provider's subject to the account; it must not be linked yet."""
        self._connection.execute(
            insert(identities).values(
                issuer=issuer, subject=subject, account_id=account.id, created_us=self.now_us
            )
        )
        facts = {"issuer": issuer, "subject": subject}
        self._audit("account.link_identity", account.id, None, facts)

    def remove_identity(self, account: Account, issuer: str, subject: str) -> bool:
        """Part a provider's subject from the account; False if it was not linked to it."""
        mine = and_(
            identities.c.account_id == account.id,
            identities.c.issuer == issuer,
            identities.c.subject == subject,
        )
        gone = self._connection.execute(delete(identities).where(mine)).rowcount
        if gone:
            facts = {"issuer": issuer, "subject": subject}
            self._audit("account.unlink_identity", account.id, facts, None)
        return bool(gone)


def _session_facts(session: Session) -> Mapping[str, object]:
    return {"session": session.id, "means": session.means, "agent": session.agent}


class SignInRepository:
    """Sessions of one database. Thread-safe; StoreUnavailableError on driver errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with driver_errors(), self._engine.connect() as held:
            yield held.execution_options(**read_options(self._engine))

    @contextmanager
    def changing(
        self, actor: str, now_us: int, address: str | None = None
    ) -> Iterator[SignInWriter]:
        """One transaction for reading under lock and changing; an exception undoes all of it."""
        with altering(self._engine) as connection:
            yield SignInWriter(connection, actor, now_us, address)

    def session(
        self, token: str, now_us: int, lifetimes: Lifetimes
    ) -> tuple[Session, Account] | None:
        """Whose session a token is, if it has not ended. One indexed query."""
        asked = _SESSIONS.where(sessions.c.token_hash == token_hash(token), lifetimes.alive(now_us))
        with self._reading() as connection:
            row = connection.execute(asked).mappings().first()
        return None if row is None else (_read_session(row), read_account(row))

    def sessions_of(self, account_id: str, now_us: int, lifetimes: Lifetimes) -> list[Session]:
        """The account's sessions, the one used last first."""
        asked = _SESSIONS.where(
            sessions.c.account_id == account_id, lifetimes.alive(now_us)
        ).order_by(sessions.c.seen_us.desc(), sessions.c.id)
        with self._reading() as connection:
            return [_read_session(row) for row in connection.execute(asked).mappings()]

    def credentials(self, email: str) -> Credentials | None:
        """What a password is held against, for a lower-case e-mail."""
        with self._reading() as connection:
            row = (
                connection.execute(select(accounts, DISABLED).where(accounts.c.email == email))
                .mappings()
                .first()
            )
        return None if row is None else Credentials(read_account(row), row["password_hash"])

    def has_password(self, account_id: str) -> bool:
        """Whether the account can sign in with a password."""
        asked = select(accounts.c.password_hash).where(accounts.c.id == account_id)
        with self._reading() as connection:
            return connection.execute(asked).scalar() is not None

    def invited(self, token: str, now_us: int) -> Account | None:
        """The account that a link is for, if it can still be used."""
        asked = (
            select(accounts, DISABLED)
            .join(invites, invites.c.account_id == accounts.c.id)
            .where(invites.c.token_hash == token_hash(token), invites.c.expires_us > now_us)
        )
        with self._reading() as connection:
            row = connection.execute(asked).mappings().first()
        return None if row is None else read_account(row)

    def identities_of(self, account_id: str) -> list[tuple[str, str, int]]:
        """(issuer, subject, linked when in µs) of each identity of the account."""
        asked = select(identities.c.issuer, identities.c.subject, identities.c.created_us).where(
            identities.c.account_id == account_id
        )
        with self._reading() as connection:
            return [tuple(row) for row in connection.execute(asked.order_by(identities.c.issuer))]

    def attempt(self, buckets: Sequence[Bucket], now_us: int) -> int:
        """Count one attempt in every bucket; 0, or in how many µs there is room in all of them.

        Counted before it is known how it ends, in one transaction: guesses at once gain nothing.
        Where one bucket is full, nothing is counted.
        """
        for _ in range(RACES):
            with suppress(InputError), altering(self._engine) as connection:
                return _pour(connection, buckets, now_us)
        raise StoreUnavailableError("Too many people sign in at this moment. Try again.")

    def forgive(self, buckets: Sequence[Bucket]) -> None:
        """Take back one attempt in every bucket: it was no guess."""
        with altering(self._engine) as connection:
            for bucket in buckets:
                mine = attempts.c.scope == bucket.scope
                fuller = attempts.c.empty_us - bucket.every_us
                connection.execute(update(attempts).where(mine).values(empty_us=fuller))


def _pour(connection: Connection, buckets: Sequence[Bucket], now_us: int) -> int:
    connection.execute(delete(attempts).where(attempts.c.empty_us <= now_us))
    asked = select(attempts).where(attempts.c.scope.in_([bucket.scope for bucket in buckets]))
    locked = connection.execute(asked.order_by(attempts.c.scope).with_for_update())
    known = {row.scope: int(row.empty_us) for row in locked}
    after = {
        bucket.scope: max(known.get(bucket.scope, 0), now_us) + bucket.every_us
        for bucket in buckets
    }
    wait_us = max(after[each.scope] - now_us - each.burst * each.every_us for each in buckets)
    if wait_us > 0:
        return wait_us
    for scope, empty_us in after.items():
        if scope in known:
            mine = attempts.c.scope == scope
            connection.execute(update(attempts).where(mine).values(empty_us=empty_us))
        else:
            connection.execute(insert(attempts).values(scope=scope, empty_us=empty_us))
    return 0


def agent_text(header: str) -> str:
    """What is kept of a User-Agent: printable, and not longer than the column."""
    return "".join(c for c in header if c.isprintable())[:256]
