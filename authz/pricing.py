"""From a hold and how its request ended to what it costs. Pure; integers; rounded up once.

metered    the whole answer's usage was seen: its tokens; or, where no token has a price, its end
estimated  a cut stream, or one without usage: what was seen of it, never above the hold
held       the server was reached and nothing is known, or nothing sensible, or the stream was not
           to show all of what was generated: the whole hold
released   never reached the server, or it answered an error before any token
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from authz.bound import MAX_NANOUSD, tokens
from authz.usage import Ending, Usage
from store.records import Basis, Charge, Hold, Seen

_NOTHING: Final = Usage(0, 0, 0, 0)


def charge(hold: Hold, ending: Ending, now_us: int) -> Charge:
    """What a request that ended costs: MAX_NANOUSD at most."""
    seen = ending.usage or _NOTHING
    generated = ending.events > 0 or seen.output > 0
    if not ending.reached or (ending.failed and not generated):
        return released(hold, ending.status, now_us, _seen(ending))
    usage, basis = seen, Basis.METERED
    if not ending.final:
        basis = Basis.ESTIMATED
        if not _unseen(ending) and (generated or _all_counted(hold, ending)):
            usage = _estimate(hold, ending)
        elif not _without_tokens(hold):
            return lost(hold, ending.status, now_us, _seen(ending))
        elif ending.complete:
            basis = Basis.METERED
    cost = _cost(hold, ending, usage)
    if basis is Basis.ESTIMATED:
        cost = min(cost, hold.nanousd)
    if cost > MAX_NANOUSD:  # of a server that is not in its senses
        return lost(hold, ending.status, now_us, _seen(ending))
    return _charge(hold, ending, basis, usage, cost, now_us)


def disbelieved(ending: Ending, charged: Charge) -> bool:
    """Whether its server reported what it used, and that cannot be."""
    return ending.final and charged.basis is Basis.HELD


def lost(hold: Hold, status: int, now_us: int, seen: Seen | None = None) -> Charge:
    """The whole hold, for a request of which nothing is known but that it may have been served."""
    return Charge(hold.id, Basis.HELD, status, 0, 0, 0, 0, hold.nanousd, now_us, seen)


def released(hold: Hold, status: int, now_us: int, seen: Seen | None = None) -> Charge:
    """Nothing, for a request that never reached the server."""
    return Charge(hold.id, Basis.RELEASED, status, 0, 0, 0, 0, 0, now_us, seen)


def _unseen(ending: Ending) -> bool:
    """Whether there may be more output than what was counted as it came."""
    return ending.encoded or (ending.hides_output and ending.stream)


def _without_tokens(hold: Hold) -> bool:
    """Whether the price is known whatever was generated: it has one, and not for tokens."""
    price = hold.price
    by_tokens = price.input or price.cached_input or price.cache_write or price.output
    return not by_tokens and bool(price.per_request or price.per_second)


def _all_counted(hold: Hold, ending: Ending) -> bool:
    """Whether an output of nothing is known to be that: usage began, and no output came, or can."""
    return ending.usage is not None and (ending.stream or not hold.output_bound)


def _estimate(hold: Hold, ending: Ending) -> Usage:
    """Input as seen, else what was held for it; the largest of what speaks for the output."""
    seen = ending.usage
    by_bytes = tokens(ending.content_bytes, Decimal(hold.tokens_per_byte))
    output = max(ending.events, by_bytes, seen.output if seen else 0)
    if seen is None or not (seen.input or seen.cached_input or seen.cache_write):
        return Usage(hold.input_bound, 0, 0, output)
    return Usage(seen.input, seen.cached_input, seen.cache_write, output)


def _cost(hold: Hold, ending: Ending, usage: Usage) -> int:
    return hold.price.cost_nanousd(
        usage.input, usage.cached_input, usage.cache_write, usage.output, ending.duration_us
    )


def _charge(  # noqa: PLR0917  the parts of a charge
    hold: Hold, ending: Ending, basis: Basis, usage: Usage, nanousd: int, now_us: int
) -> Charge:
    return Charge(
        hold.id,
        basis,
        ending.status,
        usage.input,
        usage.cached_input,
        usage.cache_write,
        usage.output,
        nanousd,
        now_us,
        _seen(ending),
    )


def _seen(ending: Ending) -> Seen:
    return Seen(
        ending.reached,
        ending.answered,
        ending.complete,
        ending.events,
        ending.content_bytes,
        ending.duration_us,
        ending.first_us,
    )
