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
    from store.settings import StoreSettings

READER_GONE: Final = 141  # as a shell has it for a program that its reader left: 128 + SIGPIPE
FAULTY: Final = 1

ledger_app = typer.Typer(help="The ledger: what every call cost.")
ledger_app.callback(invoke_without_command=True)(help_when_alone)


@contextmanager
def _opened() -> Iterator[tuple[StoreSettings, Engine]]:
    """The settings of the environment, and their database."""
    from store.schema import open_state  # noqa: PLC0415  see the module's head
    from store.settings import (  # noqa: PLC0415  see the module's head
        DATABASE_NAME,
        StoreSettings,
        load,
    )

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
    to_file: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="[default: standard output]"),
    ] = None,
) -> int:
    """Write the rows of the ledger, in the order in which they were booked."""
    from admin import inputs, progress  # noqa: PLC0415  see the module's head
    from admin.ledgerexport import destination, moment_us, write_rows  # noqa: PLC0415  likewise
    from store.ledgerreader import LedgerReader, Wanted  # noqa: PLC0415  likewise

    wanted = Wanted(
        user=None if user is None else inputs.email(user),
        team=inputs.team(team),
        key_id=key,
        from_us=None if since is None else moment_us(since, "--from"),
        until_us=None if until is None else moment_us(until, "--to"),
    )
    if wanted.from_us is not None and wanted.until_us is not None:
        _check_order(wanted.from_us, wanted.until_us)
    try:
        with _opened() as (_, engine), destination(to_file) as file:
            reader = LedgerReader(engine)
            seen = sys.stderr.isatty() and (to_file is not None or not sys.stdout.isatty())
            total = reader.count(wanted) if seen else None
            with progress.progress("rows", total, seen=seen) as told:
                write_rows(file, reader.rows(wanted), form, told)
    except BrokenPipeError:
        _leave_standard_output()
        return READER_GONE
    return 0


def _check_order(from_us: int, until_us: int) -> None:
    if from_us >= until_us:
        raise InputError(
            "--from is not before --to, so nothing can lie between them. Give the earlier time "
            "as --from; --to itself is not included.",
            code="invalid_time",
        )


def _leave_standard_output() -> None:
    """Its reader is gone: what is still buffered goes nowhere, and quietly."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@ledger_app.command("verify")
def verify(as_json: AsJson = False) -> int:
    """Look whether rows, open holds and a running authz's counters agree; 1 if they do not."""
    from admin import progress  # noqa: PLC0415  see the module's head
    from admin.ledgercheck import check  # noqa: PLC0415  see the module's head

    seen = sys.stderr.isatty()
    with (
        _opened() as (settings, engine),
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
    if counted is not None and counted.ends_waiting:
        waited = f"{counted.ends_waiting:,}, for {counted.ledger_lag_seconds:.1f} s"
        rows.append(("not yet booked", waited))
    faults = len(report.faults)
    head = "The ledger is in order."
    if faults:
        head = f"The ledger is NOT in order: {faults} fault{'s' if faults > 1 else ''}."
    return "\n".join([head, output.pairs(rows), *(f"fault: {fault}" for fault in report.faults)])
