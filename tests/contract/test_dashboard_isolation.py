"""Nobody sees or changes what is another's: every route and method there is, walked.

A new route is walked as soon as it is in the table of routes. One whose path has a new kind of
parameter fails here until it is said what of Anna's such a parameter could name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest
from dashboardhelp import book_call, everything
from peers.dashboard import Browser, Dashboard, dashboard, text_of

from admin.signins import new_token
from admin.web.desk import Access, Page
from admin.web.routes import PAGES
from store.records import Account, Role

PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("POST", "/sign-out"),
    ("GET", "/sign-in/oidc"),
    ("GET", "/sign-in/oidc/callback"),
    ("GET", "/invite/{token}"),
    ("POST", "/invite/{token}"),
    ("POST", "/invite/{token}/oidc"),
    ("GET", "/register"),
    ("POST", "/register"),
}
"""All that is there for somebody who is not signed in, beside the static files."""

SIGNED_IN = [page for page in PAGES if page.access is not Access.PUBLIC]
MARK = "annas-own"
METHODS = ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")


@dataclass
class Scene:
    """Anna has all that can be had; Bob is another user. `ids` is what parameters can name."""

    board: Dashboard
    anna: Account
    bob: Account
    auditor: Account
    admin: Account
    ids: dict[str, str]
    key: str
    request_id: str


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with dashboard(tmp_path_factory.mktemp("isolation")) as board:
        anna = board.user("anna@example.org", team=f"{MARK}-team")
        bob = board.user("bob@example.org")
        minted = board.service.mint(anna.email, f"{MARK}-alias", models=f"{MARK}-model")
        board.service.mint(bob.email, "bobs", models="*")
        request_id = f"{MARK}-request"
        book_call(board.engine, minted.record, model=f"{MARK}-model", request_id=request_id)
        session = board.session_of(anna)
        with board.engine.connect() as connection:
            (session_id,) = connection.exec_driver_sql(
                "SELECT id FROM sessions WHERE account_id = ?", (anna.id,)
            ).one()
        ids = {
            "key_id": minted.record.id,
            "key": minted.record.id,
            "session": session_id,
            "account": anna.id,
        }
        yield Scene(
            board,
            anna,
            bob,
            board.user("auditor@example.org", role=Role.AUDITOR),
            board.user("admin@example.org", role=Role.ADMIN),
            ids | {"session_token": session},
            minted.key,
            request_id,
        )


def path_of(page: Page, ids: dict[str, str]) -> str:
    """The page's address for what is Anna's."""
    names = re.findall(r"{(\w+)(?::\w+)?}", page.path)
    unknown = [name for name in names if name not in ids]
    assert not unknown, f"{page.path}: say in this test what of Anna's `{unknown[0]}` could name"
    return re.sub(r"{(\w+)(?::\w+)?}", lambda found: ids[found[1]], page.path)


def ask(browser: Browser, page: Page, path: str) -> tuple[int, str, str]:
    """(status, where it leads, what it says) of a request that lacks nothing but the right."""
    form = {
        "confirm": f"{MARK}-alias",
        "alias": "taken-over",
        "models": "all",
        "email": "anna@example.org",
        "plan": "pro",
        "team": "bobs",
        "role": "admin",
        "budget": "1",
        "rpm": "1",
        "current": "x" * 12,
        "new": "y" * 12,
        "again": "y" * 12,
    }
    answer = browser.get(path) if page.method == "GET" else browser.post(path, form)
    return answer.status_code, answer.headers.get("location", ""), text_of(answer)


def test_what_needs_no_session_is_a_list() -> None:
    public = {(page.method, page.path) for page in PAGES if page.access is Access.PUBLIC}
    assert public == PUBLIC
    assert {page.method for page in PAGES} == {"GET", "POST"}
    assert len({(page.method, page.path) for page in PAGES}) == len(PAGES)


@pytest.mark.parametrize("page", SIGNED_IN, ids=lambda page: f"{page.method} {page.path}")
def test_every_other_page_needs_one(scene: Scene, page: Page) -> None:
    browser = scene.board.browser()
    before = everything(scene.board.engine)
    status, where, said = ask(browser, page, path_of(page, scene.ids))
    assert status == 303
    assert where.partition("?")[0] == "/sign-in"
    assert said == ""
    htmx = browser.client.request(
        page.method, path_of(page, scene.ids), headers={"hx-request": "true"}
    )
    assert htmx.status_code in {401, 415}
    assert MARK not in htmx.text
    assert everything(scene.board.engine) == before


@pytest.mark.parametrize(
    "page",
    [page for page in SIGNED_IN if "{" in page.path],
    ids=lambda page: f"{page.method} {page.path}",
)
def test_anothers_is_not_there(scene: Scene, page: Page) -> None:
    """And looks as what never was."""
    browser = scene.board.browser(scene.bob)
    before = everything(scene.board.engine)
    status, where, said = ask(browser, page, path_of(page, scene.ids))
    assert (status, where) == (404, "")
    nobodys = {name: value[:4] + "a" * (len(value) - 4) for name, value in scene.ids.items()}
    assert ask(browser, page, path_of(page, nobodys)) == (404, "", said)
    assert MARK not in said
    assert everything(scene.board.engine) == before


@pytest.mark.parametrize(
    ("role", "page"),
    [
        pytest.param(role, page, id=f"{role} {page.method} {page.path}")
        for role, page in product(("bob", "auditor"), SIGNED_IN)
        if page.access > (Access.USER if role == "bob" else Access.AUDITOR)
    ],
)
def test_what_a_role_may_not_is_not_there(scene: Scene, role: str, page: Page) -> None:
    browser = scene.board.browser(getattr(scene, role))
    before = everything(scene.board.engine)
    status, where, said = ask(browser, page, path_of(page, scene.ids))
    assert (status, where) == (404, "")
    assert MARK not in said
    assert everything(scene.board.engine) == before


def test_no_question_brings_anothers_to_light(scene: Scene) -> None:
    """Every page that Bob can open, asked for Anna's by every parameter that any page knows."""
    browser = scene.board.browser(scene.bob)
    asked = {
        **dict.fromkeys(("key", "key_id", "from", "id"), scene.ids["key_id"]),
        **dict.fromkeys(("user", "account", "email"), scene.anna.email),
        "account_id": scene.anna.id,
        "team": scene.anna.team or "",
        "show": "live",
        "days": "30",
        "months": "12",
    }
    opened = 0
    for page in SIGNED_IN:
        if page.method != "GET" or "{" in page.path or page.access > Access.USER:
            continue
        for name, value in {**asked, "q": scene.request_id, "search": "annas"}.items():
            answer = browser.get(page.path, params={name: value})
            assert answer.status_code in {200, 303, 404}, (page.path, name)
            said = answer.text.replace(value, "")
            for secret in (MARK, "anna@", scene.anna.id, scene.ids["key_id"][4:]):
                assert secret not in said, (page.path, name)
            opened += 1
    assert opened > 50
    own = scene.board.browser(scene.anna)
    assert MARK in own.get("/keys").text
    assert MARK in own.get("/usage/calls").text, "there was something to be seen"


def test_an_auditor_reads_spend_and_nothing_else(scene: Scene) -> None:
    browser = scene.board.browser(scene.auditor)
    page = browser.get("/admin/teams")
    assert page.status_code == 200
    assert f"{MARK}-team" in page.text
    assert f"{MARK}-team" in browser.get("/admin/teams.csv").text
    for secret in (scene.ids["key_id"], "sk-tg_", "anna@example.org", f"{MARK}-alias"):
        assert secret not in page.text
    assert 'href="/admin/users"' not in page.text


def test_an_auditor_reads_everybodys_usage_and_no_secret(scene: Scene) -> None:
    browser = scene.board.browser(scene.auditor)
    asked = [
        ("/admin/usage", ("$0.0013", f"{MARK}-model", f"{MARK}-alias", scene.anna.email)),
        ("/admin/usage?by=user", (scene.anna.email,)),
        ("/admin/usage?by=team", (f"{MARK}-team",)),
        (f"/admin/usage?user={scene.anna.email}&by=key", (f"({scene.key[-4:]})",)),
        (
            f"/admin/usage?user={scene.anna.email.upper()}&key={scene.ids['key_id']}",
            (f"{MARK}-alias",),
        ),
        ("/admin/usage/calls", (scene.request_id, scene.anna.email)),
        (f"/admin/usage/calls?q={scene.request_id}", (f"{MARK}-model",)),
        (f"/admin/usage/calls?user={scene.anna.email}", (scene.request_id,)),
        ("/admin/usage.csv", (f'"{scene.anna.email}"', f'"{MARK}-alias"', "0.00125")),
        ("/admin/usage/calls.csv", (scene.request_id, scene.anna.email)),
    ]
    for path, told in asked:
        answer = browser.get(path)
        assert answer.status_code == 200, path
        assert [each for each in told if each not in answer.text] == [], path
        for secret in (scene.key, scene.key[6:-4], "$argon2", scene.ids["session_token"]):
            assert secret not in answer.text, path
    # one account's is that account's alone, and a key is never another's than the one named
    bobs = browser.get(f"/admin/usage?user={scene.bob.email}")
    assert bobs.status_code == 200
    assert MARK not in bobs.text
    for path in (
        "/admin/usage?user=nobody@example.org",
        f"/admin/usage?user={'a' * 300}@example.org",
        f"/admin/usage?key={scene.ids['key_id']}",
        f"/admin/usage/calls?user={scene.bob.email}&key={scene.ids['key_id']}",
        f"/admin/usage.csv?user={scene.bob.email}&key={scene.ids['key_id']}",
    ):
        answer = browser.get(path)
        assert answer.status_code == 404, path
        assert MARK not in answer.text


def test_an_auditors_own_usage_is_their_own(scene: Scene) -> None:
    """The page of one's own takes no name of another, whoever asks."""
    browser = scene.board.browser(scene.auditor)
    for path in ("/usage", "/usage/calls", "/usage.csv", "/usage/calls.csv"):
        answer = browser.get(path, params={"user": scene.anna.email})
        assert answer.status_code == 200
        assert MARK not in answer.text
        assert browser.get(path, params={"key": scene.ids["key_id"]}).status_code == 404


def test_an_admin_sees_hints_and_no_secrets(scene: Scene) -> None:
    browser = scene.board.browser(scene.admin)
    for page in SIGNED_IN:
        if page.method == "GET" and page.path.startswith("/admin"):
            answer = browser.get(path_of(page, scene.ids))
            assert answer.status_code == 200, page.path
            for secret in (scene.key, scene.key[6:-4], "$argon2", scene.ids["session_token"]):
                assert secret not in answer.text, page.path
    user = browser.get(f"/admin/users/{scene.anna.id}").text
    assert f"sk-tg_…{scene.key[-4:]}" in user


def test_a_role_counts_from_the_next_page_on(scene: Scene) -> None:
    account = scene.board.user("demoted@example.org", role=Role.ADMIN)
    browser = scene.board.browser(account)
    assert browser.get("/admin/users").status_code == 200
    scene.board.service.set_role(account.email, Role.USER)
    assert browser.get("/admin/users").status_code == 404


@pytest.mark.parametrize("method", METHODS)
def test_no_other_method_does_anything(scene: Scene, method: str) -> None:
    browser = scene.board.browser(scene.admin)
    before = everything(scene.board.engine)
    for page in PAGES:
        path = path_of(page, scene.ids | {"token": new_token()})
        answer = browser.client.request(method, path)
        assert answer.status_code in {400, 405}, (method, path)
        assert MARK not in answer.text
    assert everything(scene.board.engine) == before


def test_no_bearer_token_is_accepted(scene: Scene) -> None:
    """Neither a key, nor a session's own token anywhere but in its cookie."""
    token = scene.board.session_of(scene.anna, idle_us=0)
    carriers = [
        {"authorization": f"Bearer {scene.key}"},
        {"authorization": f"Bearer {token}"},
        {"authorization": f"Basic {token}"},
        {"x-api-key": scene.key},
        {"x-api-key": token},
        {"cookie": f"session={token}"},
        {"cookie": f"tensorgate_session={scene.key}"},
    ]
    browser = scene.board.browser()
    for page in SIGNED_IN:
        for headers in carriers:
            answer = browser.client.request(
                page.method, path_of(page, scene.ids), headers=headers, params={"token": token}
            )
            assert answer.status_code in {303, 415}, (page.path, headers)


def test_the_ids_of_a_session_and_of_an_account_are_no_way_in(scene: Scene) -> None:
    for text in (scene.ids["session"], scene.anna.id, scene.anna.email, "", "x" * 43):
        browser = scene.board.browser()
        browser.client.cookies.set("tensorgate_session", text)
        assert browser.get("/account").status_code == 303
