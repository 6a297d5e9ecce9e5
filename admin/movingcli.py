"""The command line's face of moving in: `tensorgate import litellm`.

What only this command needs is imported there: the help must not wait for the database's driver.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from admin import output
from admin.cli import AsJson, actor, help_when_alone
from store.errors import InputError
from store.text import usd, usd_json

if TYPE_CHECKING:
    from admin.litellmtold import Adapted
    from admin.moving import Line, Report
    from store.keyformat import KeyForm
    from store.settings import StoreSettings

SHOWN: Final = 40
_NAMED: Final = 3

import_app = typer.Typer(help="Moving in from another gate.")
import_app.callback(invoke_without_command=True)(help_when_alone)


@import_app.command("litellm")
def litellm(
    *,
    url: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="URL",
            envvar="TENSORGATE_LITELLM_URL",
            show_envvar=True,
            help="LiteLLM's PostgreSQL, as its DATABASE_URL. It is only read. In the variable it "
            "stands in no shell's history.",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import LiteLLM's users and keys. Clients keep their keys; it can be repeated."""
    from admin.litellm import read  # noqa: PLC0415  see the module's head
    from store.settings import StoreSettings, load  # noqa: PLC0415  likewise

    settings = load(StoreSettings)
    report = _move(settings, read(url), dry_run=dry_run, seen=sys.stderr.isatty())
    form = settings.key_form()
    output.show(as_json, report_json(report, form), report_text(report, form))


def _move(settings: StoreSettings, tables: object, *, dry_run: bool, seen: bool) -> Report:
    from contextlib import ExitStack  # noqa: PLC0415  see the module's head

    from admin.litellm import Tables  # noqa: PLC0415  likewise
    from admin.moving import Mover  # noqa: PLC0415  likewise
    from admin.progress import progress  # noqa: PLC0415  likewise
    from store.catalog import Catalog  # noqa: PLC0415  likewise
    from store.control import nudge  # noqa: PLC0415  likewise
    from store.imports import Imports  # noqa: PLC0415  likewise
    from store.keys import KeyRepository  # noqa: PLC0415  likewise
    from store.push import open_publisher  # noqa: PLC0415  likewise
    from store.settings import DATABASE_NAME  # noqa: PLC0415  likewise
    from store.upgrades import open_state  # noqa: PLC0415  likewise

    if dry_run and settings.database_url is None and not (settings.state / DATABASE_NAME).exists():
        raise InputError(
            f"There is no gate's state in {settings.state}, and a dry run makes none. "
            "Make it with `tensorgate db upgrade`.",
            code="no_state",
        )
    assert isinstance(tables, Tables)  # noqa: S101  for the checker of types
    with ExitStack() as stack:
        engine = open_state(settings)
        stack.callback(engine.dispose)
        publisher = None if dry_run else open_publisher(settings)
        if publisher is not None:
            stack.callback(publisher.close)
        repository = stack.enter_context(KeyRepository(engine, publisher))
        mover = Mover(repository, Imports(engine), Catalog.read(settings.catalog), actor=actor())
        told = stack.enter_context(progress("keys", len(tables.tokens), seen=seen))
        report = mover.move(tables, dry_run=dry_run, told=told)
    if not dry_run:
        nudge(settings)
    return report


def report_json(report: Report, form: KeyForm) -> dict[str, object]:
    """All of it, key by key."""
    return {
        "dry_run": report.dry_run,
        "accounts_added": report.accounts,
        "imported": [_line_json(line) for line in report.imported],
        "changed": [_line_json(line) for line in report.changed],
        "unchanged": report.unchanged,
        "refused": [_line_json(line) | {"why": line.why} for line in report.refused],
        "carried_over_usd": usd_json(report.carried_nanousd),
        "models_not_in_catalog": sorted(report.unknown_models),
        "foreign_keys": foreign_keys(form),
    }


def foreign_keys(form: KeyForm) -> dict[str, object]:
    """Whether keys of LiteLLM's own form are looked up here, and what to set if not."""
    from admin.litellmkeys import FOREIGN_FORM, SAMPLE  # noqa: PLC0415  see the module's head

    return {"accepted": form.is_foreign(SAMPLE), "set": FOREIGN_FORM}


def _line_json(line: Line) -> dict[str, object]:
    return {
        "name": line.name,
        "key": line.hint,
        "user": line.user,
        "alias": line.alias,
        "changes": [
            {"what": each.what, "there": each.there, "here": each.here} for each in line.changes
        ],
        "carried_over_usd": usd_json(line.carried_nanousd),
    }


def report_text(report: Report, form: KeyForm) -> str:
    """For people: what is alike in many keys is said once."""
    would = "would be " if report.dry_run else ""
    head = (
        f"{len(report.imported):,} keys {would}imported, {len(report.changed):,} {would}changed, "
        f"{report.unchanged:,} unchanged, {len(report.refused):,} refused; "
        f"{len(report.accounts):,} accounts {would}added, "
        f"{usd(report.carried_nanousd)} of spend {would}carried over."
    )
    parts = [head]
    if report.refused:
        rows = [
            (line.name or "-", line.hint or "-", line.user or "-", line.why)
            for line in report.refused[:SHOWN]
        ]
        parts.append(
            "Refused:\n"
            + output.table(("name", "key", "user", "why"), rows)
            + _more(len(report.refused))
        )
    for title, lines in (
        ("Not here as it was there:", report.imported),
        ("Changed since the last import:", report.changed),
    ):
        alike = _alike(lines)
        if alike:
            table = output.table(("keys", "what", "was", "is", "which"), alike[:SHOWN])
            parts.append(f"{title}\n{table}{_more(len(alike))}")
    if report.unknown_models:
        names = sorted(report.unknown_models)
        parts.append(
            f"note: not in the catalog, so no key with a budget can call them: "
            f"{', '.join(names[:SHOWN])}{_more(len(names))}"
        )
    told = foreign_keys(form)
    if not told["accepted"]:
        parts.append(
            "note: the gate refuses LiteLLM's keys until it is told of their form. "
            f"Start it with TENSORGATE_FOREIGN_KEYS='{told['set']}' (and commands like this one)."
        )
    return "\n\n".join(parts)


def _alike(lines: Iterable[Line]) -> list[tuple[str, str, str, str, str]]:
    """What was changed, the most frequent first, with the names of a few of the keys."""
    found: dict[Adapted, list[str]] = {}
    for line in lines:
        for each in line.changes:
            found.setdefault(each, []).append(f"{line.user} {line.alias}")
    order = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return [
        (
            f"{len(keys):,}",
            each.what,
            each.there,
            each.here,
            ", ".join(keys[:_NAMED]) + (" …" if len(keys) > _NAMED else ""),
        )
        for each, keys in order
    ]


def _more(number: int) -> str:
    return f"\n  … and {number - SHOWN:,} more; --json has them all" if number > SHOWN else ""
