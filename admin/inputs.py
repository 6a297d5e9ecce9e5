"""What people give, read strictly. Pure: text in, value out, or an InputError that says how."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from admin.passwords import MAX_CHARS as PASSWORD_MAX
from admin.passwords import MIN_CHARS as PASSWORD_MIN
from store.errors import InputError
from store.keyformat import KeyForm
from store.records import MAX_EXPIRY_DAYS, NANOUSD

ALIAS_MAX: Final = 63
EMAIL_MAX: Final = 254
TEAM_MAX: Final = 64
MODEL_NAME_MAX: Final = 256
MODELS_MAX: Final = 256
BUDGET_MAX_USD: Final = 1_000_000  # in nano-USD still exact as a double, which Redis counts in
RPM_MAX: Final = 1_000_000
CALL_ID_MAX: Final = 256
SEARCH_MAX: Final = 256
GROUPS: Final = ("account", "user", "team", "key", "alias", "model", "day", "month")
UNLIMITED: Final = "none"
EVERY_MODEL: Final = "*"

_ALIAS = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# The e-mail travels to the model server in a header and stands in tables: plain ASCII, one word.
_EMAIL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9-]+)*")
_CALL_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{CALL_ID_MAX}}}")
_OWN_ID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}")  # as Envoy and we draw them
_USD = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?")


def email(text: str) -> str:
    """An e-mail, lower-case: it names the account."""
    value = text.strip().lower()
    if len(value) > EMAIL_MAX or not _EMAIL.fullmatch(value):
        raise InputError(
            "That is not an e-mail address that can name an account. "
            "Write it as name@example.org, in ASCII.",
            code="invalid_email",
        )
    return value


def alias(text: str) -> str:
    """A key's name among its account's keys."""
    if len(text) > ALIAS_MAX or not _ALIAS.fullmatch(text):
        raise InputError(
            f"An alias has lower-case letters, digits and single dashes, at most {ALIAS_MAX} "
            "characters. Write it like `laptop` or `ci-runner-2`.",
            code="invalid_alias",
        )
    return text


def team(text: str | None) -> str | None:
    """A label; None for none."""
    if text is None:
        return None
    value = text.strip()
    if not value or len(value) > TEAM_MAX or not value.isprintable():
        raise InputError(
            f"A team is a label of 1 to {TEAM_MAX} printable characters.", code="invalid_team"
        )
    return value


def password(text: str) -> str:
    """A password as somebody chose it; it is kept as it is, spaces too."""
    if not PASSWORD_MIN <= len(text) <= PASSWORD_MAX:
        raise InputError(
            f"A password has {PASSWORD_MIN} to {PASSWORD_MAX} characters. Choose another.",
            code="invalid_password",
        )
    return text


def models(text: str) -> tuple[str, ...] | None:
    """`m1,m2` → names in order, each once; `*` alone → None, every model."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if names == (EVERY_MODEL,):
        return None
    if len(names) > MODELS_MAX:
        raise _bad_models(f"A key names at most {MODELS_MAX} models.")
    for name in names:
        if not name:
            raise _bad_models("A model's name is missing.")
        if len(name) > MODEL_NAME_MAX or not name.isprintable():
            raise _bad_models(
                f"A model's name has at most {MODEL_NAME_MAX} characters, all printable."
            )
        if EVERY_MODEL in name:
            raise _bad_models(f"`{name}` is not one model's name.")
    return names


def _bad_models(what: str) -> InputError:
    return InputError(
        f"{what} Write exact names with commas between them, or '*' alone for every model.",
        code="invalid_models",
    )


def budget_nanousd(text: str) -> int | None:
    """USD as written → nano-USD, exactly; `none` → None. 0 leaves only free models."""
    value = text.strip()
    if value == UNLIMITED:
        return None
    if not _USD.fullmatch(value) or Decimal(value) > BUDGET_MAX_USD:
        raise InputError(
            f"A budget is USD from 0 to {BUDGET_MAX_USD} with at most 9 decimals, or `none`. "
            "Write it like 10 or 0.50.",
            code="invalid_budget",
        )
    return int(Decimal(value) * NANOUSD)


def groups(text: str) -> tuple[str, ...]:
    """`team,model` → what sums are by, each once, in the order given."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in GROUPS:
            what = f"`{name}` is nothing" if name.isprintable() and name else "That is nothing"
            raise InputError(
                f"{what} that sums can be by. Write some of {', '.join(GROUPS)}, with commas "
                "between them.",
                code="invalid_group",
            )
    return names


def call_id(text: str, form: KeyForm) -> str:
    """The request id or the hold id of a call. What was given instead is never repeated."""
    if not _CALL_ID.fullmatch(text):
        raise InputError(
            f"An id of a call has at most {CALL_ID_MAX} letters, digits, dots, dashes and "
            "underscores. Copy it from the client's `x-request-id`.",
            code="invalid_id",
        )
    if form.has_key(text) or (form.is_foreign(text) and not _OWN_ID.fullmatch(text)):
        raise InputError(
            "That has the form of a key, and no call has such an id. Name the key it is with "
            "`tensorgate keys find --key-stdin`; a command line is no place for it.",
            code="invalid_id",
        )
    return text


def search(text: str) -> str:
    """What is looked for among names."""
    value = text.strip()
    if not value or len(value) > SEARCH_MAX or not value.isprintable():
        raise InputError(
            f"What to look for is a text of 1 to {SEARCH_MAX} printable characters.",
            code="invalid_search",
        )
    return value


def rpm(value: int) -> int:
    """Requests in any 60 seconds."""
    if not 1 <= value <= RPM_MAX:
        raise InputError(
            f"The requests a minute are a whole number from 1 to {RPM_MAX}.", code="invalid_rpm"
        )
    return value


def expiry_days(value: int) -> int:
    """Days until a key expires."""
    if not 1 <= value <= MAX_EXPIRY_DAYS:
        raise InputError(
            f"A key lives 1 to {MAX_EXPIRY_DAYS} days. Mint another one when it expires.",
            code="invalid_expiry",
        )
    return value
