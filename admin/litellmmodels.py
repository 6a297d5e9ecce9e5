"""Which models a key of LiteLLM's may call, in names that are exact here. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from admin import inputs
from admin.litellm import Token
from admin.litellmgroups import Above
from admin.litellmtold import Adapted, RefusedError, listed

_EVERY: Final = frozenset({"all-proxy-models", "*"})
_OF_TEAM: Final = "all-team-models"
_SPECIAL: Final = _EVERY | {_OF_TEAM, "no-default-models", "all-org-models"}


def callable_models(
    token: Token, groups: Sequence[Above], said: list[Adapted]
) -> tuple[str, ...] | None:
    """The names that it may call: its own, as far as those of all that is above it go."""
    bounded = [each for each in groups if _bounds(each.models)]
    within = bounded[0].models if bounded else None
    named = token.models
    if _OF_TEAM in named and token.team_id is None:
        raise RefusedError("it may call its team's models, and has no team")
    if not named or _OF_TEAM in named or _EVERY.intersection(named):
        if within is None:
            return None
        allowed, patterns = _split(within)
    else:
        own, patterns = _split(named)
        allowed = own if within is None else [name for name in own if _covers(within, name)]
        if within is not None:
            exact = _split(within)[0]
            allowed += [name for name in exact if name not in own and _covers(patterns, name)]
            said += _outside(own, allowed, bounded[0])
    if patterns:
        said.append(Adapted("wildcard models", listed(patterns), listed(allowed) or "none"))
    for each in bounded[1:]:
        inside = [name for name in allowed if _covers(each.models, name)]
        said += _outside(allowed, inside, each)
        allowed = inside
    return _kept(allowed, said)


def _kept(allowed: Sequence[str], said: list[Adapted]) -> tuple[str, ...]:
    """Those that can be names of models here. Raises RefusedError where none or too many are."""
    kept = [name for name in allowed if _is_name(name)]
    if len(kept) < len(allowed):
        said.append(
            Adapted("models whose names are none", f"{len(allowed) - len(kept):,} names", "none")
        )
    if not kept:
        raise RefusedError(
            "no exact model is left that it may call: name models there, or mint a key here"
        )
    if len(kept) > inputs.MODELS_MAX:
        raise RefusedError(f"it names more than {inputs.MODELS_MAX} models")
    return tuple(kept)


def _outside(before: Sequence[str], after: Sequence[str], bound: Above) -> Iterator[Adapted]:
    outside = [name for name in before if name not in after]
    if outside:
        yield Adapted(f"models outside of its {bound.what}'s", listed(outside), "none")


def _bounds(models: Sequence[str]) -> bool:
    """Whether a list of models leaves any out."""
    return bool(models) and not _EVERY.intersection(models)


def _split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Exact names, and those with a wildcard; LiteLLM's special ones are neither."""
    plain = [name for name in names if name not in _SPECIAL]
    return [n for n in plain if "*" not in n], [n for n in plain if "*" in n]


def _covers(names: Sequence[str], name: str) -> bool:
    return any(
        each == name or ("*" in each and _matches(each, name))
        for each in names
        if each not in _SPECIAL
    )


def _matches(pattern: str, name: str) -> bool:
    """`openai/*`: no regular expression is made of what somebody else has written."""
    first, *middle, last = pattern.split("*")
    if not name.startswith(first) or len(name) < len(first) + len(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return name.endswith(last)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= inputs.MODEL_NAME_MAX and name.isprintable() and "," not in name
