"""What we answer ourselves: the models that a key may call, and the key itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from authz.decide import has_budget, may_call
from authz.denial import Answer
from store.catalog import Catalog
from store.counters.model import MoneyStanding, Standing, Standings
from store.records import KeyRecord
from store.text import rfc3339, usd_json

_JSON: Final = (("content-type", "application/json"),)
_CREATED: Final = 1_700_000_000  # the shapes want a time; nobody knows a model's
_CREATED_AT: Final = "2023-11-14T22:13:20Z"


def callable_names(key: KeyRecord, catalog: Catalog, listed: Iterable[str]) -> list[str]:
    """The catalog's exact names and the servers' own that this key may call and has a price for."""
    names = {*catalog.exact_names(), *listed}
    return sorted(name for name in names if _may_list(key, catalog, name))


def find_model(key: KeyRecord, catalog: Catalog, listed: Iterable[str], wanted: str) -> str | None:
    """The one of `callable_names` that the rest of a path asks for, or None if it is none."""
    name = unquote(wanted)
    known = name in listed or name in catalog.exact_names()
    return name if known and _may_list(key, catalog, name) else None


def _may_list(key: KeyRecord, catalog: Catalog, name: str) -> bool:
    offer = catalog.resolve(name)
    priced = offer is not None or not has_budget(key, catalog.plan_of(key.plan))
    return priced and may_call(key, name, offer)


def models(names: Sequence[str]) -> Answer:
    """One shape that both OpenAI's and Anthropic's clients read."""
    return _answer(
        {
            "object": "list",
            "data": [_model(name) for name in names],
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        }
    )


def tags(names: Sequence[str]) -> Answer:
    """The same in Ollama's shape."""
    return _answer({"models": [_tag(name) for name in names]})


def model(name: str) -> Answer:
    """One model."""
    return _answer(_model(name))


def key(record: KeyRecord, standings: Standings) -> Answer:
    """A key about itself, never about a sibling. `standings` are those of its inference calls."""
    minute = next((each for each in standings if isinstance(each, Standing)), None)
    money = [each for each in standings if isinstance(each, MoneyStanding)]
    own = next((each for each in money if each.limit.scope == record.id), None)
    return _answer(
        {
            "object": "key",
            "id": record.id,
            "alias": record.alias,
            "hint": record.hint,
            "models": ["*"] if record.models is None else sorted(record.models),
            "rpm": record.rpm,
            "requests_remaining": None if minute is None else minute.remaining,
            "budget_usd": usd_json(record.budget_nanousd),
            "spent_usd": None if own is None else usd_json(own.spent_nanousd),
            "held_usd": None if own is None else usd_json(own.held_nanousd),
            "budget_reset": None if own is None else rfc3339(own.resets_us),
            "created_at": rfc3339(record.created_us),
            "expires_at": rfc3339(record.expires_us),
        }
    )


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "display_name": name,
        "lifecycle": "active",
        "owned_by": "tensorgate",
        "created": _CREATED,
        "created_at": _CREATED_AT,
    }


def _tag(name: str) -> dict[str, Any]:
    """What nobody knows of a model is empty: Ollama's clients want the members to be there."""
    return {
        "name": name,
        "model": name,
        "modified_at": _CREATED_AT,
        "size": 0,
        "digest": "",
        "details": {
            "parent_model": "",
            "format": "",
            "family": "",
            "families": [],
            "parameter_size": "",
            "quantization_level": "",
        },
    }


def _answer(content: dict[str, Any]) -> Answer:
    return Answer(200, _JSON, msgspec.json.encode(content))
