"""The ledger of a gate, held against the book of the server behind it and what clients saw.

What a row has to be is worked out from the catalog's text and the server's book, by fractions:
no code is shared with the gate but the reading of rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import yaml
from load.calls import CATALOG, Call
from load.mixed import Outcome
from peers.book import Book, Entry
from peers.orders import ENDPOINTS, End, Order, says_usage
from peers.stack import PLENTY_RPM, Stack
from waiting import until

from store.engines import open_engine
from store.ledgerreader import LedgerReader, exported

SHOWN_FAULTS: Final = 20
SLACK_SECONDS: Final = 1.0
"""Envoy may see the end of a call so much later than the client, on a machine that is busy."""

Row = dict[str, Any]


class Tariff:
    """The prices of a catalog's text, as fractions."""

    def __init__(self, catalog: str = CATALOG) -> None:
        models = yaml.load(catalog, yaml.BaseLoader)["models"]
        self._prices = {name: row["price"] for name, row in models.items()}

    def nanousd(self, model: str, order: Order, output: int) -> int:
        """What an answer costs of which so many tokens were generated; rounded up, once."""
        price = {kind: Fraction(usd) for kind, usd in self._prices[model].items()}
        dear = price.get("input", Fraction(0))
        per_million = (
            order.input * dear
            + order.cached * price.get("cached_input", dear)
            + order.written * price.get("cache_write", dear)
            + output * price.get("output", Fraction(0))
        )
        return math.ceil(per_million * 1000 + price.get("per_request", Fraction(0)) * 10**9)

    def seconds_nanousd(self, model: str, seconds: float) -> int:
        """What so many seconds add to it."""
        per_second = Fraction(self._prices[model].get("per_second", 0)) * 10**9
        return math.ceil(per_second * Fraction(seconds))

    def needs_no_tokens(self, model: str) -> bool:
        """Whether the price is known whatever was generated."""
        kinds = {kind for kind, usd in self._prices[model].items() if Fraction(usd)}
        return bool(kinds) and kinds <= {"per_request", "per_second"}

    def is_free(self, model: str) -> bool:
        return not any(Fraction(usd) for usd in self._prices[model].values())


@contextmanager
def reader(gate: Stack) -> Iterator[LedgerReader]:
    """Reads the gate's ledger where it lies, also while the gate is down."""
    engine = open_engine(f"sqlite:///{gate.state / 'tensorgate.db'}")
    try:
        yield LedgerReader(engine)
    finally:
        engine.dispose()


def rows(gate: Stack) -> list[Row]:
    """All rows, as `tensorgate ledger export` has them."""
    with reader(gate) as ledger:
        return [exported(row) for row in ledger.rows()]


def all_booked(gate: Stack, expected: Collection[str], *, seconds: float) -> list[Row]:
    """Wait until each of these request ids has a row and no hold is open; all rows then."""
    with reader(gate) as ledger:

        def settled() -> bool:
            if ledger.count() < len(set(expected)):
                return False
            have = {row.request_id for row in ledger.rows()}
            return have >= set(expected) and ledger.verify().open_holds == 0

        try:
            until(settled, seconds, "every admitted request has its row")
        except AssertionError as fault:
            have = {row.request_id for row in ledger.rows()}
            missing, verified = set(expected) - have, ledger.verify()
            raise AssertionError(
                f"{fault}: {len(missing)} of {len(set(expected))} have none, "
                f"{verified.open_holds} holds are open; {sorted(missing)[:5]}"
            ) from None
    return rows(gate)


def admitted_ids(outcomes: Sequence[Outcome], book: Book) -> set[str]:
    """The request ids that must have a row: those that a client or the server knows of."""
    told = {o.request_id for o in outcomes if o.admitted and o.request_id is not None}
    return told | {entry.request_id for entry in book.entries}


@dataclass
class Audit:
    """Holds rows against the book.

    `outage`: there was a time when the gate could check no key. `lossy`: a part of it was killed,
    so that it may have been lost how a request ended; its row is then `held`, at the whole hold.
    Rows that nobody knows of belong to requests that no client had an answer to.
    """

    outcomes: Sequence[Outcome]
    book: Book
    rows: Sequence[Row]
    lossy: bool = False
    outage: bool = False
    tariff: Tariff = field(default_factory=Tariff)
    faults: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def run(self) -> Counter[str]:
        """Raises AssertionError with what is wrong; else how many of what there were."""
        for name in ("request_id", "hold_id"):
            times = Counter(row[name] for row in self.rows)
            self.faults += [f"{n} rows of {name} {each}" for each, n in times.items() if n > 1]
        row_of = {row["request_id"]: row for row in self.rows}
        entries = self._entries()
        by_request = {entry.request_id: entry for entry in entries}
        by_number = {entry.order.number: entry for entry in entries}
        known: set[str] = set()
        for outcome in self.outcomes:
            if outcome.request_id is None:  # such a call is made once
                entry = by_number.get(outcome.call.order.number)
            else:
                entry = by_request.get(outcome.request_id)
            request_id = outcome.request_id or (entry.request_id if entry else None)
            if request_id is None:
                self.counted["nobody knows how far it came"] += 1
                continue
            known.add(request_id)
            fault = self._judge(outcome, entry, row_of.get(request_id))
            if fault is not None:
                self._fault(outcome, fault, row_of.get(request_id))
        self._strangers([row for each, row in row_of.items() if each not in known])
        assert not self.faults, "\n".join(
            [f"{len(self.faults)} faults:", *self.faults[:SHOWN_FAULTS], str(self.counted)]
        )
        return self.counted

    def _entries(self) -> list[Entry]:
        """The book. No request, and no call more often than it was made, is in it twice."""
        entries = self.book.entries
        made = Counter(outcome.call.order.number for outcome in self.outcomes)
        asked = Counter(entry.order.number for entry in entries)
        for number, times in asked.items():
            if times > made[number]:
                self.faults.append(f"call {number} reached the server {times} times")
        for request_id, times in Counter(entry.request_id for entry in entries).items():
            if times > 1:
                self.faults.append(f"request {request_id} reached the server {times} times")
        return entries

    def _fault(self, outcome: Outcome, fault: str, row: Row | None) -> None:
        call = outcome.call
        self.faults.append(
            f"call {call.order.number}: {fault}; {call.api.value} {call.model} "
            f"{'streamed' if call.stream else 'whole'}, {call.order}, leaves {call.leave_after}; "
            f"got {outcome.status} {outcome.reason}, {outcome.tokens} tokens; row {row}"
        )

    def _strangers(self, unknown: Sequence[Row]) -> None:
        """Rows of requests that had no answer, and never reached the server."""
        silent = self.counted["nobody knows how far it came"]
        if len(unknown) > silent:
            self.faults.append(f"{len(unknown)} rows are nobody's, {silent} calls had no answer")
        for row in unknown:
            self.counted["row of a call without an answer"] += 1
            if row["charge_nanousd"] and not self.lossy:
                self.faults.append(f"charged, and never reached the server: {row}")

    def _judge(self, outcome: Outcome, entry: Entry | None, row: Row | None) -> str | None:
        """What is wrong with one call, if anything is."""
        call = outcome.call
        if outcome.reason is not None and not outcome.admitted:
            return self._judge_refused(outcome, entry, row)
        if call.refusal is not None and outcome.status is not None:
            return "it was to be refused"
        if row is None:
            return "no row"
        return (
            _misnamed(call, row)
            or _misheld(outcome, row)
            or ("the client got other bytes" if outcome.garbled else None)
            or self._mischarged(outcome, entry, row)
        )

    def _judge_refused(self, outcome: Outcome, entry: Entry | None, row: Row | None) -> str | None:
        self.counted[f"refused: {outcome.reason}"] += 1
        if entry is not None:
            return "refused, and yet the server got it"
        if outcome.reason == "authorization_unavailable" and self.outage:
            allowed = {"released", "held"} if self.lossy else {"released"}
            return None if row is None or row["basis"] in allowed else "charged"
        if row is not None:
            return "refused, and yet it has a row"
        expected = {outcome.call.refusal}
        if outcome.call.key.rpm < PLENTY_RPM:
            expected |= {"rate_limit_exceeded"}
        if outcome.call.refusal is None and outcome.call.key.capped:
            expected |= {"budget_held", "budget_exceeded"}
        return None if outcome.reason in expected else "it was not to be refused"

    def _mischarged(self, outcome: Outcome, entry: Entry | None, row: Row) -> str | None:
        basis = row["basis"]
        self.counted[basis] += 1
        fault = _not_as_its_basis(row)
        if fault is not None:
            return fault
        if entry is None:
            lost = basis == "held" and self.lossy
            return None if lost or basis == "released" else "charged, and the server never got it"
        if basis == "held" and self.lossy:
            self.counted["of them ended well, and the end was lost"] += (
                outcome.complete and outcome.call.whole
            )
            return self._below_the_book(outcome, entry, row)
        if entry.order.end is End.ERROR:
            return None if basis == "released" else "the server answered with an error"
        if basis == "released":
            return "free, because it could not be measured"
        return self._unlike_the_book(outcome, entry, row)

    def _unlike_the_book(self, outcome: Outcome, entry: Entry, row: Row) -> str | None:
        """A call that the server served: to the nano-dollar, or between seen and held."""
        call, order, charge = outcome.call, entry.order, row["charge_nanousd"]
        told = says_usage(call.api, stream=call.stream) and order.end is not End.SILENT
        if row["basis"] == "metered" and call.counted and not outcome.complete:
            self.counted["of them cut, of a server that counts as it goes"] += 1
            return self._unlike_its_part(outcome, entry, row)
        if call.counted and order.end is End.HANGUP and outcome.tokens:
            return "cut by a server that counts as it goes, and not metered"
        if row["basis"] == "metered":
            expected = (order.input, order.cached, order.written, order.output)
            if not told:
                expected = (0, 0, 0, 0)
            exact = self.tariff.nanousd(call.model, order, order.output)
            longest = self.tariff.seconds_nanousd(call.model, outcome.seconds + SLACK_SECONDS)
            if not exact <= charge <= exact + longest:
                return f"not the book's charge {exact}"
            return None if _tokens(row) == expected else f"not the book's tokens {expected}"
        measurable = told or self.tariff.needs_no_tokens(call.model)
        whole = order.end in {End.WHOLE, End.STALL}
        if measurable and whole and outcome.complete:
            return "it ended well, and was not metered"
        return self._below_the_book(outcome, entry, row)

    def _unlike_its_part(self, outcome: Outcome, entry: Entry, row: Row) -> str | None:
        """A cut answer of a server that had told what it used so far."""
        call, order, said = outcome.call, entry.order, row["output_tokens"]
        expected = (order.input, order.cached, order.written, said)
        if not outcome.tokens <= said <= order.output or _tokens(row) != expected:
            return f"not what was streamed, {outcome.tokens}"
        exact = self.tariff.nanousd(call.model, order, said)
        return None if row["charge_nanousd"] == exact else f"not the book's charge {exact}"

    def _below_the_book(self, outcome: Outcome, entry: Entry, row: Row) -> str | None:
        """What is charged for it covers what was streamed; a whole hold covers the whole answer."""
        call, order, charge = outcome.call, entry.order, row["charge_nanousd"]
        least = 0 if self.tariff.is_free(call.model) else 1
        if row["basis"] == "held":
            least = self.tariff.nanousd(call.model, order, order.output)
        elif outcome.tokens:
            least = self.tariff.nanousd(call.model, order, outcome.tokens)
        return None if charge >= least else f"below what was streamed or served, {least}"


def _misnamed(call: Call, row: Row) -> str | None:
    key = call.key
    expected = (key.id, key.alias, key.user, call.model, ENDPOINTS[call.api])
    names = ("key_id", "alias", "user", "model", "endpoint")
    return None if tuple(row[name] for name in names) == expected else f"not {expected}"


def _misheld(outcome: Outcome, row: Row) -> str | None:
    if outcome.admitted and row["hold_nanousd"] != outcome.hold_nanousd:
        return f"its hold was {outcome.hold_nanousd}"
    if outcome.admitted and row["status"] not in {outcome.status, 0}:
        return f"its status was {outcome.status}"
    return None


def _tokens(row: Row) -> tuple[int, ...]:
    names = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")
    return tuple(row[name] for name in names)


def _not_as_its_basis(row: Row) -> str | None:
    """What holds of every row of a basis, whatever was called."""
    charge, hold = row["charge_nanousd"], row["hold_nanousd"]
    match row["basis"]:
        case "released":
            return None if charge == 0 and not any(_tokens(row)) else "released, and charged"
        case "held":
            return None if charge == hold else "held, and not charged as held"
        case _:
            return None if 0 <= charge <= hold else "charged above its hold"
