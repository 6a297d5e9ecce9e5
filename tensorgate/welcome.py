"""What `up` tells when the gate is up; on a new state with a first user and key, shown once.

They are made only now, when nothing can go wrong any more before they are printed.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from admin import samples
from admin.output import budget_text, models_text, rpm_text
from admin.service import AdminService, Minted, open_service
from store.records import Role
from store.text import utc
from tensorgate.preflight import Setup
from tensorgate.upstream import Silent, Upstream

FIRST_USER: Final = "admin@localhost"
FIRST_ALIAS: Final = "first"
ACTOR: Final = "tensorgate up"


def greet(setup: Setup, found: Upstream | Silent) -> list[str]:
    """The lines below the ready line. Raises StoreError."""
    with open_service(setup.settings, actor=ACTOR) as service:
        new = not service.list_users()
        parts = [*_parts(setup, found), _dashboard(setup, service)]
        lines = [*parts, *(_first(setup, service, found) if new else _again(setup))]
    return [*lines, "", "Ctrl-C stops it."]


def _parts(setup: Setup, found: Upstream | Silent) -> Iterator[str]:
    if isinstance(found, Silent):
        yield f"  upstream  {found}; calls get 503 until it does"
    else:
        yours = " · yours instead: UPSTREAM=host:port" if setup.upstream is None else ""
        yield f"  upstream  {found}{yours}"
    yield f"  state     {setup.state.path} (logs in log/)"
    yield f"  metrics   http://{setup.metrics}/metrics"


def _dashboard(setup: Setup, service: AdminService) -> str:
    """Where to sign in, and as whom: the first admin there is, by e-mail."""
    admins = (each for each, _ in service.list_users() if each.role is Role.ADMIN)
    who = next((each.email for each in admins), FIRST_USER)
    return f"  dashboard {setup.dashboard} · sign in as {who}"


def _first(setup: Setup, service: AdminService, found: Upstream | Silent) -> Iterator[str]:
    added = service.add_user(FIRST_USER, role=Role.ADMIN)
    minted = service.mint(FIRST_USER, FIRST_ALIAS, models="*")
    record = minted.record
    limits = (
        models_text(record.models),
        budget_text(record.budget_nanousd),
        rpm_text(record.rpm),
        f"until {utc(record.expires_us)}",
    )
    yield f"  user      {added.account.email} · password {added.password}"
    yield f"  key       {minted.key}"
    yield f"            {' · '.join(limits)}"
    yield "            Keep both now: they are shown only this once."
    yield ""
    yield "Try it:"
    yield curl(setup, minted, found)


def _again(setup: Setup) -> Iterator[str]:
    yield (
        "  keys      as they were; another: "
        f"{command(setup)} keys mint --user EMAIL --alias NAME --models '*'"
    )


def command(setup: Setup) -> str:
    """How to call `tensorgate` on this state from where we are."""
    program = sys.argv[0]
    found = shutil.which("tensorgate")
    name = "tensorgate" if found and Path(found).samefile(program) else shlex.quote(program)
    if setup.state.path == Path(".tensorgate").absolute():
        return name
    return f"TENSORGATE_STATE={shlex.quote(str(setup.state.path))} {name}"


def curl(setup: Setup, minted: Minted, found: Upstream | Silent) -> str:
    """A line that works when pasted into a shell: a call that the model server can answer.

    Where no model is known that the key may call, it lists the models instead.
    """
    base = f"http://{setup.local}"
    model = callable_model(setup, found)
    words = ["curl", "-sS"]
    if model is None:
        words += [f"{base}/v1/models", "-H", f"Authorization: Bearer {minted.key}"]
        return shlex.join(words)
    words += [f"{base}{samples.path(model)}", "-H", f"Authorization: Bearer {minted.key}"]
    words += ["-H", "Content-Type: application/json", "-d", json.dumps(samples.body(model))]
    return shlex.join(words)


def callable_model(setup: Setup, found: Upstream | Silent) -> str | None:
    """A listed model that has a price, one to chat with if there is one."""
    listed: Sequence[str] = () if isinstance(found, Silent) else found.models
    priced = (name for name in listed if name.isprintable() and setup.catalog.resolve(name))
    return samples.first_to_try(priced)
