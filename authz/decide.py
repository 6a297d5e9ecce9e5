"""The rules. Every reason for which a known request is refused before its limits lives here.

This file knows no wire, no store and no clock. The first rule that applies answers, in the
order in which they stand; what only the counters know (minute, money) comes after.
"""

from __future__ import annotations

from typing import Final

from authz.model import Allow, Decision, Deny, Endpoint, Fault, Lane, Reason, Request
from store.catalog import Offer, Plan, tag_twin
from store.counters.model import Limit, MinuteLimit, MoneyLimit
from store.records import KeyRecord

_STEERS: Final = "it steers the server itself, which others share. Leave it out"
LISTING_FACTOR: Final = 10  # listings and token counting cost the server little


def decide(  # noqa: C901, PLR0911  a list of rules, one return each
    key: KeyRecord | None, request: Request, offer: Offer | None, plan: Plan | None, now_us: int
) -> Decision:
    """What is to become of a request.

    `key` is None where no record has one of the request's digests; `offer` is what the
    catalog says of the request's model, None where it names none or nothing prices it; `plan`
    is the key's, None without one.
    """
    if isinstance(request.digests, Fault):
        return Deny(request.digests)
    if key is None:
        return Deny(Fault(Reason.INVALID_API_KEY))
    if key.revoked_us is not None:
        return Deny(Fault(Reason.API_KEY_REVOKED))
    if key.disabled_us is not None:  # to clients, as if revoked; what differs are the words
        return Deny(Fault(Reason.API_KEY_REVOKED))
    if key.expires_us <= now_us:
        return Deny(Fault(Reason.API_KEY_EXPIRED))
    if request.endpoint is None:
        return Deny(Fault(Reason.ENDPOINT_NOT_ALLOWED))
    if request.endpoint.reads_model:
        if request.encoded:
            return Deny(Fault(Reason.UNSUPPORTED_ENCODING))
        if request.body is not None:
            return Deny(request.body)
        fault = _parameters(request, offer, budgeted=has_budget(key, plan))
        if fault is not None:
            return Deny(fault)
        if not _may_call(key, request, offer):
            return Deny(Fault(Reason.MODEL_NOT_ALLOWED, param="model"))
        if offer is None and has_budget(key, plan):
            return Deny(Fault(Reason.MODEL_NOT_PRICED, param="model"))
    return Allow(limits(key, request.endpoint, plan))


def _parameters(request: Request, offer: Offer | None, *, budgeted: bool) -> Fault | None:
    """What the body asks for that this model does not do here, if there is something."""
    ask = request.ask
    if ask is not None and ask.stored and not (offer and offer.model.stored_context):
        return Fault(Reason.PARAMETER_NOT_ALLOWED, param=ask.stored)
    for name in request.controls:
        if offer is None or name.rpartition(".")[2] not in offer.model.controls:
            return Fault(Reason.PARAMETER_NOT_ALLOWED, _STEERS, param=name)
    if ask is not None and ask.unbounded and budgeted:
        return Fault(Reason.UNBOUNDED_NOT_ALLOWED, param=ask.unbounded)
    if ask is not None and offer is not None and ask.context > offer.model.context_tokens:
        detail = f"the model's context has {offer.model.context_tokens} tokens here"
        return Fault(Reason.INVALID_PARAMETER, detail, param=ask.context_name)
    return None


def _may_call(key: KeyRecord, request: Request, offer: Offer | None) -> bool:
    """Whether the allowlist has what the request names.

    An adapter is `name:adapter` and nothing else: the bare name does not stand for it. On
    Ollama's paths `x` and `x:latest` are one.
    """
    model = request.model
    if may_call(key, model, offer):
        return True
    shape = None if request.endpoint is None else request.endpoint.shape
    if model is None or shape is None or not shape.tagged:
        return False
    return may_call(key, tag_twin(model if offer is None else offer.name), None)


def is_live(key: KeyRecord, now_us: int) -> bool:
    """Whether the key counts at all."""
    return key.revoked_us is None and key.disabled_us is None and key.expires_us > now_us


def may_call(key: KeyRecord, model: str | None, offer: Offer | None) -> bool:
    """Whether the key's allowlist has the model: by the name that the catalog gives it."""
    if key.models is None:
        return True
    return (model if offer is None else offer.name) in key.models


def has_budget(key: KeyRecord, plan: Plan | None) -> bool:
    """Whether the key's or its account's spending has a ceiling."""
    account = None if plan is None else plan.account_budget_nanousd
    return key.budget_nanousd is not None or account is not None


def limits(key: KeyRecord, endpoint: Endpoint | None, plan: Plan | None) -> tuple[Limit, ...]:
    """The limits that a call of this endpoint takes from, in the order in which they answer.

    Without an endpoint: those of an inference call.
    """
    found: list[Limit] = []
    holds_money = endpoint is None or endpoint.lane is Lane.INFERENCE
    if key.rpm is not None and holds_money:
        found.append(MinuteLimit(key.id, key.rpm))
    elif key.rpm is not None:
        found.append(MinuteLimit(f"{key.id}/listings", key.rpm * LISTING_FACTOR))
    if holds_money:
        ceiling = "hold" if plan is None else plan.ceiling
        found.append(MoneyLimit(key.id, key.created_us, key.budget_nanousd, ceiling))
        if plan is not None and plan.account_budget_nanousd is not None:
            budget = plan.account_budget_nanousd
            found.append(MoneyLimit(key.account_id, key.account_created_us, budget, ceiling))
    return tuple(found)
