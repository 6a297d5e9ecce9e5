"""What a key of LiteLLM's becomes here: its account, name, models, limits and spend. Pure.

Nothing is widened in silence. Where LiteLLM bounds a key in a way that there is none of here, the
key gets a tighter bound, or is refused, or it is said that the bound is gone.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

from admin import inputs
from admin.litellm import Budget, Tables, Token
from admin.litellmgroups import Above, above
from admin.litellmmodels import callable_models
from admin.litellmtold import Adapted, RefusedError, listed, printable
from store.errors import InputError
from store.records import DAY_US, MAX_EXPIRY_DAYS, NANOUSD, SECOND_US, WINDOW_US
from store.text import usd

SOURCE: Final = "litellm"
DOMAIN: Final = "litellm.invalid"  # nobody's: RFC 2606 keeps it free, so no mail ever goes there
NOBODY: Final = f"no-user@{DOMAIN}"
FOREIGN_FORM: Final = "sk-[A-Za-z0-9_-]{16,128}"
"""Of LiteLLM's own keys, `sk-` and 22 characters, and of those that people chose like that."""
SAMPLE: Final = "sk-" + "aB3_-" * 4 + "xY"

MAX_SPENT_NANOUSD: Final = 10**18
_MAX_BUDGET: Final = inputs.BUDGET_MAX_USD * NANOUSD
_SLUG_CHARS: Final = 40
_ALL_ROUTES: Final = frozenset({"llm_api_routes", "openai_routes", "*"})
_SESSIONS: Final = "litellm-dashboard"
_DURATION: Final = re.compile(r"([0-9]{1,9})(s|m|h|d|w|mo)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a key of LiteLLM's is here.

    `alias` is valid, and not yet unique; `name` is what it was called there, fit for a terminal.
    `models`, `budget_nanousd`, `rpm` as in KeyRecord; `expires_us` as LiteLLM says it, None for
    never. `created_us` is what its windows count from. `spent_nanousd` is what it spent of the
    period that ends at `period_us` (None: of one that never ends).
    """

    digest: bytes = field(repr=False)
    hint: str
    email: str
    service: bool
    team: str | None
    alias: str
    name: str
    models: tuple[str, ...] | None
    budget_nanousd: int | None
    rpm: int | None
    expires_us: int | None
    created_us: int
    spent_nanousd: int
    period_us: int | None
    blocked: str | None
    adapted: tuple[Adapted, ...]

    def facts(self) -> str:
        """What of it is compared when it is imported again."""
        return json.dumps(
            {
                "models": None if self.models is None else sorted(self.models),
                "budget_nanousd": self.budget_nanousd,
                "rpm": self.rpm,
                "expires_us": self.expires_us,
                "name": self.name,
            }
        )


def convert(token: Token, tables: Tables, now_us: int) -> Wanted:
    """What the key is here. Raises RefusedError."""
    if token.digest is None:
        raise RefusedError(
            "its token is no SHA-256, so no key can be told to be it; have LiteLLM make it anew"
        )
    if token.team_id == _SESSIONS:
        raise RefusedError("it is a session of somebody who signed in to LiteLLM, and no key")
    groups = above(token, tables)
    for each in groups:
        if each.gone:
            raise RefusedError(f"its {each.what} is gone, and with it which models it may call")
    team = None if token.team_id is None else tables.teams[token.team_id]
    if token.routes and not _ALL_ROUTES.intersection(token.routes):
        raise RefusedError(
            "it may call some routes only, and a key of this gate may call every endpoint"
        )
    said: list[Adapted] = []
    email, service = _account(token, tables, said)
    name = printable(token.name or "")
    budget = _budget(token, tables, groups, said)
    spent, period_us, created_us = _spent(token, tables, now_us, said)
    said += _dropped(token, tables)
    said += _not_carried(token, tables, groups)
    return Wanted(
        digest=token.digest,
        hint=token.hint or "sk-…",
        email=email,
        service=service,
        team=None if team is None else _label(team.alias, team.id, said),
        alias=_alias(name, token.digest, said),
        name=name,
        models=callable_models(token, groups, said),
        budget_nanousd=budget,
        rpm=_rpm(token, tables, said),
        expires_us=token.expires_us,
        created_us=created_us,
        spent_nanousd=spent,
        period_us=period_us,
        blocked=_blocked(token, groups),
        adapted=tuple(said),
    )


def slug(text: str, chars: int) -> str:
    """Lower-case letters, digits and single dashes out of any text; may be empty."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:chars].strip("-")


def numbered(alias: str, number: int) -> str:
    """`laptop`, 2 → `laptop-2`, never longer than an alias may be."""
    tail = f"-{number}"
    return alias[: inputs.ALIAS_MAX - len(tail)].rstrip("-") + tail


def _blocked(token: Token, groups: Sequence[Above]) -> str | None:
    if token.blocked:
        return "it is blocked there"
    return next((f"its {each.what} is blocked there" for each in groups if each.blocked), None)


def _account(token: Token, tables: Tables, said: list[Adapted]) -> tuple[str, bool]:
    """The e-mail of its account, and whether that is a service account with a made-up name."""
    if token.user_id is not None:
        user = tables.users.get(token.user_id)
        written = None if user is None else user.email
        if written:
            try:
                return inputs.email(written), False
            except InputError:
                pass
        alias = None if user is None else user.alias
        made = _made_up("user", alias or token.user_id, token.user_id)
        said.append(Adapted("account", printable(written or "no e-mail"), made))
        return made, True
    if token.team_id is not None:
        alias = tables.teams[token.team_id].alias
        return _made_up("team", alias or token.team_id, token.team_id), True
    return NOBODY, True


def _made_up(kind: str, name: str, identity: str) -> str:
    """`user-ci-runner-3f2a9c01b7de@litellm.invalid`: the same for the same id, always."""
    tail = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return "-".join(filter(None, (kind, slug(printable(name), _SLUG_CHARS), tail))) + f"@{DOMAIN}"


def _label(alias: str | None, identity: str, said: list[Adapted]) -> str:
    written = (alias or identity).strip() or identity
    label = printable(written, inputs.TEAM_MAX).strip() or "team"
    if label != (alias or identity):
        said.append(Adapted("team's name", printable(written), label))
    return label


def _alias(name: str, digest: bytes, said: list[Adapted]) -> str:
    made = slug(name, inputs.ALIAS_MAX) or f"key-{digest.hex()[:8]}"
    if made != name:
        said.append(Adapted("alias", name or "none", made))
    return made


def _budget(
    token: Token, tables: Tables, groups: Sequence[Above], said: list[Adapted]
) -> int | None:
    """Its own, else its budget table's, else, as a bound of each key, the least above it."""
    own = _in_force(token, tables, "max_usd")
    if own is not None and own.max_usd is not None:
        amount = _nanousd(own.max_usd, _MAX_BUDGET, "budget", said)
        if amount is None:
            raise RefusedError("its budget is not a number")
        if _seconds(own.duration) != WINDOW_US // SECOND_US:
            there = f"{usd(amount)} in {printable(own.duration or 'all', 32)}"
            said.append(Adapted("budget's period", there, f"{usd(amount)} in 30d"))
        return amount
    bounds = []
    for each in groups:
        if each.budget.max_usd is not None:
            amount = _nanousd(each.budget.max_usd, _MAX_BUDGET, f"{each.what}'s budget", said)
            if amount is None:
                raise RefusedError(f"its {each.what}'s budget is not a number")
            said.append(
                Adapted(
                    "budget", f"{usd(amount)} for all its {each.what}'s", f"{usd(amount)} in 30d"
                )
            )
            bounds.append(amount)
    return min(bounds, default=None)


def _in_force(token: Token, tables: Tables, limit: str) -> Budget | None:
    """Where a limit stands: in the key's row, else in that of its budget."""
    shared = None if token.budget_id is None else tables.budgets.get(token.budget_id)
    for budget in (token.budget, shared):
        if budget is not None and getattr(budget, limit) is not None:
            return budget
    return None


def _rpm(token: Token, tables: Tables, said: list[Adapted]) -> int | None:
    found = _in_force(token, tables, "rpm")
    if found is None or found.rpm is None:
        return None
    try:
        number = int(Decimal(found.rpm))
    except (InvalidOperation, OverflowError, ValueError):
        raise RefusedError("its requests a minute are not a number") from None
    if number < 1:
        raise RefusedError("it may make no request a minute there")
    if number > inputs.RPM_MAX:
        said.append(Adapted("requests a minute", f"{number:,}", f"{inputs.RPM_MAX:,}"))
    return min(number, inputs.RPM_MAX)


def _spent(
    token: Token, tables: Tables, now_us: int, said: list[Adapted]
) -> tuple[int, int | None, int]:
    """What it spent of the period under way, when that ends, and since when its windows count.

    A period of 30 days goes on here as it runs there. LiteLLM empties a period that is over a
    while later: until then, what stands there is of no period that still counts.
    """
    period = _in_force(token, tables, "duration")
    reset_us = None if period is None else period.reset_us
    spent = _nanousd(token.spend or "0", MAX_SPENT_NANOUSD, "spend", said) or 0
    created_us = now_us
    if period is not None and reset_us is not None:
        if reset_us <= now_us:
            spent = 0
        elif _seconds(period.duration) == WINDOW_US // SECOND_US:
            created_us = min(now_us, max(0, reset_us - WINDOW_US))
    return spent, reset_us, created_us


def _seconds(duration: str | None) -> int | None:
    """`30d` → seconds; a month of the calendar is of no fixed length."""
    found = _DURATION.fullmatch(duration or "")
    if found is None or found[2] not in _SECONDS:
        return None
    return int(found[1]) * _SECONDS[found[2]]


def _nanousd(written: str, most: int, what: str, said: list[Adapted]) -> int | None:
    """USD as PostgreSQL writes a float → nano-USD, by its decimals; None for what is no number."""
    try:
        amount = Decimal(written)
        if amount.is_nan():
            return None
        exact = amount * NANOUSD
        nanousd = int(exact.to_integral_value(ROUND_HALF_EVEN)) if exact.is_finite() else None
    except (InvalidOperation, OverflowError):
        return None
    if nanousd is None:
        nanousd = most + 1 if amount > 0 else -1
    kept = min(max(nanousd, 0), most)
    if kept != nanousd:
        said.append(Adapted(what, printable(written, 32), usd(kept)))
    return kept


def _dropped(token: Token, tables: Tables) -> Iterator[Adapted]:
    """Limits and features that there are none of here."""
    shared = None if token.budget_id is None else tables.budgets.get(token.budget_id)
    others = {} if shared is None else dict(shared.others)
    for name, written in sorted((others | dict(token.budget.others)).items()):
        yield Adapted(name, printable(written, 64), "none")
    if token.has_aliases:
        yield Adapted("aliases of models", "some", "none; the catalog has aliases")
    if token.has_groups:
        yield Adapted("access groups", "some", "none; name their models")
    if token.routes:
        yield Adapted("allowed routes", listed(token.routes), "every endpoint")


def _not_carried(token: Token, tables: Tables, groups: Sequence[Above]) -> Iterator[Adapted]:
    """Limits that many keys share: there are none such here, and none may vanish in silence."""
    has_budget = _in_force(token, tables, "max_usd") is not None
    for each in groups:
        limits = dict(each.limits)
        if each.budget.rpm is not None:
            limits["requests a minute"] = each.budget.rpm
        if has_budget and each.budget.max_usd is not None:
            limits["budget"] = f"${each.budget.max_usd}"
        for limit, written in sorted(limits.items()):
            shared = f"{printable(written, 64)} for all of {printable(each.name, 64)}"
            yield Adapted(f"{each.what}'s {limit}", shared, "not carried over")


def expiry(expires_us: int | None, now_us: int) -> tuple[int, bool]:
    """When a key expires here, and whether that is what was said there."""
    latest = now_us + MAX_EXPIRY_DAYS * DAY_US
    if expires_us is None:
        return latest, False
    return min(expires_us, latest), expires_us <= latest
