"""From one catalog to the next: what changes, and what cannot while Envoy runs. Pure.

Envoy's configuration is rendered from a catalog too: it has the model servers, and the paths on
which long bodies are taken. A catalog that has others is not taken while Envoy runs, for its calls
would be sent nowhere or cut. Which server a model's calls go to is said call by call: that may
change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import msgspec

from authz.endpoints import Table
from store.catalog import Catalog, Model
from store.records import Price

RESTART: Final = "stop the gate and start it again, or undo that"
_NOTHING: Final = Price()


@dataclass(frozen=True, slots=True)
class Frame:
    """What of a catalog is in Envoy's configuration: model servers, and paths of long bodies."""

    upstreams: Mapping[str, Mapping[str, str | None]]
    paths: frozenset[str]

    @property
    def mark(self) -> str:
        """The same for frames that are alike, over processes."""
        whole = [dict(self.upstreams), sorted(self.paths)]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def faults(self, new: Frame) -> tuple[str, ...]:
        """One line for each part that the new one has otherwise."""
        parts = (
            ("upstreams", "the model servers", self.upstreams == new.upstreams),
            ("endpoints, native_model", "which paths there are", self.paths == new.paths),
        )
        return tuple(
            f"{members}: Envoy was started with {what} as they were; {RESTART}"
            for members, what, alike in parts
            if not alike
        )


def frame(catalog: Catalog, table: Table) -> Frame:
    """The frame of a catalog and its table."""
    upstreams = {name: asdict(each) for name, each in catalog.upstreams.items()}
    return Frame(upstreams, frozenset(row.path for row in table.rows if row.method == "POST"))


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
