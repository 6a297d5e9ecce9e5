"""The use cases: accounts and keys. The command line and the dashboard are faces of these.

Each change is one transaction under a lock on the account, so that what was checked still holds
when it is written: two mints cannot both take the last place of a plan. A method raises
InputError (or one of its kinds) for what a person can mend, and StoreError when the database
cannot do its part. Texts come as they were typed; `admin.inputs` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from admin import inputs, planrules
from admin.accounts import AccountService, new_id, no_account
from admin.output import key_state
from store import keyformat
from store.catalog import Catalog
from store.control import nudge
from store.errors import InputError, NotFoundError, RepeatedError
from store.imports import Imports, Origin
from store.keys import KeyRepository
from store.keywriter import Writer
from store.push import open_publisher
from store.records import DAY_US, DEFAULT_EXPIRY_DAYS, Account, KeyRecord
from store.replicas import Replicas
from store.text import utc
from store.upgrades import open_state

if TYPE_CHECKING:
    from store.settings import StoreSettings


FORM_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Minted:
    """A new key. `key` is the plaintext: this is the one time that anybody sees it."""

    record: KeyRecord
    key: str = field(repr=False)
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Updated:
    """A changed key and what is worth saying about it."""

    record: KeyRecord
    notes: tuple[str, ...]


class AdminService(AccountService):
    """Use cases of keys, and of accounts."""

    def mint(
        self,
        user: str,
        alias: str,
        *,
        models: str,
        budget_usd: str | None = None,
        rpm: int | None = None,
        expires_in_days: int = DEFAULT_EXPIRY_DAYS,
        form: str | None = None,
    ) -> Minted:
        """Mint a key. What is None is the plan's maximum, or 5 USD and 60 rpm where it has none.

        The same `form` (some random text) mints once: RepeatedError the next time.
        """
        catalog = self._catalog()
        name = inputs.alias(alias)
        days = inputs.expiry_days(expires_in_days)
        allowed, notes = canonical(catalog, inputs.models(models))
        asked_budget = None if budget_usd is None else inputs.budget_nanousd(budget_usd)
        asked_rpm = None if rpm is None else inputs.rpm(rpm)
        key = keyformat.mint(self._settings.key_form().prefixes[0])
        version, digest = self._settings.digester().newest(key)

        key_id = new_id("key")

        with self._changing(user) as (writer, account):
            if form is not None:
                _check_first(writer, account, form, key_id)
            plan = planrules.plan_of(catalog, account)
            budget = planrules.default_budget(plan) if budget_usd is None else asked_budget
            planrules.check_keys(catalog, plan, writer.live_keys(account))
            planrules.check_budget(catalog, plan, budget)
            per_minute = planrules.default_rpm(plan) if asked_rpm is None else asked_rpm
            planrules.check_rpm(catalog, plan, per_minute)
            _check_alias_free(writer, account, name)
            record = KeyRecord(
                id=key_id,
                account_id=account.id,
                user=account.email,
                team=account.team,
                plan=account.plan,
                account_created_us=account.created_us,
                alias=name,
                hint=keyformat.hint(key),
                models=allowed,
                budget_nanousd=budget,
                rpm=per_minute,
                created_us=writer.now_us,
                expires_us=writer.now_us + days * DAY_US,
                revoked_us=None,
            )
            writer.add_key(record, digest, version)
        return Minted(record, key, notes)

    def update(
        self,
        user: str,
        alias: str,
        *,
        new_alias: str | None = None,
        models: str | None = None,
        budget_usd: str | None = None,
        rpm: int | None = None,
        key_id: str | None = None,
    ) -> Updated:
        """Change what is given and leave the rest. The plan's caps bind what is given.

        With `key_id` it is that key or none, whatever key has the alias by now.
        """
        if new_alias is None and models is None and budget_usd is None and rpm is None:
            raise InputError(
                "Nothing to change. Give a new alias, models, a budget or an rpm.",
                code="nothing_to_change",
            )
        catalog = self._catalog()
        notes: tuple[str, ...] = ()
        with self._changing(user) as (writer, account):
            plan = planrules.plan_of(catalog, account)
            before = after = _key_of(writer, account, alias, key_id)
            if new_alias is not None and new_alias != alias:
                _check_alias_free(writer, account, inputs.alias(new_alias))
                after = replace(after, alias=new_alias)
            if models is not None:
                allowed, notes = canonical(catalog, inputs.models(models))
                after = replace(after, models=allowed)
            if budget_usd is not None:
                after = replace(after, budget_nanousd=inputs.budget_nanousd(budget_usd))
                planrules.check_budget(catalog, plan, after.budget_nanousd)
            if rpm is not None:
                after = replace(after, rpm=inputs.rpm(rpm))
                planrules.check_rpm(catalog, plan, rpm)
            if after != before:
                writer.change_key(before, after, action="key.update")
        return Updated(after, notes)

    def list_keys(self, user: str, *, every: bool = False) -> list[KeyRecord]:
        """The account's keys, the oldest first; with `every` also expired and revoked ones."""
        account = self.find_user(user)
        if account is None:
            raise no_account(user)
        now_us = self._clock()
        return [
            record
            for record in self._repository.keys_of(account.id)
            if every or key_state(record, now_us) == "live"
        ]

    def search_keys(self, text: str, user: str | None = None) -> list[KeyRecord]:
        """Keys, of whatever state, in whose names a text stands; also in those of before an import.

        Of one account, or of all: who asks has to be allowed to see them.
        """
        wanted = inputs.search(text)
        account = None if user is None else self.find_user(user)
        if user is not None and account is None:
            raise no_account(user)
        return self._imports().search(wanted, None if account is None else account.id)

    def origins(self, records: Iterable[KeyRecord]) -> dict[str, Origin]:
        """By key id, where those are from that were imported."""
        return self._imports().origins(record.id for record in records)

    def _imports(self) -> Imports:
        return Imports(self._repository.engine)

    def revoke(
        self, user: str, alias: str, *, confirm: str, key_id: str | None = None
    ) -> KeyRecord:
        """Revoke a key for ever. `confirm` is the alias, typed out once more.

        With `key_id` it is that key or none, whatever key has the alias by now.
        """
        if confirm != alias:
            raise InputError(
                "The alias was not typed out as it stands, so nothing was revoked. "
                "Confirm with --confirm and the key's alias.",
                code="confirmation_required",
            )
        with self._changing(user) as (writer, account):
            before = _key_of(writer, account, alias, key_id)
            after = replace(before, revoked_us=writer.now_us)
            writer.change_key(before, after, action="key.revoke")
        return after

    def find_key(self, plaintext: str) -> KeyRecord:
        """The key that a plaintext is, revoked and expired ones too."""
        key = plaintext.strip()
        form = self._settings.key_form()
        if form.is_ours(key) and not keyformat.checksum_holds(key):
            raise InputError(
                "The key's last characters do not fit the rest: it was cut off or mistyped. "
                "Look at it again where it came from.",
                code="invalid_api_key",
            )
        if not (form.is_ours(key) or form.is_foreign(key)):
            raise InputError(
                "That does not look like a key of this gate. "
                f"Its keys begin with {' or '.join(form.prefixes)}.",
                code="invalid_api_key",
            )
        found = self._repository.by_digests(self._settings.digester().digests(key))
        if found is None:
            raise NotFoundError(
                "This gate has never minted that key. Check TENSORGATE_STATE, and the pepper file."
            )
        return found[1]


@contextmanager
def open_service(settings: StoreSettings, *, actor: str) -> Iterator[AdminService]:
    """The use cases on the settings' database, closed at the end. See store.upgrades.open_state.

    An authz that runs on the state is told of each change, so that it holds at once.
    """
    with ExitStack() as stack:
        engine = open_state(settings)
        stack.callback(engine.dispose)
        publisher = open_publisher(settings)
        if publisher is not None:
            stack.callback(publisher.close)
        repository = stack.enter_context(KeyRepository(engine, publisher))
        yield AdminService(
            repository,
            settings,
            actor=actor,
            changed=lambda: nudge(settings),
            replicas=Replicas(engine),
        )


def _key_of(writer: Writer, account: Account, alias: str, key_id: str | None = None) -> KeyRecord:
    record = writer.key(account, inputs.alias(alias))
    if record is None or key_id not in (None, record.id):
        raise NotFoundError(
            f"{account.email} has no key `{alias}` that is not revoked. "
            f"See `tensorgate keys list --user {account.email} --all`."
        )
    return record


def _check_first(writer: Writer, account: Account, form: str, key_id: str) -> None:
    if len(form) > FORM_CHARS:
        raise InputError("That form is none of ours. Open the page anew.", code="invalid_form")
    minted = writer.use_form(account, form, key_id)
    if minted is not None:
        raise RepeatedError(
            "This form was sent before, and its key was shown then, once. "
            "If you did not keep it, revoke it and create another.",
            minted,
        )


def _check_alias_free(writer: Writer, account: Account, alias: str) -> None:
    holder = writer.key(account, alias)
    if holder is None:
        return
    state = key_state(holder, writer.now_us)
    what = f"expired on {utc(holder.expires_us)}" if state == "expired" else state
    raise InputError(
        f"The key {holder.hint} ({what}) already has the alias `{alias}`. "
        "Choose another alias, or revoke that key first.",
        code="alias_taken",
    )


def canonical(
    catalog: Catalog, names: tuple[str, ...] | None
) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """The names that calls are judged by, and what to say where they are not those asked for."""
    if names is None:
        return None, ()
    allowed, notes = set[str](), list[str]()
    for name in names:
        offer = catalog.resolve(name)
        allowed.add(name if offer is None else offer.name)
        if offer is None:
            notes.append(
                f"`{name}` is not in the catalog: a key with a budget cannot call it until it "
                "has a price there."
            )
        elif offer.name != name:
            notes.append(f"`{name}` is an alias of `{offer.name}`: the key names that model.")
    return frozenset(allowed), tuple(notes)
