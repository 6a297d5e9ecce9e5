"""Whether the ledger is in order: rows, their sums, open holds, and what a running authz counts.

Rows and sums are LedgerReader's to judge. Here is the rest. While the gate runs everything moves,
and three things are never read at the same moment: an open hold is in the counters at once, in
SQL's copy a second later, and leaves both at its end. So a look counts only if it is the same
again and again for `PATIENCE_SECONDS`; what is really missing stays missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from sqlalchemy import Engine, select

from store.control import Control
from store.engines import driver_errors, read_options
from store.errors import JournalDamagedError, NotRunningError
from store.journal import JOURNAL_NAME, Contents, read
from store.ledgerreader import LedgerReader
from store.ledgershape import booked, open_copy
from store.schema import accounts
from store.text import usd

if TYPE_CHECKING:
    from store.settings import StoreSettings  # its pydantic is not needed to look

PATIENCE_SECONDS: Final = 3.0
LOOK_EVERY_SECONDS: Final = 0.25
COMPARED_AT_ONCE: Final = 50
COMPARE_SECONDS: Final = 60.0

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a running authz counts, and how it compares. `unquiet`: moved at every look."""

    open_holds: int
    held_nanousd: int
    ends_waiting: int
    ledger_lag_seconds: float
    accounts: int
    unquiet: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `faults` has a sentence for each thing that is wrong; none: in order.

    Open holds are those that authz counts; where none runs, those that its next start finds.
    """

    rows: int
    charged_nanousd: int
    open_holds: int
    held_nanousd: int
    pruned: int
    pruned_nanousd: int
    counted: Counted | None
    faults: tuple[str, ...]


def check(
    settings: StoreSettings, engine: Engine, told: Told, added_up: Told, compared: Told
) -> Report:
    """Look at all of it. Raises StoreError where something does not answer.

    `told` hears the rows read so far, `added_up` those added up, `compared` the accounts.
    """
    verified = LedgerReader(engine).verify(told, added_up)
    control = Control.of(settings)
    journal = settings.state / JOURNAL_NAME
    faults = [*verified.faults]
    try:
        faults += _holds(control, engine, journal)
        counted, drifts = _counters(control, engine, compared)
        faults += drifts
        opened, held = counted.open_holds, counted.held_nanousd
    except NotRunningError:
        counted = None
        found, damage = _journal(journal)
        faults += damage
        copied, _ = open_copy(engine)  # what is wrong with it was said above
        holds = {hold.id: hold.nanousd for hold in (*found.holds, *copied)}
        ended = booked(engine, holds.keys())
        opened = len(holds.keys() - ended)
        held = sum(nanousd for hold_id, nanousd in holds.items() if hold_id not in ended)
    return Report(
        verified.rows,
        verified.charged_nanousd,
        opened,
        held,
        verified.pruned,
        verified.pruned_nanousd,
        counted,
        tuple(dict.fromkeys(faults)),
    )


def _journal(path: Path) -> tuple[Contents, list[str]]:
    """What the journal says, and what is wrong with it. None at all is an empty one."""
    try:
        return read(path.read_bytes(), path), []
    except FileNotFoundError:
        faults = []
    except OSError as fault:
        faults = [f"The journal {path} cannot be read ({fault.strerror}). Look as its owner."]
    except JournalDamagedError as fault:
        faults = [str(fault)]
    return Contents((), (), 0), faults


def _holds(control: Control, engine: Engine, journal: Path) -> list[str]:
    """Every open hold is in the counters, in SQL's copy and in the journal, or it has ended.

    Where authz counts in Redis nobody keeps a journal: what a state has of one is of before.
    """
    kept = journal if control.ask("counters")["journaled"] else None
    return list(_lasting(lambda: _strays(control, engine, kept)).values())


def _strays(control: Control, engine: Engine, journal: Path | None) -> dict[str, str]:
    """By hold id, what is wrong at this look; also what only happens to be under way."""
    before: dict[str, int] = control.ask("holds")
    written, damage = before.keys(), list[str]()
    if journal is not None:
        journaled, damage = _journal(journal)
        written = {hold.id: hold.nanousd for hold in journaled.holds}.keys()
        if not journal.exists():
            damage.append(
                f"authz runs, and there is no journal {journal}: a crash would forget what is "
                "open. Look at its log, and at who removes files in that folder."
            )
    copied = {hold.id: hold.nanousd for hold in open_copy(engine)[0]}
    after: dict[str, int] = control.ask("holds")
    lasted = before.keys() & after.keys()
    unknown = copied.keys() - before.keys() - after.keys()
    found = {str(number): fault for number, fault in enumerate(damage)}
    if not damage:
        for hold_id in lasted - written:
            found[hold_id] = f"Hold {hold_id} is counted, and not in the journal."
    for hold_id in lasted - copied.keys():
        found[hold_id] = f"Hold {hold_id} is counted, and not in the database's copy."
    for hold_id in unknown - booked(engine, unknown):
        found[hold_id] = f"Hold {hold_id} is open in the database, and authz does not count it."
    for hold_id in lasted & copied.keys():
        if copied[hold_id] != before[hold_id]:
            found[hold_id] = f"Hold {hold_id} is of another amount in the database's copy."
    return found


def _lasting(look: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What is found at every look until the patience is over."""
    deadline = monotonic() + PATIENCE_SECONDS
    found = look()
    while found and monotonic() < deadline:
        sleep(LOOK_EVERY_SECONDS)
        again = look()
        found = {name: what for name, what in found.items() if again.get(name) == what}
    return found


def _counters(control: Control, engine: Engine, compared: Told) -> tuple[Counted, list[str]]:
    """Each account's counters against the ledger; those that move are looked at again."""
    asked: list[str] = control.ask("accounts")
    moving: set[str] = set()
    drifts: dict[str, int] = {}
    for account_id, drift in _drifts(control, asked, compared):
        if drift is None:
            moving.add(account_id)
        elif drift:
            drifts[account_id] = drift
    deadline = monotonic() + PATIENCE_SECONDS
    while (moving or drifts) and monotonic() < deadline:
        sleep(LOOK_EVERY_SECONDS)
        again = dict(_drifts(control, sorted(moving | drifts.keys())))
        moving = {account_id for account_id, drift in again.items() if drift is None}
        drifts = {account_id: drift for account_id, drift in again.items() if drift}
    still = set(control.ask("accounts"))  # one that is not counted any more is nobody's
    said = control.ask("counters")
    counted = Counted(
        said["open_holds"],
        said["held_nanousd"],
        said["ends_waiting"],
        said["ledger_lag_seconds"],
        len(asked),
        len(moving & still),
    )
    return counted, _drift_sentences(engine, drifts)


def _drifts(
    control: Control, account_ids: list[str], compared: Told = lambda _: None
) -> Iterator[tuple[str, int | None]]:
    for at in range(0, len(account_ids), COMPARED_AT_ONCE):
        part = account_ids[at : at + COMPARED_AT_ONCE]
        answer: dict[str, int | None] = control.ask("drift", seconds=COMPARE_SECONDS, accounts=part)
        yield from answer.items()
        compared(at + len(part))


def _drift_sentences(engine: Engine, drifts: dict[str, int]) -> list[str]:
    if not drifts:
        return []
    with driver_errors(), engine.connect() as held:
        connection = held.execution_options(**read_options(engine))
        asked = select(accounts.c.id, accounts.c.email)
        names = {row[0]: row[1] for row in connection.execute(asked)}
    return [
        f"Account {names.get(account_id, account_id)}: counters and ledger differ by {usd(drift)}. "
        "Restart the gate, which counts anew from the ledger."
        for account_id, drift in sorted(drifts.items())
    ]
