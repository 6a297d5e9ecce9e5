"""The use cases of coming in and going out: passwords, sessions, invites, identities.

Whether an account is unknown, has no password, or has another one: the answer is the same, and so
is the time that it takes, as a password is hashed in each case. An attempt is counted before it
is known how it ends. Whoever comes in gets a new session, whatever the browser held before.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import msgspec

from admin import inputs, planrules
from admin.accounts import catalog_in_force, new_id
from admin.passwords import hash_password, password_matches
from admin.settings import AdminSettings
from admin.throttle import address_bucket, buckets_of
from store.clock import Clock
from store.errors import InputError, NotFoundError, StoreError
from store.records import SECOND_US, Account, Role
from store.sessions import (
    INVITE_US,
    TOUCH_US,
    Bucket,
    Session,
    SignInRepository,
    SignInWriter,
    agent_text,
)

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_SUBJECT_MAX: Final = 255


class WrongError(InputError):
    """Not let in. What was wrong is not said."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="wrong")


class ThrottledError(InputError):
    """Not looked at: there were too many attempts. `seconds` until there is room for one."""

    def __init__(self, wait_us: int) -> None:
        self.seconds = -(-wait_us // SECOND_US)
        super().__init__(
            f"There were too many attempts. Try again in {_span(self.seconds)}.", code="throttled"
        )


class ProviderError(InputError):
    """The provider did not vouch for anybody; the reason is in the log."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="provider")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who comes, as far as the connection says; `session` is the one that the browser has."""

    address: str
    agent: str
    session: Session | None = None


@dataclass(frozen=True, slots=True)
class Entered:
    """Somebody was let in; the browser is given `token` and nobody else ever sees it."""

    account: Account
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a provider vouches for. `email` only where it says that this is verified."""

    issuer: str
    subject: str
    email: str | None


class Flow(msgspec.Struct, frozen=True):
    """What the browser keeps while its user is at the provider.

    `after` is where to go then; `invite` the token of a link, `session` the id of one that the
    identity is to be linked to.
    """

    state: str
    nonce: str
    verifier: str
    after: str = ""
    invite: str = ""
    session: str = ""


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def is_token(text: str) -> bool:
    """Whether a text has the form of `new_token`'s."""
    return _TOKEN.fullmatch(text) is not None


@cache
def nobodys_hash() -> str:
    """What a password is held against where there is none: as slow as any."""
    return hash_password(new_token())


class SignIns:
    """The use cases over one repository. A password takes tens of milliseconds and 64 MiB."""

    def __init__(self, people: SignInRepository, settings: AdminSettings, clock: Clock) -> None:
        self._people = people
        self._settings = settings
        self._clock = clock

    # -- sessions

    def current(self, token: str) -> tuple[Session, Account] | None:
        """Whose session a token is. That it is used is noted about once a minute."""
        now_us = self._clock()
        found = self._people.session(token, now_us, self._settings.lifetimes)
        if found is not None and found[1].disabled_us is not None:
            return None
        if found is not None and now_us - found[0].seen_us >= TOUCH_US:
            # where it cannot be noted, the session ends the sooner
            with suppress(StoreError), self._people.changing(actor_of(found[1]), now_us) as writer:
                writer.touch(found[0])
        return found

    def of(self, account: Account) -> list[Session]:
        """The account's sessions, the one used last first."""
        return self._people.sessions_of(account.id, self._clock(), self._settings.lifetimes)

    def end(self, account: Account, session_id: str, visitor: Visitor, by: Account) -> None:
        """End one of the account's sessions. NotFoundError if it has none of this id."""
        with self._changing(by, visitor) as writer:
            if not writer.end_session(account.id, session_id):
                raise NotFoundError("There is no such session. It may have ended by itself.")

    def end_all(
        self, account: Account, visitor: Visitor, by: Account, *, keep: str | None = None
    ) -> None:
        """End all of the account's sessions, but for one."""
        with self._changing(by, visitor) as writer:
            writer.end_sessions(account.id, keep=keep)

    # -- passwords

    def by_password(self, email: str, password: str, visitor: Visitor) -> Entered:
        """Let somebody in. Raises WrongError or ThrottledError."""
        name = _name(email)
        with self._counted(buckets_of(name or email, visitor.address)):
            stored = self._checked(name, password)
            with self._people.changing(f"web:{name}", self._clock(), visitor.address) as writer:
                # it may have been changed while it was being hashed
                now = writer.lock_with_password(name)
                if now is None or now.password_hash != stored:
                    raise _wrong()
                return self._let_in(writer, now.account, visitor, "password")

    def change_password(
        self, account: Account, current: str, new: str, visitor: Visitor, *, unlink: bool = False
    ) -> None:
        """Replace one's own password; every other session ends, and identities if one says so."""
        chosen = inputs.password(new)
        with self._counted(buckets_of(account.email, visitor.address)):
            stored = self._checked(account.email, current)
        hashed = hash_password(chosen)
        keep = None if visitor.session is None else visitor.session.id
        with self._changing(account, visitor) as writer:
            now = writer.lock_with_password(account.email)
            if now is None or now.password_hash != stored:
                raise _wrong()
            writer.set_password(now.account, hashed, keep_session=keep, unlink=unlink)

    def _checked(self, email: str, password: str) -> str:
        """The hash that the password fits. Raises WrongError, always after as long."""
        known = self._people.credentials(email) if email else None
        stored = None if known is None or known.account.service else known.password_hash
        matches = password_matches(stored or nobodys_hash(), password)
        if stored is None or not matches:
            raise _wrong()
        return stored

    # -- invites

    def invite(self, email: str, by: Account, visitor: Visitor) -> str:
        """A link's token with which an account's password can be set, once; older ones are void."""
        token = new_token()
        with self._changing(by, visitor) as writer:
            account = writer.lock_account(inputs.email(email))
            if account is None:
                raise NotFoundError("There is no such account.")
            if account.service:
                raise InputError(
                    f"{account.email} is a service account and never signs in.",
                    code="invalid_account",
                )
            if writer.is_disabled(account):
                raise InputError(
                    f"{account.email} is disabled. Enable the account first.",
                    code="account_disabled",
                )
            writer.add_invite(account, token, writer.now_us + INVITE_US)
        return token

    def invited(self, token: str) -> Account | None:
        """The account that a link is for, if it can still be used."""
        return self._people.invited(token, self._clock()) if is_token(token) else None

    def accept(self, token: str, password: str, visitor: Visitor) -> Entered:
        """Set the password of whom a link is for, and let them in; the link is used up.

        Every session ends, and every identity is parted from the account.
        """
        chosen = inputs.password(password)
        with self._counted([address_bucket(visitor.address)]):
            account = self.invited(token)
            if account is None:
                raise _void()
            hashed = hash_password(chosen)
            with self._changing(account, visitor) as writer:
                locked = writer.take_invite(token)
                if locked is None:
                    raise _void()
                writer.set_password(locked, hashed, unlink=True)
                return self._let_in(writer, locked, visitor, "invite")

    # -- registration

    def register(self, email: str, password: str, visitor: Visitor) -> Entered:
        """Add an account on the default plan and let its owner in, where anybody may."""
        if not self._settings.open_registration:
            raise NotFoundError("Nobody can register here.")
        chosen = inputs.password(password)
        account = self._newcomer(inputs.email(email))
        # not forgiven: whoever asks which e-mails are taken is slow about it
        self._count([address_bucket(visitor.address)])
        hashed = hash_password(chosen)
        with self._changing(account, visitor) as writer:
            self._add(writer, account, hashed)
            return self._let_in(writer, account, visitor, "registration")

    def _newcomer(self, email: str) -> Account:
        catalog = catalog_in_force(self._settings)
        return Account(
            id=new_id("acc"),
            email=email,
            team=None,
            plan=planrules.plan_named(catalog, catalog.default_plan).name,
            role=Role.USER,
            service=False,
            created_us=self._clock(),
        )

    @staticmethod
    def _add(writer: SignInWriter, account: Account, password_hash: str | None) -> None:
        if writer.lock_account(account.email) is not None:
            raise InputError(
                "There is an account of this e-mail already. Sign in, or ask an admin for a link.",
                code="email_taken",
            )
        writer.add_account(account, password_hash)

    # -- identities

    def by_identity(
        self, identity: Identity, visitor: Visitor, *, invite: str | None = None
    ) -> Entered:
        """Let in whom a provider vouches for: by issuer and subject, never by an e-mail.

        One that is linked to nobody is linked to whom a link is for, or, where anybody may
        register, to a new account of its verified e-mail. Raises WrongError.
        """
        _check_identity(identity)
        actor = f"oidc:{identity.issuer}"[:320]
        with self._people.changing(actor, self._clock(), visitor.address) as writer:
            account = writer.identity(identity.issuer, identity.subject)
            if account is None:
                account = self._claimed(writer, identity, invite)
                writer.add_identity(account, identity.issuer, identity.subject)
            elif account.service:
                raise _stranger()
            return self._let_in(writer, account, visitor, "oidc")

    def _claimed(self, writer: SignInWriter, identity: Identity, invite: str | None) -> Account:
        if invite is not None:
            account = writer.take_invite(invite) if is_token(invite) else None
            if account is None:
                raise _void()
            return account
        if not self._settings.open_registration or identity.email is None:
            raise _stranger()
        account = self._newcomer(inputs.email(identity.email))
        self._add(writer, account, None)
        return account

    def link(self, account: Account, identity: Identity, visitor: Visitor) -> None:
        """Let whom the provider vouches for come in as the account from now on."""
        _check_identity(identity)
        with self._changing(account, visitor) as writer:
            holder = writer.identity(identity.issuer, identity.subject)
            if holder is None:
                writer.add_identity(account, identity.issuer, identity.subject)
            elif holder.id != account.id:
                raise WrongError("That identity belongs to another account here.")

    def unlink(self, account: Account, issuer: str, subject: str, visitor: Visitor) -> None:
        """No longer. NotFoundError where it was not linked to the account."""
        with self._changing(account, visitor) as writer:
            now = writer.lock_with_password(account.email)
            if now is not None and now.password_hash is None:
                raise InputError(
                    "Without a password there would be no way in any more. "
                    "Ask an admin for a link to set one first.",
                    code="last_way_in",
                )
            if not writer.remove_identity(account, issuer, subject):
                raise NotFoundError("There is no such identity.")

    # -- what they share

    def _changing(self, by: Account, visitor: Visitor) -> AbstractContextManager[SignInWriter]:
        return self._people.changing(actor_of(by), self._clock(), visitor.address)

    def _count(self, buckets: Sequence[Bucket]) -> None:
        wait_us = self._people.attempt(buckets, self._clock())
        if wait_us:
            raise ThrottledError(wait_us)

    def _counted(self, buckets: Sequence[Bucket]) -> _Counted:
        self._count(buckets)
        return _Counted(self._people, buckets)

    def _let_in(
        self, writer: SignInWriter, account: Account, visitor: Visitor, means: str
    ) -> Entered:
        """Begin a session, always a new one, and end the one that the browser had.

        The account is locked, or new. Raises WrongError where it is disabled, to somebody who has
        shown by now that it is theirs.
        """
        if writer.is_disabled(account):
            raise WrongError("This account is disabled. Ask an admin.")
        if visitor.session is not None:
            writer.end_session(visitor.session.account_id, visitor.session.id)
        token = new_token()
        session = Session(
            id=new_id("ses"),
            account_id=account.id,
            means=means,
            address=visitor.address,
            agent=agent_text(visitor.agent),
            created_us=writer.now_us,
            seen_us=writer.now_us,
        )
        writer.add_session(session, token, self._settings.lifetimes)
        return Entered(account, token)


class _Counted:
    """An attempt that was counted; one that ends well is taken back, for it was no guess."""

    def __init__(self, people: SignInRepository, buckets: Sequence[Bucket]) -> None:
        self._people = people
        self._buckets = buckets

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._people.forgive(self._buckets)


def actor_of(account: Account) -> str:
    """Who asks, for the audit log."""
    return f"web:{account.email}"


def _name(email: str) -> str:
    """The e-mail as accounts have it; empty for what no account can have."""
    try:
        return inputs.email(email)
    except InputError:
        return ""


def _check_identity(identity: Identity) -> None:
    if not 0 < len(identity.subject) <= _SUBJECT_MAX or not identity.subject.isprintable():
        raise WrongError("What the provider says of you cannot be used. Ask an admin.")


def _wrong() -> WrongError:
    return WrongError("That e-mail and password do not belong together. Try again.")


def _void() -> WrongError:
    return WrongError("This link was used before, or it is too old. Ask an admin for another.")


def _stranger() -> WrongError:
    return WrongError(
        "Nobody here is known by that identity. Sign in by password and link it on the account "
        "page, or ask an admin for a link."
    )


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{-(-seconds // 60)} minutes"  # noqa: PLR2004  two minutes
