"""What a refusal says to the person who reads it in a terminal. Pure.

At most two sentences, with what to do. No sentence holds a key, only its hint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from authz.endpoints import BUILT_IN
from authz.model import Dialect, Fault, Place, Reason, Request
from store.counters.model import MinuteLimit, MoneyStanding, Refused
from store.keyformat import BODY_CHARS, CHECKSUM_CHARS, DEFAULT_PREFIX
from store.records import SECOND_US, KeyRecord
from store.text import usd, usd_rounded, utc

_SHOWN_MODELS: Final = 8
_SHOWN_CALL_CHARS: Final = 120


class Occasion(msgspec.Struct, frozen=True):
    """All that a sentence may speak of.

    `hold_nanousd` is the most that the call could cost, `bound` the member that bounds its output
    and the bound; `dashboard` is its address, if there is one.
    """

    fault: Fault
    request: Request
    key: KeyRecord | None = None
    refused: Refused | None = None
    hold_nanousd: int = 0
    bound: tuple[str, int] | None = None
    dashboard: str | None = None
    prefix: str = DEFAULT_PREFIX


def words(occasion: Occasion) -> str:
    """The sentence for an occasion."""
    return _WORDS[occasion.fault.reason](occasion)


def seconds(us: int) -> str:
    """`3.2 s`, rounded up so that waiting as long is long enough."""
    tenths = -(-us // (SECOND_US // 10))
    return f"{tenths // 10}.{tenths % 10} s"


def _new_key(o: Occasion) -> str:
    if o.dashboard is None:
        return "Ask whoever runs this gate for a new one."
    return f"Create a new one at {o.dashboard}/keys."


def _dated(o: Occasion, verb: str, at_us: int | None) -> str:
    hint, when = (o.key.hint, utc(at_us or 0)) if o.key else ("", "")
    return f"This key ({hint}) {verb} on {when}. {_new_key(o)}"


def _revoked(o: Occasion) -> str:
    if o.key is not None and o.key.revoked_us is None and o.key.disabled_us is not None:
        return (
            f"The account of this key ({o.key.hint}) was disabled on {utc(o.key.disabled_us)}. "
            "Ask whoever runs this gate."
        )
    return _dated(o, "was revoked", o.key.revoked_us if o.key else None)


def _callable_models(key: KeyRecord | None) -> str:
    names = sorted(key.models or ()) if key else []
    if not names:
        return "none"
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN_MODELS])
    more = len(names) - _SHOWN_MODELS
    return f"{shown} and {more} more" if more > 0 else shown


def _model_not_allowed(o: Occasion) -> str:
    return (
        f"This key may not call `{o.request.model}`; it may call {_callable_models(o.key)}. "
        "Change the model in your client, or use a key that includes it."
    )


def _model_required(o: Occasion) -> str:
    return (
        f"The body does not name a model. Set `{o.fault.param or 'model'}` to the name of one, "
        "as a string; `GET /v1/models` lists those that this key may call."
    )


def _endpoint(o: Occasion) -> str:
    called = f"{o.request.method} {o.request.path}"
    if len(called) > _SHOWN_CALL_CHARS:
        called = called[:_SHOWN_CALL_CHARS] + "…"
    shown = "".join(c if c.isprintable() else "?" for c in called)
    return f"Keys cannot call `{shown}` here. {_right_path(o.request)}"


def _right_path(request: Request) -> str:
    """What to do about a path: mostly, a base URL has one `/v1` too many or too few."""
    if request.dialect is Dialect.GRPC:
        return (
            "Over gRPC they can call `ModelInfer` of the open inference protocol, and ask for "
            "health and metadata; nothing that streams."
        )
    if BUILT_IN.find(request.method, f"/v1{request.path}"):
        return "Let the base URL in your client end in `/v1`."
    if BUILT_IN.find(request.method, request.path.removeprefix("/v1")):
        return "Let the base URL in your client end before `/v1`."
    return (
        "Check the method and the path: they are compared letter by letter, "
        "and a slash at the end counts."
    )


def _malformed(o: Occasion) -> str:
    at = "" if o.fault.offset is None else f" (byte {o.fault.offset})"
    if o.request.dialect is Dialect.GRPC:
        return (
            f"The body is not one strict message of this call: {o.fault.detail}{at}. "
            "Send it as a client of the open inference protocol writes it."
        )
    endpoint = o.request.endpoint
    if endpoint is not None and endpoint.place is Place.FORM:
        return (
            f"The body is not one strict multipart form: {o.fault.detail}{at}. "
            "Send it as a browser or curl writes it."
        )
    return f"The body is not one strict JSON object: {o.fault.detail}{at}. Send valid JSON."


def _ambiguous_body(o: Occasion) -> str:
    return (
        f"The body can be read in more than one way: {o.fault.detail}. "
        "Name each member once, spelled as the API does."
    )


def _rate_limit(o: Occasion) -> str:
    if o.refused is None or not isinstance(o.refused.limit, MinuteLimit):
        return "This key's limit of requests a minute is reached. Try again in a minute."
    count = o.refused.limit.max_requests
    noun = "request" if count == 1 else "requests"
    return (
        f"{count} {noun} in the last 60 seconds is this key's limit. "
        f"The next one passes in {seconds(o.refused.retry_us)}."
    )


def _money(o: Occasion) -> MoneyStanding | None:
    """How the money limit stands that is in the way."""
    if o.refused is None:
        return None
    money = (each for each in o.refused.standings if isinstance(each, MoneyStanding))
    return next((each for each in money if each.limit == o.refused.limit), None)


def _budget(o: Occasion, standing: MoneyStanding) -> str:
    whose = "" if _is_keys_own(o, standing) else "this account's "
    return f"{whose}{usd(standing.limit.budget_nanousd or 0)}"


def _is_keys_own(o: Occasion, standing: MoneyStanding) -> bool:
    return o.key is not None and standing.limit.scope == o.key.id


def _less(o: Occasion) -> str:
    return "Send a shorter prompt" if o.bound is None else f"Lower `{o.bound[0]}` ({o.bound[1]})"


def _budget_exceeded(o: Occasion) -> str:
    standing = _money(o)
    if standing is None:
        return "The budget of this key or its account is spent. Ask for a larger one."
    left = max(0, (standing.limit.budget_nanousd or 0) - standing.spent_nanousd)
    more = "ask whoever runs this gate for a larger budget"
    if o.dashboard is not None and _is_keys_own(o, standing):
        more = f"raise the budget at {o.dashboard}/keys"
    return (
        f"This call could cost up to {usd_rounded(o.hold_nanousd, up=True)}, and "
        f"{usd_rounded(left, up=False)} of {_budget(o, standing)} is left until "
        f"{utc(standing.resets_us)}. {_less(o)} or {more}."
    )


def _budget_held(o: Occasion) -> str:
    standing = _money(o)
    if standing is None:
        return "Calls in flight hold what is left of the budget. Try again in 2 s."
    return (
        f"This call could cost up to {usd_rounded(o.hold_nanousd, up=True)}, and calls in flight "
        f"hold {usd_rounded(standing.held_nanousd, up=True)} of {_budget(o, standing)}. "
        "Try again when one of them has ended."
    )


_WORDS: Final[Mapping[Reason, Callable[[Occasion], str]]] = {
    Reason.MISSING_API_KEY: lambda o: (
        f"No API key was sent. Send it as the header `Authorization: Bearer {o.prefix}…`."
    ),
    Reason.INVALID_API_KEY: lambda o: (
        "This API key is not valid. Check that it was copied whole: "
        f"it starts with `{o.prefix}` and has {len(o.prefix) + BODY_CHARS + CHECKSUM_CHARS} "
        "characters."
    ),
    Reason.API_KEY_EXPIRED: lambda o: _dated(o, "expired", o.key.expires_us if o.key else None),
    Reason.API_KEY_REVOKED: _revoked,
    Reason.AMBIGUOUS_CREDENTIALS: lambda _: (
        "The request carries more than one API key. Send one key, in one header, once."
    ),
    Reason.KEY_IN_URL: lambda o: (
        "A key stands in the URL, and URLs end up in logs. Send it as the header "
        f"`Authorization: Bearer {o.prefix}…`, and revoke the one that was in the URL."
    ),
    Reason.MALFORMED_BODY: _malformed,
    Reason.AMBIGUOUS_BODY: _ambiguous_body,
    Reason.MODEL_REQUIRED: _model_required,
    Reason.INVALID_PARAMETER: lambda o: f"`{o.fault.param}` is not valid: {o.fault.detail}.",
    Reason.MODEL_NOT_ALLOWED: _model_not_allowed,
    Reason.ENDPOINT_NOT_ALLOWED: _endpoint,
    Reason.MODEL_NOT_PRICED: lambda o: (
        f"`{o.request.model}` has no price here, and this key has a budget. "
        "Ask whoever runs this gate to add the model to the catalog."
    ),
    Reason.UNSUPPORTED_ENCODING: lambda _: (
        "The body is compressed, and what cannot be read is not passed on. Send it uncompressed."
    ),
    Reason.RATE_LIMIT_EXCEEDED: _rate_limit,
    Reason.BUDGET_HELD: _budget_held,
    Reason.BUDGET_EXCEEDED: _budget_exceeded,
    Reason.PARAMETER_NOT_ALLOWED: lambda o: (
        f"`{o.fault.param}` is not allowed here: "
        + (
            o.fault.detail
            or "what the server keeps has no bound, and other keys could read it. "
            "Send the whole conversation instead"
        )
        + "."
    ),
    Reason.UNBOUNDED_NOT_ALLOWED: lambda o: (
        f"`{o.fault.param}` lets the work outlive the request, and this key has a budget. "
        "Leave it out."
    ),
    Reason.AUTHORIZATION_UNAVAILABLE: lambda _: (
        "The gate cannot check keys right now, so nothing was passed on. Try again in a second."
    ),
    Reason.NOT_FOUND: lambda _: (
        "This key can call no model of that name. `GET /v1/models` lists those that it may call."
    ),
}
