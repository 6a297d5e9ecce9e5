"""What admins and auditors do and see, by HTTP against the real process."""

from __future__ import annotations

import csv
import io
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from dashboardhelp import book_call
from peers.dashboard import PASSWORD, Browser, Dashboard, dashboard
from prometheus_client.parser import text_string_to_metric_families

from store.accountlist import AccountList
from store.clock import wall_us
from store.keys import KeyRepository
from store.records import DAY_US, Account, Role
from store.replicas import Replica, Replicas
from store.teamspend import Month, TeamSpend, last_months, month_at

BOSS = "boss@example.org"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with dashboard(tmp_path_factory.mktemp("admin")) as running:
        yield running


@pytest.fixture(scope="module")
def boss(board: Dashboard) -> Account:
    return board.user(BOSS, role=Role.ADMIN)


@pytest.fixture
def browser(board: Dashboard, boss: Account) -> Browser:
    return board.browser(boss)


def added(browser: Browser, email: str, **form: str) -> httpx2.Response:
    plain = {"email": email, "plan": "free", "team": "", "role": "user"}
    return browser.post("/admin/users", plain | form)


# -- users


def test_a_user_is_added_with_a_link(board: Dashboard, browser: Browser) -> None:
    page = added(browser, "Carl@Example.org", plan="pro", team=" red ", role="auditor")
    assert page.status_code == 200
    account = board.service.find_user("carl@example.org")
    assert account is not None
    assert (account.plan, account.team, account.role) == ("pro", "red", Role.AUDITOR)
    (link,) = re.findall(r"http://127\.0\.0\.1:\d+/invite/[\w-]{43}", page.text)
    assert link.startswith(board.url)
    carl = board.browser()
    assert carl.post(link, {"password": PASSWORD}).status_code == 303
    assert carl.get("/admin/teams").status_code == 200
    listed = browser.get("/admin/users", params={"q": "CARL"}).text
    assert f'href="/admin/users/{account.id}"' in listed
    assert "1 account with" in listed
    assert "just now" in listed


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"email": "no e-mail"}, "not an e-mail address"),
        ({"email": BOSS}, "already an account"),
        ({"plan": "gold"}, "no such plan"),
        ({"team": "x" * 65}, "1 to 64"),
        ({"role": "root"}, "no such role"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_user_is_said_at_its_field(
    browser: Browser, form: dict[str, str], said: str
) -> None:
    page = added(browser, **{"email": "new@example.org"} | form)
    assert page.status_code == 422
    assert said in page.text
    assert 'aria-invalid="true"' in page.text


def test_plan_team_and_role_are_changed(board: Dashboard, browser: Browser) -> None:
    account = board.user("dora@example.org")
    path = f"/admin/users/{account.id}"
    form = {"plan": "pro", "team": "blue", "role": "admin"}
    assert browser.post(path, form).headers["location"] == f"{path}?done=saved"
    now = board.service.find_user(account.email)
    assert now is not None
    assert (now.plan, now.team, now.role) == ("pro", "blue", Role.ADMIN)
    assert browser.post(path, form | {"team": "", "role": "user"}).status_code == 303
    now = board.service.find_user(account.email)
    assert now is not None
    assert (now.team, now.role) == (None, Role.USER)
    assert browser.post(path, form | {"plan": "gold"}).status_code == 422
    # one field that is wrong, and nothing is changed
    raised = form | {"role": "admin"}
    for wrong in ({"plan": "gold"}, {"team": "x" * 65}):
        assert browser.post(path, raised | wrong).status_code == 422
        assert board.service.find_user(account.email) == now
    assert browser.post("/admin/users/acc_nobody", form).status_code == 404


def test_nobody_changes_their_own_role_and_one_admin_stays(tmp_path: Path) -> None:
    with dashboard(tmp_path) as board:
        only = board.user("only@example.org", role=Role.ADMIN)
        browser = board.browser(only)
        path, form = f"/admin/users/{only.id}", {"plan": "free", "team": "", "role": "user"}
        refused = browser.post(path, form)
        assert refused.status_code == 422
        assert "another admin" in refused.text
        assert 'name="role" value="admin"' in browser.get(path).text
        other = board.user("second@example.org", role=Role.ADMIN)
        assert board.browser(other).post(path, form).status_code == 303
        assert browser.get("/admin/users").status_code == 404


def test_service_accounts_have_no_way_in(board: Dashboard, browser: Browser) -> None:
    bot = board.user("bot@example.org", service=True)
    path = f"/admin/users/{bot.id}"
    assert "Make a link" not in browser.get(path).text
    assert browser.post(f"{path}/link").status_code == 422
    refused = browser.post(path, {"plan": "free", "team": "", "role": "admin"})
    assert refused.status_code == 422


def test_every_session_of_somebody_is_ended(board: Dashboard, browser: Browser) -> None:
    account = board.user("eric@example.org")
    signed_in = board.browser(account)
    assert signed_in.get("/account").status_code == 200
    path = f"/admin/users/{account.id}"
    assert "192.0.2.1" in browser.get(path).text
    assert browser.post(f"{path}/end-sessions").status_code == 303
    assert signed_in.get("/account").status_code == 303


def test_a_key_of_somebody_is_revoked_by_typing_its_alias(
    board: Dashboard, browser: Browser
) -> None:
    account = board.user("fred@example.org")
    record = board.service.mint(account.email, "laptop", models="*").record
    path = f"/admin/users/{account.id}/keys/{record.id}/revoke"
    page = browser.get(f"/admin/users/{account.id}").text
    assert record.hint in page
    assert f'href="{path}"' in page
    assert "Type “laptop”" in browser.get(path).text
    wrong = browser.post(path, {"confirm": "Laptop"})
    assert wrong.status_code == 422
    assert board.service.list_keys(account.email)
    assert browser.post(path, {"confirm": "laptop"}).status_code == 303
    assert board.service.list_keys(account.email) == []
    assert browser.post(path, {"confirm": "laptop"}).status_code == 404
    assert browser.get(path).status_code == 404


# -- the audit log


def test_every_change_is_told_who_what_and_whence(board: Dashboard, browser: Browser) -> None:
    account = board.user("gina@example.org", team="old-team")
    browser.post(f"/admin/users/{account.id}", {"plan": "pro", "team": "new-team", "role": "user"})
    owner = board.browser(account)
    form = {"alias": "first", "scope": "all", "budget": "1.25", "rpm": "10", "days": "7"}
    assert owner.post("/keys/new", form).status_code == 200
    record = board.service.list_keys(account.email)[0]
    form = {"alias": "second", "scope": "all", "budget": "2", "rpm": "10"}
    assert owner.post(f"/keys/{record.id}/edit", form).status_code == 303
    page = browser.get("/admin/audit", params={"q": "gina"}).text
    for said in (
        "old-team → new-team",
        "free → pro",
        "first → second",
        "$1.25 → $2.00",
        f"web:{BOSS}",
        "web:gina@example.org",
        "127.0.0.1",
        "cli:tester",
        "this machine",
        "gina@example.org / second",
    ):
        assert said in page, said
    only = browser.get("/admin/audit", params={"action": "key.mint", "q": "gina"}).text
    assert only.count('<tr role="row">') == 2
    assert "key.update" not in only.split("<tbody")[1]
    assert "No change is like that" in browser.get("/admin/audit?q=nothing-like-it").text


def test_the_log_is_read_page_by_page(board: Dashboard, browser: Browser) -> None:
    account = board.user("henry@example.org")
    for number in range(60):
        board.service.set_team(account.email, f"team-{number}")
    first = browser.get("/admin/audit", params={"q": "henry"}).text
    (older,) = re.findall(r'href="(/admin/audit\?before=\d+[^"]*)" rel="next"', first)
    second = browser.get(older.replace("&amp;", "&")).text
    both = re.findall(r"→ team-(\d+)", first + second)
    assert [int(number) for number in both] == list(range(59, -1, -1))
    assert 'rel="next"' not in second


# -- teams


def test_teams_by_months_are_what_was_charged(tmp_path: Path) -> None:
    with dashboard(tmp_path) as board:
        keys = {}
        for team in ("red", "=cmd()", None):
            account = board.user(f"{(team or 'none')[:3].strip('=')}@example.org", team=team)
            keys[team] = board.service.mint(account.email, "key", models="*").record
        now_us = wall_us()
        months = last_months(now_us, 8)
        charged: dict[tuple[str | None, Month], int] = {}
        for team, key in keys.items():
            for month in (months[0], months[1], months[7]):
                day_us = (month.first_day + 1) * DAY_US if month != months[0] else now_us
                nanousd = 1_000_000_007 * (len(charged) + 1)
                for _ in range(2):
                    book_call(board.engine, key, settled_us=day_us, charge_nanousd=nanousd)
                charged[team, month] = 2 * nanousd
        auditor = board.user("auditor@example.org", role=Role.AUDITOR)
        browser = board.browser(auditor)
        page = browser.get("/admin/teams").text
        assert 'title="$2.000000014, 2 calls"' in page
        assert months[7].text not in page
        total = sum(sum_ for (_, month), sum_ in charged.items() if month in months[:6])
        assert f"${total // 10**9:,}.{total % 10**9:09d}".rstrip("0") in page
        assert months[7].text in browser.get("/admin/teams?months=12").text
        answer = browser.get("/admin/teams.csv")
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        read = {(row["team"], row["month"]): (row["calls"], row["charge_usd"]) for row in rows}
        named = {"red": "red", "=cmd()": "'=cmd()", None: ""}
        assert read == {
            (named[team], month.text): ("2", f"{sum_ // 10**9}.{sum_ % 10**9:09d}")
            for (team, month), sum_ in charged.items()
        }
        assert [row["month"] for row in rows] == sorted(row["month"] for row in rows)


def test_months() -> None:
    december = month_at(1_798_761_599 * 1_000_000)
    assert december == Month(2026, 12)
    assert month_at(1_798_761_600 * 1_000_000) == december.next() == Month(2027, 1)
    assert Month(2027, 1).before() == december
    assert december.next().first_day - december.first_day == 31
    assert [month.text for month in last_months(1_798_761_600 * 1_000_000, 3)] == [
        "2027-01",
        "2026-12",
        "2026-11",
    ]


def test_days_that_are_over_are_remembered_and_the_last_ones_are_not(
    board: Dashboard,
) -> None:
    account = board.user("kept@example.org", team="kept")
    key = board.service.mint(account.email, "key", models="*").record
    # a clock of its own, in the middle of a month; rows are only booked by hand here
    now_us = wall_us() + 400 * DAY_US
    while not 10 <= now_us // DAY_US - month_at(now_us).first_day <= 20:
        now_us += DAY_US
    teams, people = TeamSpend(board.engine), AccountList(board.engine)
    month, over_us = month_at(now_us), now_us - 5 * DAY_US

    def said(teams: TeamSpend, people: AccountList, at_us: int = now_us) -> tuple[int, int]:
        spents = teams.months([month], at_us)[month]
        line = people.line(account.id, at_us)
        assert line is not None
        return sum(each.nanousd for each in spents), line.spent_nanousd

    book_call(board.engine, key, settled_us=over_us, charge_nanousd=3)
    assert said(teams, people) == (3, 3)
    book_call(board.engine, key, settled_us=now_us, charge_nanousd=5)
    assert said(teams, people) == (8, 8), "today is read each time"
    book_call(board.engine, key, settled_us=over_us, charge_nanousd=7)
    assert said(teams, people) == (8, 8), "this one was booked days too late"
    assert said(TeamSpend(board.engine), AccountList(board.engine)) == (15, 15)
    assert said(teams, people, now_us + DAY_US) == (15, 15), "the next day it shows"


# -- the system


def test_the_system_is_told(board: Dashboard, browser: Browser) -> None:
    page = browser.get("/admin/system").text
    assert "llama-3.1-8b" in page
    assert "claude-*" in page
    assert "No authz answers here" in page
    whole = browser.get("/admin/system/parts")
    assert whole.status_code == 200
    for part in ("python", "envoy", "catalog", "database", "authz"):
        assert f">{part}</td>" in whole.text
    assert "not running" in whole.text
    part = browser.get("/admin/system/parts", headers={"hx-request": "true"}).text
    assert "<html" not in part
    assert ">database</td>" in part


def test_the_system_names_each_process_and_what_it_has_heard_of(
    board: Dashboard, browser: Browser
) -> None:
    assert "None was seen in the last seconds." in browser.get("/admin/system").text
    newest = KeyRepository(board.engine).last_change()
    replicas = Replicas(board.engine)
    replicas.beat(Replica("a", "host-a/authz", "authz", "1.2.3", applied_seq=newest))
    replicas.beat(Replica("b", "host-b/authz", "authz", "1.2.3", applied_seq=newest - 2))
    replicas.beat(Replica("c", "host-b/meter", "meter", "1.2.3"))
    page = browser.get("/admin/system").text
    for name in ("host-a/authz", "host-b/authz", "host-b/meter"):
        assert name in page
    assert "2 changes behind" in page
    assert page.count("behind</span>") == 1
    for each in ("a", "b", "c"):
        replicas.leave(each)


# -- for programs


def test_probes_and_metrics(board: Dashboard, browser: Browser) -> None:
    stranger = board.browser()
    assert stranger.get("/healthz").text == "ok\n"
    assert stranger.get("/readyz").text == "ready\n"
    stranger.sign_in("nobody@example.org", "wrong")
    stranger.get("/admin/users/acc_x/keys/key_y/revoke")
    families = list(text_string_to_metric_families(stranger.get("/metrics").text))
    samples = {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }
    assert samples["tensorgate_admin_sign_ins_total", frozenset({"password", "refused"})] >= 1
    answered = frozenset({"200", "/healthz", "GET"})
    assert samples["tensorgate_admin_requests_total", answered] >= 1
    labels = {value for family in families for s in family.samples for value in s.labels.values()}
    assert "/admin/users/{account}/keys/{key}/revoke" in labels
    assert not any("@" in label or "acc_" in label for label in labels)


def test_not_ready_without_its_database_or_catalog(tmp_path: Path) -> None:
    with dashboard(tmp_path) as board:
        probe = board.browser()
        catalog = board.settings.catalog.read_text()
        board.settings.catalog.write_text("plans: 7")
        assert probe.get("/readyz").status_code == 503
        assert "7" not in probe.get("/readyz").text
        board.settings.catalog.write_text(catalog)
        assert probe.get("/readyz").status_code == 200
        database = board.settings.state / "tensorgate.db"
        database.rename(tmp_path / "away")
        assert probe.get("/healthz").status_code == 200
        (tmp_path / "away").rename(database)


def test_it_says_why_it_cannot_start(tmp_path: Path, board: Dashboard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        def said(**environ: str) -> str:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "tensorgate", "admin"],
                env={
                    "TENSORGATE_STATE": str(board.settings.state),
                    "TENSORGATE_CATALOG": str(board.settings.catalog),
                    "TENSORGATE_ADMIN_LISTEN": f"127.0.0.1:{port}",
                }
                | environ,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 1
            return done.stderr

        assert f"cannot listen on 127.0.0.1:{port}" in said()
        wrong = said(
            TENSORGATE_ADMIN_LISTEN="here",
            TENSORGATE_SESSION_SECONDS="0",
            TENSORGATE_ADMIN_TRUSTED_PROXIES="proxy",
        )
        for name in ("ADMIN_LISTEN", "SESSION_SECONDS", "ADMIN_TRUSTED_PROXIES"):
            assert f"TENSORGATE_{name}: " in wrong


def test_a_key_that_has_spent_its_budget_is_said_to_in_words(board: Dashboard) -> None:
    account = board.user("spender@example.org")
    spent, other = (
        board.service.mint(account.email, alias, models="*", budget_usd="1").record
        for alias in ("spent", "other")
    )
    book_call(board.engine, spent, hold_id="spent-1", charge_nanousd=1_000_000_000)
    book_call(board.engine, other, hold_id="other-1", charge_nanousd=999_999_999)
    said = board.browser(account).get("/keys").text
    rows = [row for row in said.split("<tr") if "sk-tg_" in row]
    assert [("Used up" in row, f'title="{spent.alias}"' in row) for row in rows] in (
        [(True, True), (False, False)],
        [(False, False), (True, True)],
    )
