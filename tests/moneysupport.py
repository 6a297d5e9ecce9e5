"""What the pure half of money is tested with: models, bodies, log entries, and a whole Checker."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec
from support import DIGESTER, FORM, KeyTable, ManualClock, bearer, key_record, message, minted

from authz.body import Body, read_json
from authz.cache import KeyCache
from authz.check import Checker, Site
from authz.endpoints import table_of
from authz.metrics import Metrics
from authz.model import Ask, Edit, Fault, Shape
from authz.pb.accesslog_entry_pb2 import AccessLogType, HTTPAccessLogEntry
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from authz.usage import DECISION, RESPONSE, Ending
from authz.wire import Reader
from store.catalog import Catalog, Model
from store.counters.memory import MemoryCounters
from store.counters.model import Ended, Limit, NotSeeded, Refused, Seed, Standings, Taken
from store.records import Basis, Charge, Hold, KeyRecord, LedgerRow, Price

# -- bodies


def body(**members: Any) -> bytes:
    """A body for `llama`, with a message or whatever `members` say."""
    return json.dumps({"model": "llama"} | members).encode()


def ask_of(shape: Shape, **members: Any) -> Ask:
    """What a body asks for that must be readable."""
    found = read_json(body(**members), shape)
    assert isinstance(found, Body), found
    assert found.ask is not None
    return found.ask


def fault_of(shape: Shape, **members: Any) -> Fault:
    """What is wrong with a body that must have a fault."""
    found = read_json(body(**members), shape)
    assert isinstance(found, Fault), found
    return found


def edited(raw: bytes, edits: Sequence[Edit]) -> bytes:
    """What the model server gets: the reference for the filter that writes the edits."""
    parts, at = list[bytes](), 0
    for edit in edits:
        assert edit.offset >= at, "edits ascend and do not overlap"
        assert edit.removed >= 0
        parts += (raw[at : edit.offset], edit.text.encode())
        at = edit.offset + edit.removed
    assert at <= len(raw)
    return b"".join((*parts, raw[at:]))


# -- models


def model(price: Price | None = None, **changes: Any) -> Model:
    """A row of the catalog: 3 and 15 USD per million tokens, a context of 100,000."""
    plain = Model(
        name="llama",
        price=price or Price(input=3 * 10**9, cached_input=10**9, output=15 * 10**9),
        context_tokens=100_000,
        max_output_tokens=4_000,
        tokens_per_byte=Decimal(1),
        tokens_per_byte_text="1",
        overhead_tokens=1024,
        continuous_usage=False,
        controls=frozenset(),
        stored_context=False,
        aliases=(),
        upstream=None,
    )
    if "tokens_per_byte" in changes:
        changes["tokens_per_byte_text"] = str(changes["tokens_per_byte"])
    return replace(plain, **changes)


# -- log entries


def entry(
    decision: Mapping[str, str] | None = None,
    seen: Mapping[str, Any] | None = None,
    *,
    status: int = 200,
    details: str = "via_upstream",
    sent: bool = True,
    got: bool = True,
    running: bool = False,
    request_id: str = "req-1",
    upload_ms: int = 10,
    duration_ms: int = 1010,
) -> HTTPAccessLogEntry:
    """An entry as Envoy writes it. `sent`: to a model server; `got`: something from there."""
    made = HTTPAccessLogEntry()
    common = made.common_properties
    common.stream_id = request_id
    common.intermediate_log_entry = running
    common.access_log_type = (
        AccessLogType.DownstreamPeriodic if running else AccessLogType.DownstreamEnd
    )
    common.time_to_last_rx_byte.FromMilliseconds(upload_ms)
    common.duration.FromMilliseconds(duration_ms)
    if sent:
        common.time_to_first_upstream_tx_byte.FromMilliseconds(upload_ms + 1)
    if sent and got:
        common.time_to_first_upstream_rx_byte.FromMilliseconds(upload_ms + 2)
    if status:
        made.response.response_code.value = status
    made.response.response_code_details = details
    for name, values in ((DECISION, decision), (RESPONSE, seen)):
        if values is not None:
            common.metadata.filter_metadata[name].update(dict(values))
    return made


ALLOWED: Final = {
    "outcome": "allowed",
    "reason": "",
    "hold_id": "h1",
    "account_id": "acc_anna",
}
ENDING: Final = Ending(
    request_id="req-1",
    running=False,
    outcome="allowed",
    hold_id="h1",
    account_id="acc_anna",
    status=200,
    reached=True,
    answered=True,
    complete=True,
    duration_us=1_000_000,
    usage=None,
    final=False,
    stream=False,
    events=0,
    content_bytes=0,
    encoded=False,
    hides_output=False,
)

ending: Final = partial(msgspec.structs.replace, ENDING)
"""An answer of status 200 of which nothing was read, but for the changes."""


# -- stores


@dataclass
class Settled:
    """In a Settler's place: keeps what ended."""

    ends: list[tuple[Hold, Charge]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    disbelieved: list[Hold] = field(default_factory=list)

    def exceeded(self, hold: Hold) -> None:
        self.disbelieved.append(hold)

    def end(self, hold: Hold, charge: Charge) -> None:
        self.ends.append((hold, charge))

    def end_all(self, ends: Sequence[tuple[Hold, Charge]]) -> None:
        self.ends += ends
        self.groups.append(len(ends))

    def is_ending(self, hold_id: str) -> bool:
        return hold_id in self.waiting

    @property
    def bases(self) -> list[Basis]:
        return [charge.basis for _, charge in self.ends]


def row_of(hold: Hold, charge: Charge) -> LedgerRow:
    """The row that a ledger makes of an end."""
    return LedgerRow(
        hold_id=hold.id,
        request_id=hold.request_id,
        account_id=hold.account_id,
        key_id=hold.key_id,
        user=hold.user,
        team=hold.team,
        alias=hold.alias,
        model=hold.model,
        endpoint=hold.endpoint,
        status=charge.status,
        basis=charge.basis,
        input_tokens=charge.input_tokens,
        cached_input_tokens=charge.cached_input_tokens,
        cache_write_tokens=charge.cache_write_tokens,
        output_tokens=charge.output_tokens,
        charge_nanousd=charge.nanousd,
        hold_nanousd=hold.nanousd,
        key_window=hold.window_of(hold.key_id) or 0,
        account_window=hold.window_of(hold.account_id),
        admitted_us=hold.admitted_us,
        settled_us=charge.settled_us,
    )


class SpentNothing:
    """Counters whose accounts have spent nothing before; SQL is not asked."""

    def __init__(self, counters: MemoryCounters) -> None:
        self.memory = counters

    def _seeded(self, answer: object) -> bool:
        if not isinstance(answer, NotSeeded):
            return True
        assert self.memory.seed(self.memory.generation(answer.account_id), Seed({}, {}))
        return False

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended:
        answer = self.memory.take(request_id, draft, limits, account_id)
        if self._seeded(answer):
            return answer  # type: ignore[return-value]
        return self.take(request_id, draft, limits, account_id)

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings]:
        answer = self.memory.peek(limits, account_id)
        if self._seeded(answer):
            return answer  # type: ignore[return-value]
        return self.peek(limits, account_id)


CATALOG: Final = """
models:
  llama:
    price: {input: 1, cached_input: 0.1, cache_write: 1.25, output: 2}
    context_tokens: 100000
    max_output_tokens: 1000
    overhead_tokens: 100
  free: {price: {output: 0}, context_tokens: 1000}
  keeps: {price: {output: 1}, context_tokens: 1000, stored_context: true}
  timed: {price: {per_second: 0.001}, context_tokens: 1000}
  dear: {price: {output: 1000000}, context_tokens: 1000000000}
plans:
  free: {}
  capped: {account_budget_usd: 1}
  easy: {account_budget_usd: 1, ceiling: start}
default_plan: free
"""


class Gate:
    """A Checker over counters in memory, for one key."""

    def __init__(self, *, dashboard: str | None = None, catalog: str = CATALOG, **key: Any) -> None:
        self.clock = ManualClock()
        self.key = minted(1)
        self.record: KeyRecord = key_record(**{"rpm": None, "budget_nanousd": 10**9} | key)
        self.table = KeyTable((DIGESTER.digests(self.key)[0], self.record))
        self.journal: list[Hold] = []
        self.memory = MemoryCounters(self.clock, self.journal.append)
        self.settled = Settled()
        self.metrics = Metrics()
        self.checker = Checker(
            reader=Reader(FORM, DIGESTER, table_of(Catalog.parse(catalog, "a test's"))),
            keys=KeyCache(
                self.table, self.clock, stale_us=0, capacity=9, observe=lambda _result: None
            ),
            catalog=Catalog.parse(catalog, "a test's"),
            counters=SpentNothing(self.memory),
            give_back=self.memory.give_back,
            settler=self.settled,  # type: ignore[arg-type]
            listed=lambda: ("listed",),
            metrics=self.metrics,
            clock=self.clock,
            site=Site(dashboard, "sk-tg_", 100),
        )
        self._number = 0

    def message(
        self, path: str = "/v1/chat/completions", request_id: str | None = None, **members: Any
    ) -> CheckRequest:
        """A call of `llama` with a message, or with what `members` say."""
        self._number += 1
        given = {"model": "llama", "messages": [{"role": "user", "content": "hi"}]} | members
        method = "GET" if path in {"/v1/key", "/v1/models"} else "POST"
        name = request_id or f"req-{self._number}"
        raw = b"" if method == "GET" else json.dumps(given).encode()
        return message(path, bearer(self.key), raw, method=method, request_id=name)

    def call(
        self,
        path: str = "/v1/chat/completions",
        is_active: Callable[[], bool] = lambda: True,
        **members: Any,
    ) -> CheckResponse:
        """The answer to it."""
        return self.answer(self.message(path, **members), is_active)

    def answer(
        self, sent: CheckRequest, is_active: Callable[[], bool] = lambda: True
    ) -> CheckResponse:
        """The answer to a message, as Envoy reads it."""
        return CheckResponse.FromString(self.checker.check(sent, is_active))

    @property
    def hold(self) -> Hold:
        """The hold that was written down last."""
        return self.journal[-1]

    def spend(self, nanousd: int) -> None:
        """Let a call cost so much."""
        self.call(max_tokens=1)
        assert self.memory.settle(self.hold, nanousd)
