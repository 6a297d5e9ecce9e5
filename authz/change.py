"""From one catalog to the next: what changes, and what cannot while Envoy runs. Pure.

Envoy's configuration is rendered from a catalog too: the model servers, and which model's calls go
to which. Where Envoy would go on sending a model's calls to one server while their price is that
of another, the new catalog is not taken.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import msgspec

from authz.endpoints import Table
from store.catalog import DEFAULT_UPSTREAM, Catalog, Model, is_pattern, pattern_regex
from store.records import Price

RESTART: Final = "stop the gate and start it again, or undo that"
_NOTHING: Final = Price()


@dataclass(frozen=True, slots=True)
class Frame:
    """What of a catalog is in Envoy's configuration, as far as it makes a difference there."""

    upstreams: Mapping[str, Mapping[str, str | None]]
    routes: tuple[tuple[str, str], ...]
    calls: frozenset[tuple[str, str]]

    @property
    def mark(self) -> str:
        """The same for frames that are alike, over processes."""
        whole = [dict(self.upstreams), self.routes, sorted(self.calls)]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def faults(self, new: Frame) -> tuple[str, ...]:
        """One line for each part that the new one has otherwise."""
        parts = (
            ("upstreams", "the model servers", self.upstreams == new.upstreams),
            ("models", "which of them a model's calls go to", self.routes == new.routes),
            ("endpoints", "which paths there are", self.calls == new.calls),
        )
        return tuple(
            f"{member}: Envoy was started with it, and cannot change {what}; {RESTART}"
            for member, what, alike in parts
            if not alike
        )


def frame(catalog: Catalog, table: Table) -> Frame:
    """The frame of a catalog and its table."""
    upstreams = {name: asdict(each) for name, each in catalog.upstreams.items()}
    calls = frozenset((row.method, row.path) for row in table.rows)
    return Frame(upstreams, _routes(catalog.routes()), calls)


def _routes(rows: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Without those that say what holds without them, so that models come and go freely.

    The first row that fits a name counts, and what none fits goes to the default server. So an
    exact name can go where the first pattern that fits it, or none, leads to the same server; and
    a pattern where all after it, and that, do. The order of exact names says nothing.
    """
    patterns: list[tuple[str, str]] = []
    for name, upstream in reversed([row for row in rows if is_pattern(row[0])]):
        if patterns or upstream != DEFAULT_UPSTREAM:
            patterns.insert(0, (name, upstream))
    exact = (row for row in rows if not is_pattern(row[0]))
    return (*sorted(row for row in exact if row[1] != _otherwise(row[0], patterns)), *patterns)


def _otherwise(name: str, patterns: list[tuple[str, str]]) -> str:
    fits = (upstream for each, upstream in patterns if re.fullmatch(pattern_regex(each), name))
    return next(fits, DEFAULT_UPSTREAM)


Change = dict[str, Any]


def changes(old: Catalog, new: Catalog) -> list[Change]:
    """What differs, each as {what, name, change}, in the order of the new file.

    `what` is model, plan or endpoint, or with itself for a name default, default_plan,
    native_model or public_prices; `change` is added, removed, repriced (then with `before` and
    `after`, prices in nano-USD) or changed.
    """
    return [
        *_of_models(_models(old), _models(new)),
        *_of("plan", old.plans, new.plans),
        *_of("endpoint", _endpoints(old), _endpoints(new)),
        *(
            _change(what, what, "changed")
            for what, alike in (
                ("default_plan", old.default_plan == new.default_plan),
                ("native_model", old.native_model == new.native_model),
                ("public_prices", _public(old) == _public(new)),
            )
            if not alike
        ),
    ]


def _of_models(
    old: Mapping[tuple[str, str], Model], new: Mapping[tuple[str, str], Model]
) -> Iterator[Change]:
    for (what, name), model in new.items():
        before = old.get((what, name))
        if before is None:
            yield _change(what, name, "added")
            continue
        if before.price != model.price:
            prices = {"before": _price(before.price), "after": _price(model.price)}
            yield _change(what, name, "repriced") | prices
        if replace(before, price=_NOTHING) != replace(model, price=_NOTHING):
            yield _change(what, name, "changed")
    yield from (_change(what, name, "removed") for what, name in old if (what, name) not in new)


def _of(what: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[Change]:
    for name, value in new.items():
        if name not in old:
            yield _change(what, name, "added")
        elif old[name] != value:
            yield _change(what, name, "changed")
    yield from (_change(what, name, "removed") for name in old if name not in new)


def _change(what: str, name: str, change: str) -> Change:
    return {"what": what, "name": name, "change": change}


def _price(price: Price) -> dict[str, int]:
    return msgspec.structs.asdict(price)


def _models(catalog: Catalog) -> dict[tuple[str, str], Model]:
    rows = {("model", name): model for name, model in catalog.models.items()}
    return rows if catalog.default is None else rows | {("default", "default"): catalog.default}


def _endpoints(catalog: Catalog) -> dict[str, object]:
    return {row.entry.name: row.entry for row in catalog.endpoints}


def _public(catalog: Catalog) -> object:
    return catalog.public, catalog.public_output_tokens
