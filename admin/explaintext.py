"""One call in words and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from admin.output import pairs
from store.records import MINUTE_US, SECOND_US, Basis, Charge, Price
from store.text import rfc3339, usd

if TYPE_CHECKING:
    from admin.explain import Call, Span

_MILLION: Final = 1_000_000
_ERRORS: Final = 400


def call_json(call: Call) -> dict[str, object]:
    """An admitted call: `found` is row (it is final), ended (not booked yet) or open."""
    charge = call.charge
    return {
        "found": "row" if call.booked else "open" if charge is None else "ended",
        "hold_id": call.hold_id,
        "request_id": call.request_id,
        "user": call.user,
        "team": call.team,
        "key_id": call.key_id,
        "alias": call.alias,
        "hint": call.hint,
        "model": call.model,
        "endpoint": call.endpoint,
        "hold_nanousd": call.hold_nanousd,
        "price_nanousd": None
        if call.price is None
        else {name: getattr(call.price, name) for name in Price.__struct_fields__},
        "tokens_per_byte": call.tokens_per_byte,
        "input_bound": call.input_bound,
        "output_bound": call.output_bound,
        "windows": [_span_json(span) for span in call.windows],
        "admitted_at": rfc3339(call.admitted_us),
        "charge": None if charge is None else _charge_json(charge),
        "why": _why(call),
    }


def _span_json(span: Span) -> dict[str, object]:
    return {
        "of": span.of,
        "scope": span.window.scope,
        "number": span.window.number,
        "from": None if span.from_us is None else rfc3339(span.from_us),
        "until": None if span.until_us is None else rfc3339(span.until_us),
    }


def _charge_json(charge: Charge) -> dict[str, object]:
    seen = charge.seen
    return {
        "basis": charge.basis.value,
        "status": charge.status,
        "input_tokens": charge.input_tokens,
        "cached_input_tokens": charge.cached_input_tokens,
        "cache_write_tokens": charge.cache_write_tokens,
        "output_tokens": charge.output_tokens,
        "charge_nanousd": charge.nanousd,
        "settled_at": rfc3339(charge.settled_us),
        "seen": None
        if seen is None
        else {name: getattr(seen, name) for name in seen.__struct_fields__},
    }


def call_text(call: Call) -> str:
    """For the person who asks."""
    charge = call.charge
    head = f"Call {call.request_id} was admitted and is still open."
    if charge is not None:
        booked = "" if call.booked else " It is not booked yet."
        head = f"Call {call.request_id} was admitted and cost {usd(charge.nanousd)}.{booked}"
    team = f", team {call.team}" if call.team else ""
    hint = call.hint or "which is not there any more"
    rows = [
        ("who", f"{call.user}{team}; key `{call.alias}` ({hint})"),
        ("what", f"{call.endpoint} of {call.model}"),
        ("admitted", rfc3339(call.admitted_us)),
        ("held", _held(call)),
    ]
    if charge is not None:
        rows += [
            ("ended", _ended(call, charge)),
            ("metered", _metered(charge)),
            ("charged", _charged(call, charge)),
        ]
    rows.append(("why", _why(call)))
    rows += [("counts in", _span_text(span)) for span in call.windows]
    rows.append(("hold id", call.hold_id))
    return f"{head}\n{pairs(rows)}"


def refusal_text(asked: str, refusal: Mapping[str, Any]) -> str:
    """A refused call: it took nothing."""
    who = "nobody that is known: no key of this gate came with it"
    if refusal["key_id"] is not None:
        team = f", team {refusal['team']}" if refusal["team"] else ""
        who = f"{refusal['user']}{team}; key `{refusal['alias']}` ({refusal['hint']})"
    what = f"{refusal['method']} {refusal['path'] or '(not kept)'}"
    if refusal["model"] is not None:
        what += f", model {refusal['model']!r}"
    rows = [
        ("who", who),
        ("what", what),
        ("when", refusal["at"]),
        ("answered", f"{refusal['status']} {refusal['reason']}"),
        ("why", refusal["message"] or refusal["reason"]),
    ]
    return f"Call {asked} was refused, and cost nothing.\n{pairs(rows)}"


def _sum(price: Price, parts: list[tuple[int, int, str]], rest: list[str]) -> str:
    """`7 input x $0.50 + 2 output x $1.50 per million`, and what is not for tokens."""
    priced = [part for part in parts if part[0] and part[1]]
    counted = [f"{number:,} {what} x {usd(each)}" for number, each, what in priced]
    texts = [f"({' + '.join(counted)}) per million tokens"] if counted else []
    if price.per_request:
        texts.append(f"{usd(price.per_request)} per request")
    return " + ".join([*texts, *rest]) or "nothing that has a price"


def _held(call: Call) -> str:
    price, hold = call.price, call.hold_nanousd
    if price is None or call.input_bound is None or call.output_bound is None:
        return f"{usd(hold)}; its price was not kept then"
    dearest = max(price.input, price.cached_input, price.cache_write)
    parts = [(call.input_bound, dearest, "input"), (call.output_bound, price.output, "output")]
    plain = price.cost_nanousd(0, 0, 0, 0, 0) + -(
        -sum(number * each for number, each, _ in parts) // _MILLION
    )
    rest, note = [], ""
    if hold > plain and price.per_second:
        seconds = (hold - plain) // price.per_second
        rest.append(f"{seconds:,} s x {usd(price.per_second)}")
    elif hold < plain:
        note = "; less, as input and output share the model's context"
    return f"{usd(hold)}, the most it could cost: {_sum(price, parts, rest)}{note}"


def _ended(call: Call, charge: Charge) -> str:
    took = charge.settled_us - call.admitted_us
    after = f"{took / SECOND_US:,.1f} s" if took < MINUTE_US else f"{took // SECOND_US:,} s"
    status = f"; the client got {charge.status}" if charge.status else ""
    return f"{rfc3339(charge.settled_us)}, {after} later{status}"


def _metered(charge: Charge) -> str:
    counted = [
        f"{number:,} {what}"
        for number, what in (
            (charge.input_tokens, "input"),
            (charge.cached_input_tokens, "cached input"),
            (charge.cache_write_tokens, "cache write"),
            (charge.output_tokens, "output"),
        )
        if number
    ]
    return f"{', '.join(counted)} tokens" if counted else "no tokens"


def _charged(call: Call, charge: Charge) -> str:
    amount = usd(charge.nanousd)
    if charge.basis is Basis.HELD:
        return f"{amount}, the whole hold"
    if charge.basis is Basis.RELEASED:
        return f"{amount}; the whole hold was given back"
    price = call.price
    if price is None:
        return f"{amount}; its price was not kept then"
    duration_us = 0 if charge.seen is None else charge.seen.duration_us
    parts = [
        (charge.input_tokens, price.input, "input"),
        (charge.cached_input_tokens, price.cached_input, "cached input"),
        (charge.cache_write_tokens, price.cache_write, "cache write"),
        (charge.output_tokens, price.output, "output"),
    ]
    rest = []
    if price.per_second:
        rest.append(f"{duration_us / SECOND_US:.6f} s x {usd(price.per_second)}")
    cost = _cost(price, charge, duration_us)
    text = f"{_sum(price, parts, rest)} = {usd(cost)}"
    if cost == charge.nanousd:
        return text
    if charge.basis is Basis.ESTIMATED and charge.nanousd == call.hold_nanousd:
        return f"{text}; an estimate is never above the hold: {amount}"
    return f"{text}, and yet {amount} was charged: `tensorgate ledger verify` looks why"


def _cost(price: Price, charge: Charge, duration_us: int) -> int:
    return price.cost_nanousd(
        charge.input_tokens,
        charge.cached_input_tokens,
        charge.cache_write_tokens,
        charge.output_tokens,
        duration_us,
    )


def _why(call: Call) -> str:
    """The basis in a sentence."""
    charge = call.charge
    if charge is None:
        return "open: it still runs, or its end was not seen yet; what it leaves is given back"
    return f"{charge.basis.value}: {_BECAUSE[charge.basis](charge)}"


def _because_metered(charge: Charge) -> str:
    if charge.seen is None or charge.input_tokens or charge.output_tokens:
        return "the whole answer's usage was seen"
    return "all that its price depends on was seen"


def _because_estimated(charge: Charge) -> str:
    seen = charge.seen
    if seen is None:
        return "of a cut answer, what was seen of it"
    cut = "the answer came without its usage" if seen.complete else "the answer was cut"
    return f"{cut}; {seen.content_bytes:,} bytes of content in {seen.events:,} events were seen"


def _because_held(charge: Charge) -> str:
    if charge.seen is None:
        return "no end of it was seen for a whole deadline, and it may have been served"
    if not charge.seen.answered:
        return "a model server got it, and the call ended before its answer was seen"
    return "a model server got it, and what it answered does not say what it used"


def _because_released(charge: Charge) -> str:
    seen = charge.seen
    if seen is None:
        return "it was given up before it was passed on"
    if not seen.reached:
        return "it never reached a model server"
    if seen.answered and charge.status >= _ERRORS:
        return f"the model server answered {charge.status} before any token"
    return "no token came of it"


_BECAUSE: Final = {
    Basis.METERED: _because_metered,
    Basis.ESTIMATED: _because_estimated,
    Basis.HELD: _because_held,
    Basis.RELEASED: _because_released,
}


def _span_text(span: Span) -> str:
    name = f"window {span.window.number} of the {span.of}"
    if span.from_us is None or span.until_us is None:
        return f"{name}, which is not there any more"
    return f"{name}, {rfc3339(span.from_us)} to {rfc3339(span.until_us)}"
