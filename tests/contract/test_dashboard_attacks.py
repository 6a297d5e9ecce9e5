"""What hostile pages, forms and people send to the dashboard, and what comes of it: nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Final

import httpx2
import pytest
from dashboardhelp import book_call, everything
from peers.dashboard import PASSWORD, Browser, Dashboard, dashboard
from sqlalchemy import text

from admin.web.guard import POLICY
from admin.web.pages import local_path, new_form
from admin.web.routes import PAGES
from store.records import Account, Role

ANNA = "anna@example.org"
SCRIPT: Final = "<script>alert(1)</script>"
QUOTED: Final = "\"'><img src=x onerror=alert(1)>"
CATALOG: Final = """
models:
  llama-3.1-8b: {price: {input: 0.05, output: 0.08}, context_tokens: 131072}
  "x<script>alert(1)</script>": {price: {input: 1, output: 1}, context_tokens: 4096}
plans:
  free: {max_keys: 2, max_budget_usd: 5, max_rpm: 60}
  open: {}
  "<script>alert(1)</script>": {}
default_plan: free
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with dashboard(tmp_path_factory.mktemp("attacks"), catalog=CATALOG) as running:
        yield running


@pytest.fixture(scope="module")
def anna(board: Dashboard) -> Account:
    return board.user(ANNA, plan="open", password=PASSWORD)


def key_form(alias: str, **changes: str) -> dict[str, str]:
    """The form of a new key as its page sends it."""
    plain = {"alias": alias, "scope": "all", "budget": "1", "rpm": "10", "days": "7"}
    return plain | {"form": new_form()} | changes


def minted(answer: httpx2.Response) -> bool:
    return answer.status_code == 200 and re.search(r"sk-tg_\w{49}", answer.text) is not None


def bare(board: Dashboard, account: Account, **headers: str) -> httpx2.Client:
    """A browser of the account that sends these headers and no others of its own."""
    browser = board.browser(account)
    browser.client.headers = httpx2.Headers(headers)
    return browser.client


# -- pages of elsewhere


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin, cross-site"},
        {"sec-fetch-site": "cross-site", "origin": "SELF"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "SELF.evil.example"},
        {"origin": "https://127.0.0.1"},
        {"referer": "SELF/keys"},
        {"x-http-method-override": "GET"},
        {},
    ],
    ids=str,
)
def test_a_change_that_no_page_of_ours_asked_for(
    board: Dashboard, anna: Account, headers: dict[str, str]
) -> None:
    sent = {name: value.replace("SELF", board.url) for name, value in headers.items()}
    client = bare(board, anna, **sent)
    before = everything(board.engine)
    for page in PAGES:
        if page.method == "POST":
            path = re.sub(r"{\w+}", "x", page.path)
            answer = client.post(path, data=key_form("planted"))
            assert answer.status_code == 403, page.path
            assert "set-cookie" not in answer.headers
    assert everything(board.engine) == before


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "same-origin"}, {"origin": "SELF"}], ids=str
)
def test_a_change_that_a_page_of_ours_asked_for(
    board: Dashboard, anna: Account, headers: dict[str, str]
) -> None:
    sent = {name: value.replace("SELF", board.url) for name, value in headers.items()}
    client = bare(board, anna, **sent)
    assert minted(
        client.post("/keys/new", data=key_form(f"ours-{len(sent)}{next(iter(sent))[:3]}"))
    )


def test_two_origins_are_none(board: Dashboard, anna: Account) -> None:
    client = bare(board, anna)
    pairs = [("origin", board.url), ("origin", "https://evil.example")]
    assert client.post("/sign-out", headers=httpx2.Headers(pairs)).status_code == 403
    sites = [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")]
    assert client.post("/sign-out", headers=httpx2.Headers(sites)).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_no_other_name_is_served_on_loopback(board: Dashboard, anna: Account, host: str) -> None:
    """A page of elsewhere can have a name of its own mean 127.0.0.1, and is of one origin then."""
    client = bare(board, anna, host=host, origin=f"http://{host}")
    assert client.get("/keys").status_code == 421
    assert client.post("/keys/new", data=key_form("rebound")).status_code == 421
    assert client.get("/healthz").status_code == 200, "probes call us by any name"


def test_a_link_from_elsewhere_is_taken_once_more(board: Dashboard, anna: Account) -> None:
    """Its first request lacks the cookie (SameSite=Strict); a page of ours asks again."""
    sent = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    stranger = board.browser()
    stranger.client.headers = httpx2.Headers(sent)
    page = stranger.get('/usage?q="><script>alert(1)</script>')
    assert page.status_code == 200
    assert SCRIPT not in page.text
    assert '<meta http-equiv="refresh" content="0;url=/usage?q=%22%3E' in page.text
    assert bare(board, anna, **sent).get("/usage").status_code == 200
    assert board.browser().get("/usage").headers["location"] == "/sign-in?next=/usage"


# -- every answer


def test_every_answer_says_what_may_run_who_may_frame_and_that_it_is_not_kept(
    board: Dashboard, anna: Account
) -> None:
    browser, stranger = board.browser(anna), board.browser()
    answers = {
        "page": browser.get("/keys"),
        "redirect": stranger.get("/keys"),
        "sign-in": stranger.get("/sign-in"),
        "csv": browser.get("/usage.csv"),
        "none": browser.get("/nothing"),
        "method": browser.client.request("PUT", "/keys"),
        "foreign": bare(board, anna).post("/keys"),
        "host": bare(board, anna, host="evil.example").get("/keys"),
        "large": browser.post("/keys/new", {"alias": "x" * 70_000}),
        "zero": browser.get("/keys?q=%00"),
        "metrics": stranger.get("/metrics"),
        "static": stranger.get("/static/app.css"),
    }
    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert statuses == {
        "page": 200,
        "redirect": 303,
        "sign-in": 200,
        "csv": 200,
        "none": 404,
        "method": 405,
        "foreign": 403,
        "host": 421,
        "large": 413,
        "zero": 400,
        "metrics": 200,
        "static": 200,
    }
    for name, answer in answers.items():
        said = answer.headers
        assert said["content-security-policy"] == POLICY, name
        assert said["x-frame-options"] == "DENY", name
        assert said["x-content-type-options"] == "nosniff", name
        assert said["referrer-policy"] == "same-origin", name
        assert said["cross-origin-opener-policy"] == "same-origin", name
        assert re.fullmatch("[0-9a-f]{32}", said["x-request-id"]), name
        assert "server" not in said, name
        assert "access-control-allow-origin" not in said, name
        if name != "static":
            assert said["cache-control"] == "no-store", name
    assert "unsafe" not in POLICY


def test_no_page_has_what_the_policy_forbids(board: Dashboard, anna: Account) -> None:
    admin = board.user("pages@example.org", role=Role.ADMIN)
    book_call(board.engine, board.service.mint(admin.email, "pages", models="*").record)
    browser = board.browser(admin)
    for page in PAGES:
        if page.method == "GET" and "{" not in page.path:
            said = browser.get(page.path).text
            assert not re.search(r"<script(?![^>]*\ssrc=)", said), page.path
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", said), page.path
            assert not re.search(r'(?:src|href|action)="(?:https?:)?//', said), page.path


# -- forms


@pytest.mark.parametrize(
    "alias",
    ["a\r\nSet-Cookie: x=y", "a\nb", "a%0d%0ab", "A", "ä", "a b", SCRIPT, "../keys", "a" * 64, ""],
)
def test_an_alias_carries_nothing(board: Dashboard, anna: Account, alias: str) -> None:
    browser, before = board.browser(anna), everything(board.engine)
    answer = browser.post("/keys/new", key_form(alias))
    assert answer.status_code in {400, 422}
    assert "x" not in answer.cookies
    assert SCRIPT not in answer.text
    assert everything(board.engine) == before


@pytest.mark.parametrize(
    "email",
    [
        "a@b.org\r\nBcc: c@d.org",
        "a@b.org\nx: y",
        "a@b.org\0",
        "a b@c.org",
        SCRIPT,
        "a@b@c",
        "é@x.y",
    ],
)
def test_an_email_carries_nothing(board: Dashboard, email: str) -> None:
    admin = board.service.find_user("mails@example.org") or board.user(
        "mails@example.org", role=Role.ADMIN
    )
    browser, before = board.browser(admin), everything(board.engine)
    form = {"email": email, "plan": "free", "team": "", "role": "user"}
    answer = browser.post("/admin/users", form)
    assert answer.status_code in {400, 422}
    assert "x" not in answer.headers
    assert SCRIPT not in answer.text
    assert everything(board.engine) == before
    wrong = board.browser().sign_in(email)
    assert wrong.status_code in {400, 403}
    assert "x" not in wrong.headers


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"alias=" + b"x" * 65_537, {}, 413),
        (b"x=&" * 1001, {}, 400),
        (b"x=1", {"content-type": "application/json"}, 415),
        (b"x=1", {"content-type": "text/plain"}, 415),
        (b"--b\r\n\r\n--b--", {"content-type": "multipart/form-data; boundary=b"}, 415),
        (b"alias=\xff\xfe", {}, 400),
        (b"alias=%ff%fe", {}, 400),
        (b"alias=%00", {}, 400),
        (b"alias=%1b[2J", {}, 400),
        (b"alias", {}, 400),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_form(
    board: Dashboard, anna: Account, body: bytes, headers: dict[str, str], status: int
) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded"} | headers
    answer = board.browser(anna).client.post("/keys/new", content=body, headers=kind)
    assert answer.status_code == status


def test_a_huge_form_is_cut_off_while_it_is_sent(board: Dashboard, anna: Account) -> None:
    """Without a length, as chunks: what is too much is not read to its end."""
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for chunk in cycle([b"x" * 8192]):
            if sent > 64 << 20:
                return
            sent += len(chunk)
            yield chunk

    kind = {"content-type": "application/x-www-form-urlencoded"}
    client = board.browser(anna).client
    try:
        status = client.post("/keys/new", content=chunks(), headers=kind).status_code
    except httpx2.HTTPError:
        status = 413  # it was closed while we wrote
    assert status == 413
    assert sent < 16 << 20
    assert board.browser(anna).get("/keys").status_code == 200


def test_a_form_that_is_sent_again_mints_nothing(board: Dashboard) -> None:
    account = board.user("replays@example.org", plan="open")
    browser = board.browser(account)
    form = key_form("once")
    assert minted(browser.post("/keys/new", form))
    again = browser.post("/keys/new", form)
    assert again.status_code == 409
    assert not re.search(r"sk-tg_\w{49}", again.text)
    renamed = browser.post("/keys/new", form | {"alias": "twice"})
    assert renamed.status_code == 409
    assert len(board.service.list_keys(account.email)) == 1
    other = board.user("replays2@example.org", plan="open")
    assert minted(board.browser(other).post("/keys/new", form)), "forms are one's own"


def test_a_double_click_mints_one_key(board: Dashboard) -> None:
    account = board.user("clicks@example.org", plan="open")
    browsers = [Browser(board.url, board.session_of(account)) for _ in range(6)]
    board.browsers += browsers
    form = key_form("clicked")
    with ThreadPoolExecutor(len(browsers)) as pool:
        answers = list(pool.map(lambda browser: browser.post("/keys/new", form), browsers))
    assert sum(minted(answer) for answer in answers) == 1
    assert {answer.status_code for answer in answers} <= {200, 409, 503}
    assert len(board.service.list_keys(account.email)) == 1


def test_revoking_again_is_no_second_change(board: Dashboard) -> None:
    account = board.user("revokes@example.org", plan="open")
    record = board.service.mint(account.email, "gone", models="*").record
    browser = board.browser(account)
    path, form = f"/keys/{record.id}/revoke", {"confirm": "gone"}
    assert browser.post(path, {"confirm": "Gone"}).status_code == 422
    assert browser.post(path, form).status_code == 303
    before = everything(board.engine)
    browser.post(path, form)
    assert everything(board.engine) == before


# -- races for the last place of a plan


def test_the_last_place_of_a_plan_is_taken_once(board: Dashboard, tmp_path: Path) -> None:
    """By six browsers at once, over two processes."""
    with dashboard(tmp_path, settings=board.settings) as second:
        for turn in range(3):
            account = board.user(f"last{turn}@example.org", plan="free")
            board.service.mint(account.email, "first", models="*")
            browsers = [
                Browser(url, board.session_of(account)) for url in (board.url, second.url) * 3
            ]
            board.browsers += browsers

            def race(numbered: tuple[int, Browser]) -> httpx2.Response:
                number, browser = numbered
                return browser.post("/keys/new", key_form(f"racer-{number}"))

            with ThreadPoolExecutor(len(browsers)) as pool:
                answers = list(pool.map(race, enumerate(browsers)))
            assert sum(minted(answer) for answer in answers) == 1
            assert len(board.service.list_keys(account.email)) == 2
            refused = [answer for answer in answers if not minted(answer)]
            assert any("2 of 2 live keys" in answer.text for answer in refused)
            assert {answer.status_code for answer in refused} <= {409, 422, 503}


# -- what is stored and shown


def test_what_is_stored_is_shown_as_text_everywhere(board: Dashboard) -> None:
    """In every field that takes it, and on every page of the account and of admins."""
    for team in (SCRIPT, QUOTED):
        account = board.user(
            f"stored{len(team)}@example.org", plan=SCRIPT, team=team, role=Role.ADMIN
        )
        record = board.service.mint(
            account.email, "stored", models=f"{SCRIPT[:20]},{QUOTED}"
        ).record
        book_call(board.engine, record, model=SCRIPT, request_id=SCRIPT, endpoint=QUOTED)
        book_call(board.engine, record, model=QUOTED, request_id=QUOTED)
        browser = board.browser(account)
        with board.engine.begin() as connection:
            connection.execute(
                text("UPDATE sessions SET agent = :a, address = :q"), {"a": SCRIPT, "q": QUOTED}
            )
            connection.execute(
                text(
                    "INSERT INTO audit (at_us, actor, action, subject, before, after, address) "
                    "VALUES (1, :s, :s, :q, :j, :j, :q)"
                ),
                {
                    "s": SCRIPT,
                    "q": QUOTED[:20],
                    "j": '{"<script>alert(1)</script>": ["<img src=x onerror=1>"]}',
                },
            )
        seen = 0
        for page in PAGES:
            if page.method != "GET" or "/sign-" in page.path or "/{session}" in page.path:
                continue
            path = page.path.replace("{account}", account.id)
            path = path.replace("{key}", record.id).replace("{key_id}", record.id)
            for query in ({}, {"q": SCRIPT}, {"q": QUOTED}, {"by": SCRIPT}, {"show": SCRIPT}):
                said = browser.get(path, params=query)
                if "html" not in said.headers.get("content-type", ""):
                    continue
                assert "<script>alert" not in said.text, (path, query)
                assert "<img" not in said.text, (path, query)
                seen += "&lt;script&gt;alert" in said.text
        assert seen > 5, "it was there to be seen"


def test_a_user_agent_is_kept_as_text(board: Dashboard, anna: Account) -> None:
    browser = board.browser()
    browser.client.headers["user-agent"] = f"{SCRIPT} \x1b[31m {'x' * 1000}"
    assert browser.sign_in(ANNA).status_code == 303
    page = browser.get("/account").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x1b" not in page
    assert "x" * 300 not in page


# -- redirects

ELSEWHERE: Final = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example",
    "http:evil.example",
    "javascript:alert(1)",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/%0d%0aset-cookie: x=y\r\nx: y",
    "evil.example",
    "@evil.example",
    "data:text/html,x",
    "/keys\u2028",
    "",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_signing_in_leads_nowhere_else(board: Dashboard, anna: Account, target: str) -> None:
    assert local_path(target) is None
    shown = board.browser().get("/sign-in", params={"next": target})
    assert 'name="next"' not in shown.text
    there = board.browser(anna).get("/sign-in", params={"next": target})
    assert there.headers["location"] == "/keys"


def test_signing_in_by_a_form_leads_nowhere_else(board: Dashboard, anna: Account) -> None:
    for target in ("//evil.example", "https://evil.example", "/\\evil.example"):
        answer = board.browser().sign_in(ANNA, next=target)
        assert (answer.status_code, answer.headers["location"]) == (303, "/keys")
    assert local_path("/usage?days=7&by=model") == "/usage?days=7&by=model"


# -- what a fault tells


def test_a_database_that_is_gone_is_told_without_its_words(tmp_path: Path) -> None:
    with dashboard(tmp_path) as board:
        browser = board.browser(board.user(ANNA))
        assert browser.get("/keys").status_code == 200
        with board.engine.begin() as connection:
            connection.execute(text("ALTER TABLE sessions RENAME TO away"))
        answer = browser.get("/keys")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        for word in ("sqlite", "sessions", "SELECT", "Traceback", "sqlalchemy"):
            assert word not in answer.text
        assert browser.sign_in(ANNA).status_code in {403, 503}
        assert board.browser().get("/healthz").status_code == 200
        with board.engine.begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO sessions"))
        assert browser.get("/keys").status_code == 200
