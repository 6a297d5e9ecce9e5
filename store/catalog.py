"""The catalog: models with their prices, plans, upstreams. Pure but for `Catalog.read`.

A name is resolved in this order: exact model names, exact aliases, what some servers take for one
of these (see `plain_name`), then patterns (`*` stands for any run of characters, letters for both
of their cases) of models and aliases together, the one with more literal characters first, in case
of a tie the one that stands first in the file; then the public names that `public_prices` asks for;
then `default`. An alias resolves to the model that the server maps it to; a pattern, a public name
and the default leave the name as it was asked for.
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

from store import publicprices
from store.catalogfile import (
    DEFAULT_OVERHEAD,
    CatalogFile,
    EndpointEntry,
    Lines,
    ModelEntry,
    PriceEntry,
    PublicPricesEntry,
    read_with_lines,
)
from store.errors import ConfigError
from store.publicprices import PublicPrices, PublicRow
from store.records import NANOUSD
from store.records import Price as Price  # noqa: PLC0414  a price is looked for here too

MILLION: Final = 1_000_000
DEFAULT_UPSTREAM: Final = "default"


@dataclass(frozen=True, slots=True)
class Model:
    """A row of the catalog. `name` may be a pattern.

    `endless`: its server goes on behind the end of its context until it meets the request's bound.
    """

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
    origin: str = ""  # who says so, where the catalog's file does not
    endless: bool = False


@dataclass(frozen=True, slots=True)
class Upstream:
    """A model server: where it answers over HTTP and, if elsewhere, over gRPC, as host:port.

    `health` is the path of a GET that it answers with 200 while it is well; without one it counts
    as well while it takes connections.
    """

    address: str
    grpc: str | None = None
    health: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What the catalog says of one name: the canonical name and the row that prices it."""

    name: str
    model: Model


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """A row of the catalog's own endpoints; `lines` are those of its name and its path."""

    entry: EndpointEntry
    lines: Mapping[str, int]


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


def lost_plan(name: str, number: int) -> str:
    """What is said of a plan that so many accounts are on and the catalog does not name."""
    return (
        f"{number} accounts are on plan {name!r}, which the catalog does not name: they are held "
        "to the default plan's account budget, and to $0 where it has none. Name it, or choose "
        "another with `tensorgate users set-plan EMAIL PLAN`."
    )


def is_pattern(name: str) -> bool:
    """Whether a name stands for many."""
    return "*" in name


_OLLAMA_PREFIXES: Final = ("registry.ollama.ai/", "library/")
_LATEST: Final = ":latest"


def plain_name(name: str) -> str:
    """A name as servers read it that do not tell its ways of writing apart.

    Ollama ignores case, takes `x`, `x:latest` and `registry.ollama.ai/library/x` for one model,
    and passes over a scheme in front and a digest behind.
    """
    name = name.lower().rpartition("://")[2].partition("@")[0]
    for prefix in _OLLAMA_PREFIXES:
        name = name.removeprefix(prefix)
    return name.removesuffix(_LATEST)


def tag_twin(name: str) -> str:
    """The same model with the tag `latest` written out, or without it; else the name itself."""
    if name.endswith(_LATEST):
        return name.removesuffix(_LATEST)
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def _matcher(name: str) -> re.Pattern[str]:
    """A pattern for `fullmatch`; each part is looked for once, so no name takes long."""
    first, *middle, last = (re.escape(part) for part in name.split("*"))
    found = "".join(f"(?>.*?{part})" for part in middle)
    return re.compile(f"{first}{found}.*{last}", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models, plans and upstreams, validated as a whole."""

    models: Mapping[str, Model]
    default: Model | None
    upstreams: Mapping[str, Upstream]
    plans: Mapping[str, Plan]
    default_plan: str
    native_model: str | None = None  # the one of a server whose own paths name none
    endpoints: tuple[EndpointRow, ...] = ()
    source: str = ""
    public: PublicPrices | None = None
    public_output_tokens: int | None = None  # where a public name's call sets no bound
    _exact: Mapping[str, Offer] = field(init=False, repr=False)
    _plain: Mapping[str, Model] = field(init=False, repr=False)
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
        plain = dict[str, Model]()
        for name, offer in exact.items():
            plain.setdefault(plain_name(name), offer.model)
        object.__setattr__(self, "_plain", MappingProxyType(plain))
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
        return cls.parse(cls.text_of(path), str(path))

    @staticmethod
    def text_of(path: Path) -> str:
        """What a file has to be parsed. Raises ConfigError where it cannot be read."""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as fault:
            why = getattr(fault, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(
                "The catalog cannot be read:",
                (f"{path}: {why}. Name another with TENSORGATE_CATALOG.",),
            ) from None

    @classmethod
    def parse(cls, text: str, source: str) -> Catalog:
        """As `read`, from a text; `source` names it in faults."""
        data, lines, faults = read_with_lines(text)
        public = None
        if not faults:
            try:
                entry = CatalogFile.model_validate(data)
                faults = [lines.fault(path, why) for path, why in entry.clashes()]
                public = _public(entry.public_prices, lines, faults)
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
        rows = tuple(
            EndpointRow(row, {m: lines.nearest(("endpoints", number, m)) for m in ("name", "path")})
            for number, row in enumerate(entry.endpoints)
        )
        return cls._from_file(entry, rows, source, public)

    @classmethod
    def _from_file(
        cls,
        entry: CatalogFile,
        rows: tuple[EndpointRow, ...],
        source: str,
        public: PublicPrices | None,
    ) -> Catalog:
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
            upstreams=MappingProxyType(
                {
                    name: Upstream(row.address, row.grpc, row.health)
                    for name, row in entry.upstreams.items()
                }
            ),
            plans=MappingProxyType(plans),
            default_plan=entry.default_plan,
            native_model=entry.native_model,
            endpoints=rows,
            source=source,
            public=public,
            public_output_tokens=(
                None if entry.public_prices is None else entry.public_prices.max_output_tokens
            ),
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
        return self._exact.get(name) or self._named(name) or self._default(name)

    def resolve_tagged(self, name: str) -> Offer | None:
        """As `resolve`, for a server on which a name without a tag means `:latest`."""
        return self._exact.get(name) or self._exact.get(tag_twin(name)) or self.resolve(name)

    def resolve_adapter(self, base: str, adapter: str) -> Offer | None:
        """What an adapter of a model means here: the row of `base:adapter`, else the model's.

        A pattern that fits the model's own name says nothing of its adapters: by a name that the
        client makes up nobody gets another price.
        """
        offer, name = self.resolve(base), f"{base}:{adapter}"
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        for pattern, model, is_alias in self._patterns:
            if pattern.fullmatch(name) and not pattern.fullmatch(base):
                return Offer(model.name if is_alias else name, model)
        return None if offer is None else Offer(f"{offer.name}:{adapter}", offer.model)

    def _named(self, name: str) -> Offer | None:
        """By another way to write an exact name, by a pattern, or as a public name."""
        plain = plain_name(name)
        model = self._plain.get(plain)
        if model is not None:
            return Offer(name, model)
        for pattern, model, is_alias in self._patterns:
            if pattern.fullmatch(name) or pattern.fullmatch(plain):
                return Offer(model.name if is_alias else name, model)
        row = None if self.public is None else self.public.find(plain)
        return None if row is None else Offer(name, self._public_model(plain, row))

    def _public_model(self, name: str, row: PublicRow) -> Model:
        output = self.public_output_tokens
        return Model(
            name=name,
            price=row.price,
            context_tokens=row.context_tokens,
            max_output_tokens=output if output and output < row.context_tokens else None,
            tokens_per_byte=Decimal(1),
            tokens_per_byte_text="1",
            overhead_tokens=DEFAULT_OVERHEAD,
            continuous_usage=False,
            controls=frozenset(),
            stored_context=False,
            aliases=(),
            upstream=None,
            origin=row.origin,
        )

    def _default(self, name: str) -> Offer | None:
        return None if self.default is None else Offer(name, self.default)

    def upstream_of(self, name: str) -> str:
        """The upstream that a call of a model goes to, by the name that it is asked for."""
        offer = self.resolve(name)
        return DEFAULT_UPSTREAM if offer is None else offer.model.upstream or DEFAULT_UPSTREAM

    def exact_names(self) -> Iterator[str]:
        """The models that can be listed without asking a server."""
        return (name for name in self.models if not is_pattern(name))


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
        endless=row.endless,
    )


def _public(
    asked: PublicPricesEntry | None, lines: Lines, faults: list[tuple[int, str]]
) -> PublicPrices | None:
    """The public names that are asked for; what stands in the way is added to `faults`."""
    if asked is None:
        return None
    try:
        return publicprices.load(asked.providers)
    except publicprices.NotInstalledError:
        why = f"its data is not installed; install `{publicprices.EXTRA}`, or take this out"
        faults.append(lines.fault(("public_prices",), why))
    except publicprices.UnknownProviderError as fault:
        why = f"there is no such provider; there are {', '.join(fault.known)}"
        faults.append(lines.fault(("public_prices", "providers", fault.number), why))
    return None


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
