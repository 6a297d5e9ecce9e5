"""The pages of API keys: the list, and a key's making, showing, changing and end.

A page names a key by its id, and the service by its alias; the id goes along, so that a page that
was left open never changes a younger key of the same alias. Another account's key is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from admin import costs, samples
from admin.service import Minted
from admin.web import keyforms
from admin.web.desk import Page, current_account, desk, service, text_of, texts_of
from admin.web.keyforms import ALL, SOME, KeyForm
from admin.web.pages import error_page, redirect, render
from admin.web.texts import day
from store.catalog import Catalog, Plan, is_pattern
from store.control import Control
from store.errors import InputError, NotFoundError, RepeatedError, StoreError
from store.keylist import PAGE_KEYS, KeyLine, Show
from store.records import DAY_US

NEAR_EXPIRY_DAYS: Final = 14  # from then on answers say `x-key-expires`, too
NEAR_BUDGET_PERCENT: Final = 80
SHOWN_MODELS: Final = 2
SEARCH_CHARS: Final = 100
LISTING_SECONDS: Final = 0.5
WAITS: Final = 300  # looks for a first call, every 2 s
_INVALID: Final = 422


@dataclass(frozen=True, slots=True)
class Choice:
    """What a form of a key offers."""

    catalog: Catalog
    plan: Plan
    offered: tuple[costs.Offered, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.offered)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names that the catalog has with a `*` in them."""
        return tuple(name for name in self.catalog.models if is_pattern(name))


def keys_page(request: Request) -> Response:
    """The account's keys: live, expired or revoked ones, a page at a time, searched."""
    account = current_account(request)
    asked = request.query_params
    show = _show(asked.get("show"))
    search = asked.get("q", "").strip()[:SEARCH_CHARS]
    now_us = desk(request).clock()
    number = max(1, keyforms.number(asked.get("page", "1")))
    page = desk(request).key_list.page(account.id, show, now_us, search=search, number=number)
    plan = desk(request).catalog().plans.get(account.plan)
    views = [
        (_address(each, search, 1), each.value.capitalize(), page.counts[each], each is show)
        for each in Show
    ]
    return render(
        request,
        "keys.html",
        page=page,
        show=show.value,
        search=search,
        views=views,
        plan=plan,
        full=plan is not None
        and plan.max_keys is not None
        and page.counts[Show.LIVE] >= plan.max_keys,
        before=_address(show, search, page.number - 1) if page.number > 1 else None,
        behind=_address(show, search, page.number + 1) if page.number < page.pages else None,
        first=(page.number - 1) * PAGE_KEYS + 1,
        near_us=now_us + NEAR_EXPIRY_DAYS * DAY_US,
        near_percent=NEAR_BUDGET_PERCENT,
        shown_models=SHOWN_MODELS,
    )


def _show(text: str | None) -> Show:
    return next((each for each in Show if each.value == text), Show.LIVE)


def _address(show: Show, search: str, number: int) -> str:
    query = {"show": show.value} if show is not Show.LIVE else {}
    query |= {"q": search} if search else {}
    query |= {"page": str(number)} if number > 1 else {}
    return f"/keys?{urlencode(query)}" if query else "/keys"


# -- making one


def new_page(request: Request) -> Response:
    """The empty form; with `?from=ID` as that key has it."""
    choice = _choice(request)
    form = keyforms.empty_form(choice.plan, choice.names)
    model = request.query_params.get("from")
    if model is not None:
        line = _line(request, model)
        if line is None:
            return _no_such_key(request)
        form = keyforms.form_of_key(line.record, choice.names)
        names = desk(request).key_list.names(line.record.account_id)
        form.alias = keyforms.free_alias(form.alias, frozenset(alias for _, alias, _ in names))
    return _form_page(request, choice, form)


def mint(request: Request) -> Response:
    """Mint the key and show it: in this answer, and in no other."""
    account = current_account(request)
    choice = _choice(request)
    form = _sent(request)
    form.judge(choice.catalog, choice.plan, expiry=True)
    if form.errors:
        return _form_page(request, choice, form)
    try:
        minted = service(request).mint(
            account.email,
            form.alias,
            models=form.models,
            budget_usd=form.budget_usd,
            rpm=keyforms.number(form.rpm),
            expires_in_days=keyforms.number(form.days),
            form=text_of(request, "form") or None,
        )
    except RepeatedError as fault:
        return _repeated(request, fault)
    except InputError as fault:
        form.refuse(fault)
        return _form_page(request, choice, form)
    return _reveal(request, minted, choice)


def _repeated(request: Request, fault: RepeatedError) -> Response:
    return render(
        request, "key_repeated.html", status=409, line=_line(request, fault.subject), fault=fault
    )


def _reveal(request: Request, minted: Minted, choice: Choice) -> Response:
    record = minted.record
    known = [name for name in choice.names if record.models is None or name in record.models]
    model = samples.first_to_try(known or sorted(record.models or ())) or "MODEL"
    return render(
        request,
        "key_reveal.html",
        record=record,
        key=minted.key,
        notes=minted.notes,
        model=model,
        chats=samples.chats(model),
        sample_path=samples.path(model),
        sample_body=samples.body(model),
        gate=desk(request).gate_url(),
    )


def first_call(request: Request) -> Response:
    """A part of the page that shows a key: whether it has been used yet."""
    line = _line(request, request.path_params["key_id"])
    if line is None:
        return _no_such_key(request)
    reason = None
    if line.last_us is None:
        today = desk(request).clock() // DAY_US
        reason = desk(request).usage.last_refused(line.record.account_id, line.record.id, today)
    looked = keyforms.number(request.query_params.get("looked", "0"))
    return render(
        request, "parts/first_call.html", line=line, reason=reason, looked=looked, waits=WAITS
    )


def cost(request: Request) -> Response:
    """A part of the form: what a call of the chosen models can cost at most."""
    asked = request.query_params
    form = KeyForm(
        scope=ALL if asked.get("scope") == ALL else SOME,
        chosen=tuple(asked.getlist("model")),
        more=asked.get("more", ""),
    )
    return render(request, "parts/cost.html", **_cost(desk(request).catalog(), form))


def _cost(catalog: Catalog, form: KeyForm) -> dict[str, Any]:
    names = form.names()
    return {"nothing": names == frozenset(), "most": costs.dearest(catalog, names)}


# -- changing one


def edit_page(request: Request) -> Response:
    """The form as the key has it."""
    line = _line(request, request.path_params["key_id"])
    if line is None or line.record.revoked_us is not None:
        return _no_such_key(request)
    choice = _choice(request)
    form = keyforms.form_of_key(line.record, choice.names)
    return _form_page(request, choice, form, line)


def edit(request: Request) -> Response:
    """Change what differs: a plan's caps bind only that."""
    line = _line(request, request.path_params["key_id"])
    if line is None or line.record.revoked_us is not None:
        return _no_such_key(request)
    choice = _choice(request)
    form = _sent(request)
    was = keyforms.form_of_key(line.record, choice.names)
    budget = None if form.budget_usd == was.budget_usd else form.budget_usd
    rpm = None if form.rpm.strip() == was.rpm else keyforms.number(form.rpm)
    models = None if form.names() == was.names() and form.models else form.models
    form.judge(choice.catalog, choice.plan, expiry=False)
    for name, changed in (("budget", budget), ("rpm", rpm)):
        if changed is None:
            form.errors.pop(name, None)
    if form.errors:
        return _form_page(request, choice, form, line)
    try:
        if (form.alias, models, budget, rpm) != (line.record.alias, None, None, None):
            service(request).update(
                line.record.user,
                line.record.alias,
                new_alias=form.alias,
                models=models,
                budget_usd=budget,
                rpm=rpm,
                key_id=line.record.id,
            )
    except NotFoundError:
        return _no_such_key(request)
    except InputError as fault:
        form.refuse(fault)
        return _form_page(request, choice, form, line)
    return redirect("/keys", done="saved")


# -- its end


def revoke_page(request: Request) -> Response:
    """What will fail, and the field for the alias."""
    return _revoke_page(request, error=None)


def revoke(request: Request) -> Response:
    """Revoke the key, if its alias was typed out. Once more changes nothing."""
    line = _line(request, request.path_params["key_id"])
    if line is None:
        return _no_such_key(request)
    record = line.record
    typed = text_of(request, "confirm").strip()
    if record.revoked_us is None:
        if typed != record.alias:
            words = f"That is not the key's alias. Type {record.alias} to revoke it."
            return _revoke_page(request, error=words)
        try:
            service(request).revoke(record.user, record.alias, confirm=typed, key_id=record.id)
        except NotFoundError:  # somebody else revoked it meanwhile, or it has another alias now
            return _no_such_key(request)
    return redirect("/keys", done="revoked")


def _revoke_page(request: Request, error: str | None) -> Response:
    line = _line(request, request.path_params["key_id"])
    if line is None or line.record.revoked_us is not None:
        return _no_such_key(request)
    return render(
        request,
        "key_revoke.html",
        status=200 if error is None else _INVALID,
        line=line,
        errors={} if error is None else {"confirm": error},
        typed=text_of(request, "confirm") if request.method == "POST" else "",
    )


# -- what they share


def _line(request: Request, key_id: str) -> KeyLine | None:
    each = desk(request)
    return each.key_list.line(current_account(request).id, key_id, each.clock())


def _no_such_key(request: Request) -> Response:
    return error_page(
        request,
        404,
        "There is no such key",
        "It may have been revoked. Your keys are under API keys.",
    )


def _choice(request: Request) -> Choice:
    catalog = desk(request).catalog()
    plan = catalog.plan_of(current_account(request).plan)
    return Choice(catalog, plan, tuple(costs.offered(catalog, _listed(request))))


def _listed(request: Request) -> tuple[str, ...]:
    """What the model servers list, as a running authz on this machine knows it."""
    try:
        names = Control.of(desk(request).settings).ask("models", seconds=LISTING_SECONDS)
    except (StoreError, InputError):
        return ()
    return tuple(name for name in names if isinstance(name, str) and name.isprintable())


def _sent(request: Request) -> KeyForm:
    return KeyForm(
        alias=text_of(request, "alias").strip(),
        scope=ALL if text_of(request, "scope") == ALL else SOME,
        chosen=tuple(texts_of(request, "model")),
        more=text_of(request, "more"),
        budget=text_of(request, "budget"),
        rpm=text_of(request, "rpm"),
        days=text_of(request, "days"),
    )


def _form_page(
    request: Request, choice: Choice, form: KeyForm, line: KeyLine | None = None
) -> Response:
    each = desk(request)
    account = current_account(request)
    counts = each.key_list.page(account.id, Show.LIVE, each.clock()).counts
    return render(
        request,
        "key_form.html",
        status=_INVALID if form.errors else 200,
        choice=choice,
        form=form,
        line=line,
        whole=form.errors.get(keyforms.WHOLE),
        limits=keyforms.limit_words(choice.plan),
        live=counts[Show.LIVE],
        full=line is None
        and choice.plan.max_keys is not None
        and counts[Show.LIVE] >= choice.plan.max_keys,
        expiries=keyforms.expiry_choices(each.clock(), day),
        **_cost(choice.catalog, form),
    )


PAGES: Final = (
    Page("GET", "/keys", keys_page),
    Page("GET", "/keys/new", new_page),
    Page("POST", "/keys/new", mint),
    Page("GET", "/keys/cost", cost),
    Page("GET", "/keys/{key_id}/edit", edit_page),
    Page("POST", "/keys/{key_id}/edit", edit),
    Page("GET", "/keys/{key_id}/revoke", revoke_page),
    Page("POST", "/keys/{key_id}/revoke", revoke),
    Page("GET", "/keys/{key_id}/first-call", first_call),
)
