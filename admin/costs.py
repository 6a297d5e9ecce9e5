"""What a call of a model can cost, for whoever chooses a key's models and budget. Pure.

One answer to one prompt, over the whole context of the model: the gate holds no more for it
(authz/bound.py). A client that asks for several answers, or sends several prompts, pays for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from store.catalog import Catalog, Model
from store.records import Price

MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Offered:
    """A model that a key can name. `most_nanousd` leaves out what seconds cost."""

    name: str
    price: Price
    context_tokens: int
    most_nanousd: int


def most_nanousd(model: Model) -> int:
    """The most that one call can cost: every token of the context at the dearest price it can have.

    Rounded up; without the price of its seconds, of which nobody knows how many there will be.
    """
    price = model.price
    dearest = max(price.input, price.cached_input, price.cache_write, price.output)
    return -(-model.context_tokens * dearest // MILLION) + price.per_request


def offered(catalog: Catalog, listed: tuple[str, ...]) -> list[Offered]:
    """The catalog's exact names and those that servers list and that have a price, by name."""
    found: dict[str, Offered] = {}
    for name in (*catalog.exact_names(), *listed):
        offer = catalog.resolve(name)
        if offer is not None and offer.name not in found:
            model = offer.model
            found[offer.name] = Offered(
                offer.name, model.price, model.context_tokens, most_nanousd(model)
            )
    return [found[name] for name in sorted(found, key=str.lower)]


def dearest(catalog: Catalog, names: frozenset[str] | None) -> Offered | None:
    """Of these names (None: of all that the catalog has) the one with the dearest call."""
    known = offered(catalog, () if names is None else tuple(sorted(names)))
    mine = [each for each in known if names is None or each.name in names]
    return max(mine, key=lambda each: each.most_nanousd, default=None)
