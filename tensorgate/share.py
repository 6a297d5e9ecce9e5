"""`tensorgate share`: a key for somebody, and the message that they need to use it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from admin import output
from admin.cli import notes_text, opened
from admin.inputs import EVERY_MODEL
from admin.planrules import DEFAULT_BUDGET_NANOUSD, plan_of
from admin.service import AdminService, Minted
from store.catalog import Catalog
from store.errors import InputError
from store.records import NANOUSD, Account
from store.settings import StoreSettings, load
from store.text import usd, utc
from tensorgate.statefolder import StateFolder

ALIAS: Final = "shared"
# It is pasted into a shell: nothing that a shell reads in quotes may stand in it.
_URL: Final = re.compile(r"https?://[A-Za-z0-9._\-\[\]:/~%]+")
_HERE_ONLY: Final = ("localhost", "127.0.0.1", "::1")


def share(email: str, *, budget_usd: str | None, url: str | None, as_json: bool) -> None:
    """Add the account if there is none, mint a key that may call every model, print it all.

    Without a budget it is 5 USD, or less if the plan allows less. Raises InputError.
    """
    settings = load(StoreSettings)
    where = _gate_url(settings, url)
    catalog = Catalog.read(settings.catalog)
    with opened() as use:
        account = use.find_user(email)
        added = account is None
        if account is None:
            account = use.add_user(email, make_one=False).account
        minted = use.mint(
            account.email,
            _free_alias(use, account),
            models=EVERY_MODEL,
            budget_usd=budget_usd or _default_budget(catalog, account),
        )
    record = minted.record
    value = {
        "user": record.user,
        "account_added": added,
        "base_url": f"{where}/v1",
        "id": record.id,
        "alias": record.alias,
        "key": minted.key,
        "hint": record.hint,
        **output.limits_json(record),
    }
    model = next(catalog.exact_names(), "MODEL")
    output.show(as_json, value, message(minted, where, model) + notes_text(_warnings(where)))


def _gate_url(settings: StoreSettings, url: str | None) -> str:
    """Where the gate is reached, without a slash at the end."""
    known = url or StateFolder(settings.state).read("url")
    if known is None:
        raise InputError(
            "It is not known yet where the gate is reached. "
            "Start it with `tensorgate up`, or give --url http://host:port.",
            code="url_needed",
        )
    if not _URL.fullmatch(known) or not urlsplit(known).hostname:
        raise InputError(
            "That is not where a gate can be reached. Write it like https://models.example.org.",
            code="invalid_url",
        )
    return known.rstrip("/").removesuffix("/v1")


def _warnings(url: str) -> tuple[str, ...]:
    if urlsplit(url).hostname in _HERE_ONLY:
        return (
            (
                f"only this machine reaches {url}; give --url with the address that others use, "
                "and start the gate with --listen (make: LISTEN=)."
            ),
        )
    return ()


def _default_budget(catalog: Catalog, account: Account) -> str:
    cap = plan_of(catalog, account).max_budget_nanousd
    budget = DEFAULT_BUDGET_NANOUSD if cap is None else min(cap, DEFAULT_BUDGET_NANOUSD)
    whole, nano = divmod(budget, NANOUSD)
    return f"{whole}.{nano:09d}"


def _free_alias(use: AdminService, account: Account) -> str:
    """`shared`, else `shared-2` and so on. Revoked keys do not keep theirs."""
    every = use.list_keys(account.email, every=True)
    taken = {record.alias for record in every if record.revoked_us is None}
    number, alias = 1, ALIAS
    while alias in taken:
        number += 1
        alias = f"{ALIAS}-{number}"
    return alias


def message(minted: Minted, url: str, model: str) -> str:
    """The text to paste to a friend: every line of it works as it stands for a named model."""
    record = minted.record
    budget = record.budget_nanousd
    spend = "" if budget is None else f" and {usd(budget)} in 30 days"
    return f"""\
Here is a key for the models at {url}. It is yours alone: please do not pass it on.

  base URL  {url}/v1
  key       {minted.key}

It may call {output.models_text(record.models)}: at most {output.rpm_text(record.rpm)}{spend}.
It works until {utc(record.expires_us)}.

See which models there are:

  curl {url}/v1/models -H 'Authorization: Bearer {minted.key}'

Use one of them from Python (pip install openai):

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{minted.key}")
  hello = [{{"role": "user", "content": "Hello!"}}]
  answer = client.chat.completions.create(model="{model}", messages=hello)
  print(answer.choices[0].message.content)"""
