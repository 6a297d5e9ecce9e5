"""A catalog in words and as JSON, as `tensorgate catalog` shows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from authz.bound import bound
from authz.model import Ask
from authz.settings import DEFAULT_STREAM_SECONDS
from store.catalog import Catalog, Model, Offer, Plan, Price
from store.catalogfile import EndpointEntry
from store.publicprices import PACKAGE
from store.text import usd, usd_json

_IN_REQUEST: Final = frozenset({"body", "path", "form"})


def as_json(
    catalog: Catalog, lost: Mapping[str, int] | None, asked: Sequence[str] = ()
) -> dict[str, object]:
    """Models by name (the default's is `default`), plans by name; `resolved` has those asked for.

    `lost` is by plan how many accounts are on one that is not named; None: nobody knows.
    """
    return {
        "models": {name: _model_json(model) for name, model in catalog.models.items()},
        "default": None if catalog.default is None else _model_json(catalog.default),
        "plans": {name: _plan_json(plan) for name, plan in catalog.plans.items()},
        "default_plan": catalog.default_plan,
        "native_model": catalog.native_model,
        "endpoints": [row.entry.model_dump(mode="json") for row in catalog.endpoints],
        "upstreams": {
            name: {"address": each.address, "grpc": each.grpc, "health": each.health}
            for name, each in catalog.upstreams.items()
        },
        "lost_plans": lost,
        "public_prices": _public_json(catalog),
        "resolved": {name: _offer_json(catalog.resolve(name)) for name in asked},
    }


def as_text(
    catalog: Catalog, path: Path, lost: Mapping[str, int] | None, asked: Sequence[str] = ()
) -> str:
    """A line for each model, plan, endpoint of the catalog's own, and for each lost plan.

    With names, a line for each of them instead: what it costs, and which row says so.
    """
    if asked:
        return "\n".join(f"{name}  {_offer_text(catalog.resolve(name))}" for name in asked)
    lines = [f"{path} can be used: {len(catalog.models)} models, {len(catalog.plans)} plans."]
    models = [(f"model {name}", model) for name, model in catalog.models.items()]
    rows = [(name, _model_text(model)) for name, model in models]
    if catalog.public is not None:
        many, whose = len(catalog.public.names), ", ".join(catalog.public.providers)
        text = f"by {PACKAGE} {catalog.public.version}, of {whose}, the dearest of each price"
        rows.append((f"{many} public names", text))
    if catalog.default is not None:
        rows.append(("every other model", _model_text(catalog.default)))
    for name, plan in catalog.plans.items():
        mark = " (default)" if name == catalog.default_plan else ""
        rows.append((f"plan {name}{mark}", _plan_text(plan)))
    rows += [(f"endpoint {row.entry.name}", _endpoint_text(row.entry)) for row in catalog.endpoints]
    if catalog.native_model is not None:
        rows.append(("native paths", f"ask {catalog.native_model}"))
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:<{width}}  {text}" for name, text in rows]
    if catalog.default is None:
        lines.append("A key with a budget cannot call a model that is not named here.")
    for name, number in sorted((lost or {}).items()):
        lines.append(
            f"Plan {name} is not here, and {number} accounts are on it: they are held to the "
            "default plan's account budget, or to $0. Name it, or choose another with "
            "`tensorgate users set-plan EMAIL PLAN`."
        )
    return "\n".join(lines)


def reloaded_text(done: Mapping[str, Any]) -> str:
    """What a reload changed, a line each; `done` is authz's answer."""
    found = [_change_text(each) for each in done["changes"]]
    many = "nothing changed" if not found else f"{len(found)} changed"
    head = f"{done['path']} is in force: {many}."
    return "\n".join([head, *(f"  {line}" for line in found), *done["warnings"]])


def reloaded_json(done: Mapping[str, Any]) -> dict[str, object]:
    """The same, prices in USD."""
    return {**done, "changes": [_change_json(each) for each in done["changes"]]}


def _change_text(change: Mapping[str, Any]) -> str:
    name = "" if change["name"] == change["what"] else f" {change['name']}"
    said = f"{change['what'].replace('_', ' ')}{name} {change['change']}"
    if change["change"] != "repriced":
        return said
    before, after = (_price_text(Price(**change[when])) for when in ("before", "after"))
    return f"{said}: {before} → {after}"


def _change_json(change: Mapping[str, Any]) -> dict[str, object]:
    prices = {when: change[when] for when in ("before", "after") if when in change}
    return {**change, **{when: _price_json(Price(**price)) for when, price in prices.items()}}


def _offer_text(offer: Offer | None) -> str:
    if offer is None:
        return "nothing prices it: a key with a budget cannot call it"
    return f"{_model_text(offer.model)}; {_origin(offer)}"


def _origin(offer: Offer) -> str:
    """Which row prices a name."""
    return f"priced by {offer.model.origin or f'the row {offer.model.name!r} of the catalog'}"


def _offer_json(offer: Offer | None) -> dict[str, object] | None:
    if offer is None:
        return None
    return {"name": offer.name, **_model_json(offer.model), "origin": _origin(offer)}


def _public_json(catalog: Catalog) -> dict[str, object] | None:
    public = catalog.public
    if public is None:
        return None
    return {
        "package": PACKAGE,
        "version": public.version,
        "providers": list(public.providers),
        "names": len(public.names),
        "max_output_tokens": catalog.public_output_tokens,
    }


def _model_text(model: Model) -> str:
    parts = [_price_text(model.price), f"context {model.context_tokens}"]
    most = dearest_nanousd(model)
    if most:
        parts.append(f"a call costs at most {usd(most)}")
    if model.max_output_tokens is not None:
        parts.append(f"output {model.max_output_tokens}")
    if model.aliases:
        parts.append(f"aliases {', '.join(model.aliases)}")
    if model.upstream is not None:
        parts.append(f"at {model.upstream}")
    return "; ".join(parts)


def dearest_nanousd(model: Model) -> int:
    """The most that one answer can cost: the dearest way to fill the context."""
    anything = Ask(output=None, text_only=False)
    return bound(anything, model, 0, has_output=True, seconds=DEFAULT_STREAM_SECONDS).nanousd


def _price_text(price: Price) -> str:
    tokens = [f"input {usd(price.input)}"] if price.input or price.output else []
    if price.cached_input != price.input:
        tokens.append(f"cached input {usd(price.cached_input)}")
    if price.cache_write != price.input:
        tokens.append(f"cache write {usd(price.cache_write)}")
    if price.input or price.output:
        tokens.append(f"output {usd(price.output)}")
    said = [f"{', '.join(tokens)} per million tokens"] if tokens else []
    if price.per_request:
        said.append(f"{usd(price.per_request)} a request")
    if price.per_second:
        said.append(f"{usd(price.per_second)} a second")
    return ", ".join(said) or "free"


def _plan_text(plan: Plan) -> str:
    said = []
    if plan.max_keys is not None:
        said.append(f"{plan.max_keys} keys")
    if plan.max_budget_nanousd is not None:
        said.append(f"{usd(plan.max_budget_nanousd)} a key")
    if plan.max_rpm is not None:
        said.append(f"{plan.max_rpm} requests a minute a key")
    if plan.account_budget_nanousd is not None:
        said.append(f"{usd(plan.account_budget_nanousd)} in all")
    return f"at most {', '.join(said)}" if said else "no caps"


def _endpoint_text(row: EndpointEntry) -> str:
    said = [f"{row.method} {row.path}", row.lane]
    said.append(f"model in its {row.model}" if row.model in _IN_REQUEST else f"model: {row.model}")
    if row.output:
        said.append(f"output bounded by {', '.join(row.output)}")
    elif row.lane == "inference":
        said.append("output not bounded, the context is held")
    said.append("usage not seen" if row.usage == "none" else f"usage as {row.usage}'s")
    return "; ".join(said)


def _model_json(model: Model) -> dict[str, object]:
    return {
        "price": _price_json(model.price),
        "context_tokens": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "most_usd": usd_json(dearest_nanousd(model)),
        "aliases": list(model.aliases),
        "upstream": model.upstream,
    }


def _price_json(price: Price) -> dict[str, object]:
    return {
        "input": usd_json(price.input),
        "cached_input": usd_json(price.cached_input),
        "cache_write": usd_json(price.cache_write),
        "output": usd_json(price.output),
        "per_request": usd_json(price.per_request),
        "per_second": usd_json(price.per_second),
    }


def _plan_json(plan: Plan) -> dict[str, object]:
    return {
        "max_keys": plan.max_keys,
        "max_budget_usd": usd_json(plan.max_budget_nanousd),
        "max_rpm": plan.max_rpm,
        "account_budget_usd": usd_json(plan.account_budget_nanousd),
    }
