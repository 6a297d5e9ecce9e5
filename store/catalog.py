"""The catalog: models with their prices, plans, upstreams. Pure but for `Catalog.read`.

A name is resolved in this order, and Envoy's routes follow the same: exact model names, exact
aliases, then patterns (`*` stands for any run of characters) of models and aliases together,
the one with more literal characters first, in case of a tie the one that stands first in the
file; then `default`. An alias resolves to the model that the server maps it to; a pattern and
the default leave the name as it was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from pydantic import ValidationError

from store.catalogfile import CatalogFile, ModelEntry, PriceEntry, read_with_lines
from store.errors import ConfigError
from store.records import NANOUSD
from store.records import Price as Price  # noqa: PLC0414  a price is looked for here too

MILLION: Final = 1_000_000
DEFAULT_UPSTREAM: Final = "default"


@dataclass(frozen=True, slots=True)
class Model:
    """A row of the catalog. `name` may be a pattern."""

    name: str
    price: Price
    context_tokens: int
    max_output_tokens: int | None
    tokens_per_byte: Decimal
    tokens_per_byte_text: str
    overhead_tokens: int
    continuous_usage: bool
    controls: frozenset[str]
    stored_context: bool
    aliases: tuple[str, ...]
    upstream: str | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What the catalog says of one name: the canonical name and the row that prices it."""

    name: str
    model: Model


@dataclass(frozen=True, slots=True)
class Plan:
    """Caps for minting and updating, and the account's own budget. None is no cap.

    `ceiling` says when money is enough: "hold", the most that a call can cost still fits;
    "start", anything is left (then what is in flight may overrun the budget).
    """

    name: str
    max_keys: int | None
    max_budget_nanousd: int | None
    max_rpm: int | None
    account_budget_nanousd: int | None
    ceiling: Literal["hold", "start"] = "hold"


def is_pattern(name: str) -> bool:
    """Whether a name stands for many."""
    return "*" in name


def pattern_regex(name: str) -> str:
    """A pattern as a regular expression, in the subset that RE2 reads too."""
    return ".*".join(re.escape(part) for part in name.split("*"))


def _matcher(name: str) -> re.Pattern[str]:
    """A pattern for `fullmatch`; each part is looked for once, so no name takes long."""
    first, *middle, last = (re.escape(part) for part in name.split("*"))
    found = "".join(f"(?>.*?{part})" for part in middle)
    return re.compile(f"{first}{found}.*{last}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models, plans and upstreams, validated as a whole."""

    models: Mapping[str, Model]
    default: Model | None
    upstreams: Mapping[str, str]
    plans: Mapping[str, Plan]
    default_plan: str
    _exact: Mapping[str, Offer] = field(init=False, repr=False)
    _patterns: tuple[tuple[re.Pattern[str], Model, bool], ...] = field(init=False, repr=False)
    _stand_in: Plan = field(init=False, repr=False)

    def __post_init__(self) -> None:
        exact = {n: Offer(n, m) for n, m in self.models.items() if not is_pattern(n)}
        patterns: list[tuple[str, Model, bool]] = []
        for name, model in self.models.items():
            if is_pattern(name):
                patterns.append((name, model, False))
            for alias in model.aliases:
                if is_pattern(alias):
                    patterns.append((alias, model, True))
                else:
                    exact.setdefault(alias, Offer(name, model))
        patterns.sort(key=lambda row: -len(row[0].replace("*", "")))
        default = self.plans[self.default_plan]
        none = default.account_budget_nanousd is None
        stand_in = replace(default, account_budget_nanousd=0, ceiling="hold") if none else default
        object.__setattr__(self, "_stand_in", stand_in)
        object.__setattr__(self, "_exact", MappingProxyType(exact))
        object.__setattr__(
            self,
            "_patterns",
            tuple((_matcher(pattern), model, alias) for pattern, model, alias in patterns),
        )

    @classmethod
    def read(cls, path: Path) -> Catalog:
        """Read and validate a file. Raises ConfigError naming the line of every fault."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as fault:
            why = getattr(fault, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(
                "The catalog cannot be read:",
                (f"{path}: {why}. Name another with TENSORGATE_CATALOG.",),
            ) from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Catalog:
        """As `read`, from a text; `source` names it in faults."""
        data, lines, faults = read_with_lines(text)
        if not faults:
            try:
                entry = CatalogFile.model_validate(data)
                faults = [lines.fault(path, why) for path, why in entry.clashes()]
            except ValidationError as fault:
                faults = [
                    lines.fault(error["loc"], error["msg"], error["type"])
                    for error in fault.errors(include_url=False, include_input=False)
                ]
        if faults:
            raise ConfigError(
                f"The catalog {source} cannot be used:",
                tuple(f"line {line}: {text}" for line, text in sorted(faults)),
            )
        return cls._from_file(entry)

    @classmethod
    def _from_file(cls, entry: CatalogFile) -> Catalog:
        models = {name: _model(name, row) for name, row in entry.models.items()}
        plans = {
            name: Plan(
                name=name,
                max_keys=row.max_keys,
                max_budget_nanousd=_nanousd(row.max_budget_usd),
                max_rpm=row.max_rpm,
                account_budget_nanousd=_nanousd(row.account_budget_usd),
                ceiling=row.ceiling,
            )
            for name, row in entry.plans.items()
        }
        return cls(
            models=MappingProxyType(models),
            default=None if entry.default is None else _model("default", entry.default),
            upstreams=MappingProxyType(dict(entry.upstreams)),
            plans=MappingProxyType(plans),
            default_plan=entry.default_plan,
        )

    def plan_of(self, name: str) -> Plan:
        """The plan of this name. One that is not here any more may have had an account budget.

        So its accounts are held to the default plan's, or where that has none, to 0: an account
        never goes on without a ceiling because somebody took its plan out of a file.
        """
        plan = self.plans.get(name)
        return self._stand_in if plan is None else plan

    def lost(self, accounts: Mapping[str, int]) -> dict[str, int]:
        """Of plans, and how many accounts are on each, those that are not named here."""
        return {name: number for name, number in accounts.items() if name not in self.plans}

    def resolve(self, name: str) -> Offer | None:
        """What a requested name means here; None if nothing prices it."""
        offer = self._exact.get(name)
        if offer is not None:
            return offer
        for pattern, model, is_alias in self._patterns:
            if pattern.fullmatch(name):
                return Offer(model.name if is_alias else name, model)
        return Offer(name, self.default) if self.default is not None else None

    def exact_names(self) -> Iterator[str]:
        """The models that can be listed without asking a server."""
        return (name for name in self.models if not is_pattern(name))

    def routes(self) -> tuple[tuple[str, str], ...]:
        """(model name or pattern, upstream), in the order of `resolve`."""
        rows = sorted(
            self.models.values(), key=lambda m: (is_pattern(m.name), -len(m.name.replace("*", "")))
        )
        return tuple((m.name, m.upstream or DEFAULT_UPSTREAM) for m in rows)


def _model(name: str, row: ModelEntry) -> Model:
    return Model(
        name=name,
        price=_price(row.price),
        context_tokens=row.context_tokens,
        max_output_tokens=row.max_output_tokens,
        tokens_per_byte=row.tokens_per_byte,
        tokens_per_byte_text=str(row.tokens_per_byte),
        overhead_tokens=row.overhead_tokens,
        continuous_usage=row.continuous_usage,
        controls=frozenset(row.controls),
        stored_context=row.stored_context,
        aliases=row.aliases,
        upstream=row.upstream,
    )


def _nanousd(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * NANOUSD)


def _price(entry: PriceEntry) -> Price:
    """Kinds that are not named cost what they replace: cached and written input cost input."""
    cached = entry.input if entry.cached_input is None else entry.cached_input
    written = entry.input if entry.cache_write is None else entry.cache_write
    return Price(
        input=int(entry.input * NANOUSD),
        cached_input=int(cached * NANOUSD),
        cache_write=int(written * NANOUSD),
        output=int(entry.output * NANOUSD),
        per_request=int(entry.per_request * NANOUSD),
        per_second=int(entry.per_second * NANOUSD),
    )
