"""Moving in from another gate: its accounts and keys become ours, and clients keep their keys.

A key is known by its digest, so an import can be repeated: what is here already is touched only
where it changed there. Each account is one transaction; a dry run is the same transactions, undone.
Caps of plans bind when somebody mints: an imported key has the limits that it had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Final

from admin import planrules
from admin.accounts import new_id
from admin.litellm import Tables, Token
from admin.litellmkeys import SOURCE, Wanted, convert, expiry, numbered
from admin.litellmtold import Adapted, RefusedError, printable
from admin.output import budget_text, models_text, rpm_text
from admin.service import canonical
from store.catalog import Catalog
from store.clock import Clock, wall_us
from store.errors import InputError
from store.imports import Imported, Imports, Taken
from store.keyformat import UNPEPPERED
from store.keys import KeyRepository
from store.keywriter import Noted, Writer
from store.records import (
    MINUTE_US,
    SECOND_US,
    Account,
    Basis,
    Charge,
    Hold,
    KeyRecord,
    Price,
    Role,
    Window,
    window_at,
)
from store.text import usd, utc

_BEFORE_US: Final = MINUTE_US + SECOND_US  # so that what was spent is no request of this minute
_ENDPOINT: Final = "import"
_NO_PRICE: Final = Price()


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one key. `alias` is None where it was refused before it had one."""

    name: str
    hint: str | None
    user: str | None
    alias: str | None
    why: str = ""
    changes: tuple[Adapted, ...] = ()
    carried_nanousd: int = 0


@dataclass(slots=True)
class Report:
    """What an import did, or would do. `changed` are keys that were imported before."""

    dry_run: bool
    imported: list[Line] = field(default_factory=list)
    changed: list[Line] = field(default_factory=list)
    refused: list[Line] = field(default_factory=list)
    unchanged: int = 0
    accounts: list[str] = field(default_factory=list)
    unknown_models: set[str] = field(default_factory=set)

    @property
    def carried_nanousd(self) -> int:
        return sum(line.carried_nanousd for line in (*self.imported, *self.changed))

    def add(self, other: Report) -> None:
        """What became of one more account."""
        self.imported += other.imported
        self.changed += other.changed
        self.refused += other.refused
        self.unchanged += other.unchanged
        self.accounts += other.accounts
        self.unknown_models |= other.unknown_models


class _UndoneError(Exception):
    """Ends a dry run's transaction."""


def _undo_if(dry_run: bool) -> None:
    if dry_run:
        raise _UndoneError


class Mover:
    """The use case. `actor` is who asks, for the audit log."""

    def __init__(
        self,
        repository: KeyRepository,
        imports: Imports,
        catalog: Catalog,
        *,
        actor: str,
        clock: Clock = wall_us,
    ) -> None:
        self._repository = repository
        self._imports = imports
        self._catalog = catalog
        self._plan = planrules.plan_named(catalog, catalog.default_plan).name
        self._actor = actor
        self._clock = clock

    def move(
        self, tables: Tables, *, dry_run: bool, told: Callable[[int], None] = lambda _: None
    ) -> Report:
        """Import what there is. `told` hears how many keys are done. Raises StoreError.

        Of what was done before that, all of an account is there or nothing; repeat it.
        """
        report = Report(dry_run)
        now_us = self._clock()
        by_account: dict[str, list[Wanted]] = {}
        taken = self._imports.by_digest(t.digest for t in tables.tokens if t.digest is not None)
        for token in tables.tokens:
            try:
                wanted = convert(token, tables, now_us)
            except RefusedError as fault:
                report.refused.append(_refused_token(token, str(fault)))
                continue
            known = taken.get(wanted.digest)
            email = wanted.email if known is None else known.record.user
            by_account.setdefault(email, []).append(wanted)
        done = len(report.refused)
        for email in sorted(by_account):
            report.add(self._account(email, by_account[email], taken, dry_run=dry_run))
            done += len(by_account[email])
            told(done)
        return report

    def _account(
        self, email: str, keys: Sequence[Wanted], taken: dict[bytes, Taken], *, dry_run: bool
    ) -> Report:
        """One account's keys, in one transaction. What somebody changes meanwhile is refused."""
        try:
            return self._in_transaction(email, keys, taken, dry_run=dry_run)
        except InputError as fault:
            lines = [_line(wanted, email, why=str(fault)) for wanted in keys]
            return Report(dry_run, refused=lines)

    def _in_transaction(
        self, email: str, keys: Sequence[Wanted], taken: dict[bytes, Taken], *, dry_run: bool
    ) -> Report:
        report = Report(dry_run)
        try:
            with self._repository.changing(self._actor, self._clock()) as writer:
                account = writer.lock_account(email)
                if account is None and all(k.blocked and k.digest not in taken for k in keys):
                    report.refused += [_line(key, email, why=_blocked(key)) for key in keys]
                    return report
                if account is None:
                    account = self._add_account(writer, email, keys)
                    report.accounts.append(email)
                one = _OneAccount(writer, account, self._catalog, report)
                for wanted in keys:
                    one.put(wanted, taken.get(wanted.digest))
                _undo_if(dry_run)
        except _UndoneError:
            pass
        return report

    def _add_account(self, writer: Writer, email: str, keys: Iterable[Wanted]) -> Account:
        first = next(iter(keys))
        account = Account(
            id=new_id("acc"),
            email=email,
            team=first.team,
            plan=self._plan,
            role=Role.USER,
            service=first.service,
            created_us=writer.now_us,
        )
        writer.add_account(account, None)
        return account


class _OneAccount:
    """The keys of one account, inside of its transaction."""

    def __init__(self, writer: Writer, account: Account, catalog: Catalog, report: Report) -> None:
        self._writer = writer
        self._account = account
        self._catalog = catalog
        self._report = report
        self._aliases = writer.aliases(account)

    def put(self, wanted: Wanted, taken: Taken | None) -> None:
        """Import a key, or what changed of it."""
        if taken is None:
            self._put_new(wanted)
        elif taken.imported is None:
            why = f"this gate has minted that key itself, as `{taken.record.alias}`"
            self._report.refused.append(_line(wanted, self._account.email, why=why))
        elif wanted.blocked is None and taken.record.revoked_us is not None:
            why = f"it was revoked here on {utc(taken.record.revoked_us)}, which is for ever"
            self._report.refused.append(_line(wanted, self._account.email, why=why))
        else:
            self._put_again(wanted, taken.imported)

    def _put_new(self, wanted: Wanted) -> None:
        if wanted.blocked is not None:
            line = _line(wanted, self._account.email, why=_blocked(wanted))
            self._report.refused.append(line)
            return
        changes = list(wanted.adapted)
        now_us = self._writer.now_us
        alias = self._free_alias(wanted.alias)
        if alias != wanted.alias:
            changes = [each for each in changes if each.what != "alias"]
            changes.append(Adapted("alias", wanted.name or "none", alias))
        expires_us, is_same = expiry(wanted.expires_us, now_us)
        if not is_same:
            there = "never" if wanted.expires_us is None else _day(wanted.expires_us)
            changes.append(Adapted("expires", there, _day(expires_us)))
        if wanted.team is not None and wanted.team != self._account.team:
            changes.append(Adapted("team", wanted.team, self._account.team or "none"))
        account = self._account
        record = KeyRecord(
            id=new_id("key"),
            account_id=account.id,
            user=account.email,
            team=account.team,
            plan=account.plan,
            account_created_us=account.created_us,
            alias=alias,
            hint=wanted.hint,
            models=self._models(wanted, changes),
            budget_nanousd=wanted.budget_nanousd,
            rpm=wanted.rpm,
            created_us=wanted.created_us,
            expires_us=expires_us,
            revoked_us=None,
        )
        self._aliases.add(alias)
        self._writer.add_key(record, wanted.digest, UNPEPPERED, action="key.import")
        self._writer.add_import(record.id, SOURCE, _noted(wanted, wanted.spent_nanousd))
        self._carry_over(record, wanted, wanted.spent_nanousd)
        self._report.imported.append(
            _line(
                wanted,
                account.email,
                alias=alias,
                changes=tuple(changes),
                carried_nanousd=wanted.spent_nanousd,
            )
        )

    def _put_again(self, wanted: Wanted, before: Imported) -> None:
        """What changed there since the last time; what was changed here stays."""
        record, changes = before.record, list[Adapted]()
        after = self._changed(wanted, before, changes)
        carried, total = _since(wanted, before.noted)
        noted = _noted(wanted, total)
        if after != record:
            self._writer.change_key(record, after, action="key.import")
        if carried:
            self._carry_over(after, wanted, carried)
            changes.append(Adapted("spend", usd(before.noted.spent_nanousd), usd(total)))
        if wanted.name != before.noted.name:
            changes.append(Adapted("name", before.noted.name, wanted.name))
        if noted != before.noted:
            self._writer.change_import(record.id, noted)
        if not changes:
            self._report.unchanged += 1
            return
        self._report.changed.append(
            _line(
                wanted,
                record.user,
                alias=record.alias,
                changes=tuple(changes),
                carried_nanousd=carried,
            )
        )

    def _changed(self, wanted: Wanted, before: Imported, changes: list[Adapted]) -> KeyRecord:
        record, now_us = before.record, self._writer.now_us
        if wanted.blocked is not None:
            if record.revoked_us is not None:
                return record
            changes.append(Adapted("state", wanted.blocked, "revoked, for ever"))
            return replace(record, revoked_us=now_us)
        was, is_now = json.loads(before.noted.facts), json.loads(wanted.facts())
        differ = {name for name in is_now if was.get(name) != is_now[name]}
        after = record
        if "models" in differ:
            models = self._models(wanted, [])
            after = replace(after, models=models)
            changes.append(Adapted("models", _models(record.models), _models(models)))
        if "budget_nanousd" in differ:
            after = replace(after, budget_nanousd=wanted.budget_nanousd)
            changes.append(
                Adapted(
                    "budget", budget_text(record.budget_nanousd), budget_text(wanted.budget_nanousd)
                )
            )
        if "rpm" in differ:
            after = replace(after, rpm=wanted.rpm)
            changes.append(Adapted("rpm", rpm_text(record.rpm), rpm_text(wanted.rpm)))
        if "expires_us" in differ:
            after = replace(after, expires_us=expiry(wanted.expires_us, now_us)[0])
            changes.append(Adapted("expires", _day(record.expires_us), _day(after.expires_us)))
        return after

    def _models(self, wanted: Wanted, changes: list[Adapted]) -> frozenset[str] | None:
        """The names that calls are judged by."""
        allowed, _ = canonical(self._catalog, wanted.models)
        for name in wanted.models or ():
            offer = self._catalog.resolve(name)
            if offer is None:
                self._report.unknown_models.add(name)
            elif offer.name != name:
                changes.append(Adapted("model", name, offer.name))
        return allowed

    def _free_alias(self, alias: str) -> str:
        """The alias, or the first `alias-N` that no key of the account has."""
        candidates = chain((alias,), (numbered(alias, number) for number in count(2)))
        return next(each for each in candidates if each not in self._aliases)

    def _carry_over(self, record: KeyRecord, wanted: Wanted, nanousd: int) -> None:
        """Book what was spent there as one row of the window under way."""
        if not nanousd:
            return
        now_us = self._writer.now_us
        number = window_at(record.created_us, now_us)
        before_us = now_us - _BEFORE_US
        same = window_at(record.created_us, before_us) == number
        total = f"{wanted.digest.hex()}:{wanted.period_us}:{wanted.spent_nanousd}:{number}"
        hold_id = f"imp_{hashlib.sha256(total.encode()).hexdigest()[:40]}"
        hold = Hold(
            id=hold_id,
            request_id=hold_id,
            account_id=record.account_id,
            key_id=record.id,
            user=record.user,
            team=record.team,
            alias=record.alias,
            model=SOURCE,
            endpoint=_ENDPOINT,
            nanousd=nanousd,
            price=_NO_PRICE,
            tokens_per_byte="1",
            input_bound=0,
            output_bound=0,
            minute=None,
            windows=(Window(record.id, number),),
            admitted_us=before_us if same else now_us,
        )
        charge = Charge(hold_id, Basis.HELD, 0, 0, 0, 0, 0, nanousd, now_us)
        self._writer.carry_over(record, hold, charge)


def _noted(wanted: Wanted, spent_nanousd: int) -> Noted:
    return Noted(wanted.name, wanted.facts(), wanted.period_us, spent_nanousd)


def _since(wanted: Wanted, noted: Noted) -> tuple[int, int]:
    """What was spent there since the last import, and in all of the period under way.

    A period that began since has all of it new. Spend that went down was emptied by hand: what
    was carried over stays, and counts on from there.
    """
    if wanted.period_us != noted.period_us:
        return wanted.spent_nanousd, wanted.spent_nanousd
    more = max(0, wanted.spent_nanousd - noted.spent_nanousd)
    return more, noted.spent_nanousd + more


def _blocked(wanted: Wanted) -> str:
    return f"{wanted.blocked}; unblock it there and import again, or leave it behind"


def _models(models: frozenset[str] | None) -> str:
    return printable(models_text(models))


def _day(us: int) -> str:
    return utc(us)[:10]


def _line(
    wanted: Wanted,
    user: str,
    *,
    alias: str | None = None,
    why: str = "",
    changes: tuple[Adapted, ...] = (),
    carried_nanousd: int = 0,
) -> Line:
    return Line(wanted.name, wanted.hint, user, alias, why, changes, carried_nanousd)


def _refused_token(token: Token, why: str) -> Line:
    return Line(printable(token.name or ""), token.hint, None, None, why)
