"""Coming in and going out, by HTTP against the real process: passwords, sessions, invites."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from peers.dashboard import COOKIE, PASSWORD, Browser, Dashboard, dashboard, text_of
from sqlalchemy import text

from admin import signins
from admin.passwords import password_matches
from admin.settings import AdminSettings
from admin.signins import new_token
from admin.throttle import ACCOUNT_BURST, ADDRESS_BURST, address_bucket, buckets_of
from store.clock import wall_us
from store.records import Account, Role
from store.sessions import MOST_SESSIONS

ANNA = "anna@example.org"
HOUR_US = 3600 * 1_000_000
OTHER = "another horse battery"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with dashboard(tmp_path_factory.mktemp("board")) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_attempts_yet(board: Dashboard) -> None:
    with board.engine.begin() as connection:
        connection.execute(text("DELETE FROM attempts"))


@pytest.fixture(scope="module")
def anna(board: Dashboard) -> Account:
    return board.user(ANNA, password=PASSWORD)


def rows(board: Dashboard, statement: str, **values: Any) -> list[Any]:
    with board.engine.connect() as connection:
        return list(connection.execute(text(statement), values).all())


def cpu_seconds(pid: int) -> float:
    """What a process has used: the time that it takes, whatever else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def signed_in(browser: Browser) -> bool:
    answer = browser.get("/account")
    assert answer.status_code in {200, 303}
    return answer.status_code == 200


def test_a_password_lets_in_and_nothing_of_it_or_of_the_session_is_kept(
    board: Dashboard, anna: Account
) -> None:
    browser = board.browser()
    assert browser.get("/").headers["location"] == "/sign-in"
    answer = browser.sign_in("Anna@Example.org", next="/usage?days=7")
    assert (answer.status_code, answer.headers["location"]) == (303, "/usage?days=7")
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(
        COOKIE + r"=[\w-]{43}; HttpOnly; Max-Age=604800; Path=/; SameSite=strict", cookie
    )
    assert signed_in(browser)
    assert browser.get("/sign-in").headers["location"] == "/keys"
    kept = b"".join(path.read_bytes() for path in board.settings.state.glob("*.db*"))
    for secret in (browser.token or "", PASSWORD):
        assert secret.encode() not in kept
        assert secret not in board.log
    begun = rows(board, "SELECT actor, address FROM audit WHERE action = 'session.begin'")
    assert (f"web:{ANNA}", "127.0.0.1") in [tuple(row) for row in begun]


def test_unknown_wrong_and_without_a_password_look_alike_and_take_as_long(
    board: Dashboard, anna: Account
) -> None:
    board.user("nopassword@example.org")
    board.user("bot@example.org", service=True)
    tries = {
        "wrong": (ANNA, "wrong horse battery"),
        "unknown": ("nobody@example.org", PASSWORD),
        "none": ("nopassword@example.org", ""),
        "service": ("bot@example.org", PASSWORD),
        "no e-mail": ("anna", PASSWORD),
    }
    said, took = {}, {}
    for name, (email, password) in tries.items():
        browser = board.browser()
        begun = cpu_seconds(board.child.pid)
        answers = [browser.sign_in(email, password) for _ in range(2)]
        took[name] = cpu_seconds(board.child.pid) - begun
        assert {answer.status_code for answer in answers} == {403}
        assert browser.token is None
        said[name] = text_of(answers[0]).replace(f'value="{email}"', "")
    assert set(said.values()) == {said["wrong"]}
    usual = statistics.median(took.values())
    assert usual > 0.05  # passwords are hashed
    assert all(usual / 2 < each < usual * 2 for each in took.values()), took


def test_guesses_at_once_gain_nothing(board: Dashboard, anna: Account) -> None:
    """And who knows the password is refused as long as a guesser: nobody can tell it was right."""
    browsers = [board.browser() for _ in range(ACCOUNT_BURST + 6)]

    def guess(browser: Browser) -> int:
        return browser.sign_in(ANNA, "wrong horse battery").status_code

    with ThreadPoolExecutor(len(browsers)) as pool:
        statuses = list(pool.map(guess, browsers))
    assert statuses.count(403) == ACCOUNT_BURST, statuses
    assert statuses.count(429) == 6
    right = browsers[0].sign_in(ANNA)
    wrong = browsers[0].sign_in(ANNA, "wrong horse battery")
    assert right.status_code == 429
    assert 0 < int(right.headers["retry-after"]) <= 60
    assert re.sub(r"\d+ s", "", text_of(right)) == re.sub(r"\d+ s", "", text_of(wrong))
    assert board.browser().sign_in("nobody@example.org").status_code == 403


def test_an_address_is_throttled_whatever_accounts_it_tries(
    board: Dashboard, anna: Account
) -> None:
    for number in range(ADDRESS_BURST):
        buckets = buckets_of(f"user{number}@example.org", "127.0.0.1")
        assert board.people.attempt(buckets, wall_us()) == 0
    assert board.browser().sign_in(ANNA).status_code == 429
    link = f"/invite/{new_token()}"
    form = {"password": PASSWORD}
    assert board.browser().post(link, form).status_code == 429, "a link counts there, too"


def test_another_process_knows_attempts_and_sessions_as_well(
    board: Dashboard, https: Dashboard, anna: Account
) -> None:
    """So does one that was started anew: nothing of it is in a process."""
    for _ in range(ACCOUNT_BURST):
        assert board.people.attempt(buckets_of(ANNA, "192.0.2.7")[:1], wall_us()) == 0
    assert board.browser().sign_in(ANNA).status_code == 429
    assert https.browser().sign_in(ANNA).status_code == 429
    there = secure(https, board.session_of(anna))
    assert there.get("/account").status_code == 200


def test_who_signs_in_well_is_not_throttled(board: Dashboard, anna: Account) -> None:
    assert board.browser().sign_in(ANNA).status_code == 303
    assert rows(board, "SELECT * FROM attempts WHERE empty_us > :n", n=wall_us()) == []


def test_a_session_is_always_a_new_one(board: Dashboard, anna: Account) -> None:
    """Fixation: what the browser held before is nobody's, and never becomes anybody's."""
    planted = new_token()
    browser = Browser(board.url, planted)
    board.browsers.append(browser)
    browser.sign_in(ANNA)
    first = browser.client.cookies.get(COOKIE, domain="127.0.0.1") or browser.token
    assert first is not None
    assert first != planted
    assert rows(board, "SELECT count(*) FROM sessions WHERE id = :p", p=planted) == [(0,)]
    victim = Browser(board.url, planted)
    board.browsers.append(victim)
    assert not signed_in(victim)
    held = Browser(board.url, first)
    board.browsers.append(held)
    assert signed_in(held)
    held.sign_in(ANNA)
    old = Browser(board.url, first)
    board.browsers.append(old)
    assert not signed_in(old), "signing in anew ended the session before"


def test_sessions_end_by_themselves(board: Dashboard, anna: Account) -> None:
    def alive(**ages: int) -> bool:
        browser = Browser(board.url, board.session_of(anna, **ages))
        board.browsers.append(browser)
        return signed_in(browser)

    assert alive(age_us=11 * HOUR_US, idle_us=11 * HOUR_US)
    assert not alive(age_us=12 * HOUR_US, idle_us=12 * HOUR_US)
    assert alive(age_us=7 * 24 * HOUR_US - HOUR_US)
    assert not alive(age_us=7 * 24 * HOUR_US)


def test_being_used_keeps_a_session_alive(board: Dashboard, anna: Account) -> None:
    browser = Browser(board.url, board.session_of(anna, idle_us=11 * HOUR_US))
    board.browsers.append(browser)
    assert signed_in(browser)
    [(seen_us,)] = rows(board, "SELECT max(seen_us) FROM sessions")
    assert wall_us() - seen_us < HOUR_US
    assert rows(board, "SELECT seen_us FROM accounts WHERE email = :e", e=ANNA) == [(seen_us,)]


def test_sessions_are_listed_and_ended_one_by_one_and_all(board: Dashboard) -> None:
    account = board.user("listed@example.org")
    here, there, elsewhere = (board.browser(account) for _ in range(3))
    page = here.get("/account").text
    ends = re.findall(r'action="(/account/sessions/ses_[^"]+/end)"', page)
    assert len(ends) == 3
    assert page.count("this one") == 1
    others = [end for end in ends if end not in _own(here, page)]
    assert here.post(others[0]).headers["location"] == "/account?done=session-ended"
    assert sorted([signed_in(there), signed_in(elsewhere)]) == [False, True]
    assert here.post(others[0]).status_code == 404, "it has ended"
    assert here.post("/account/sessions/end-others").status_code == 303
    assert not signed_in(there)
    assert not signed_in(elsewhere)
    assert signed_in(here)
    answer = here.post(_own(here, page)[0])
    assert answer.headers["location"] == "/sign-in?done=signed-out"
    assert not signed_in(here)


def _own(browser: Browser, page: str) -> list[str]:
    """The address that ends the session of the browser itself, as its own row has it."""
    (row,) = [row for row in page.split("<tr ") if "this one" in row]
    return re.findall(r'action="(/account/sessions/[^"]+/end)"', row)


def test_signing_out_ends_the_session_and_not_only_its_cookie(
    board: Dashboard, anna: Account
) -> None:
    browser = board.browser(anna)
    token = browser.token
    assert token is not None
    answer = browser.post("/sign-out")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert answer.headers["clear-site-data"] == '"cache"'
    again = Browser(board.url, token)
    board.browsers.append(again)
    assert not signed_in(again)
    assert again.post("/sign-out").status_code == 303, "twice is no fault"


def test_too_many_sessions_end_the_oldest(board: Dashboard) -> None:
    account = board.user("many@example.org")
    tokens = [
        board.session_of(account, idle_us=(MOST_SESSIONS + 1 - number) * 1_000_000)
        for number in range(MOST_SESSIONS + 1)
    ]
    first, last = Browser(board.url, tokens[0]), Browser(board.url, tokens[-1])
    board.browsers += [first, last]
    assert not signed_in(first)
    assert signed_in(last)


# -- passwords


def test_a_new_password_ends_every_other_session(board: Dashboard) -> None:
    account = board.user("changes@example.org", password=PASSWORD)
    here, there = board.browser(account), board.browser(account)
    form = {"current": PASSWORD, "new": OTHER, "again": OTHER}
    assert here.post("/account/password", form | {"current": "wrong"}).status_code == 403
    assert here.post("/account/password", form | {"again": "typo"}).status_code == 422
    short = {"new": "short", "again": "short"}
    assert here.post("/account/password", form | short).status_code == 422
    assert signed_in(there), "nothing has changed yet"
    assert here.post("/account/password", form).headers["location"] == "/account?done=password"
    assert signed_in(here)
    assert not signed_in(there)
    assert board.browser().sign_in(account.email).status_code == 403
    assert board.browser().sign_in(account.email, OTHER).status_code == 303


def test_guessing_by_a_session_is_throttled_too(board: Dashboard) -> None:
    """A session that was taken over does not tell its password faster than the front door."""
    account = board.user("guessed@example.org", password=PASSWORD)
    for _ in range(ACCOUNT_BURST):
        board.people.attempt(buckets_of(account.email, "192.0.2.9")[:1], wall_us())
    form = {"current": PASSWORD, "new": OTHER, "again": OTHER}
    answer = board.browser(account).post("/account/password", form)
    assert answer.status_code == 429
    assert "retry-after" in answer.headers


def test_a_password_that_is_set_elsewhere_ends_every_session_and_link(board: Dashboard) -> None:
    account = board.user("reset@example.org", password=PASSWORD)
    browser, link = board.browser(account), invite(board, account)
    board.service.set_password(account.email, OTHER)
    assert not signed_in(browser)
    assert board.browser().get(link).status_code == 404


def test_a_password_that_changes_while_it_is_checked_lets_nobody_in(
    board: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = board.user("races@example.org", password=PASSWORD)

    def changed_meanwhile(stored: str, password: str) -> bool:
        board.service.set_password(account.email, OTHER)
        return password_matches(stored, password)

    monkeypatch.setattr(signins, "password_matches", changed_meanwhile)
    use = signins.SignIns(board.people, AdminSettings(), wall_us)
    with pytest.raises(signins.WrongError):
        use.by_password(account.email, PASSWORD, signins.Visitor("192.0.2.8", "a test"))
    assert rows(board, "SELECT * FROM sessions WHERE account_id = :a", a=account.id) == []


# -- links


def invite(board: Dashboard, account: Account) -> str:
    """The path of a link, as an admin is shown it."""
    boss = board.service.find_user("boss@example.org") or board.user(
        "boss@example.org", role=Role.ADMIN
    )
    page = board.browser(boss).post(f"/admin/users/{account.id}/link")
    assert page.status_code == 200
    (path,) = re.findall(r"http://127\.0\.0\.1:\d+(/invite/[\w-]{43})", page.text)
    return path


def test_a_link_sets_a_password_once(board: Dashboard) -> None:
    account = board.user("invited@example.org")
    link = invite(board, account)
    browser = board.browser()
    page = browser.get(link)
    assert page.status_code == 200
    assert account.email in page.text
    assert browser.post(link, {"password": "short"}).status_code == 422
    assert browser.post(link, {"password": PASSWORD}).headers["location"] == "/keys"
    assert signed_in(browser)
    assert board.browser().sign_in(account.email).status_code == 303
    assert board.browser().get(link).status_code == 404
    assert board.browser().post(link, {"password": OTHER}).status_code == 403
    assert board.browser().sign_in(account.email).status_code == 303, "it is as it was"
    assert link.rsplit("/", 1)[1] not in board.log
    kept = b"".join(path.read_bytes() for path in board.settings.state.glob("*.db*"))
    assert link.rsplit("/", 1)[1].encode() not in kept


def test_of_two_at_once_a_link_lets_one_in(board: Dashboard) -> None:
    link = invite(board, board.user("twice@example.org"))
    browsers = [board.browser() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda b: b.post(link, {"password": PASSWORD}), browsers))
    assert sorted(answer.status_code for answer in answers) == [303, 403, 403]


def test_a_link_ends_with_time_and_with_the_next_one(board: Dashboard) -> None:
    account = board.user("late@example.org")
    first = invite(board, account)
    second = invite(board, account)
    assert board.browser().get(first).status_code == 404
    assert board.browser().get(second).status_code == 200
    with board.engine.begin() as connection:
        connection.execute(text("UPDATE invites SET expires_us = :n"), {"n": wall_us()})
    assert board.browser().get(second).status_code == 404
    assert board.browser().post(second, {"password": PASSWORD}).status_code == 403


@pytest.mark.parametrize("token", ["x", "x" * 43, "..%2f..%2faccount", "%00" * 43, "é" * 43])
def test_no_other_text_is_a_link(board: Dashboard, token: str) -> None:
    assert board.browser().get(f"/invite/{token}").status_code in {400, 404}


# -- registering, and cookies under https


@pytest.fixture(scope="module")
def https(board: Dashboard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A second process on the same state: behind a proxy that speaks TLS, and open to everybody."""
    with dashboard(
        tmp_path_factory.mktemp("https"),
        settings=board.settings,
        dashboard_url="https://keys.example.org",
        open_registration="true",
        admin_trusted_proxies="127.0.0.0/8",
    ) as running:
        yield running


def secure(board: Dashboard, token: str | None = None) -> httpx2.Client:
    """A browser beyond the proxy; without Sec-Fetch-Site, as an old one is."""
    headers = {"host": "keys.example.org", "origin": "https://keys.example.org"}
    if token is not None:
        headers["cookie"] = f"__Host-{COOKIE}={token}"
    made = board.browser()
    made.client.headers = httpx2.Headers(headers)
    return made.client


def test_nobody_registers_unless_that_is_set(board: Dashboard, https: Dashboard) -> None:
    form = {"email": "new@example.org", "password": PASSWORD}
    assert board.browser().get("/register").status_code == 404
    assert board.browser().post("/register", form).status_code == 404
    assert "/register" not in board.browser().get("/sign-in").text
    assert board.service.find_user("new@example.org") is None
    browser = secure(https)
    assert 'href="/register"' in browser.get("/sign-in").text
    assert browser.post("/register", data=form | {"password": "short"}).status_code == 422
    entered = browser.post("/register", data=form)
    assert entered.status_code == 303
    account = board.service.find_user("new@example.org")
    assert account is not None
    assert (account.role, account.plan) == (Role.USER, "free")
    assert browser.post("/register", data=form).status_code == 422, "it is taken"


def test_under_https_cookies_are_bound_to_the_host_and_to_tls(
    https: Dashboard, anna: Account
) -> None:
    form = {"email": ANNA, "password": PASSWORD}
    answer = secure(https).post("/sign-in", data=form)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"__Host-{COOKIE}=")
    assert cookie.endswith("; Path=/; SameSite=strict; Secure")
    assert "Domain" not in cookie
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    token = cookie.split(";")[0].split("=")[1]
    assert secure(https, token).get("/account").status_code == 200
    bare = secure(https)
    bare.headers["cookie"] = f"{COOKIE}={token}"
    assert bare.get("/account").status_code == 303, "another host could have set that one"


def test_an_address_is_believed_only_of_a_proxy_that_is_trusted(
    board: Dashboard, https: Dashboard, anna: Account
) -> None:
    form = {"email": ANNA, "password": PASSWORD}
    seen = "SELECT address FROM audit WHERE action = 'session.begin' ORDER BY id DESC LIMIT 1"

    def noted(client: httpx2.Client, said: str) -> str:
        answer = client.post("/sign-in", data=form, headers={"x-forwarded-for": said})
        assert answer.status_code == 303
        return str(rows(board, seen)[0][0])

    assert noted(board.browser().client, "203.0.113.9") == "127.0.0.1"
    assert noted(secure(https), "203.0.113.9") == "203.0.113.9"
    assert noted(secure(https), "198.51.100.1, 203.0.113.9") == "203.0.113.9", "the last hop's word"
    assert noted(secure(https), "x" * 500) == "unknown"


def test_the_throttle_counts_what_one_customer_has_as_one() -> None:
    assert address_bucket("2001:db8:1:2:3::4").scope == address_bucket("2001:db8:1:2::9").scope
    assert address_bucket("2001:db8:1:3::4").scope != address_bucket("2001:db8:1:2::9").scope
    assert address_bucket("::ffff:192.0.2.1").scope == address_bucket("192.0.2.1").scope
