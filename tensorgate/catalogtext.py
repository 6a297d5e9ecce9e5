"""A catalog in words and as JSON, as `tensorgate catalog check` shows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from authz.bound import bound
from authz.model import Ask
from authz.settings import DEFAULT_STREAM_SECONDS
from store.catalog import Catalog, Model, Plan, Price
from store.catalogfile import EndpointEntry
from store.text import usd, usd_json

_IN_REQUEST: Final = frozenset({"body", "path", "form"})


def as_json(catalog: Catalog, lost: Mapping[str, int] | None) -> dict[str, object]:
    """Models by name (the default's is `default`), plans by name.

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
    }


def as_text(catalog: Catalog, path: Path, lost: Mapping[str, int] | None) -> str:
    """A line for each model, plan, endpoint of the catalog's own, and for each lost plan."""
    lines = [f"{path} can be used: {len(catalog.models)} models, {len(catalog.plans)} plans."]
    models = [(f"model {name}", model) for name, model in catalog.models.items()]
    if catalog.default is not None:
        models.append(("every other model", catalog.default))
    rows = [(name, _model_text(model)) for name, model in models]
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
    price = model.price
    return {
        "price": {
            "input": usd_json(price.input),
            "cached_input": usd_json(price.cached_input),
            "cache_write": usd_json(price.cache_write),
            "output": usd_json(price.output),
            "per_request": usd_json(price.per_request),
            "per_second": usd_json(price.per_second),
        },
        "context_tokens": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "most_usd": usd_json(dearest_nanousd(model)),
        "aliases": list(model.aliases),
        "upstream": model.upstream,
    }


def _plan_json(plan: Plan) -> dict[str, object]:
    return {
        "max_keys": plan.max_keys,
        "max_budget_usd": usd_json(plan.max_budget_nanousd),
        "max_rpm": plan.max_rpm,
        "account_budget_usd": usd_json(plan.account_budget_nanousd),
    }
