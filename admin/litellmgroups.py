"""What stands above a key of LiteLLM's, and bounds it. Pure.

That is its team or user, the place of that user in that team, its project and its organization.
There are no such shared limits here: those that cannot become the key's own have to be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from admin.litellm import Budget, Group, Tables, Token

_NO_BUDGET: Final = Budget(max_usd=None, duration=None, reset_us=None, rpm=None, others={})


@dataclass(frozen=True, slots=True)
class Above:
    """One of them. `name` as written there; `gone`: it is named, and is not there."""

    what: str
    name: str
    models: tuple[str, ...] = ()
    blocked: bool = False
    budget: Budget = _NO_BUDGET
    others: Mapping[str, str] | None = None
    gone: bool = False

    @property
    def limits(self) -> Mapping[str, str]:
        """Limits that there are no such of here, as written."""
        return dict(self.budget.others) | dict(self.others or {})


def above(token: Token, tables: Tables) -> tuple[Above, ...]:
    """What bounds the key, the nearest first. A user bounds only keys that have no team."""
    found: list[Above] = []
    organization_id = token.organization_id
    if token.team_id is not None:
        team = tables.teams.get(token.team_id)
        if team is None:
            found.append(Above("team", token.team_id, gone=True))
        else:
            organization_id = organization_id or team.organization_id
            name = team.alias or team.id
            found.append(Above("team", name, team.models, team.blocked, team.budget))
            found += _membership(token, tables, name)
    elif token.user_id is not None and (user := tables.users.get(token.user_id)) is not None:
        found.append(Above("user", user.alias or user.id, user.models, budget=user.budget))
    if token.project_id is not None:
        found.append(_group("project", token.project_id, tables.projects, tables))
    if organization_id is not None:
        found.append(_group("organization", organization_id, tables.organizations, tables))
    return tuple(found)


def _membership(token: Token, tables: Tables, team: str) -> list[Above]:
    """LiteLLM can bound what a user may spend in one team."""
    budget_id = tables.members.get((token.user_id or "", token.team_id or ""))
    budget = None if budget_id is None else tables.budgets.get(budget_id)
    if budget is None:
        return []
    return [Above("membership of its team", team, budget.models, budget=budget)]


def _group(what: str, identity: str, groups: Mapping[str, Group], tables: Tables) -> Above:
    group = groups.get(identity)
    if group is None:
        return Above(what, identity, gone=True)
    budget = tables.budgets.get(group.budget_id or "", _NO_BUDGET)
    name = group.alias or group.id
    return Above(what, name, group.models, group.blocked, budget, group.others)
