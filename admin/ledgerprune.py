"""`tensorgate ledger prune`: which rows go, that somebody meant it, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from admin.ledgerexport import moment_us
from store.clock import wall_us
from store.errors import InputError
from store.journal import JOURNAL_NAME
from store.pruning import MIN_AGE_US, Pruner, journaled
from store.records import DAY_US

if TYPE_CHECKING:
    from store.settings import StoreSettings  # its pydantic is not needed to prune


def pruner(settings: StoreSettings, engine: Engine, before: str) -> Pruner:
    """What takes out the rows of before a date. Raises InputError and StoreError."""
    now_us = wall_us()
    before_us = moment_us(before, "--before")
    if before_us > now_us - MIN_AGE_US:
        raise InputError(
            f"--before is less than {MIN_AGE_US // DAY_US} days ago, and rows of that age are "
            "still needed. Give an earlier date.",
            code="invalid_time",
        )
    kept = journaled(settings.state / JOURNAL_NAME)
    return Pruner(engine, before_us, now_us, kept)


def confirmed(before: str, confirm: str | None, rows: int) -> None:
    """Raises InputError unless the date was given twice."""
    if confirm != before:
        raise InputError(
            f"{rows:,} rows of before {before} would be deleted for ever; nothing was. Export them "
            f"if they are needed, then confirm with --confirm {before}.",
            code="confirmation_required",
        )


def taken_out(going: Pruner, told: Callable[[int], None]) -> None:
    """All of them, a group at a time: each is a transaction, so it can be ended at any moment."""
    while going.group() is not None:
        told(going.rows)
