"""The whole walk of a Check: fakes for the two stores, everything else is real."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations, count
from typing import Any, NoReturn

import pytest
from moneysupport import Settled, SpentNothing
from support import (
    CATALOG,
    DIGESTER,
    FORM,
    NOW_US,
    KeyTable,
    ManualClock,
    answer_body,
    bearer,
    client_headers,
    error,
    is_allowed,
    key_record,
    message,
    metadata,
    minted,
    mistyped,
    status,
    upstream_headers,
)

from authz import reading
from authz.body import Body, read_json
from authz.cache import KeyCache
from authz.check import Checker, Site
from authz.metrics import Metrics
from authz.model import Fault, Reason, Shape
from authz.pb.auth_pb2 import CheckResponse
from authz.wire import TO_REMOVE, Reader
from store.catalog import Catalog
from store.counters.memory import MemoryCounters
from store.counters.model import (
    Ended,
    Limit,
    MinuteLimit,
    MoneyLimit,
    Refused,
    Standing,
    Standings,
    Taken,
)
from store.errors import StoreUnavailableError
from store.records import DAY_US, MINUTE_US, Hold, KeyRecord, Price, Window

KEY, OTHER = minted(1), minted(2)
LLAMA = "llama-3.1-8b"
CHAT: Mapping[str, Any] = {"model": LLAMA, "messages": []}
MINUTE = {
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "ratelimit-policy",
    "ratelimit",
}
BUDGET = {"x-budget-limit-usd", "x-budget-remaining-usd", "x-budget-reset"}
PRICE = Price(50_000_000, 50_000_000, 50_000_000, 80_000_000)
WHOLE_CONTEXT = 131_072 * 80  # nano-USD, of a call without any bound: all of it could be output
HOLD_HEADER = {"x-tensorgate-hold-usd": "0.01048576"}


class FakeCounters:
    """Counters that can be out, for taking and for peeking. Nobody has spent anything before."""

    def __init__(self, clock: ManualClock) -> None:
        self.journal: list[Hold] = []
        self.real = MemoryCounters(clock, self.journal.append)
        self._seeded = SpentNothing(self.real)
        self.take_out = self.peek_out = False
        self.takes = 0

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended:
        self.takes += 1
        if self.take_out:
            raise StoreUnavailableError("the counters do not answer")
        return self._seeded.take(request_id, draft, limits, account_id)

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings]:
        if self.peek_out:
            raise StoreUnavailableError("the counters do not answer")
        return self._seeded.peek(limits, account_id)

    def hold(self, nanousd: int, *, settled: bool = False) -> None:
        """Another call of `key_1` holds, or has cost, so much."""
        number = f"earlier-{len(self.journal)}"
        draft = Hold(
            id=number,
            request_id=number,
            account_id="acc_1",
            key_id="key_1",
            user="ann@example.org",
            team=None,
            alias="laptop",
            model=LLAMA,
            endpoint="chat.completions",
            nanousd=nanousd,
            price=PRICE,
            tokens_per_byte="1",
            input_bound=0,
            output_bound=0,
            minute=None,
        )
        money = MoneyLimit("key_1", key_record().created_us, None)
        taken = self._seeded.take(number, draft, (money,))
        assert isinstance(taken, Taken)
        if settled:
            assert self.real.settle(draft, nanousd)


@dataclass
class Gate:
    """A Checker over a table of keys."""

    record: KeyRecord | None = field(default_factory=key_record)
    listed: list[str] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)
    metrics: Metrics = field(default_factory=Metrics)
    catalog: Catalog = field(default_factory=lambda: CATALOG)

    def __post_init__(self) -> None:
        self.table = KeyTable()
        if self.record is not None:
            self.table.rows[DIGESTER.digests(KEY)[0]] = self.record
        self.counters = FakeCounters(self.clock)
        self.settled = Settled()
        self.keys = KeyCache(self.table, self.clock, stale_us=0)
        self._numbers = count()
        self.checker = Checker(
            reader=Reader(FORM, DIGESTER),
            keys=self.keys,
            catalog=self.catalog,
            counters=self.counters,
            give_back=self.counters.real.give_back,
            settler=self.settled,  # type: ignore[arg-type]
            listed=lambda: self.listed,
            metrics=self.metrics,
            clock=self.clock,
            site=Site("https://gate.example", "sk-tg_", stream_seconds=600),
        )

    def call(
        self,
        path: str = "/v1/chat/completions",
        body: bytes | Mapping[str, Any] = CHAT,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        request_id: str | None = None,
    ) -> CheckResponse:
        """A request with the key, and an id of its own."""
        sent = bearer(KEY) if headers is None else headers
        number = f"req-{next(self._numbers)}" if request_id is None else request_id
        asked = message(path, sent, body, method=method, request_id=number)
        return CheckResponse.FromString(self.checker.check(asked))

    def get(self, path: str) -> CheckResponse:
        return self.call(path, b"", method="GET")

    def used(self, scope: str = "key_1") -> int:
        _, (standing,) = self.counters.peek((MinuteLimit(scope, 1),), "acc_1")
        assert isinstance(standing, Standing)
        return standing.used

    def counted(self) -> dict[tuple[str, str], float]:
        """Checks by outcome and reason, of which there were any."""
        return {
            (sample.labels["outcome"], sample.labels["reason"]): sample.value
            for family in self.metrics.checks.collect()
            for sample in family.samples
            if sample.name == "tensorgate_checks_total" and sample.value
        }


@pytest.fixture
def gate() -> Gate:
    return Gate()


def refused(response: CheckResponse, reason: Reason) -> dict[str, str]:
    """Check the parts that every refusal has, and hand on its headers."""
    headers = client_headers(response)
    assert not is_allowed(response)
    assert error(response)["code"] == headers["x-tensorgate-reason"] == reason
    assert metadata(response) == {"outcome": "denied", "reason": reason}
    assert headers["content-type"] == "application/json"
    return headers


# ── What passes ──────────────────────────────────────────────────────────────────────────────────


def test_what_passes_is_described_to_the_server_to_the_client_and_to_the_meter(gate: Gate) -> None:
    response = gate.call()
    assert is_allowed(response)
    assert upstream_headers(response) == {
        "x-tensorgate-key-id": "key_1",
        "x-tensorgate-alias": "laptop",
        "x-tensorgate-user": "ann@example.org",
        "x-tensorgate-model": LLAMA,
    }
    assert list(response.ok_response.headers_to_remove) == list(TO_REMOVE)
    assert client_headers(response) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1m0s",
        "ratelimit-policy": '"rpm";q=60;w=60',
        "ratelimit": '"rpm";r=59;t=60',
        **HOLD_HEADER,
    }
    described = metadata(response)
    assert re.fullmatch(r"[0-9a-f]{32}", described.pop("hold_id"))
    assert described == {
        "outcome": "allowed",
        "reason": "",
        "key_id": "key_1",
        "account_id": "acc_1",
        "model": LLAMA,
        "endpoint": "chat.completions",
        "dialect": "openai",
        "usage": "openai",
    }
    assert gate.counted() == {("allowed", ""): 1}


def test_what_passes_has_a_hold_with_all_that_its_settlement_needs(gate: Gate) -> None:
    body = json.dumps({**CHAT, "stream": True}).encode()
    response = gate.call(body=body, request_id="one")
    (hold,) = gate.counters.journal
    assert gate.counters.real.open_holds() == [hold]
    assert hold == Hold(
        id=metadata(response)["hold_id"],
        request_id="one",
        account_id="acc_1",
        key_id="key_1",
        user="ann@example.org",
        team=None,
        alias="laptop",
        model=LLAMA,
        endpoint="chat.completions",
        nanousd=WHOLE_CONTEXT,
        price=PRICE,
        tokens_per_byte="1",
        input_bound=len(body) + 1024,
        output_bound=131_072,
        minute="key_1",
        windows=(Window("key_1", 0),),
        admitted_us=NOW_US,
    )
    assert gate.settled.ends == []


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/embeddings"])
def test_other_endpoints_of_openai(gate: Gate, path: str) -> None:
    response = gate.call(path)
    assert is_allowed(response)
    assert metadata(response)["endpoint"] == path.removeprefix("/v1/")
    assert metadata(response)["hold_id"] == gate.counters.journal[0].id


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "x-goog-api-key"])
def test_the_other_three_headers(gate: Gate, header: str) -> None:
    assert is_allowed(gate.call(headers={header: KEY}))


def test_a_message_carries_anthropics_rate_headers(gate: Gate) -> None:
    response = gate.call("/v1/messages", headers={"x-api-key": KEY})
    assert is_allowed(response)
    assert client_headers(response).keys() > MINUTE
    assert client_headers(response)["anthropic-ratelimit-requests-remaining"] == "59"
    assert metadata(response)["dialect"] == "anthropic"


@pytest.mark.parametrize(
    ("asked", "canonical"),
    [("llama", LLAMA), ("claude-haiku-4-5", LLAMA), ("qwen3-coder", "qwen3-coder")],
)
def test_the_canonical_name_is_what_the_server_and_the_meter_hear(
    gate: Gate, asked: str, canonical: str
) -> None:
    response = gate.call(body={"model": asked})
    assert upstream_headers(response)["x-tensorgate-model"] == canonical
    assert metadata(response)["model"] == canonical


def test_an_unpriced_model_passes_for_a_key_without_a_budget(gate: Gate) -> None:
    assert upstream_headers(gate.call(body={"model": "new"}))["x-tensorgate-model"] == "new"
    (hold,) = gate.counters.journal
    assert (hold.model, hold.nanousd, hold.price) == ("new", 0, Price())


SEVERAL = Catalog.parse(
    """
models:
  on-gpu: {price: {input: 1}, context_tokens: 9000, upstream: gpu, aliases: ["gpt-*"]}
  here: {price: {input: 1}, context_tokens: 9000}
upstreams: {gpu: "10.0.0.7:8000"}
plans: {free: {}}
default_plan: free
""",
    "a test's",
)


@pytest.mark.parametrize(
    ("body", "upstream"),
    [
        ({"model": "on-gpu"}, "gpu"),
        ({"model": "gpt-9"}, "gpu"),
        ({"model": "on-gpu:latest"}, "gpu"),  # as some servers write the same name
        ({"model": "on-gpu", "lora_path": "mine"}, "gpu"),
        ({"model": "here"}, None),
        ({"model": "here", "lora_path": "on-gpu"}, None),
        ({"model": "unknown"}, None),
    ],
)
def test_envoy_is_told_which_server_serves_a_model(
    body: dict[str, str], upstream: str | None
) -> None:
    """All by one resolution, the one that judges and prices."""
    response = Gate(catalog=SEVERAL).call(body={**body, "messages": []})
    assert is_allowed(response)
    assert upstream_headers(response).get("x-tensorgate-upstream") == upstream


def test_an_adapter_cannot_be_the_tag_of_another_model() -> None:
    """A server without adapters would serve `phi` to a key that has only `phi:8b`."""
    gate = Gate(key_record(models=["phi:8b", "phi:sql"]), listed=["phi:8b", "phi:latest"])
    response = gate.call(body={"model": "phi", "lora_path": "8b", "messages": []})
    assert metadata(response)["reason"] == "ambiguous_body"
    assert is_allowed(gate.call(body={"model": "phi:8b", "messages": []}))
    assert is_allowed(gate.call(body={"model": "phi", "lora_path": "sql", "messages": []}))


def test_a_repeated_check_takes_once_and_has_the_same_hold(gate: Gate) -> None:
    first, again = (gate.call(request_id="one") for _ in range(2))
    assert metadata(first)["hold_id"] == metadata(again)["hold_id"]
    assert gate.used() == 1
    assert len(gate.counters.journal) == 1


def test_requests_without_an_id_are_never_one(gate: Gate) -> None:
    holds = {metadata(gate.call(request_id=""))["hold_id"] for _ in range(3)}
    assert len(holds) == 3
    assert gate.used() == 3
    assert {hold.id for hold in gate.counters.journal} == holds
    assert len({hold.request_id for hold in gate.counters.journal}) == 3


def test_a_key_without_an_rpm_has_no_rate_headers() -> None:
    gate = Gate(key_record(rpm=None))
    assert [client_headers(gate.call()) for _ in range(3)] == [HOLD_HEADER] * 3


def test_the_last_fourteen_days_of_a_key(gate: Gate) -> None:
    assert "x-key-expires" not in client_headers(gate.call())
    late = Gate(key_record(expires_us=NOW_US + 14 * DAY_US))
    for response in (late.call(), late.call(body=b""), late.get("/v1/models"), late.get("/no")):
        assert client_headers(response)["x-key-expires"] == "2026-12-02T11:06:40Z"


# ── What is refused ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Call:
    """A call that would pass, piece by piece, so that several things can be wrong with it."""

    method: str = "POST"
    path: str = "/v1/chat/completions"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {KEY}"),)
    model: str = LLAMA
    members: str = ""
    tail: str = ""
    record: KeyRecord | None = field(default_factory=lambda: key_record(rpm=1))
    taken: int = 0
    held: int = 0
    spent: int = 0

    def ask(self) -> tuple[Gate, CheckResponse]:
        gate = Gate(self.record)
        for number in range(self.taken):
            gate.counters.take(f"before-{number}", None, (MinuteLimit("key_1", 1),), "acc_1")
        if self.held:
            gate.counters.hold(self.held)
        if self.spent:
            gate.counters.hold(self.spent, settled=True)
        body = f'{{"model":{json.dumps(self.model)}{self.members}}}{self.tail}'.encode()
        return gate, gate.call(self.path + self.query, body, dict(self.headers), method=self.method)


Change = Callable[[Call], Call]


def of_key(**changes: Any) -> Change:
    return lambda call: replace(call, record=call.record and replace(call.record, **changes))


def piece(**changes: Any) -> Change:
    return lambda call: replace(call, **changes)


def together(*changes: Change) -> Change:
    def all_of_them(call: Call) -> Call:
        for change in changes:
            call = change(call)
        return call

    return all_of_them


def more(**added: Any) -> Change:
    return lambda call: replace(call, **{n: getattr(call, n) + v for n, v in added.items()})


# In the order in which they answer: (status, what of a call it needs for itself, how to cause it).
ORDER: dict[Reason, tuple[int, set[str], Change]] = {
    Reason.KEY_IN_URL: (400, set(), more(query="?key=x")),
    Reason.MISSING_API_KEY: (401, {"credential"}, piece(headers=())),
    Reason.AMBIGUOUS_CREDENTIALS: (400, {"credential"}, more(headers=(("x-api-key", OTHER),))),
    Reason.INVALID_API_KEY: (401, {"credential", "record"}, piece(record=None)),
    Reason.API_KEY_REVOKED: (401, {"record"}, of_key(revoked_us=NOW_US - 1)),
    Reason.API_KEY_EXPIRED: (401, {"record"}, of_key(expires_us=NOW_US)),
    Reason.ENDPOINT_NOT_ALLOWED: (403, set(), piece(path="/v1/sleep")),
    Reason.UNSUPPORTED_ENCODING: (415, set(), more(headers=(("content-encoding", "gzip"),))),
    Reason.MALFORMED_BODY: (400, set(), more(tail="x")),
    Reason.AMBIGUOUS_BODY: (400, set(), more(members=',"MODEL":1')),
    Reason.MODEL_REQUIRED: (400, {"model"}, piece(model="")),
    Reason.INVALID_PARAMETER: (400, set(), more(members=',"stream":1')),
    Reason.PARAMETER_NOT_ALLOWED: (403, set(), more(members=',"conversation":"c"')),
    Reason.UNBOUNDED_NOT_ALLOWED: (
        403,
        set(),
        together(of_key(budget_nanousd=10**9), more(members=',"background":true')),
    ),
    Reason.MODEL_NOT_ALLOWED: (403, set(), of_key(models=frozenset({"other"}))),
    Reason.MODEL_NOT_PRICED: (
        403,
        {"model"},
        together(of_key(budget_nanousd=1), piece(model="unheard-of")),
    ),
    Reason.RATE_LIMIT_EXCEEDED: (429, set(), piece(taken=1)),
    Reason.BUDGET_EXCEEDED: (
        429,
        set(),
        together(of_key(budget_nanousd=WHOLE_CONTEXT), piece(spent=1)),
    ),
    Reason.BUDGET_HELD: (
        429,
        set(),
        together(of_key(budget_nanousd=WHOLE_CONTEXT), piece(held=1)),
    ),
}
CHAT_PATH, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
ONLY_RESPONSES = {Reason.PARAMETER_NOT_ALLOWED, Reason.UNBOUNDED_NOT_ALLOWED}
ELSEWHERE = {Reason.AUTHORIZATION_UNAVAILABLE, Reason.NOT_FOUND}


def test_the_order_has_every_reason() -> None:
    assert ORDER.keys() | ELSEWHERE == set(Reason)


def spoiled(*reasons: Reason) -> Call:
    """The call with these things wrong with it, one after the other."""
    path = RESPONSES if ONLY_RESPONSES.intersection(reasons) else CHAT_PATH
    return together(*(ORDER[reason][2] for reason in reasons))(Call(path=path))


@pytest.mark.parametrize("path", [CHAT_PATH, MESSAGES, RESPONSES])
@pytest.mark.parametrize("budget", [None, WHOLE_CONTEXT])
def test_nothing_is_wrong_with_the_call_itself(path: str, budget: int | None) -> None:
    _, response = of_key(budget_nanousd=budget)(Call(path=path)).ask()
    assert is_allowed(response)


@pytest.mark.parametrize(
    ("reason", "path"),
    [
        (reason, path)
        for reason in ORDER
        for path in (CHAT_PATH, MESSAGES, RESPONSES)
        if path == RESPONSES or reason not in ONLY_RESPONSES
    ],
)
def test_each_refusal(reason: Reason, path: str) -> None:
    code, _, change = ORDER[reason]
    gate, response = change(Call(path=path)).ask()
    refused(response, reason)
    assert status(response) == code
    if reason is not Reason.ENDPOINT_NOT_ALLOWED:
        anthropic = path == "/v1/messages"
        assert (answer_body(response).get("type") == "error") is anthropic
    assert gate.counted() == {("denied", reason): 1}


PAIRS = [
    (first, second)
    for first, second in combinations(ORDER, 2)
    if not ORDER[first][1] & ORDER[second][1]
    or {first, second} == {Reason.API_KEY_REVOKED, Reason.API_KEY_EXPIRED}
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_that_apply_the_first_answers(first: Reason, second: Reason) -> None:
    for changes in ((first, second), (second, first)):
        _, response = spoiled(*changes).ask()
        refused(response, first)


@pytest.mark.parametrize("reason", ORDER)
def test_no_refusal_takes_anything(reason: Reason) -> None:
    call = spoiled(reason)
    gate, _ = call.ask()
    assert gate.used() == call.taken
    assert gate.used("key_1/listings") == 0
    assert [hold.nanousd for hold in gate.counters.real.open_holds()] == [call.held] * bool(
        call.held
    )
    assert len(gate.counters.journal) == bool(call.held) + bool(call.spent)
    assert gate.settled.ends == []


DEAD = set(list(ORDER)[: list(ORDER).index(Reason.API_KEY_EXPIRED) + 1])


@pytest.mark.parametrize("reason", ORDER)
def test_a_live_key_hears_how_its_limits_stand(reason: Reason) -> None:
    call = spoiled(reason)
    _, response = call.ask()
    headers = client_headers(response)
    assert (headers.keys() & MINUTE) == (set() if reason in DEAD else MINUTE)
    capped = call.record is not None and call.record.budget_nanousd is not None
    assert (headers.keys() & BUDGET) == (BUDGET if capped else set())
    assert "x-tensorgate-hold-usd" not in headers
    if reason not in DEAD:
        left = "0" if reason is Reason.RATE_LIMIT_EXCEEDED else "1"
        assert headers["x-ratelimit-remaining-requests"] == left


DEAD_KEYS = {
    Reason.INVALID_API_KEY: None,
    Reason.API_KEY_REVOKED: key_record(revoked_us=NOW_US),
    Reason.API_KEY_EXPIRED: key_record(expires_us=NOW_US),
}


def must_not_be_called(*_: object) -> NoReturn:
    raise AssertionError("the body was read")


@pytest.mark.parametrize("reason", DEAD_KEYS)
@pytest.mark.parametrize("body", [b'{"model":', b"\xff", json.dumps(CHAT).encode()])
def test_a_body_is_not_read_for_a_key_that_does_not_count(
    reason: Reason, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "read_json", must_not_be_called)
    refused(Gate(DEAD_KEYS[reason]).call(body=body), reason)


def test_a_body_is_not_read_without_a_key_nor_while_nobody_knows_of_it(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "read_json", must_not_be_called)
    broken = b'{"model":'
    twice = bearer(KEY) | {"x-api-key": OTHER}
    refused(gate.call(CHAT_PATH + "?key=x", broken), Reason.KEY_IN_URL)
    refused(gate.call(body=broken, headers={}), Reason.MISSING_API_KEY)
    refused(gate.call(body=broken, headers=twice), Reason.AMBIGUOUS_CREDENTIALS)
    refused(gate.call(body=broken, headers=bearer(mistyped(KEY))), Reason.INVALID_API_KEY)
    gate.table.out = True
    unavailable(gate.call(body=broken))
    gate.table.out = False
    refused(gate.call("/nowhere", broken), Reason.ENDPOINT_NOT_ALLOWED)


def test_the_body_of_a_live_key_is_read_once(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def counting(raw: bytes, shape: Shape | None) -> Body | Fault:
        asked.append(raw)
        return read_json(raw, shape)

    monkeypatch.setattr(reading, "read_json", counting)
    refused(gate.call(body=b'{"model":'), Reason.MALFORMED_BODY)
    assert is_allowed(gate.call())
    assert asked == [b'{"model":', json.dumps(CHAT).encode()]


def test_the_words_name_the_key_by_its_hint_and_the_way_out(gate: Gate) -> None:
    revoked = Gate(key_record(revoked_us=NOW_US))
    assert error(revoked.call())["message"] == (
        "This key (sk-tg_…x4Qz) was revoked on 2026-11-18 11:06 UTC. "
        "Create a new one at https://gate.example/keys."
    )
    assert "Bearer sk-tg_…`" in error(gate.call(headers={}))["message"]


def test_the_minute_says_when_the_next_call_passes() -> None:
    gate = Gate(key_record(rpm=2))
    for _ in range(2):
        assert is_allowed(gate.call())
        gate.clock.advance(seconds=0.3)
    headers = refused(gate.call(), Reason.RATE_LIMIT_EXCEEDED)
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("60", "59400")
    gate.clock.advance(seconds=59)
    assert refused(gate.call(), Reason.RATE_LIMIT_EXCEEDED)["retry-after"] == "1"
    gate.clock.advance(seconds=1)
    assert is_allowed(gate.call())


def test_two_hundred_at_once_at_fifty_pass_fifty() -> None:
    gate = Gate(key_record(rpm=50))
    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda _: status(gate.call()), range(200)))
    assert (codes.count(200), codes.count(429)) == (50, 150)


def test_a_wrong_checksum_asks_no_store(gate: Gate) -> None:
    refused(gate.call(headers=bearer(mistyped(KEY))), Reason.INVALID_API_KEY)
    assert gate.table.asked == 0


def test_the_malformed_byte_and_the_members_name_reach_the_client(gate: Gate) -> None:
    said = error(gate.call(body=b'{"model":"m",}'))
    assert "(byte 13)" in said["message"]
    assert error(gate.call(body=b'{"model":"m","stream":1}'))["param"] == "stream"
    assert error(gate.call(body=b"{}"))["param"] == "model"


# ── A store is out ───────────────────────────────────────────────────────────────────────────────


def unavailable(response: CheckResponse) -> None:
    headers = refused(response, Reason.AUTHORIZATION_UNAVAILABLE)
    assert status(response) == 503
    assert headers["retry-after"] == "1"
    assert "www-authenticate" not in headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/nowhere"])
@pytest.mark.parametrize("key", [KEY, OTHER], ids=["a key", "an unknown key"])
def test_sql_out_is_503_and_never_401(gate: Gate, path: str, key: str) -> None:
    gate.table.out = True
    unavailable(gate.call(path, headers=bearer(key)))
    assert gate.counters.takes == 0
    assert gate.counted() == {("error", "authorization_unavailable"): 1}


def test_sql_out_does_not_hide_what_is_wrong_without_it(gate: Gate) -> None:
    gate.table.out = True
    refused(gate.call(headers={}), Reason.MISSING_API_KEY)
    refused(gate.call(headers=bearer(mistyped(KEY))), Reason.INVALID_API_KEY)
    refused(gate.call("/v1/chat/completions?key=x"), Reason.KEY_IN_URL)


def test_counters_out_is_503(gate: Gate) -> None:
    gate.counters.take_out = gate.counters.peek_out = True
    for response in (gate.call(), gate.call("/v1/messages"), gate.get("/v1/models")):
        unavailable(response)


def test_counters_out_leaves_a_refusal_as_it_is_without_rate_headers(gate: Gate) -> None:
    gate.counters.take_out = gate.counters.peek_out = True
    headers = refused(gate.call("/nowhere"), Reason.ENDPOINT_NOT_ALLOWED)
    assert not headers.keys() & MINUTE


def test_counters_out_after_a_take_is_503_too(gate: Gate) -> None:
    gate.counters.peek_out = True
    unavailable(gate.get("/v1/key"))


def test_after_an_outage_all_is_as_before(gate: Gate) -> None:
    gate.table.out = True
    unavailable(gate.call())
    gate.table.out = False
    assert is_allowed(gate.call())


# ── What we answer ourselves ─────────────────────────────────────────────────────────────────────


def own(response: CheckResponse) -> Any:
    assert status(response) == 200
    assert not is_allowed(response)
    assert metadata(response) == {"outcome": "answered", "reason": ""}
    assert client_headers(response)["content-type"] == "application/json"
    return answer_body(response)


def test_the_models_of_a_key() -> None:
    gate = Gate(key_record(models=[LLAMA, "qwen3"]), listed=["qwen3", "qwen4", "claude-x"])
    page = own(gate.get("/v1/models"))
    assert [row["id"] for row in page["data"]] == ["claude-x", LLAMA, "qwen3"]
    assert gate.counted() == {("answered", ""): 1}


@pytest.mark.parametrize("path", ["org/deep/model", "org%2Fdeep%2Fmodel", LLAMA, "listed:latest"])
def test_one_model_with_slashes_too(path: str) -> None:
    gate = Gate(listed=["listed:latest"])
    assert own(gate.get(f"/v1/models/{path}"))["id"] == path.replace("%2F", "/")


@pytest.mark.parametrize("name", ["nothing", "qwen*", "org/deep", "default"])
def test_a_model_that_is_not_there_is_404_and_takes_nothing(gate: Gate, name: str) -> None:
    headers = refused(gate.get(f"/v1/models/{name}"), Reason.NOT_FOUND)
    assert headers["x-ratelimit-remaining-requests"] == "600"
    assert gate.used("key_1/listings") == 0


def test_a_model_of_others_is_404_as_one_that_is_nowhere() -> None:
    gate = Gate(key_record(models=["other"]))
    theirs, nowhere = (gate.get(f"/v1/models/{name}") for name in (LLAMA, "nowhere"))
    refused(theirs, Reason.NOT_FOUND)
    assert error(theirs)["message"] == error(nowhere)["message"]


def test_a_key_about_itself_sees_its_inference_minute(gate: Gate) -> None:
    for _ in range(3):
        gate.call()
    said = own(gate.get("/v1/key"))
    assert (said["id"], said["alias"], said["rpm"]) == ("key_1", "laptop", 60)
    assert said["requests_remaining"] == 57
    assert (said["spent_usd"], said["held_usd"]) == (0, 3 * WHOLE_CONTEXT / 1e9)
    assert KEY not in json.dumps(said)


def test_listings_and_token_counting_take_from_a_minute_of_their_own() -> None:
    gate = Gate(key_record(rpm=1))
    assert is_allowed(gate.call())
    for path in ("/v1/models", "/v1/key", f"/v1/models/{LLAMA}"):
        assert own(gate.get(path))
    for _ in range(7):
        counted = gate.call("/v1/messages/count_tokens")
        assert is_allowed(counted)
        assert "hold_id" not in metadata(counted)
    refused(gate.get("/v1/models"), Reason.RATE_LIMIT_EXCEEDED)
    refused(gate.call("/v1/messages/count_tokens"), Reason.RATE_LIMIT_EXCEEDED)
    refused(gate.call(), Reason.RATE_LIMIT_EXCEEDED)
    assert (gate.used(), gate.used("key_1/listings")) == (1, 10)
    assert len(gate.counters.journal) == 1
    gate.clock.advance(us=MINUTE_US)
    assert own(gate.get("/v1/models"))


@pytest.mark.parametrize("path", ["/v1/models", "/v1/key", f"/v1/models/{LLAMA}"])
def test_what_we_answer_needs_a_live_key(path: str) -> None:
    refused(Gate(None).get(path), Reason.INVALID_API_KEY)
    refused(Gate(key_record(revoked_us=1)).get(path), Reason.API_KEY_REVOKED)


# ── Secrets ──────────────────────────────────────────────────────────────────────────────────────


def uses(key: str) -> list[tuple[str, bytes, dict[str, str], str]]:
    """A key, used rightly and wrongly in every way: (path, body, headers, method)."""
    chat, body = "/v1/chat/completions", json.dumps(CHAT).encode()
    good = bearer(key)
    return [
        *[(chat, body, {name: key}, "POST") for name in ("x-api-key", "api-key", "cookie")],
        (chat, body, good, "POST"),
        (chat, body, {"authorization": key}, "POST"),
        (chat, body, {"authorization": f"Basic {key}"}, "POST"),
        (chat, body, {"authorization": f"Bearer {key},{key}"}, "POST"),
        (chat, body, good | {"x-api-key": key + "x"}, "POST"),
        (chat, body, good | {"content-encoding": key}, "POST"),
        (f"{chat}?key={key}", body, good, "POST"),
        (f"{chat}?model={key}", body, good, "POST"),
        (f"{chat}/{key}", body, good, "POST"),
        (f"/{key}", body, good, "GET"),
        (f"/v1/models/{key}", b"", good, "GET"),
        (chat, key.encode(), good, "POST"),
        (chat, json.dumps({"model": key}).encode(), good, "POST"),
        (chat, json.dumps({"model": "m", key: 1, key.upper(): 1}).encode(), good, "POST"),
        (chat, f'{{"model":"m","{key}":1,"{key}":2}}'.encode(), good, "POST"),
        (chat, json.dumps({"model": "m", "stream": key}).encode(), good, "POST"),
    ]


@pytest.mark.parametrize("key", [KEY, OTHER, mistyped(KEY)], ids=["known", "unknown", "mistyped"])
@pytest.mark.parametrize("record", [key_record(), key_record(models=["x"], rpm=1)])
def test_no_plaintext_comes_out_of_the_gate(
    key: str, record: KeyRecord, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(record)
    for path, body, headers, method in uses(key):
        response = gate.call(path, body, headers, method=method)
        assert key not in str(response)
        assert key.encode() not in response.SerializeToString()
    assert caplog.text == ""
    counters = gate.counters
    assert key not in repr(gate.keys.__dict__) + repr(counters.real.__dict__)
    assert key not in repr(counters.journal) + repr(counters.real.open_holds())
    assert key not in repr(gate.settled)


@pytest.mark.parametrize(
    "body", [b"", b"\x00", b"[" * 100_000, b'{"model":"\\ud800"}', b"\xff" * 9]
)
@pytest.mark.parametrize(
    "path", ["", "*", "?", "/v1/messages?%zz=%ff", "/v1/models/%00", "/" * 999]
)
@pytest.mark.parametrize("method", ["GET", "POST", "", "\x7f"])
def test_nothing_that_a_client_sends_raises(
    gate: Gate, path: str, body: bytes, method: str
) -> None:
    response = gate.call(path, body, method=method)
    assert status(response) in {200, 400, 403, 404}
