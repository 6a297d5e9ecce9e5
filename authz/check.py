"""One Check, from top to bottom: read, find the key, decide, take, answer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol, assert_never

from authz import endpoints, ours
from authz.cache import KeyCache
from authz.decide import decide, limits
from authz.denial import Answer, Headers, deny
from authz.headers import standing_headers
from authz.metrics import Metrics
from authz.model import Allow, Deny, Endpoint, Fault, Lane, Reason, Request
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from authz.wire import Reader, allowed, answered
from authz.words import Occasion
from store.catalog import Catalog, Offer
from store.clock import Clock
from store.counters.model import Limit, Refused, Standing, Taken
from store.errors import StoreError
from store.records import KeyRecord

_UNAVAILABLE: Final = Fault(Reason.AUTHORIZATION_UNAVAILABLE)


class Counters(Protocol):
    """The verbs that a Check needs of the counters; each is one atomic step."""

    def take(self, request_id: str, hold_id: str, limits: Sequence[Limit]) -> Taken | Refused: ...

    def peek(self, limits: Sequence[Limit]) -> tuple[int, tuple[Standing, ...]]: ...


@dataclass(frozen=True, slots=True)
class Site:
    """What refusals may name of this installation."""

    dashboard: str | None
    prefix: str


@dataclass(frozen=True, slots=True)
class Checker:
    """Answers Checks. Thread-safe as far as its parts are. Never raises for what a client sent."""

    reader: Reader
    keys: KeyCache
    catalog: Catalog
    counters: Counters
    listed: Callable[[], Sequence[str]]
    metrics: Metrics
    clock: Clock
    site: Site

    def check(self, message: CheckRequest) -> CheckResponse:
        """The walk of one request."""
        started = perf_counter()
        request = self.reader.read(message)
        now_us = self.clock()
        key: KeyRecord | None = None
        try:
            if not isinstance(request.digests, Fault):
                key = self.keys.get(request.digests)
            offer = None if request.model is None else self.catalog.resolve(request.model)
            match decide(key, request, offer, now_us):
                case Deny(fault):
                    response = self._deny(fault, request, key, now_us)
                case Allow(taking) if key is not None and request.endpoint is not None:
                    response = self._serve(request, request.endpoint, key, offer, taking, now_us)
                case Allow():
                    raise AssertionError("a request was allowed without a key or an endpoint")
                case _ as never:
                    assert_never(never)
        except StoreError:
            response = self._deny(_UNAVAILABLE, request, None, now_us)
        self.metrics.check_seconds.observe(perf_counter() - started)
        return response

    def _serve(  # noqa: PLR0917  one caller, right above
        self,
        request: Request,
        endpoint: Endpoint,
        key: KeyRecord,
        offer: Offer | None,
        taking: tuple[Limit, ...],
        now_us: int,
    ) -> CheckResponse:
        """Take, then pass the request on or answer it. A model that is not there takes nothing."""
        wanted = ""
        if endpoint is endpoints.MODEL:
            asked = request.path.removeprefix(endpoints.MODEL_PREFIX)
            found = ours.find_model(key, self.catalog, self.listed(), asked)
            if found is None:
                return self._deny(Fault(Reason.NOT_FOUND), request, key, now_us)
            wanted = found
        hold_id = secrets.token_hex(16)
        # Without an id there is nothing that could be repeated: no two such requests are one.
        took = self.counters.take(request.id or hold_id, hold_id, taking)
        client = standing_headers(request.dialect, key, took.standings, took.now_us)
        if isinstance(took, Refused):
            occasion = self._occasion(Fault(Reason.RATE_LIMIT_EXCEEDED), request, key, took)
            return self._refuse(occasion, client)
        if endpoint.lane is Lane.OURS:
            answer = self._own_answer(endpoint, key, wanted)
            self.metrics.checks.labels("answered", "").inc()
            return answered(answer, client, {"outcome": "answered", "reason": ""})
        self.metrics.checks.labels("allowed", "").inc()
        model = offer.name if offer is not None else request.model or ""
        return allowed(
            (
                ("x-tensorgate-key-id", key.id),
                ("x-tensorgate-alias", key.alias),
                ("x-tensorgate-user", key.user),
                ("x-tensorgate-model", model),
            ),
            client,
            {
                "outcome": "allowed",
                "reason": "",
                "hold_id": took.hold_id,
                "key_id": key.id,
                "account_id": key.account_id,
                "model": model,
                "endpoint": endpoint.name,
            },
        )

    def _own_answer(self, endpoint: Endpoint, key: KeyRecord, wanted: str) -> Answer:
        if endpoint is endpoints.MODEL:
            return ours.model(wanted)
        if endpoint is endpoints.MODELS:
            return ours.models(ours.callable_names(key, self.catalog, self.listed()))
        _, standings = self.counters.peek(limits(key, None))
        return ours.key(key, standings)

    def _deny(
        self, fault: Fault, request: Request, key: KeyRecord | None, now_us: int
    ) -> CheckResponse:
        """A refusal before `take`. For a live key it says how the minute stands."""
        client: Headers = ()
        live = key is not None and key.revoked_us is None and key.expires_us > now_us
        if key is not None and live:
            try:
                counted_us, standings = self.counters.peek(limits(key, request.endpoint))
            except StoreError:
                standings, counted_us = (), now_us
            client = standing_headers(request.dialect, key, standings, counted_us)
        return self._refuse(self._occasion(fault, request, key), client)

    def _refuse(self, occasion: Occasion, client: Headers) -> CheckResponse:
        reason = occasion.fault.reason.value
        outcome = "error" if occasion.fault is _UNAVAILABLE else "denied"
        self.metrics.checks.labels(outcome, reason).inc()
        return answered(deny(occasion), client, {"outcome": "denied", "reason": reason})

    def _occasion(
        self,
        fault: Fault,
        request: Request,
        key: KeyRecord | None,
        refused: Refused | None = None,
    ) -> Occasion:
        return Occasion(
            fault,
            request,
            key,
            refused,
            dashboard=self.site.dashboard,
            prefix=self.site.prefix,
        )
