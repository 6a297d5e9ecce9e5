"""One Check, from top to bottom: read, find the key, decide, bound, take, answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Literal, Protocol, assert_never

import msgspec
from msgspec.structs import replace

from authz import ours
from authz.bound import FREE, MAX_NANOUSD, Bound, bound
from authz.cache import KeyCache
from authz.continuous import Counting, counting
from authz.decide import decide, is_live, limits
from authz.denial import Answer, Headers, deny
from authz.headers import standing_headers
from authz.ids import Ids
from authz.metrics import Metrics
from authz.model import Allow, Deny, Endpoint, Fault, Lane, Reason, Request
from authz.pack import Pairs
from authz.pb.auth_pb2 import CheckRequest
from authz.pricing import released
from authz.settle import Settler
from authz.table import MODEL, MODEL_PREFIX, MODELS, TAGS
from authz.wire import Reader, allowed, answered
from authz.witness import Decided
from authz.words import Occasion
from store.catalog import Catalog, Offer, Plan
from store.clock import Clock
from store.counters.model import Ended, Limit, MinuteLimit, Refused, Standings, Taken
from store.errors import StoreError
from store.records import Hold, KeyRecord, Price
from store.text import usd, usd_plain

_UNAVAILABLE: Final = Fault(Reason.AUTHORIZATION_UNAVAILABLE)
_NO_PRICE: Final = Price()
_ANOTHER_MODEL: Final = Fault(
    Reason.AMBIGUOUS_BODY,
    "with the adapter beside it, the model reads as another model that is served here",
    param="model",
)


class Counters(Protocol):
    """The verbs that a Check needs of the counters; each is one atomic step."""

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended: ...

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings]: ...


@dataclass(frozen=True, slots=True)
class Site:
    """What refusals may name of this installation, and how long a request may run."""

    dashboard: str | None
    prefix: str
    stream_seconds: int


class _Asked(msgspec.Struct, frozen=True):
    """A request that may pass, with what its taking needs."""

    request: Request
    endpoint: Endpoint
    key: KeyRecord
    offer: Offer | None
    plan: Plan | None
    most: Bound
    counted: Counting | None

    @property
    def model(self) -> str:
        return self.request.model or "" if self.offer is None else self.offer.name


@dataclass(frozen=True, slots=True)
class Checker:
    """Answers Checks. Thread-safe as far as its parts are. Never raises for what a client sent.

    `give_back` is told of a hold whose Check nobody waits for any more; True if it was the last.
    `refused` is told of every refusal, with its answer; `noted`, if there is one, of what came of
    each check, in its thread.
    """

    reader: Reader
    keys: KeyCache
    catalog: Catalog
    counters: Counters
    give_back: Callable[[Hold], bool]
    settler: Settler
    listed: Callable[[], Sequence[str]]
    metrics: Metrics
    clock: Clock
    site: Site
    new_id: Callable[[], str] = field(default_factory=Ids)
    refused: Callable[[Occasion, Answer], None] = lambda _occasion, _answer: None
    noted: Callable[[Decided], None] | None = None

    def check(self, message: CheckRequest, is_active: Callable[[], bool] = lambda: True) -> bytes:
        """The walk of one request, to a serialised CheckResponse.

        `is_active` tells whether Envoy still waits for the answer.
        """
        started = perf_counter()
        request = self.reader.head(message)
        now_us = self.clock()
        key: KeyRecord | None = None
        try:
            if not isinstance(request.digests, Fault):
                key = self.keys.get(request.digests)
            if key is not None and is_live(key, now_us):
                request = self._unlike_a_model(self.reader.with_body(request, message))
            plan = None if key is None else self.catalog.plan_of(key.plan)
            offer = self._offer(request)
            match decide(key, request, offer, plan, now_us):
                case Deny(fault):
                    response = self._deny(fault, request, key, now_us)
                case Allow(taking) if key is not None and request.endpoint is not None:
                    counted = _counting(request, offer, message)
                    most = self._bound(request, offer, counted)
                    asked = _Asked(request, request.endpoint, key, offer, plan, most, counted)
                    if most.nanousd <= MAX_NANOUSD:
                        response = self._serve(asked, taking, now_us, is_active)
                    else:
                        response = self._deny(_beyond(asked), request, key, now_us)
                case Allow():
                    raise AssertionError("a request was allowed without a key or an endpoint")
                case _ as never:
                    assert_never(never)
        except StoreError:
            response = self._deny(_UNAVAILABLE, request, None, now_us)
        self.metrics.check_seconds.observe(perf_counter() - started)
        return response

    def _serve(
        self,
        asked: _Asked,
        taking: tuple[Limit, ...],
        now_us: int,
        is_active: Callable[[], bool],
    ) -> bytes:
        """Take, then pass the request on or answer it. A model that is not there takes nothing."""
        request, endpoint, key = asked.request, asked.endpoint, asked.key
        wanted = ""
        if endpoint is MODEL:
            path = request.path.removeprefix(MODEL_PREFIX)
            found = ours.find_model(key, self.catalog, self.listed(), path)
            if found is None:
                return self._deny(Fault(Reason.NOT_FOUND), request, key, now_us)
            wanted = found
        hold_id = self.new_id()
        # Without an id there is nothing that could be repeated: no two such requests are one.
        request_id = request.id or hold_id
        draft = None
        if endpoint.lane is Lane.INFERENCE:
            draft = _draft(asked, hold_id, request_id, taking)
        took = self.counters.take(request_id, draft, taking, key.account_id)
        if isinstance(took, Ended):
            return self._deny(_UNAVAILABLE, request, None, now_us)
        client = standing_headers(request.dialect, key, took.standings, took.now_us)
        if isinstance(took, Refused):
            return self._refuse(self._over(asked, took), client)
        if endpoint.lane is Lane.OURS:
            answer = self._own_answer(asked, wanted)
            self._passed("answered", asked, None)
            return answered(answer, client, (("outcome", "answered"), ("reason", "")))
        if took.hold is not None and not (is_active() and _covers(took.hold, draft)):
            self._give_back(took.hold, took.now_us)
            return self._deny(_UNAVAILABLE, request, None, now_us)
        self._passed("allowed", asked, took.hold)
        if took.hold is not None:
            client = (*client, ("x-tensorgate-hold-usd", usd_plain(took.hold.nanousd)))
        return allowed(self._upstream(asked), client, _lasting(asked), _passing(asked, took.hold))

    def _passed(
        self, outcome: Literal["allowed", "answered"], asked: _Asked, hold: Hold | None
    ) -> None:
        (self.metrics.allowed if outcome == "allowed" else self.metrics.answered).inc()
        if self.noted is not None:
            self.noted(Decided(outcome, "", asked.request, asked.key, asked.model, hold))

    def _unlike_a_model(self, request: Request) -> Request:
        """Refuse an adapter that reads, with the model before it, as another model served here.

        Where `llama:8b` is a model, a server that has never heard of adapters would serve
        `llama` to a key that may only call `llama:8b`.
        """
        if request.base is not None and request.model in self.listed():
            return request.unreadable(_ANOTHER_MODEL)
        return request

    def _offer(self, request: Request) -> Offer | None:
        """What the catalog says of the request's model."""
        model, base = request.model, request.base
        if model is None:
            return None
        if base is not None:
            return self.catalog.resolve_adapter(base, model.removeprefix(f"{base}:"))
        shape = None if request.endpoint is None else request.endpoint.shape
        if shape is not None and shape.tagged:
            return self.catalog.resolve_tagged(model)
        return self.catalog.resolve(model)

    def _bound(self, request: Request, offer: Offer | None, counted: Counting | None) -> Bound:
        """The most that the call can cost; nothing where it holds no money or has no price."""
        ask, endpoint = request.ask, request.endpoint
        if ask is None or endpoint is None or endpoint.lane is not Lane.INFERENCE:
            return FREE
        if offer is None:
            return Bound(0, 0, 0, () if ask.usage_edit is None else (ask.usage_edit,))
        return bound(
            ask if counted is None else replace(ask, usage_edit=counted.edit),
            offer.model,
            request.body_bytes,
            has_output=endpoint.shape is None or endpoint.shape.generates,
            seconds=self.site.stream_seconds,
        )

    def _upstream(self, asked: _Asked) -> Headers:
        """Headers for the model server, and for Envoy on the way to it."""
        key, offer = asked.key, asked.offer
        headers: Headers = (
            ("x-tensorgate-key-id", key.id),
            ("x-tensorgate-alias", key.alias),
            ("x-tensorgate-user", key.user),
            ("x-tensorgate-model", asked.model),
        )
        if asked.request.retyped:
            headers = (*headers, ("content-type", "application/json"))
        if offer is None:
            return headers
        if offer.model.upstream is not None:  # Envoy's alone: no model server sees it
            headers = (*headers, ("x-tensorgate-upstream", offer.model.upstream))
        if not offer.model.price.per_second:
            return headers
        timeout = ("x-envoy-upstream-rq-timeout-ms", str(self.site.stream_seconds * 1000))
        return (*headers, timeout)

    def _give_back(self, hold: Hold, now_us: int) -> None:
        """Envoy gave this Check up. If no other Check has the hold, it ends."""
        if self.give_back(hold):
            self.settler.end(hold, released(hold, 0, now_us))

    def _own_answer(self, asked: _Asked, wanted: str) -> Answer:
        key = asked.key
        if asked.endpoint is MODEL:
            return ours.model(wanted)
        if asked.endpoint is MODELS:
            return ours.models(ours.callable_names(key, self.catalog, self.listed()))
        if asked.endpoint is TAGS:
            return ours.tags(ours.callable_names(key, self.catalog, self.listed()))
        _, standings = self.counters.peek(limits(key, None, asked.plan), key.account_id)
        return ours.key(key, standings)

    def _over(self, asked: _Asked, took: Refused) -> Occasion:
        """A limit has no room."""
        if isinstance(took.limit, MinuteLimit):
            reason = Reason.RATE_LIMIT_EXCEEDED
        else:
            reason = Reason.BUDGET_HELD if took.held else Reason.BUDGET_EXCEEDED
        most, ask, shape = asked.most, asked.request.ask, asked.endpoint.shape
        named = None
        if ask is not None and shape is not None and shape.bounds and most.output_tokens:
            answers = ask.prompts * ask.repeats
            named = (ask.bound_name or shape.bounds[0], ask.output or most.output_tokens // answers)
        return self._occasion(
            Fault(reason), asked.request, asked.key, took, hold_nanousd=most.nanousd, bound=named
        )

    def _deny(self, fault: Fault, request: Request, key: KeyRecord | None, now_us: int) -> bytes:
        """A refusal before `take`. For a live key it says how the limits stand."""
        client: Headers = ()
        if key is not None and is_live(key, now_us):
            plan = self.catalog.plan_of(key.plan)
            try:
                counted_us, standings = self.counters.peek(
                    limits(key, request.endpoint, plan), key.account_id
                )
            except StoreError:
                standings, counted_us = (), now_us
            client = standing_headers(request.dialect, key, standings, counted_us)
        return self._refuse(self._occasion(fault, request, key), client)

    def _refuse(self, occasion: Occasion, client: Headers) -> bytes:
        reason = occasion.fault.reason.value
        outcome = "error" if occasion.fault is _UNAVAILABLE else "denied"
        self.metrics.checks.labels(outcome, reason).inc()
        answer = deny(occasion)
        self.refused(occasion, answer)
        if self.noted is not None:
            self.noted(Decided(outcome, reason, occasion.request, occasion.key, "", None))
        return answered(answer, client, (("outcome", "denied"), ("reason", reason)))

    def _occasion(
        self,
        fault: Fault,
        request: Request,
        key: KeyRecord | None,
        refused: Refused | None = None,
        *,
        hold_nanousd: int = 0,
        bound: tuple[str, int] | None = None,
    ) -> Occasion:
        return Occasion(
            fault,
            request,
            key,
            refused,
            hold_nanousd,
            bound,
            dashboard=self.site.dashboard,
            prefix=self.site.prefix,
        )


def _beyond(asked: _Asked) -> Fault:
    """What is wrong with a call that could cost more than `MAX_NANOUSD`."""
    ask, shape = asked.request.ask, asked.endpoint.shape
    many = ask is not None and shape is not None and ask.repeats > 1
    name = "n" if many or shape is None else shape.content
    detail = f"with it the call could cost more than {usd(MAX_NANOUSD)}"
    return Fault(Reason.INVALID_PARAMETER, detail, param=name)


def _draft(asked: _Asked, hold_id: str, request_id: str, taking: Sequence[Limit]) -> Hold:
    key, offer, most = asked.key, asked.offer, asked.most
    minute = next((limit.scope for limit in taking if isinstance(limit, MinuteLimit)), None)
    return Hold(
        hold_id,
        request_id,
        key.account_id,
        key.id,
        key.user,
        key.team,
        key.alias,
        asked.model,
        asked.endpoint.name,
        most.nanousd,
        _NO_PRICE if offer is None else offer.model.price,
        "1" if offer is None else offer.model.tokens_per_byte_text,
        most.input_tokens,
        most.output_tokens,
        minute,
    )


def _covers(hold: Hold, draft: Hold | None) -> bool:
    """Whether a hold is what this Check would have taken.

    It is another where an earlier Check of the request took it under another catalog. What is put
    into the body and said to Envoy is by the catalog of now: the output, or the seconds, could be
    more than was held. Such a call is not served, and its hold goes back.
    """
    return draft is not None and (hold.id == draft.id or _costs(hold) == _costs(draft))


def _costs(hold: Hold) -> tuple[object, ...]:
    bounds = (hold.nanousd, hold.input_bound, hold.output_bound)
    return hold.endpoint, hold.model, hold.price, hold.tokens_per_byte, *bounds


def _counting(request: Request, offer: Offer | None, message: CheckRequest) -> Counting | None:
    """How the server is made to count as it goes, where the catalog says that it can."""
    if offer is None or not offer.model.continuous_usage or not request.stream:
        return None
    shape = None if request.endpoint is None else request.endpoint.shape
    if shape is None or not shape.usage_on_request or request.ask is None:
        return None
    return counting(message.attributes.request.http.raw_body, request.ask)


def _lasting(asked: _Asked) -> Pairs:
    """What Envoy's filters and the settlement need of the decision, alike for many requests."""
    return (
        ("outcome", "allowed"),
        ("reason", ""),
        ("key_id", asked.key.id),
        ("account_id", asked.key.account_id),
        ("model", asked.model),
        ("endpoint", asked.endpoint.name),
        ("dialect", asked.request.dialect.value),
        ("usage", asked.endpoint.usage.value),
    )


def _passing(asked: _Asked, hold: Hold | None) -> Pairs:
    """What they need to know of this request."""
    request, edits = asked.request, asked.most.edits
    pairs: list[tuple[str, str]] = []
    if hold is not None:
        pairs.append(("hold_id", hold.id))
    if request.stream:
        pairs.append(("stream", "1"))
    if request.ask is not None and request.ask.hides_output:
        pairs.append(("hides_output", "1"))
    if asked.counted is not None:
        pairs.append(("continuous_usage", "1"))
    if edits:
        listed = [(edit.offset, edit.removed, edit.text) for edit in edits]
        pairs.append(("edits", msgspec.json.encode(listed).decode()))
        if request.ask is not None and request.ask.usage_edit is not None:
            pairs.append(("hide_usage", "1"))
    return tuple(pairs)
