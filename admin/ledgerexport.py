"""Rows of the ledger, and sums of them, as JSON lines or CSV in UTF-8, to a file or to stdout."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from admin.output import RowFormat
from store.errors import InputError
from store.ledgerreader import EXPORTED, exported
from store.records import DAY_US, LedgerRow

Named = Mapping[str, str | int | None]

TOLD_EVERY: Final = 500  # rows
BUFFER_BYTES: Final = 256 * 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MONTH: Final = re.compile("[0-9]{4}-[0-9]{2}")
_MORE_THAN_A_MONTH: Final = timedelta(days=31)
# What makes a spreadsheet take a cell for a formula. A model's name is the client's own text where
# the catalog has a default, and e-mails and teams may begin with some of these too. Where people
# write full-width characters, so do their formulas.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def write_rows(
    file: BinaryIO, rows: Iterable[LedgerRow], form: RowFormat, told: Callable[[int], None]
) -> None:
    """Write rows as they come; CSV begins with a line of names. Raises OSError."""
    write_named(file, EXPORTED, (exported(row) for row in _counted(rows, told)), form)


def write_named(
    file: BinaryIO, names: Sequence[str], lines: Iterable[Named], form: RowFormat
) -> None:
    """Write lines that all have the values of `names` in that order. Raises OSError."""
    file.writelines(text.encode() for text in _texts(names, lines, form))


def _counted(rows: Iterable[LedgerRow], told: Callable[[int], None]) -> Iterator[LedgerRow]:
    for count, row in enumerate(rows):
        if count and not count % TOLD_EVERY:
            told(count)
        yield row


def _texts(names: Sequence[str], lines: Iterable[Named], form: RowFormat) -> Iterator[str]:
    if form is RowFormat.JSONL:
        yield from (f"{json.dumps(line)}\n" for line in lines)
        return
    buffer = io.StringIO(newline="")
    # Every text is quoted: left to itself, csv would let a lone carriage return break a row.
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(names)
    for line in lines:
        writer.writerow([defused(value) for value in line.values()])
        yield _emptied(buffer)
    yield _emptied(buffer)


def _emptied(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def defused(value: str | int | None) -> str | int:
    """A CSV cell that no spreadsheet runs: text that begins as a formula gets a quote in front.

    Nothing becomes an empty cell. JSON lines have every text as it is.
    """
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def period(
    since: str | None, until: str | None, month: str | None, *, days: bool
) -> tuple[int | None, int | None]:
    """From when (µs), and until when, which is not included; None is open. Raises InputError.

    With `days`, only whole UTC days.
    """
    if month is not None:
        if since is not None or until is not None:
            raise InputError(
                "--month says from when and until when already. Give it alone, or --from and --to.",
                code="invalid_time",
            )
        return _month_us(month)
    from_us = None if since is None else moment_us(since, "--from")
    until_us = None if until is None else moment_us(until, "--to")
    if from_us is not None and until_us is not None and from_us >= until_us:
        raise InputError(
            "--from is not before --to, so nothing can lie between them. Give the earlier time "
            "as --from; --to itself is not included.",
            code="invalid_time",
        )
    for moment, option in ((from_us, "--from"), (until_us, "--to")):
        if days and moment is not None and moment % DAY_US:
            raise InputError(
                f"{option} is in the middle of a UTC day, and sums are of whole ones. Write it "
                "like 2026-11-01, or leave --by out for the rows.",
                code="invalid_time",
            )
    return from_us, until_us


def _month_us(text: str) -> tuple[int, int]:
    try:
        day = f"{text}-01" if _MONTH.fullmatch(text) else ""
        first = datetime.fromisoformat(day).replace(tzinfo=UTC)
        last = (first + _MORE_THAN_A_MONTH).replace(day=1)
    except (ValueError, OverflowError):
        raise InputError(
            "--month is not a month. Write it like 2026-11.", code="invalid_time"
        ) from None
    return (first - _EPOCH) // _MICROSECOND, (last - _EPOCH) // _MICROSECOND


def moment_us(text: str, option: str) -> int:
    """`2026-11-01`, or RFC 3339; without a zone it is UTC. Raises InputError."""
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise InputError(
            f"{option} is not a time. Write it like 2026-11-01 or 2026-11-01T09:30:00Z; "
            "without a zone it is UTC.",
            code="invalid_time",
        ) from None


@contextmanager
def destination(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that is there as a whole or not at all, for its owner only.

    What is no regular file (a pipe, a device) is written to as it is. Raises InputError.
    """
    try:
        if output is None:
            sys.stdout.flush()
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif output.exists() and not output.is_file() and not output.is_dir():
            with output.open("wb", BUFFER_BYTES) as file:
                yield file
        else:
            yield from _replaced(output)
    except BrokenPipeError:
        raise
    except OSError as fault:
        where = "standard output" if output is None else str(output)
        raise InputError(
            f"{where} cannot be written: {fault.strerror}. Name another file with --output.",
            code="output_unusable",
        ) from None


def _replaced(output: Path) -> Iterator[BinaryIO]:
    if output.is_dir():
        raise IsADirectoryError(0, "it is a folder")
    half = output.with_name(f".{output.name}.{os.getpid()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(half, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb", BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        half.replace(output)
    except BaseException:
        with suppress(OSError):
            half.unlink()
        raise
