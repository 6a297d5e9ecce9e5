"""What an end costs, and on what basis: never free for not knowing, never more than can be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from moneyhelp import hold as made_hold
from moneysupport import ALLOWED, ending, entry

from authz import pricing
from authz.bound import MAX_NANOUSD
from authz.pricing import disbelieved, lost, released
from authz.usage import Ending, Usage, read_ending
from store.records import INT64_MAX, Basis, Charge, Hold, Price, Seen

NOW = 1_795_000_000_000_000
PRICE = Price(input=3_000_000, cached_input=300_000, cache_write=3_750_000, output=15_000_000)
# in these a token of input costs 3 nano-USD, one of output 15


def hold(nanousd: int = 100_000, price: Price = PRICE, **changes: Any) -> Hold:
    plain = {"input_bound": 1200, "output_bound": 400, "tokens_per_byte": "1"}
    given: dict[str, Any] = plain | changes
    return made_hold(nanousd, price=price, **given)


def charge(of: Hold, end: Ending, now_us: int) -> Charge:
    """What it costs, without what was seen: that is the same whatever is made of it."""
    made = pricing.charge(of, end, now_us)
    assert made.seen == Seen(
        end.reached, end.answered, end.complete, end.events, end.content_bytes, end.duration_us
    )
    return msgspec.structs.replace(made, seen=None)


def priced(end: Ending, **of: Any) -> Charge:
    return charge(hold(**of), end, NOW)


def whole(*usage: int, **changes: Any) -> Ending:
    return ending(usage=Usage(*usage), final=True, **changes)


def cut(**changes: Any) -> Ending:
    """A stream that the client left."""
    return ending(**({"stream": True, "complete": False} | changes))


# -- metered


def test_a_whole_usage_is_metered() -> None:
    of = hold()
    assert charge(of, whole(10, 20, 4, 5), NOW) == Charge(
        of.id, Basis.METERED, 200, 10, 20, 4, 5, 10 * 3 + 6 + 15 + 5 * 15, NOW
    )


def test_the_same_prompt_costs_the_same_in_both_dialects() -> None:
    openai = {"input": "1000", "cached": "900", "cached_inside": "1", "output": "7", "final": "1"}
    theirs = {"input": "100", "cached": "900", "cached_inside": "0", "output": "7", "final": "1"}
    ours, others = (priced(read_ending(entry(ALLOWED, seen))) for seen in (openai, theirs))
    assert ours.nanousd == others.nanousd == 100 * 3 + 270 + 105


@pytest.mark.parametrize(
    ("price", "usage", "nanousd"),
    [
        (Price(input=1), (1, 0, 0, 0), 1),
        (Price(input=1), (1_000_000, 0, 0, 0), 1),
        (Price(input=1), (1_000_001, 0, 0, 0), 2),
        (Price(input=400_000, output=600_000), (1, 0, 0, 1), 1),
        (Price(input=400_000, output=600_001), (1, 0, 0, 1), 2),
        (Price(400_000, 400_000, 400_000, 400_000), (1, 1, 1, 1), 2),
        (Price(input=50_000_000_000), (0, 0, 0, 0), 0),
    ],
)
def test_it_is_rounded_up_once_at_its_end(
    price: Price, usage: tuple[int, ...], nanousd: int
) -> None:
    assert priced(whole(*usage), price=price).nanousd == nanousd


def test_no_float_touches_it() -> None:
    of = hold(price=Price(input=10**15 - 1), nanousd=10**15)
    assert charge(of, whole(900_719, 0, 0, 0), NOW).nanousd == 900_719 * 10**9
    assert charge(of, whole(9_007, 0, 0, 0), NOW).nanousd == 9_007 * 10**9


def test_a_metered_charge_above_its_hold_is_booked_in_full() -> None:
    end = priced(whole(0, 0, 0, 1000), nanousd=100)
    assert (end.basis, end.nanousd) == (Basis.METERED, 15_000)


def test_what_no_call_may_cost_is_not_believed() -> None:
    huge = 999_999_999_999
    of = hold(price=Price(input=10**15, output=10**15))
    end = whole(huge, huge, huge, huge)
    assert charge(of, end, NOW) == lost(of, 200, NOW)
    assert disbelieved(end, lost(of, 200, NOW))
    just = whole(MAX_NANOUSD // 10**9, 0, 0, 0)
    assert charge(of, just, NOW).nanousd == MAX_NANOUSD
    assert not disbelieved(just, charge(of, just, NOW))
    dear = hold(price=Price(10**15, 1))
    over = whole(MAX_NANOUSD // 10**9, 1, 0, 0)
    assert charge(dear, over, NOW) == lost(dear, 200, NOW)
    unknown = ending()
    assert not disbelieved(unknown, charge(of, unknown, NOW))
    most = hold(price=Price(per_second=10**15))
    end = charge(most, ending(duration_us=INT64_MAX), NOW)
    assert (end.basis, end.nanousd) == (Basis.HELD, most.nanousd)


@pytest.mark.parametrize(
    ("duration_us", "nanousd"),
    [(0, 7), (1, 8), (1_000_000, 18), (1_500_000, 24), (1_500_001, 24), (1_545_455, 25)],
)
def test_requests_and_seconds(duration_us: int, nanousd: int) -> None:
    price = Price(per_request=7, per_second=11)
    end = priced(ending(duration_us=duration_us), price=price)
    assert (end.basis, end.nanousd) == (Basis.METERED, nanousd)


def test_seconds_are_added_to_tokens() -> None:
    price = Price(input=1_000_000, per_request=7, per_second=11)
    assert priced(whole(10, 0, 0, 0, duration_us=2_000_000), price=price).nanousd == 10 + 7 + 22


TIMED = Price(per_request=7, per_second=11)  # the second that each ending took costs 18


@pytest.mark.parametrize(
    ("end", "free", "timed"),
    [
        (whole(5, 0, 0, 6), Basis.METERED, Basis.METERED),
        (ending(), Basis.HELD, Basis.METERED),
        (ending(encoded=True), Basis.HELD, Basis.METERED),
        (ending(usage=Usage(5, 0, 0, 0)), Basis.HELD, Basis.METERED),
        (cut(events=5, content_bytes=6), Basis.ESTIMATED, Basis.ESTIMATED),
        (cut(events=5, complete=True), Basis.ESTIMATED, Basis.ESTIMATED),
        (cut(usage=Usage(5, 0, 0, 6)), Basis.ESTIMATED, Basis.ESTIMATED),
        (cut(answered=False, status=0), Basis.HELD, Basis.ESTIMATED),
        (cut(answered=False, status=504), Basis.HELD, Basis.ESTIMATED),
        (cut(encoded=True), Basis.HELD, Basis.ESTIMATED),
    ],
)
def test_where_no_token_has_a_price_the_basis_is_what_was_known_all_the_same(
    end: Ending, free: Basis, timed: Basis
) -> None:
    """And the cost is exact, as it is known whatever was generated."""
    found = priced(end, price=Price(), nanousd=0)
    assert (found.basis, found.nanousd) == (free, 0)
    found = priced(end, price=TIMED)
    assert (found.basis, found.nanousd) == (timed, 18)


def test_what_was_seen_of_a_cut_call_of_a_free_model_is_kept() -> None:
    found = priced(cut(usage=Usage(5, 0, 0, 6), content_bytes=9, events=2), price=Price())
    assert (found.basis, found.input_tokens, found.output_tokens) == (Basis.ESTIMATED, 5, 9)


# -- estimated


def test_a_cut_stream_is_charged_for_what_came() -> None:
    end = priced(cut(events=3, content_bytes=10, answered=False))
    assert end.basis is Basis.ESTIMATED
    assert (end.input_tokens, end.output_tokens) == (1200, 10)
    assert end.nanousd == 1200 * 3 + 10 * 15


@pytest.mark.parametrize(
    ("events", "content_bytes", "output", "expected"),
    [(9, 5, 2, 9), (2, 9, 5, 9), (2, 5, 9, 9), (0, 9, 0, 9), (1, 0, 0, 1)],
)
def test_the_largest_of_what_speaks_for_the_output(
    events: int, content_bytes: int, output: int, expected: int
) -> None:
    usage = Usage(10, 0, 0, output)
    end = priced(cut(events=events, content_bytes=content_bytes, usage=usage))
    assert (end.basis, end.input_tokens, end.output_tokens) == (Basis.ESTIMATED, 10, expected)


def test_bytes_are_tokens_by_what_the_model_says() -> None:
    end = priced(cut(events=1, content_bytes=11), tokens_per_byte="0.3")
    assert end.output_tokens == 4


def test_input_that_was_seen_is_what_is_charged_in_every_kind() -> None:
    end = priced(cut(events=1, usage=Usage(1, 20, 4, 0)))
    assert (end.input_tokens, end.cached_input_tokens, end.cache_write_tokens) == (1, 20, 4)
    end = priced(cut(events=1, usage=Usage(0, 20, 0, 0)))
    assert (end.input_tokens, end.cached_input_tokens) == (0, 20)


def test_an_estimate_is_never_above_the_hold() -> None:
    end = priced(cut(events=1, content_bytes=10**9), nanousd=5000)
    assert (end.basis, end.nanousd) == (Basis.ESTIMATED, 5000)


def test_a_stream_that_was_left_before_its_first_word_costs_its_input() -> None:
    """Anthropic's streams say their input first."""
    end = priced(cut(usage=Usage(25, 0, 0, 0), answered=False))
    assert (end.basis, end.nanousd) == (Basis.ESTIMATED, 75)


def test_a_stream_without_any_usage_is_never_free() -> None:
    """llama-cpp-python ignores that usage is asked for."""
    assert priced(cut(events=20, content_bytes=80)).nanousd == 1200 * 3 + 80 * 15


def test_an_output_that_was_never_counted_is_not_nothing() -> None:
    """A whole JSON answer that says what its input was, and not what its output."""
    end = priced(ending(usage=Usage(25, 0, 0, 0)))
    assert (end.basis, end.nanousd) == (Basis.HELD, 100_000)


def test_where_there_can_be_no_output_the_input_is_enough() -> None:
    end = priced(ending(usage=Usage(25, 0, 0, 0)), output_bound=0)
    assert (end.basis, end.nanousd) == (Basis.ESTIMATED, 75)


# -- held and released


HELD: dict[str, Ending] = {
    "an answer of which nothing was read": ending(),
    "a timeout of Envoy's after the server had it": cut(status=504, answered=False),
    "the client left before the headers": ending(status=0, answered=False),
    "the client left a stream before anything came": cut(answered=False),
    "a reset by the server before its answer": ending(status=503, answered=False),
    "an encoded answer": ending(encoded=True),
    "an encoded stream": cut(encoded=True, events=5),
    "a redirect": ending(status=302),
    "a cut stream that was not to show all": cut(hides_output=True, events=2, content_bytes=2),
    "one of which usage was seen": cut(hides_output=True, events=2, usage=Usage(9, 0, 0, 2)),
    "one whose output had not begun": cut(hides_output=True, usage=Usage(9, 0, 0, 0)),
    "one that ended and said no usage": cut(hides_output=True, events=2, complete=True),
}
RELEASED: dict[str, Ending] = {
    "never sent": ending(reached=False, answered=False, status=503),
    "never sent, the client left": ending(reached=False, answered=False, status=0),
    "the server's 400": ending(status=400),
    "the server's 429": ending(status=429),
    "the server's 500": ending(status=500),
    "the server's 503 that had a usage of nothing": ending(status=503, usage=Usage(5, 0, 0, 0)),
}


@pytest.mark.parametrize("case", HELD)
def test_where_nothing_is_known_the_whole_hold_is_charged(case: str) -> None:
    of = hold()
    end = charge(of, HELD[case], NOW)
    assert end == lost(of, HELD[case].status, NOW)
    assert (end.basis, end.nanousd, end.output_tokens) == (Basis.HELD, 100_000, 0)


@pytest.mark.parametrize("case", RELEASED)
def test_what_brought_nothing_costs_nothing(case: str) -> None:
    of = hold(price=Price(input=1, output=1, per_request=10**9, per_second=10**9))
    end = charge(of, RELEASED[case], NOW)
    assert end == released(of, RELEASED[case].status, NOW)
    assert (end.basis, end.nanousd) == (Basis.RELEASED, 0)


def test_a_stream_that_was_not_to_show_all_is_metered_where_its_usage_covers_it() -> None:
    assert priced(whole(9, 0, 0, 4001, stream=True, hides_output=True)).output_tokens == 4001
    left = whole(9, 0, 0, 40, stream=True, hides_output=True, complete=False)
    assert (priced(left).basis, priced(left).output_tokens) == (Basis.METERED, 40)
    assert priced(cut(hides_output=True, reached=False)).basis is Basis.RELEASED
    by_call = Price(per_request=7)
    left = cut(hides_output=True, events=2)
    assert (priced(left, price=by_call).basis, priced(left, price=by_call).nanousd) == (
        Basis.ESTIMATED,
        7,
    )


def test_an_error_after_tokens_is_not_free() -> None:
    assert priced(cut(status=500, events=3)).basis is Basis.ESTIMATED
    assert priced(whole(5, 0, 0, 5, status=500)).basis is Basis.METERED


# -- as Envoy tells it

WHOLE = {"input": "10", "output": "5", "cached_inside": "1", "final": "1", "format": "json"}
BEGUN = {"format": "sse", "events": "2", "content_bytes": "9"}


@pytest.mark.parametrize(
    ("basis", "given"),
    [
        (Basis.METERED, lambda: entry(ALLOWED, WHOLE)),
        (Basis.METERED, lambda: entry(ALLOWED, WHOLE, details="downstream_remote_disconnect")),
        (Basis.ESTIMATED, lambda: entry(ALLOWED, BEGUN, details="downstream_remote_disconnect")),
        (Basis.ESTIMATED, lambda: entry(ALLOWED, BEGUN, details="stream_idle_timeout")),
        (Basis.ESTIMATED, lambda: entry(ALLOWED, BEGUN)),
        (
            Basis.HELD,
            lambda: entry(ALLOWED, status=0, got=False, details="downstream_remote_disconnect"),
        ),
        (Basis.HELD, lambda: entry(ALLOWED, status=504, got=False, details="response_timeout")),
        (Basis.HELD, lambda: entry(ALLOWED, {"format": "other", "encoded": "br"})),
        (
            Basis.HELD,
            lambda: entry(
                ALLOWED,
                status=503,
                got=False,
                details="upstream_reset_before_response_started{connection_termination}",
            ),
        ),
        (
            Basis.RELEASED,
            lambda: entry(
                ALLOWED,
                status=503,
                sent=False,
                details="upstream_reset_before_response_started{connection_failure}",
            ),
        ),
        (
            Basis.RELEASED,
            lambda: entry(ALLOWED, status=0, sent=False, details="downstream_remote_disconnect"),
        ),
        (
            Basis.RELEASED,
            lambda: entry(ALLOWED, status=503, sent=False, details="no_healthy_upstream"),
        ),
        (Basis.RELEASED, lambda: entry(ALLOWED, status=500)),
        (
            Basis.RELEASED,
            lambda: entry(ALLOWED, status=400, details="downstream_remote_disconnect"),
        ),
    ],
)
def test_the_basis_of_every_kind_of_end(basis: Basis, given: Callable[[], Any]) -> None:
    assert priced(read_ending(given())).basis is basis


@pytest.mark.parametrize(
    "nonsense",
    [
        {"input": "-5", "output": "-5", "final": "1"},
        {"input": "9" * 30, "output": "1", "final": "1"},
        {"input": "NaN", "output": "1", "final": "1"},
        {"output": "1", "final": "1"},
        {"final": "1"},
        {"cached": "5", "final": "1"},
    ],
)
def test_nonsense_is_never_cheap(nonsense: dict[str, str]) -> None:
    end = priced(read_ending(entry(ALLOWED, nonsense)))
    assert end.basis is not Basis.METERED
    assert end.nanousd >= 1200 * 3


def test_the_helpers() -> None:
    of = hold()
    assert lost(of, 0, NOW) == Charge(of.id, Basis.HELD, 0, 0, 0, 0, 0, of.nanousd, NOW)
    assert released(of, 503, NOW) == Charge(of.id, Basis.RELEASED, 503, 0, 0, 0, 0, 0, NOW)
