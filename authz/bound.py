"""The most that a request can cost. Pure; integers only; every number errs upwards.

input   ≤ the body's bytes, as many as a tokenizer makes of them, times tokens_per_byte +
          overhead_tokens, or the context of every prompt where input does not stand in the body;
          never more than that context
output  ≤ prompts times repeats times the bound of one answer; its context where it has none
input + output ≤ context, for each answer; but some servers go on behind their context: there the
          bound alone counts, and is put in where neither client nor catalog has one

`per_request` is a price for each request, however many answers or images it asks for.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Final

import msgspec

from authz.model import Ask, Edit
from authz.normal import FACTOR
from store.catalog import Model
from store.records import NANOUSD

MILLION: Final = 1_000_000

MARGIN_SECONDS: Final = 5
"""What a call may take beyond the limit of its running time. Seconds are counted from when the
whole request is there; Envoy's clock starts after the Check, which has 2 s (`check_seconds`), and
the end comes as much after the limit as Envoy is late at that moment."""


class Bound(msgspec.Struct, frozen=True):
    """What is held for a request, and the edits that make the hold true.

    `input_tokens` and `output_tokens` are for the whole request, all prompts and repeats. Each is
    a bound of its own: that they share the context only `nanousd` takes into account.
    """

    nanousd: int
    input_tokens: int
    output_tokens: int
    edits: tuple[Edit, ...]


MAX_NANOUSD: Final = 1_000_000 * NANOUSD
"""What no call may cost, neither by its bound nor by what its server reports: far from what anybody
means. A window's sum leaves 64 bits only after 9,000 of them, and the sums in SQL stop there."""

FREE: Final = Bound(0, 0, 0, ())
"""For what holds no money."""


def bound(ask: Ask, model: Model, body_bytes: int, *, has_output: bool, seconds: int) -> Bound:
    """The bound of one request for a model of the catalog.

    `seconds` is the limit of its running time; `per_second` is held for that and a margin.
    """
    context, price = model.context_tokens, model.price
    most = model.max_output_tokens
    endless = ask.endless or model.endless
    if endless and most is None:
        most = context  # it would not end there by itself
    edits = [edit for edit in (ask.usage_edit, ask.bound_edit) if edit is not None]
    one = 0
    if has_output:
        one = ask.output or context
        if ask.output is None and ask.slot is not None and most is not None:
            one = max(most, ask.also)
            edits.append(ask.slot.edit(most))
        one = one if endless else min(one, context)
    everything = ask.prompts * context
    tokens_in = everything
    if ask.text_only:
        tokens_in = min(everything, _text_tokens(ask, model, body_bytes))
    answers = ask.prompts * ask.repeats
    dearest = max(price.input, price.cached_input, price.cache_write)
    cost = tokens_in * dearest + answers * one * price.output
    if ask.prompts == 1 and not endless:
        cost = _within_context(tokens_in, one, context, dearest, price.output * answers)
    nanousd = (
        -(-cost // MILLION) + price.per_request + price.per_second * (seconds + MARGIN_SECONDS)
    )
    return Bound(nanousd, tokens_in, answers * one, _in_order(edits))


def _text_tokens(ask: Ask, model: Model, body_bytes: int) -> int:
    """The most tokens of input that is text.

    What stands once and is read with each of many documents counts as often, and so does the
    template around the two.
    """
    size = body_bytes + ask.growth
    if ask.again_bytes is None:
        return tokens(size, model.tokens_per_byte) + model.overhead_tokens
    size += ask.again_bytes * (FACTOR if ask.growth else 1) * (ask.prompts - 1)
    return tokens(size, model.tokens_per_byte) + model.overhead_tokens * ask.prompts


def tokens(size: int, tokens_per_byte: Decimal) -> int:
    """Bytes as tokens, rounded up."""
    return int((size * tokens_per_byte).to_integral_value(ROUND_CEILING))


def _in_order(edits: list[Edit]) -> tuple[Edit, ...]:
    """Ascending, and what goes in at one place as one edit."""
    joined: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: edit.offset):
        if joined and joined[-1].offset == edit.offset:
            before = joined.pop()
            removed = before.removed + edit.removed
            joined.append(Edit(edit.offset, removed, before.text + edit.text))
        else:
            joined.append(edit)
    return tuple(joined)


def _within_context(
    tokens_in: int, tokens_out: int, context: int, price_in: int, price_out: int
) -> int:
    """What the dearest way costs in which one prompt and its answer share the context."""
    if price_out >= price_in:
        return min(tokens_in, context - tokens_out) * price_in + tokens_out * price_out
    return tokens_in * price_in + min(tokens_out, context - tokens_in) * price_out
