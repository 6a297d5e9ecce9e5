"""Prices of public model names, from the data that the optional package genai-prices carries.

The package is pinned and its data lies in its wheel: nothing here starts its updates, and nothing
else in it reaches for a network. A name counts only as it stands in the data, or with a date that
the data knows behind it: the package's freer matching ("contains `claude`") would let a client make
up a name that has the price it likes.

A price is the dearest that the data has for its kind of tokens: of the tiers by length, the hours
of the day, what a request may choose, text, audio and images, from today on. What is priced by
hours, pages or characters is not priced here; searches of a provider's own tools are not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from store.records import NANOUSD, Price

if TYPE_CHECKING:  # an extra: who does not ask for it need not have it, nor wait for its import
    from genai_prices import types

PACKAGE: Final = "genai-prices"
EXTRA: Final = "tensorgate[prices]"

_TOOLS: Final = frozenset(
    {
        "web_searches_kcount",
        "social_searches_kcount",
        "storage_searches_kcount",
        "code_executions_kcount",
    }
)
_CALLS: Final = "requests_kcount"  # USD per thousand calls
_DATED: Final = re.compile(r"(.+)[-@](?:\d{8}|\d{4}-\d{2}-\d{2})", re.DOTALL)


class NotInstalledError(Exception):
    """The extra is not there."""


class UnknownProviderError(Exception):
    """The data has no such provider; `number` is its place in the list, `known` are all."""

    def __init__(self, number: int, known: tuple[str, ...]) -> None:
        super().__init__(number)
        self.number = number
        self.known = known


@dataclass(frozen=True, slots=True)
class PublicRow:
    """What the data says of one name, `origin` being who says it, for people."""

    provider: str
    origin: str
    price: Price
    context_tokens: int


@dataclass(frozen=True, slots=True)
class _Data:
    """The package's own, as it is read on one day (UTC)."""

    version: str
    providers: Mapping[str, types.Provider]
    today: date

    def row(self, provider: str, name: str) -> PublicRow | None:
        """What a provider's data says of a name; None for what is not priced by it."""
        model = self.providers[provider].find_model(name)
        priced = None if model is None or not model.context_window else _price(model, self.today)
        if model is None or not model.context_window or priced is None:
            return None
        origin = f"{PACKAGE} {self.version}, {provider}"
        return PublicRow(provider, origin, priced, model.context_window)


@dataclass(frozen=True, slots=True)
class PublicPrices:
    """Names of some providers, in lower case. Immutable."""

    version: str
    providers: tuple[str, ...]  # in the order in which they are asked
    names: Mapping[str, PublicRow] = field(repr=False)
    _data: _Data = field(repr=False, compare=False)

    def find(self, name: str) -> PublicRow | None:
        """The row of a name in lower case; with a date behind it where the data has that."""
        row = self.names.get(name)
        if row is not None:
            return row
        dated = _DATED.fullmatch(name)
        base = None if dated is None else self.names.get(dated[1])
        return None if base is None else self._data.row(base.provider, name)


def load(providers: tuple[str, ...] | None) -> PublicPrices:
    """The names of these providers, the first that has one counting, at today's prices.

    None is all providers whose names tell whose they are: then no reseller's are among them.
    Raises NotInstalledError and UnknownProviderError.
    """
    return _load(providers, datetime.now(UTC).date())


@lru_cache(maxsize=8)
def _load(providers: tuple[str, ...] | None, today: date) -> PublicPrices:
    try:
        known: list[types.Provider] = import_module("genai_prices.data").providers
        version: str = import_module("genai_prices").__version__
    except ImportError:
        raise NotInstalledError from None
    data = _Data(version, {provider.id: provider for provider in known}, today)
    for number, each in enumerate(providers or ()):
        if each not in data.providers:
            raise UnknownProviderError(number, tuple(data.providers))
    names: dict[str, PublicRow | None] = {}
    for each in providers or data.providers:
        provider = data.providers[each]
        for name in _names(provider):
            if name not in names and (providers or _is_its_own(provider, name)):
                names[name] = data.row(each, name)
    priced = {name: row for name, row in names.items() if row is not None}
    return PublicPrices(
        version,
        tuple(dict.fromkeys(row.provider for row in priced.values())),
        MappingProxyType(priced),
        data,
    )


def _is_its_own(provider: types.Provider, name: str) -> bool:
    return provider.model_match is not None and provider.model_match.is_match(name)


def _names(provider: types.Provider) -> Iterator[str]:
    """Every name that is written out in a provider's data."""
    for model in provider.models:
        yield model.id.lower()
        yield from (text.lower() for text in _texts(model.match))


def _texts(clause: types.MatchLogic) -> Iterator[str]:
    for attribute in ("equals", "starts_with", "ends_with", "contains"):
        text = getattr(clause, attribute, None)
        if text:
            yield text
    for part in getattr(clause, "or_", ()):
        yield from _texts(part)


def _price(model: types.ModelInfo, today: date) -> Price | None:
    """The dearest of each kind; None for what is not counted in tokens and calls."""
    kinds: dict[str, Decimal] = {}
    for prices in _sets(model, today):
        for key, value in vars(prices).items():
            if value is None or key in _TOOLS:
                continue
            kind = _kind(key)
            if kind is None:
                return None
            kinds[kind] = max(kinds.get(kind, Decimal(0)), _dearest(value))
    if "input" not in kinds and "output" not in kinds:
        return None
    usd = {"input": Decimal(0), "output": Decimal(0), "per_request": Decimal(0)} | kinds
    return Price(
        input=_nanousd(usd["input"]),
        cached_input=_nanousd(usd.get("cached_input", usd["input"])),
        cache_write=_nanousd(usd.get("cache_write", usd["input"])),
        output=_nanousd(usd["output"]),
        per_request=_nanousd(usd["per_request"] / 1000),
    )


def _sets(model: types.ModelInfo, today: date) -> Iterator[types.ModelPrice]:
    """Every set of prices that holds at some time from today on, or that a request may choose."""
    for variant in model.price_variants or ():
        yield variant.prices
    if not isinstance(model.prices, Sequence):
        yield model.prices
        return
    # Of those with a date the last that has begun replaces all before it; hours do not.
    begun = 0
    for number, each in enumerate(model.prices):
        start = getattr(each.constraint, "start_date", None)
        if start is not None and start <= today:
            begun = number
    yield from (each.prices for each in model.prices[begun:])


@lru_cache(maxsize=1)
def _units() -> Mapping[str, Mapping[str, str]]:
    units = import_module("genai_prices.data_units").unit_data
    return {unit["price_key"]: unit["dimensions"] for unit in units.values()}


def _kind(key: str) -> str | None:
    """Which member of a Price a price of the data belongs to."""
    if key == _CALLS:
        return "per_request"
    unit = _units().get(key, {})
    if unit.get("family") != "tokens":
        return None
    if unit["direction"] == "output":
        return "output"
    stored = {"cache_read": "cached_input", "cache_write": "cache_write"}
    return stored.get(unit.get("token_type", ""), "input")


def _dearest(value: Decimal | types.TieredPrices) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return max(value.base, *(tier.price for tier in value.tiers), Decimal(0))


def _nanousd(usd: Decimal) -> int:
    return int((usd * NANOUSD).to_integral_value(ROUND_CEILING))
