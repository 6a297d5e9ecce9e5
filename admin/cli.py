"""The command line's face of the use cases: `tensorgate users …` and `tensorgate keys …`.

Faults are raised; the front door (tensorgate/cli.py) turns them into one line and an exit code.
What only one command needs is imported there: the help must not wait for the database's driver.
"""

from __future__ import annotations

import getpass
import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from admin import acknowledge, output
from store.errors import InputError
from store.records import DEFAULT_EXPIRY_DAYS, Account, Role
from store.text import usd, utc

if TYPE_CHECKING:
    from admin.service import AdminService

STDIN_LINE_MAX: Final = 4096

users_app = typer.Typer(help="Accounts: who may hold keys.")
keys_app = typer.Typer(help="Keys: mint, change, list, revoke, find.")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON; never ask.")]
Email = Annotated[str, typer.Argument(metavar="EMAIL", help="Names the account.")]
User = Annotated[str, typer.Option("--user", metavar="EMAIL", help="The account.")]
Alias = Annotated[str, typer.Option("--alias", metavar="ALIAS", help="The key's name.")]
PasswordStdin = Annotated[
    bool,
    typer.Option(
        "--password-stdin", help="Read the password from standard input; without, one is made."
    ),
]


def help_when_alone(context: typer.Context) -> None:
    """Of a group of commands, named without one of them: say which there are."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


users_app.callback(invoke_without_command=True)(help_when_alone)
keys_app.callback(invoke_without_command=True)(help_when_alone)


def actor() -> str:
    """Who runs this command, for the audit log: `cli:` and the system's name for the user."""
    user = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"cli:{user}"


@contextmanager
def opened() -> Iterator[AdminService]:
    """The use cases on the state that the environment names."""
    from admin.service import open_service  # noqa: PLC0415  see the module's head
    from store.settings import StoreSettings, load  # noqa: PLC0415  see the module's head

    with open_service(load(StoreSettings), actor=actor()) as service:
        yield service


def secret_from_stdin(what: str, *, as_json: bool) -> str:
    """One line of standard input; on a terminal it is asked for and not shown."""
    if sys.stdin.isatty() and not as_json:
        return getpass.getpass(f"{what}: ")
    raw = sys.stdin.buffer.readline(STDIN_LINE_MAX + 1)
    try:
        line = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        line = ""
    if not line or len(raw) > STDIN_LINE_MAX:
        raise InputError(
            f"One line with the {what} is needed on standard input, in UTF-8.",
            code="invalid_stdin",
        )
    return line


def notes_text(notes: tuple[str, ...]) -> str:
    """What is worth saying below a result, a line for each."""
    return "".join(f"\nnote: {note}" for note in notes)


@users_app.command("add")
def add_user(
    *,
    email: Email,
    plan: Annotated[str | None, typer.Option(metavar="PLAN", help="A plan of the catalog.")] = None,
    team: Annotated[str | None, typer.Option(metavar="TEAM", help="A label.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May administer everything.")] = False,
    service: Annotated[
        bool, typer.Option("--service", help="For a program: no password, never signs in.")
    ] = False,
    password_stdin: PasswordStdin = False,
    as_json: AsJson = False,
) -> None:
    """Add an account. Its password, unless you give one, is shown this once."""
    password = secret_from_stdin("password", as_json=as_json) if password_stdin else None
    with opened() as use:
        added = use.add_user(
            email,
            plan=plan,
            team=team,
            role=Role.ADMIN if admin else Role.USER,
            service=service,
            password=password,
        )
    account = added.account
    rows = [("id", account.id), ("plan", account.plan), ("role", account.role.value)]
    if account.team is not None:
        rows.append(("team", account.team))
    head = f"Added {'service account ' if account.service else ''}{account.email}."
    if added.password is not None:
        rows.append(("password", added.password))
        head += " The password is shown this once."
    value = output.account_json(account) | {"password": added.password}
    output.show(as_json, value, f"{head}\n{output.pairs(rows)}")


@users_app.command("list")
def list_users(as_json: AsJson = False) -> None:
    """List the accounts."""
    with opened() as use:
        found = use.list_users()
    value = [output.account_json(account) | {"live_keys": live} for account, live in found]
    rows = [
        (
            account.email,
            account.plan,
            _role_text(account),
            account.team or "-",
            str(live),
            utc(account.created_us),
        )
        for account, live in found
    ]
    head = ("email", "plan", "role", "team", "live keys", "created")
    empty = "There are no accounts yet. Add one with `tensorgate users add EMAIL`."
    output.show(as_json, value, output.table(head, rows) if rows else empty)


def _role_text(account: Account) -> str:
    role = "service" if account.service else account.role.value
    return role if account.disabled_us is None else f"{role}, disabled"


@users_app.command("set-plan")
def set_plan(
    email: Email,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan of the catalog.")],
    as_json: AsJson = False,
) -> None:
    """Put an account on another plan. Its keys stay as they are until they are updated."""
    with opened() as use:
        account = use.set_plan(email, plan)
        _show_changed(as_json, account, use, f"is on the {account.plan} plan")


@users_app.command("disable")
def disable_user(email: Email, as_json: AsJson = False) -> None:
    """Let nobody in as an account and none of its keys pass, until it is enabled again."""
    with opened() as use:
        _show_changed(as_json, use.disable(email), use, "is disabled, and no key was revoked")


@users_app.command("enable")
def enable_user(email: Email, as_json: AsJson = False) -> None:
    """Undo `users disable`: its keys pass again, and its owner can sign in."""
    with opened() as use:
        _show_changed(as_json, use.enable(email), use, "is enabled")


def _show_changed(as_json: bool, account: Account, use: AdminService, what: str) -> None:
    heard = use.acknowledged()
    value = output.account_json(account) | {"acknowledged": acknowledge.as_json(heard)}
    output.show(as_json, value, f"{account.email} {what}: {acknowledge.as_text(heard, 'obeyed')}.")


@users_app.command("set-password")
def set_password(
    email: Email, password_stdin: PasswordStdin = False, as_json: AsJson = False
) -> None:
    """Replace an account's password. Unless you give one, the new one is shown this once.

    Its sessions end, and single sign-on has to be linked anew.
    """
    password = secret_from_stdin("password", as_json=as_json) if password_stdin else None
    with opened() as use:
        made = use.set_password(email, password)
    text = "The password was replaced."
    if made is not None:
        text += f" The new one is shown this once.\n{output.pairs([('password', made)])}"
    output.show(as_json, {"email": email.strip().lower(), "password": made}, text)


@keys_app.command("mint")
def mint(
    *,
    user: User,
    alias: Alias,
    models: Annotated[
        str, typer.Option(metavar="M1,M2", help="Names the key may call; '*' for all.")
    ],
    budget_usd: Annotated[
        str | None,
        typer.Option(metavar="USD", help="For 30 days, or `none`. [default: as the plan allows]"),
    ] = None,
    rpm: Annotated[
        int | None,
        typer.Option(metavar="N", help="Requests a minute. [default: as the plan allows]"),
    ] = None,
    expires_in_days: Annotated[
        int, typer.Option(metavar="DAYS", help="1 to 365.")
    ] = DEFAULT_EXPIRY_DAYS,
    as_json: AsJson = False,
) -> None:
    """Mint a key. Its plaintext is shown this once and kept nowhere."""
    with opened() as use:
        minted = use.mint(
            user,
            alias,
            models=models,
            budget_usd=budget_usd,
            rpm=rpm,
            expires_in_days=expires_in_days,
        )
    record = minted.record
    value = {
        "id": record.id,
        "alias": record.alias,
        "key": minted.key,
        "hint": record.hint,
        **output.limits_json(record),
    }
    rows = [("key", minted.key), ("id", record.id), *output.limits_rows(record)]
    text = (
        f"Minted `{record.alias}` for {record.user}. The key is shown this once: keep it now.\n"
        f"{output.pairs(rows)}{notes_text(minted.notes)}"
    )
    output.show(as_json, value, text)


@keys_app.command("update")
def update(
    *,
    user: User,
    alias: Alias,
    new_alias: Annotated[str | None, typer.Option(metavar="ALIAS", help="Another name.")] = None,
    models: Annotated[
        str | None, typer.Option(metavar="M1,M2", help="Names the key may call; '*' for all.")
    ] = None,
    budget_usd: Annotated[
        str | None, typer.Option(metavar="USD", help="For 30 days, or `none`.")
    ] = None,
    rpm: Annotated[int | None, typer.Option(metavar="N", help="Requests a minute.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a key's alias, models, budget or rpm. What is not given stays."""
    with opened() as use:
        updated = use.update(
            user, alias, new_alias=new_alias, models=models, budget_usd=budget_usd, rpm=rpm
        )
        value = output.key_json(updated.record, use.now_us())
        heard = use.acknowledged()
    record = updated.record
    value["acknowledged"] = acknowledge.as_json(heard)
    text = (
        f"Updated `{record.alias}` ({record.hint}) of {record.user}: "
        f"{acknowledge.as_text(heard, 'obeyed')}.\n"
        f"{output.pairs(output.limits_rows(record))}{notes_text(updated.notes)}"
    )
    output.show(as_json, value, text)


@keys_app.command("list")
def list_keys(
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="EMAIL", help="Of this account.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Of any account and state, with this in the alias, the e-mail, the team, the "
            "hint, or the name that the key had before an import.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Expired and revoked ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List an account's keys, or look for some by name."""
    if user is None and search is None:
        raise InputError("Name an account with --user, or look for keys with --search.")
    with opened() as use:
        if search is not None:
            found = use.search_keys(search, user)
        else:
            found = use.list_keys(user or "", every=every)
        origins = use.origins(found)
        now_us = use.now_us()
    rows = [
        (
            *((record.user,) if user is None else ()),
            record.alias,
            *((origins[record.id].name if record.id in origins else "-",) if origins else ()),
            record.hint,
            output.key_state(record, now_us),
            "no limit" if record.budget_nanousd is None else usd(record.budget_nanousd),
            "no limit" if record.rpm is None else str(record.rpm),
            utc(record.expires_us),
            output.models_text(record.models),
        )
        for record in found
    ]
    head = (
        *(("user",) if user is None else ()),
        "alias",
        *(("was",) if origins else ()),
        *("key", "state", "budget", "rpm", "expires", "models"),
    )
    empty = "No keys." if every else "No live keys; `--all` lists expired and revoked ones too."
    if search is not None:
        empty = "No key has that in its names."
    value = [
        output.key_json(record, now_us) | output.origin_json(origins.get(record.id))
        for record in found
    ]
    output.show(as_json, value, output.table(head, rows) if rows else empty)


@keys_app.command("revoke")
def revoke(
    user: User,
    alias: Alias,
    confirm: Annotated[
        str | None, typer.Option(metavar="ALIAS", help="The alias, typed out once more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key, at once and for ever."""
    if confirm is None and sys.stdin.isatty() and sys.stderr.isatty() and not as_json:
        print(f"Type `{alias}` to revoke it for ever: ", end="", file=sys.stderr, flush=True)  # noqa: T201  a question to the terminal
        confirm = sys.stdin.readline().strip()
    with opened() as use:
        record = use.revoke(user, alias, confirm=confirm or "")
        value = output.key_json(record, use.now_us())
        heard = use.acknowledged()
    value["acknowledged"] = acknowledge.as_json(heard)
    text = (
        f"Revoked `{record.alias}` ({record.hint}) of {record.user}: "
        f"{acknowledge.as_text(heard, 'revoked')}. What already streams runs out and is charged."
    )
    output.show(as_json, value, text)


@keys_app.command("find")
def find(
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read the key from standard input.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Name the key that a plaintext belongs to."""
    if not key_stdin:
        raise InputError(
            "A key on a command line stays in the shell's history. "
            "Give --key-stdin and the key on standard input.",
            code="invalid_stdin",
        )
    plaintext = secret_from_stdin("key", as_json=as_json)
    with opened() as use:
        record = use.find_key(plaintext)
        now_us = use.now_us()
    rows = [
        ("user", record.user),
        ("alias", record.alias),
        ("id", record.id),
        ("state", output.key_state(record, now_us)),
        *output.limits_rows(record),
    ]
    output.show(as_json, output.key_json(record, now_us), f"{record.hint}\n{output.pairs(rows)}")
