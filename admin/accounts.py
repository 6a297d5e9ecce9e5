"""The use cases of accounts: adding them, plans, teams, roles, passwords.

See admin/service.py for what all use cases keep to.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING

from admin import inputs, planrules
from admin.acknowledge import Acknowledged, Moment, acknowledged
from admin.passwords import hash_password, make_password
from store.catalog import Catalog
from store.clock import Clock, wall_us
from store.control import Control
from store.errors import InputError, NotFoundError, NotRunningError
from store.keys import KeyRepository
from store.keywriter import Writer
from store.records import Account, Role
from store.replicas import Replicas

if TYPE_CHECKING:
    from store.settings import StoreSettings


@dataclass(frozen=True, slots=True)
class AddedAccount:
    """A new account; `password` only if it was made here, to be shown once."""

    account: Account
    password: str | None = field(repr=False)


class AccountService:
    """Use cases over one repository. `actor` is who asks and `address` whence, for the audit log.

    `changed` is called after each change of an account that exists, or of its keys.
    """

    def __init__(
        self,
        repository: KeyRepository,
        settings: StoreSettings,
        *,
        actor: str,
        address: str | None = None,
        clock: Clock = wall_us,
        changed: Callable[[], object] = lambda: None,
        replicas: Replicas | None = None,
    ) -> None:
        self._repository = repository
        self._replicas = replicas
        self._committed = Moment(monotonic(), clock())
        self._address = address
        self._changed = changed
        self._settings = settings
        self._actor = actor
        self._clock = clock

    def now_us(self) -> int:
        """The time by this service's clock."""
        return self._clock()

    def acknowledged(self) -> Acknowledged:
        """Wait until what was changed is obeyed wherever the gate runs; at most about 3 s."""
        if self._replicas is None:
            return Acknowledged(0, self._clock())
        return acknowledged(self._replicas, self._repository.last_change, self._committed)

    def _catalog(self) -> Catalog:
        return catalog_in_force(self._settings)

    def add_user(
        self,
        email: str,
        *,
        plan: str | None = None,
        team: str | None = None,
        role: Role = Role.USER,
        service: bool = False,
        password: str | None = None,
        make_one: bool = True,
    ) -> AddedAccount:
        """Add an account, on the catalog's default plan unless one is named.

        Without a password one is made; not `make_one`: it cannot sign in until it is given one.
        A service account has none and never signs in.
        """
        if service and (role is not Role.USER or password is not None):
            raise InputError(
                "A service account never signs in: it is no admin or auditor and has no password.",
                code="invalid_account",
            )
        catalog = self._catalog()
        name = planrules.plan_named(catalog, plan or catalog.default_plan).name
        made = make_password() if make_one and password is None and not service else None
        chosen = made if password is None else inputs.password(password)
        hashed = None if chosen is None else hash_password(chosen)  # before any lock: it is slow
        account = Account(
            id=new_id("acc"),
            email=inputs.email(email),
            team=inputs.team(team),
            plan=name,
            role=role,
            service=service,
            created_us=self._clock(),
        )
        with self._repository.changing(self._actor, account.created_us, self._address) as writer:
            if writer.lock_account(account.email) is not None:
                raise InputError(
                    f"There is already an account {account.email}. "
                    "Change it with `tensorgate users set-plan` or `set-password`.",
                    code="email_taken",
                )
            writer.add_account(account, hashed)
        return AddedAccount(account, made)

    def list_users(self) -> list[tuple[Account, int]]:
        """Every account, with how many live keys it holds."""
        return self._repository.accounts(self._clock())

    def find_user(self, email: str) -> Account | None:
        """The account of this e-mail, if there is one."""
        return self._repository.account(inputs.email(email))

    def set_plan(self, email: str, plan: str) -> Account:
        """Put an account on another plan. Its keys stay as they are until they are updated."""
        name = planrules.plan_named(self._catalog(), plan).name
        with self._changing(email) as (writer, account):
            if account.plan != name:
                writer.set_plan(account, name)
        return replace(account, plan=name)

    def set_team(self, email: str, team: str | None) -> Account:
        """Put an account into another team, or into none. Calls count for it within a second."""
        label = inputs.team(team)
        with self._changing(email) as (writer, account):
            if account.team != label:
                writer.set_team(account, label)
        return replace(account, team=label)

    def set_role(self, email: str, role: Role) -> Account:
        """Let an account see more, or less, from its next page on. One admin always stays."""
        with self._changing(email) as (writer, account):
            if account.service and role is not Role.USER:
                raise InputError(
                    f"{account.email} is a service account and never signs in.",
                    code="invalid_account",
                )
            if role is not Role.ADMIN:
                _check_not_last(writer, account)
            if account.role is not role:
                writer.set_role(account, role)
        return replace(account, role=role)

    def set_password(self, email: str, password: str | None = None) -> str | None:
        """Replace the password; without one, one is made and returned, to be shown once.

        Every session ends, and every identity is parted from the account.
        """
        chosen = make_password() if password is None else inputs.password(password)
        hashed = hash_password(chosen)  # before any lock: it is slow
        with self._changing(email) as (writer, account):
            if account.service:
                raise InputError(
                    f"{account.email} is a service account and never signs in.",
                    code="invalid_account",
                )
            writer.set_password(account, hashed, unlink=True)
        return chosen if password is None else None

    def disable(self, email: str) -> Account:
        """Let nobody in as the account, and none of its keys pass: at once, and until `enable`.

        Nothing is revoked. One admin always stays.
        """
        with self._changing(email) as (writer, account):
            if writer.is_disabled(account):
                return account
            _check_not_last(writer, account)
            writer.disable(account)
            return replace(account, disabled_us=writer.now_us)

    def enable(self, email: str) -> Account:
        """Undo `disable`: its keys pass again, and its owner can sign in."""
        with self._changing(email) as (writer, account):
            if writer.is_disabled(account):
                writer.enable(account)
        return replace(account, disabled_us=None)

    @contextmanager
    def _changing(self, email: str) -> Iterator[tuple[Writer, Account]]:
        """A transaction with the account locked. Raises NotFoundError without such an account."""
        name = inputs.email(email)
        with self._repository.changing(self._actor, self._clock(), self._address) as writer:
            account = writer.lock_account(name)
            if account is None:
                raise no_account(name)
            yield writer, account
        self._committed = Moment(monotonic(), self._clock())
        self._changed()


def _check_not_last(writer: Writer, account: Account) -> None:
    """Raises InputError for the one admin who is left."""
    if account.role is not Role.ADMIN or writer.is_disabled(account):
        return
    if writer.admins() == 1:
        raise InputError(
            f"{account.email} is the only admin. Make another one first.", code="last_admin"
        )


def catalog_in_force(settings: StoreSettings) -> Catalog:
    """The catalog that calls are judged by: as this state's authz has read it.

    Its file may be another by now, one that authz refuses or was not told to read. Where no
    authz runs here, the file. Raises ConfigError, StoreUnavailableError.
    """
    try:
        found = Control.of(settings).ask("catalog")
    except NotRunningError:
        return Catalog.read(settings.catalog)
    return Catalog.parse(found["text"], found["path"])


def new_id(kind: str) -> str:
    """`acc_…`, `key_…` or `ses_…`: 80 random bits in lower-case base 32."""
    return f"{kind}_{base64.b32encode(secrets.token_bytes(10)).decode().lower()}"


def no_account(email: str) -> NotFoundError:
    return NotFoundError(
        f"There is no account {inputs.email(email)}. Add it with `tensorgate users add`."
    )
