"""The form of a key, as it is sent and as it is shown: every field is judged by itself.

What the service refuses later (an alias that is taken, a plan that is full) goes to the field that
can mend it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from admin import inputs, planrules
from store.catalog import Catalog, Plan
from store.errors import InputError
from store.records import DAY_US, DEFAULT_EXPIRY_DAYS, KeyRecord
from store.text import usd, usd_plain

EXPIRIES: Final = (7, 30, DEFAULT_EXPIRY_DAYS, 365)
ALL: Final = "all"
SOME: Final = "some"
WHOLE: Final = ""  # errors that are of no one field

_FIELDS: Final = {
    "invalid_alias": "alias",
    "alias_taken": "alias",
    "invalid_models": "models",
    "invalid_budget": "budget",
    "plan_limit_budget": "budget",
    "invalid_rpm": "rpm",
    "plan_limit_rpm": "rpm",
    "invalid_expiry": "days",
}


@dataclass(slots=True)
class KeyForm:
    """The texts of the fields, and what is wrong with which."""

    alias: str = ""
    scope: str = SOME
    chosen: tuple[str, ...] = ()
    more: str = ""
    budget: str = ""
    rpm: str = ""
    days: str = str(DEFAULT_EXPIRY_DAYS)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> str:
        """As the service takes it."""
        if self.scope == ALL:
            return inputs.EVERY_MODEL
        typed = [part.strip() for part in self.more.split(",") if part.strip()]
        return ",".join([*self.chosen, *typed])

    @property
    def budget_usd(self) -> str:
        """As the service takes it; an empty field is no limit."""
        return self.budget.strip().removeprefix("$").strip() or inputs.UNLIMITED

    def names(self) -> frozenset[str] | None:
        """The models that are chosen by now, as far as they can be read; None is all."""
        if self.scope == ALL:
            return None
        return frozenset(name for name in self.models.split(",") if name)

    def refuse(self, fault: InputError) -> None:
        """Put what the service said where it can be mended."""
        self.errors.setdefault(_FIELDS.get(fault.code, WHOLE), str(fault))

    def judge(self, catalog: Catalog, plan: Plan, *, expiry: bool) -> None:
        """Fill `errors` with what can be told without the store."""
        self._try(lambda: inputs.alias(self.alias))
        self._try(self._models)
        self._try(
            lambda: planrules.check_budget(catalog, plan, inputs.budget_nanousd(self.budget_usd))
        )
        self._try(lambda: planrules.check_rpm(catalog, plan, inputs.rpm(number(self.rpm))))
        if expiry:
            self._try(lambda: inputs.expiry_days(number(self.days)))

    def _models(self) -> None:
        if self.scope != ALL and not self.models:
            raise InputError("Choose at least one model, or all of them.", code="invalid_models")
        inputs.models(self.models)

    def _try(self, judged: Callable[[], object]) -> None:
        try:
            judged()
        except InputError as fault:
            self.refuse(fault)


def number(text: str) -> int:
    """A whole number as somebody typed it; what is none is 0, which no field takes."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0  # noqa: PLR2004  digits


def empty_form(plan: Plan, offered: Sequence[str]) -> KeyForm:
    """A form that can be sent once it has an alias (and models): the most that the plan allows."""
    return KeyForm(
        scope=SOME if offered else ALL,
        chosen=tuple(offered[:1]) if len(offered) == 1 else (),
        budget=usd_plain(planrules.default_budget(plan)),
        rpm=str(planrules.default_rpm(plan)),
    )


def form_of_key(record: KeyRecord, offered: Sequence[str]) -> KeyForm:
    """The form as the key has it; models that are not offered any more are typed out."""
    models = sorted(record.models or ())
    return KeyForm(
        alias=record.alias,
        scope=ALL if record.models is None else SOME,
        chosen=tuple(name for name in models if name in offered),
        more=", ".join(name for name in models if name not in offered),
        budget="" if record.budget_nanousd is None else usd_plain(record.budget_nanousd),
        rpm="" if record.rpm is None else str(record.rpm),
    )


def free_alias(alias: str, taken: frozenset[str]) -> str:
    """`laptop-2`, or the next number that is free."""
    stem, _, last = alias.rpartition("-")
    base = stem if stem and last.isdecimal() else alias
    for count in range(2, len(taken) + 3):
        tail = f"-{count}"
        name = base[: inputs.ALIAS_MAX - len(tail)].rstrip("-") + tail
        if name not in taken:
            return name
    return alias


def expiry_choices(now_us: int, day: Callable[[int], str]) -> list[tuple[int, str, str]]:
    """(days, words, the date)."""
    return [
        (days, "1 year" if days == EXPIRIES[-1] else f"{days} days", day(now_us + days * DAY_US))
        for days in EXPIRIES
    ]


def limit_words(plan: Plan) -> dict[str, str]:
    """What the plan allows, to stand beside each field; no word where it has no cap."""
    words = {}
    if plan.max_budget_nanousd is not None:
        words["budget"] = f"Up to {usd(plan.max_budget_nanousd)} on the {plan.name} plan."
    if plan.max_rpm is not None:
        words["rpm"] = f"Up to {plan.max_rpm:,} on the {plan.name} plan."
    return words
