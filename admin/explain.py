"""`tensorgate explain ID`: what was decided of one call, held, metered and charged, and why.

Looked for, by request id or hold id: its row; an open hold; a hold that only the journal has yet;
a refusal, which a running authz still knows. Gathered here; the words are in explaintext.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, or_, select

from admin import explaintext, inputs, output
from admin.ledgercli import opened
from store.control import Control
from store.engines import driver_errors, read_options
from store.errors import NotFoundError, NotRunningError
from store.journal import JOURNAL_NAME, read
from store.ledgershape import is_moment, misshapen, not_ours
from store.openholds import read_hold
from store.records import (
    WINDOW_US,
    Basis,
    Charge,
    Hold,
    Price,
    Seen,
    Window,
    window_ends_us,
)
from store.schema import accounts, holds, keys, ledger, pruned
from store.settings import StoreSettings


@dataclass(frozen=True, slots=True)
class Span:
    """A window that a call counts in: whose, and from when until when (µs); None: not known."""

    window: Window
    of: str
    from_us: int | None
    until_us: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """An admitted call. `charge` is None while it runs, `booked` whether its row is there.

    What a row of before these were kept does not say is None: price and bounds. `hint` is None
    where there is no such key.
    """

    hold_id: str
    request_id: str
    key_id: str
    user: str
    team: str | None
    alias: str
    hint: str | None
    model: str
    endpoint: str
    hold_nanousd: int
    price: Price | None
    tokens_per_byte: str | None
    input_bound: int | None
    output_bound: int | None
    windows: tuple[Span, ...]
    admitted_us: int
    charge: Charge | None
    booked: bool


def explain(asked: str, *, as_json: bool) -> None:
    """Print it. Raises NotFoundError for what nobody knows."""
    with opened() as (settings, engine):
        asked = inputs.call_id(asked, settings.key_form())
        call = find(settings, engine, asked)
        if call is not None:
            output.show(as_json, explaintext.call_json(call), explaintext.call_text(call))
            return
        try:
            refusal = Control.of(settings).ask("refusal", id=asked)
            where = "refused longer ago or before the gate's last start"
        except NotRunningError:
            refusal, where = None, "refused (no authz runs that would know of it)"
        if refusal is None:
            raise NotFoundError(_unknown(engine, where))
    output.show(as_json, {"found": "refusal"} | refusal, explaintext.refusal_text(asked, refusal))


def find(settings: StoreSettings, engine: Engine, asked: str) -> Call | None:
    """The call of a request id or a hold id; None if it has no row and no hold."""
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**read_options(engine))
        row = connection.execute(
            select(ledger)
            .where(or_(ledger.c.hold_id == asked, ledger.c.request_id == asked))
            .order_by(ledger.c.seq)
            .limit(1)
        ).mappings().first()  # fmt: skip
        if row is not None:
            if misshapen(row):
                raise not_ours(row["seq"])
            return _of_row(connection, row)
        copied = connection.execute(
            select(holds.c.hold_id, holds.c.record)
            .where(or_(holds.c.hold_id == asked, holds.c.request_id == asked))
            .limit(1)
        ).first()
        hold = None if copied is None else read_hold(*copied)
        journaled, charge = _in_journal(settings, asked if hold is None else hold.id)
        hold = hold or journaled
        return None if hold is None else _of_hold(connection, hold, charge)


def _in_journal(settings: StoreSettings, asked: str) -> tuple[Hold | None, Charge | None]:
    """A hold that is in no table yet, and its end if it is known already."""
    path = settings.state / JOURNAL_NAME
    try:
        found = read(path.read_bytes(), path)
    except OSError:
        return None, None  # on another machine, or not ours to read
    hold = next((each for each in found.holds if asked in {each.id, each.request_id}), None)
    ends = (end for end in found.ends if hold is not None and end.hold_id == hold.id)
    return hold, next(ends, None)


def _of_row(connection: Connection, row: Any) -> Call:
    windows = [Window(row["key_id"], row["key_window"])]
    if row["account_window"] is not None:
        windows.append(Window(row["account_id"], row["account_window"]))
    seen = row["seen"]
    charge = Charge(
        row["hold_id"],
        Basis(row["basis"]),
        row["status"],
        row["input_tokens"],
        row["cached_input_tokens"],
        row["cache_write_tokens"],
        row["output_tokens"],
        row["charge_nanousd"],
        row["settled_us"],
        None if seen is None else msgspec.json.decode(seen, type=Seen),
    )
    price = row["price"]
    return Call(
        row["hold_id"],
        row["request_id"],
        row["key_id"],
        row["user"],
        row["team"],
        row["alias"],
        _hint(connection, row["key_id"]),
        row["model"],
        row["endpoint"],
        row["hold_nanousd"],
        None if price is None else msgspec.json.decode(price, type=Price),
        row["tokens_per_byte"],
        row["input_bound"],
        row["output_bound"],
        _spans(connection, windows, row["key_id"]),
        row["admitted_us"],
        charge,
        booked=True,
    )


def _of_hold(connection: Connection, hold: Hold, charge: Charge | None) -> Call:
    return Call(
        hold.id,
        hold.request_id,
        hold.key_id,
        hold.user,
        hold.team,
        hold.alias,
        _hint(connection, hold.key_id),
        hold.model,
        hold.endpoint,
        hold.nanousd,
        hold.price,
        hold.tokens_per_byte,
        hold.input_bound,
        hold.output_bound,
        _spans(connection, hold.windows, hold.key_id),
        hold.admitted_us,
        charge,
        booked=False,
    )


def _hint(connection: Connection, key_id: str) -> str | None:
    hint = connection.execute(select(keys.c.hint).where(keys.c.id == key_id)).scalar()
    return None if hint is None else str(hint)


def _spans(
    connection: Connection, windows: list[Window] | tuple[Window, ...], key_id: str
) -> tuple[Span, ...]:
    spans = []
    for window in windows:
        table, of = (keys, "key") if window.scope == key_id else (accounts, "account")
        asked = select(table.c.created_us).where(table.c.id == window.scope)
        created_us = connection.execute(asked).scalar()
        from_us = until_us = None
        if created_us is not None and is_moment(created_us):
            ends_us = window_ends_us(created_us, window.number)
            if is_moment(ends_us):
                from_us, until_us = ends_us - WINDOW_US, ends_us
        spans.append(Span(window, of, from_us, until_us))
    return tuple(spans)


def _unknown(engine: Engine, where: str) -> str:
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**read_options(engine))
        gone = connection.execute(select(pruned.c.day).limit(1)).first()
    row = "its row was pruned, or it was" if gone else "it was"
    return (
        f"No row, no open hold and no recent refusal has that id: {row} {where}, never came here, "
        "or reached another gate. Look for it in the client's `x-request-id`."
    )
