"""The verbs that change accounts and keys, inside a transaction that KeyRepository opened.

Every verb writes an audit row. Those that the data path must hear of also write a row of the
feed, in the same transaction: whoever sees the row sees the change.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    Connection,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    update,
)

from store.keyrows import (
    DISABLED,
    Facts,
    account_facts,
    key_facts,
    models_text,
    read_account,
    read_key,
    select_keys,
)
from store.ledger import book_in
from store.push import CHANNEL, text_of
from store.records import DAY_US, MINUTE_US, Account, Change, Charge, Hold, KeyRecord, Role
from store.schema import accounts, audit, changes, disabled, imports, keys
from store.webschema import forms, identities, invites, sessions

FEED_KEPT_US: Final = 60 * MINUTE_US
"""A reader of the feed that was away for longer is told that it missed something."""

FORM_KEPT_US: Final = 30 * DAY_US
"""No page that somebody left open is sent again later than that, as no session lives as long."""

_ADMINS_LOCK: Final = 0x61646D6E
"""PostgreSQL's advisory lock takes a number; another one than the migrations' (store.upgrades)."""


@dataclass(frozen=True, slots=True)
class Noted:
    """What is remembered of an imported key (store.schema.imports says what each is)."""

    name: str
    facts: str
    period_us: int | None
    spent_nanousd: int


class Writer:
    """One transaction. `actor` is who asks (`cli:root`), `now_us` when, for all of it.

    `address` is whence, None where that is this machine. `announced` are the changes of the feed
    that it made.
    """

    def __init__(
        self, connection: Connection, actor: str, now_us: int, address: str | None = None
    ) -> None:
        self._connection = connection
        self._actor = actor
        self._address = address
        self.now_us = now_us
        self.announced: list[Change] = []

    def lock_account(self, email: str) -> Account | None:
        """The account, nobody else's to change until this transaction ends.

        SQLite has locked the whole database by now (BEGIN IMMEDIATE); elsewhere it is the row.
        """
        asked = select(accounts, DISABLED).where(accounts.c.email == email).with_for_update()
        row = self._connection.execute(asked).mappings().first()
        return None if row is None else read_account(row)

    def add_account(self, account: Account, password_hash: str | None) -> None:
        """Insert an account; its e-mail must be free. No key of it exists: nothing for the feed."""
        self._connection.execute(
            insert(accounts).values(
                id=account.id,
                email=account.email,
                team=account.team,
                plan=account.plan,
                role=account.role.value,
                service=account.service,
                password_hash=password_hash,
                created_us=account.created_us,
            )
        )
        self._audit("account.add", account.id, None, account_facts(account))

    def set_plan(self, account: Account, plan: str) -> None:
        """Put the account on another plan."""
        self._connection.execute(
            update(accounts).where(accounts.c.id == account.id).values(plan=plan)
        )
        self._audit("account.set_plan", account.id, {"plan": account.plan}, {"plan": plan})
        self._announce(account_id=account.id)

    def admins(self) -> int:
        """How many accounts may administer everything, and are not disabled.

        Nobody else counts them until this transaction ends: two admins who demote each other
        lock different accounts, and each would count both.
        """
        if self._connection.dialect.name == "postgresql":  # SQLite's writer is alone already
            self._connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADMINS_LOCK})"))
        asked = select(func.count()).where(
            accounts.c.role == Role.ADMIN.value,
            ~exists().where(disabled.c.account_id == accounts.c.id),
        )
        return int(self._connection.execute(asked).scalar_one())

    def set_role(self, account: Account, role: Role) -> None:
        """Let the account see more, or less. Its keys are untouched."""
        self._connection.execute(
            update(accounts).where(accounts.c.id == account.id).values(role=role.value)
        )
        self._audit(
            "account.set_role", account.id, {"role": account.role.value}, {"role": role.value}
        )

    def set_team(self, account: Account, team: str | None) -> None:
        """Put the account into another team; rows of the ledger keep the one that they have."""
        self._connection.execute(
            update(accounts).where(accounts.c.id == account.id).values(team=team)
        )
        self._audit("account.set_team", account.id, {"team": account.team}, {"team": team})
        self._announce(account_id=account.id)

    def disable(self, account: Account) -> None:
        """Let nobody in as the account, and none of its keys pass, until it is enabled again.

        Its sessions end and its links are void. Its keys are not touched: their records say it.
        """
        self._connection.execute(insert(disabled).values(account_id=account.id, at_us=self.now_us))
        self._connection.execute(delete(sessions).where(sessions.c.account_id == account.id))
        self._connection.execute(delete(invites).where(invites.c.account_id == account.id))
        self._audit("account.disable", account.id, {"disabled": False}, {"disabled": True})
        self._announce(account_id=account.id)

    def enable(self, account: Account) -> None:
        """Undo `disable`, but for sessions and links, which are gone."""
        self._connection.execute(delete(disabled).where(disabled.c.account_id == account.id))
        self._audit("account.enable", account.id, {"disabled": True}, {"disabled": False})
        self._announce(account_id=account.id)

    def is_disabled(self, account: Account) -> bool:
        """Whether the account, which is locked, is disabled now."""
        asked = select(disabled.c.at_us).where(disabled.c.account_id == account.id)
        return self._connection.execute(asked).scalar() is not None

    def set_password(
        self,
        account: Account,
        password_hash: str,
        *,
        keep_session: str | None = None,
        unlink: bool = False,
    ) -> None:
        """Replace the password's hash. The audit row says that, and no hash; keys are untouched.

        Whoever is signed in as the account is no more, but for the session `keep_session`, and
        links that would set a password are void. `unlink`: identities are parted from it, too.
        """
        self._connection.execute(
            update(accounts).where(accounts.c.id == account.id).values(password_hash=password_hash)
        )
        others = sessions.c.account_id == account.id
        if keep_session is not None:
            others &= sessions.c.id != keep_session
        self._connection.execute(delete(sessions).where(others))
        self._connection.execute(delete(invites).where(invites.c.account_id == account.id))
        self._audit("account.set_password", account.id, None, None)
        if unlink:
            self._unlink_all(account)

    def _unlink_all(self, account: Account) -> None:
        """Nobody comes in by an identity any more: one of a thief's would outlive the password."""
        mine = identities.c.account_id == account.id
        asked = select(identities.c.issuer, identities.c.subject).where(mine)
        for issuer, subject in self._connection.execute(asked).all():
            facts = {"issuer": issuer, "subject": subject}
            self._audit("account.unlink_identity", account.id, facts, None)
        self._connection.execute(delete(identities).where(mine))

    def use_form(self, account: Account, form: str, subject: str) -> str | None:
        """Note that a form was sent, about `subject`; if it had been, what it was about then."""
        mine = (forms.c.account_id == account.id) & (forms.c.form == form)
        known = self._connection.execute(select(forms.c.subject).where(mine)).scalar()
        if known is not None:
            return str(known)
        old = forms.c.at_us < self.now_us - FORM_KEPT_US
        self._connection.execute(delete(forms).where(old))
        self._connection.execute(
            insert(forms).values(
                account_id=account.id, form=form, subject=subject, at_us=self.now_us
            )
        )
        return None

    def live_keys(self, account: Account) -> int:
        """How many of its keys are neither revoked nor expired; imported ones are not counted."""
        asked = (
            select(func.count())
            .select_from(keys)
            .where(
                keys.c.account_id == account.id,
                keys.c.revoked_us.is_(None),
                keys.c.expires_us > self.now_us,
                ~exists().where(imports.c.key_id == keys.c.id),
            )
        )
        return int(self._connection.execute(asked).scalar_one())

    def aliases(self, account: Account) -> set[str]:
        """The aliases of the account's keys that are not revoked."""
        asked = select(keys.c.alias).where(
            keys.c.account_id == account.id, keys.c.revoked_us.is_(None)
        )
        return set(self._connection.execute(asked).scalars())

    def key(self, account: Account, alias: str) -> KeyRecord | None:
        """The account's key of this alias that is not revoked; it may be expired."""
        asked = select_keys().where(
            keys.c.account_id == account.id, keys.c.alias == alias, keys.c.revoked_us.is_(None)
        )
        row = self._connection.execute(asked).first()
        return None if row is None else read_key(row)[1]

    def add_key(
        self,
        record: KeyRecord,
        digest: bytes,
        pepper_version: int,
        *,
        action: str = "key.mint",
    ) -> None:
        """Insert a key; its alias must be free among the account's keys that are not revoked."""
        self._connection.execute(
            insert(keys).values(
                id=record.id,
                account_id=record.account_id,
                alias=record.alias,
                digest=digest,
                pepper_version=pepper_version,
                hint=record.hint,
                models=models_text(record.models),
                budget_nanousd=record.budget_nanousd,
                rpm=record.rpm,
                created_us=record.created_us,
                expires_us=record.expires_us,
                revoked_us=record.revoked_us,
            )
        )
        self._audit(action, record.id, None, key_facts(record))
        self._announce(digest=digest)

    def change_key(self, before: KeyRecord, after: KeyRecord, *, action: str) -> None:
        """Store alias, models, limits, expiry and revocation of `after`; the rest never changes."""
        self._connection.execute(
            update(keys)
            .where(keys.c.id == before.id)
            .values(
                alias=after.alias,
                models=models_text(after.models),
                budget_nanousd=after.budget_nanousd,
                rpm=after.rpm,
                expires_us=after.expires_us,
                revoked_us=after.revoked_us,
            )
        )
        was, is_now = key_facts(before), key_facts(after)
        differ = [name for name in was if was[name] != is_now[name]]
        self._audit(action, before.id, {n: was[n] for n in differ}, {n: is_now[n] for n in differ})
        self._announce(digest=self._digest_of(before))

    def add_import(self, key_id: str, source: str, noted: Noted) -> None:
        """Note that a key was imported; its key is there."""
        self._connection.execute(
            insert(imports).values(
                key_id=key_id,
                source=source,
                imported_us=self.now_us,
                **self._noted(noted),
            )
        )

    def change_import(self, key_id: str, noted: Noted) -> None:
        """Note what was imported now of a key that had been imported before."""
        self._connection.execute(
            update(imports).where(imports.c.key_id == key_id).values(**self._noted(noted))
        )

    def _noted(self, noted: Noted) -> dict[str, object]:
        return {
            "name": noted.name,
            "name_folded": noted.name.casefold(),
            "facts": noted.facts,
            "period_us": noted.period_us,
            "spent_nanousd": noted.spent_nanousd,
            "changed_us": self.now_us,
        }

    def carry_over(self, record: KeyRecord, hold: Hold, charge: Charge) -> None:
        """Book what a key has spent elsewhere as a row of the ledger, once for the hold's id.

        Counters that know the account are told to read its sums anew (see `_announce`).
        """
        book_in(self._connection, [(hold, charge)])
        self._audit("key.carry_over", record.id, None, {"charge_nanousd": charge.nanousd})
        self._announce(digest=self._digest_of(record), account_id=record.account_id)

    def _digest_of(self, record: KeyRecord) -> bytes:
        asked = select(keys.c.digest).where(keys.c.id == record.id)
        return bytes(self._connection.execute(asked).scalar_one())

    def _audit(self, action: str, subject: str, before: Facts | None, after: Facts | None) -> None:
        def as_text(facts: Facts | None) -> str | None:
            return None if facts is None else json.dumps(facts, ensure_ascii=False)

        self._connection.execute(
            insert(audit).values(
                at_us=self.now_us,
                actor=self._actor,
                action=action,
                subject=subject,
                before=as_text(before),
                after=as_text(after),
                address=self._address,
            )
        )

    def _announce(self, *, digest: bytes | None = None, account_id: str | None = None) -> None:
        """A row of the feed, of a key, of an account, or of both.

        Both say that a row was added to the ledger beside the counters: whoever counts for the
        account has to read its sums anew.

        What is older than FEED_KEPT_US goes, never the newest row.
        Numbers have no holes and appear in the order of their commits: each is one more than the
        newest that is committed, taken under a lock that is held until it is. The newest row
        stays because the next number, and a reader that looks for a gap, go by it.
        """
        if self._connection.dialect.name == "postgresql":  # SQLite's writer is alone already
            self._connection.execute(text("LOCK TABLE changes IN EXCLUSIVE MODE"))
        newest = select(func.coalesce(func.max(changes.c.seq), 0))
        seq = int(self._connection.execute(newest).scalar_one()) + 1
        change = Change(seq, digest, account_id, self.now_us)
        self._connection.execute(
            insert(changes).values(seq=seq, digest=digest, account_id=account_id, at_us=self.now_us)
        )
        if self._connection.dialect.name == "postgresql":  # told of when it is committed
            telling = text("SELECT pg_notify(:channel, :line)")
            self._connection.execute(telling, {"channel": CHANNEL, "line": text_of(change)})
        self.announced.append(change)
        oldest = select(changes.c.at_us).order_by(changes.c.seq).limit(1)
        horizon_us = self.now_us - FEED_KEPT_US
        if self._connection.execute(oldest).scalar_one() < horizon_us:
            old = delete(changes).where(changes.c.at_us < horizon_us, changes.c.seq < seq)
            self._connection.execute(old)
