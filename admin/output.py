"""How results look: records as JSON and as tables. Pure but for `show`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from store.records import Account, KeyRecord
from store.text import rfc3339, usd, usd_json, utc

if TYPE_CHECKING:
    from store.imports import Origin  # its driver is not needed to print


class RowFormat(StrEnum):
    """How many rows of one kind are written for programs."""

    JSONL = "jsonl"
    CSV = "csv"


def models_text(models: frozenset[str] | None) -> str:
    """`a, b`, or `every model`."""
    return "every model" if models is None else ", ".join(sorted(models))


def models_json(models: frozenset[str] | None) -> list[str]:
    """A list of names; `["*"]` for every model."""
    return ["*"] if models is None else sorted(models)


def budget_text(nanousd: int | None) -> str:
    """`$5.00 per 30 days`, or `no limit`."""
    return "no limit" if nanousd is None else f"{usd(nanousd)} per 30 days"


def rpm_text(rpm: int | None) -> str:
    """`60 requests a minute`, or `no limit`."""
    return "no limit" if rpm is None else f"{rpm} requests a minute"


def limits_json(record: KeyRecord) -> dict[str, object]:
    """What a key may do, as every JSON of ours says it."""
    return {
        "models": models_json(record.models),
        "budget_usd": usd_json(record.budget_nanousd),
        "rpm": record.rpm,
        "expires_at": rfc3339(record.expires_us),
    }


def limits_rows(record: KeyRecord) -> list[tuple[str, str]]:
    """The same for people."""
    return [
        ("models", models_text(record.models)),
        ("budget", budget_text(record.budget_nanousd)),
        ("rpm", rpm_text(record.rpm)),
        ("expires", utc(record.expires_us)),
    ]


def key_state(record: KeyRecord, now_us: int) -> str:
    """`live`, `expired` or `revoked`."""
    if record.revoked_us is not None:
        return "revoked"
    return "live" if now_us < record.expires_us else "expired"


def key_json(record: KeyRecord, now_us: int) -> dict[str, object]:
    """A key without its plaintext."""
    return {
        "id": record.id,
        "user": record.user,
        "alias": record.alias,
        "hint": record.hint,
        "state": key_state(record, now_us),
        **limits_json(record),
        "created_at": rfc3339(record.created_us),
        "revoked_at": None if record.revoked_us is None else rfc3339(record.revoked_us),
    }


def origin_json(origin: Origin | None) -> dict[str, object]:
    """Where an imported key is from, and its name there; None twice for one that was minted."""
    return {
        "imported_from": None if origin is None else origin.source,
        "imported_name": None if origin is None else origin.name,
    }


def account_json(account: Account) -> dict[str, object]:
    """An account without its password."""
    return {
        "id": account.id,
        "email": account.email,
        "plan": account.plan,
        "team": account.team,
        "role": account.role.value,
        "service": account.service,
        "disabled": account.disabled_us is not None,
        "created_at": rfc3339(account.created_us),
    }


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Aligned `name  value` lines, indented by two."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a head in capitals; the last column may be as long as it is."""
    lines = [[name.upper() for name in head], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    padded = (
        "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def show(as_json: bool, value: object, text: str) -> None:
    """Print a result: ASCII-only JSON on one line for programs, or the text for people."""
    print(json.dumps(value) if as_json else text, flush=True)  # noqa: T201  this is the command line's output
