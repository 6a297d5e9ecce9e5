"""The README's figures of what calls hold and cost, computed again."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest
from moneyhelp import hold as made_hold
from moneysupport import ending, model

from authz.bound import bound
from authz.model import Ask, Slot
from authz.pricing import charge
from authz.usage import Usage
from store.records import NANOUSD, Price

README: Final = (Path(__file__).parents[2] / "README.md").read_text()
PRICE: Final = Price(input=3 * NANOUSD, output=15 * NANOUSD)
BUDGET: Final = 5 * NANOUSD
AGENT: Final = "coding agent, 400 KB and 32,000 tokens of output"
CALLS: Final = {
    "100 KB prompt, output bounded by `max_output_tokens: 8192`": (100_000, None),
    "100 KB prompt, `max_tokens: 1024`": (100_000, 1024),
    AGENT: (400_000, 32_000),
    "the same with 8,192 tokens of output": (400_000, 8192),
}


def held(call: str, tokens_per_byte: str = "1") -> int:
    """What a call holds, in nano-USD."""
    size, output = CALLS[call]
    row = model(
        PRICE,
        context_tokens=200_000,
        max_output_tokens=8192,
        tokens_per_byte=Decimal(tokens_per_byte),
    )
    slot = Slot(1, 0, '"max_tokens":', ",") if output is None else None
    return bound(Ask(output=output, slot=slot), row, size, has_output=True, seconds=1).nanousd


def dollars(nanousd: int) -> str:
    return f"${nanousd / NANOUSD:.2f}"


def test_the_prices_and_the_context_are_those_of_the_table() -> None:
    assert "At 3/15 USD per million tokens and a context of\n200,000, one call holds" in README


@pytest.mark.parametrize("call", CALLS)
def test_what_calls_hold(call: str) -> None:
    cells = [
        cell
        for nanousd in (held(call), held(call, "0.3"))
        for cell in (dollars(nanousd), str(BUDGET // nanousd))
    ]
    assert f"| {call} | {' | '.join(cells)} |" in README


def test_what_one_of_them_costs() -> None:
    of = made_hold(held(next(iter(CALLS))), price=PRICE)
    end = charge(of, ending(usage=Usage(25_000, 0, 0, 1_000), final=True), 0)
    assert f"25,000 tokens\nand that answered with 1,000 costs {dollars(end.nanousd)}." in README


def test_what_a_budget_can_be_overrun_by() -> None:
    assert (
        f"ten such agents that start on its last cent can\n  spend {dollars(10 * held(AGENT))}."
        in README
    )
