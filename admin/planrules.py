"""The caps of a plan, which bind when a key is minted or updated. Pure."""

from __future__ import annotations

from collections.abc import Callable

from store.catalog import Catalog, Plan
from store.errors import ConfigError, InputError, PlanLimitError
from store.records import NANOUSD, Account
from store.text import usd

DEFAULT_BUDGET_NANOUSD = 5 * NANOUSD
DEFAULT_RPM = 60


def plan_named(catalog: Catalog, name: str) -> Plan:
    """A plan that somebody asks for. Raises InputError if the catalog has none of this name."""
    plan = catalog.plans.get(name)
    if plan is None:
        known = ", ".join(catalog.plans)
        raise InputError(f"There is no such plan. The catalog has: {known}.", code="unknown_plan")
    return plan


def plan_of(catalog: Catalog, account: Account) -> Plan:
    """The plan that an account has. Raises ConfigError if the catalog has lost it."""
    plan = catalog.plans.get(account.plan)
    if plan is None:
        raise ConfigError(
            f"{account.email} is on a plan that the catalog does not have:",
            (
                (
                    f"{account.plan}: add it to the catalog, or choose another with "
                    f"`tensorgate users set-plan {account.email} PLAN`"
                ),
            ),
        )
    return plan


def default_budget(plan: Plan) -> int:
    """The budget of a key for which none was named."""
    cap = plan.max_budget_nanousd
    return DEFAULT_BUDGET_NANOUSD if cap is None else cap


def default_rpm(plan: Plan) -> int:
    """The requests a minute of a key for which none were named."""
    return DEFAULT_RPM if plan.max_rpm is None else plan.max_rpm


def check_keys(catalog: Catalog, plan: Plan, live: int) -> None:
    """Whether one more key fits beside `live` ones."""
    if plan.max_keys is not None and live >= plan.max_keys:
        larger = _larger(catalog, lambda p: p.max_keys is None or p.max_keys > live)
        raise PlanLimitError(
            f"You hold {live} of {plan.max_keys} live keys on the {plan.name} plan. "
            f"Revoke one you no longer need{larger}.",
            code="plan_limit_keys",
        )


def check_budget(catalog: Catalog, plan: Plan, budget: int | None) -> None:
    """Whether a key may have this budget; None is no limit."""
    cap = plan.max_budget_nanousd
    if cap is not None and (budget is None or budget > cap):
        larger = _larger(catalog, lambda p: _covers(p.max_budget_nanousd, budget))
        raise PlanLimitError(
            f"The {plan.name} plan allows a budget of at most {usd(cap)} a key. "
            f"Choose {usd(cap)} or less{larger}.",
            code="plan_limit_budget",
        )


def check_rpm(catalog: Catalog, plan: Plan, rpm: int) -> None:
    """Whether a key may have so many requests a minute."""
    if plan.max_rpm is not None and rpm > plan.max_rpm:
        larger = _larger(catalog, lambda p: _covers(p.max_rpm, rpm))
        raise PlanLimitError(
            f"The {plan.name} plan allows at most {plan.max_rpm} requests a minute a key. "
            f"Choose {plan.max_rpm} or less{larger}.",
            code="plan_limit_rpm",
        )


def _covers(cap: int | None, wanted: int | None) -> bool:
    return cap is None or (wanted is not None and wanted <= cap)


def _larger(catalog: Catalog, is_enough: Callable[[Plan], bool]) -> str:
    """Whom to ask for what: the first plan of the catalog that is enough, if any is."""
    name = next((plan.name for plan in catalog.plans.values() if is_enough(plan)), None)
    return "" if name is None else f", or ask an admin for {name}"
