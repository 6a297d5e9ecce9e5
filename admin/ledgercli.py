"""The command line's face of the ledger: `tensorgate ledger export` and `ledger verify`.

What only one command needs is imported there: the help must not wait for the database's driver.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from admin import output
from admin.cli import AsJson, help_when_alone
from store.errors import InputError
from store.text import usd

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from admin.ledgercheck import Report
    from store.ledgerreader import Wanted
    from store.settings import StoreSettings

READER_GONE: Final = 141  # as a shell has it for a program that its reader left: 128 + SIGPIPE
FAULTY: Final = 1

ledger_app = typer.Typer(help="The ledger: what every call cost.")
ledger_app.callback(invoke_without_command=True)(help_when_alone)


@contextmanager
def opened() -> Iterator[tuple[StoreSettings, Engine]]:
    """The settings of the environment, and their database."""
    from store.settings import (  # noqa: PLC0415  see the module's head
        DATABASE_NAME,
        StoreSettings,
        load,
    )
    from store.upgrades import open_state  # noqa: PLC0415  see the module's head

    settings = load(StoreSettings)
    if settings.database_url is None and not (settings.state / DATABASE_NAME).exists():
        raise InputError(
            f"There is no gate's state in {settings.state}. Name its folder with TENSORGATE_STATE.",
            code="no_state",
        )
    engine = open_state(settings)
    try:
        yield settings, engine
    finally:
        engine.dispose()


@ledger_app.command("export")
def export(
    *,
    form: Annotated[
        output.RowFormat,
        typer.Option(
            "--format",
            help="JSON lines, or CSV with a quote before texts that a spreadsheet would run.",
        ),
    ] = output.RowFormat.JSONL,
    user: Annotated[str | None, typer.Option(metavar="EMAIL", help="Of one account.")] = None,
    team: Annotated[str | None, typer.Option(metavar="TEAM", help="Of one team.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY_ID", help="Of one key.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Settled then or later; UTC.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Settled before then; UTC.")
    ] = None,
    month: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="Settled in that month; UTC.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Sums instead of rows, by some of account, user, team, key, alias, model, day, "
            "month, with commas between them.",
        ),
    ] = None,
    to_file: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="[default: standard output]"),
    ] = None,
) -> int:
    """Write the rows of the ledger in the order in which they were booked, or sums of them."""
    from admin import inputs  # noqa: PLC0415  see the module's head
    from admin.ledgerexport import period  # noqa: PLC0415  likewise
    from store.ledgerreader import Wanted  # noqa: PLC0415  likewise

    groups = None if by is None else inputs.groups(by)
    from_us, until_us = period(since, until, month, days=groups is not None)
    wanted = Wanted(
        user=None if user is None else inputs.email(user),
        team=inputs.team(team),
        key_id=key,
        from_us=from_us,
        until_us=until_us,
    )
    try:
        if groups is None:
            _export_rows(wanted, form, to_file)
        else:
            _export_sums(wanted, groups, form, to_file)
    except BrokenPipeError:
        _leave_standard_output()
        return READER_GONE
    return 0


def _export_rows(wanted: Wanted, form: output.RowFormat, to_file: Path | None) -> None:
    from admin import progress  # noqa: PLC0415  see the module's head
    from admin.ledgerexport import destination, write_rows  # noqa: PLC0415  likewise
    from store.ledgerreader import LedgerReader  # noqa: PLC0415  likewise
    from store.rollups import pruned_calls  # noqa: PLC0415  likewise

    with opened() as (_, engine), destination(to_file) as file:
        reader = LedgerReader(engine)
        seen = sys.stderr.isatty() and (to_file is not None or not sys.stdout.isatty())
        total = reader.count(wanted) if seen else None
        with progress.progress("rows", total, seen=seen) as told:
            write_rows(file, reader.rows(wanted), form, told)
        gone = pruned_calls(engine, wanted)
    if gone:
        said = f"{gone:,} rows of these days were pruned and are not here; --by has their sums."
        print(said, file=sys.stderr)  # noqa: T201  for whoever takes the rows for all there were


def _export_sums(
    wanted: Wanted, by: tuple[str, ...], form: output.RowFormat, to_file: Path | None
) -> None:
    from admin.ledgerexport import destination, write_named  # noqa: PLC0415  see the module's head
    from store.rollups import columns, sums  # noqa: PLC0415  likewise

    with opened() as (_, engine):
        lines, total = sums(engine, by, wanted)  # proven before anything is written
    with destination(to_file) as file:
        write_named(file, columns(by), lines, form)
    if to_file is not None or sys.stderr.isatty():
        groups = f"{len(lines):,} line{'' if len(lines) == 1 else 's'}"
        said = f"{groups}: {total.calls:,} calls, {usd(total.charge_nanousd)}; proven by the rows."
        print(said, file=sys.stderr)  # noqa: T201  for whoever sits there


def _leave_standard_output() -> None:
    """Its reader is gone: what is still buffered goes nowhere, and quietly."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@ledger_app.command("prune")
def prune(
    before: Annotated[
        str, typer.Option(metavar="DATE", help="Rows that were settled before then go; UTC.")
    ],
    confirm: Annotated[
        str | None, typer.Option(metavar="DATE", help="The date, typed out once more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete old rows for ever; what they add up to stays."""
    from admin import progress  # noqa: PLC0415  see the module's head
    from admin.ledgerprune import confirmed, pruner, taken_out  # noqa: PLC0415  likewise

    seen = sys.stderr.isatty() and not as_json
    with opened() as (settings, engine):
        going = pruner(settings, engine, before)
        rows, nanousd = going.count()
        if confirm is None and rows and seen and sys.stdin.isatty():
            question = f"{rows:,} rows ({usd(nanousd)}) will be deleted. Type `{before}` to do so: "
            print(question, end="", file=sys.stderr, flush=True)  # noqa: T201  a question to the terminal
            confirm = sys.stdin.readline().strip()
        if rows:
            confirmed(before, confirm, rows)
        with progress.progress("rows", rows, seen=seen) as told:
            taken_out(going, told)
    value = {"rows": going.rows, "charge_nanousd": going.charged_nanousd, "before": before}
    text = (
        f"{going.rows:,} rows of before {before} were deleted, {usd(going.charged_nanousd)} "
        "charged. Their sums by day stay: `tensorgate ledger export --by …`."
    )
    output.show(as_json, value, text)


@ledger_app.command("verify")
def verify(as_json: AsJson = False) -> int:
    """Look whether rows, open holds and a running authz's counters agree; 1 if they do not."""
    from admin import progress  # noqa: PLC0415  see the module's head
    from admin.ledgercheck import check  # noqa: PLC0415  see the module's head

    seen = sys.stderr.isatty()
    with (
        opened() as (settings, engine),
        progress.progress("rows read", seen=seen) as told,
        progress.progress("rows added up", seen=seen) as added_up,
        progress.progress("accounts compared", seen=seen) as compared,
    ):
        report = check(settings, engine, told, added_up, compared)
    output.show(as_json, _report_json(report), _report_text(report))
    return FAULTY if report.faults else 0


def _report_json(report: Report) -> dict[str, object]:
    counted = report.counted
    return {
        "ok": not report.faults,
        "rows": report.rows,
        "charged_nanousd": report.charged_nanousd,
        "open_holds": report.open_holds,
        "held_nanousd": report.held_nanousd,
        "pruned_rows": report.pruned,
        "pruned_nanousd": report.pruned_nanousd,
        "authz": None
        if counted is None
        else {
            "accounts_compared": counted.accounts - counted.unquiet,
            "accounts_moving": counted.unquiet,
            "ends_waiting": counted.ends_waiting,
            "ledger_lag_seconds": counted.ledger_lag_seconds,
        },
        "faults": list(report.faults),
    }


def _report_text(report: Report) -> str:
    counted = report.counted
    if counted is None:
        against = "not compared: no authz runs on this state"
    else:
        against = f"{counted.accounts - counted.unquiet:,} accounts compared"
        if counted.unquiet:
            against += f"; {counted.unquiet:,} moved at every look, try again for those"
    rows = [
        ("rows", f"{report.rows:,}, {usd(report.charged_nanousd)} charged"),
        ("open holds", f"{report.open_holds:,}, {usd(report.held_nanousd)} held"),
        ("counters", against),
    ]
    if report.pruned:
        rows.insert(1, ("pruned", f"{report.pruned:,}, {usd(report.pruned_nanousd)} charged"))
    if counted is not None and counted.ends_waiting:
        waited = f"{counted.ends_waiting:,}, for {counted.ledger_lag_seconds:.1f} s"
        rows.append(("not yet booked", waited))
    faults = len(report.faults)
    head = "The ledger is in order."
    if faults:
        head = f"The ledger is NOT in order: {faults} fault{'s' if faults > 1 else ''}."
    return "\n".join([head, output.pairs(rows), *(f"fault: {fault}" for fault in report.faults)])
