"""An account that an admin disables: nobody comes in as it, and none of its keys passes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from peers.dashboard import PASSWORD, Dashboard, dashboard
from sqlalchemy import insert, select
from statehelp import FakeClock, repository_on, service_on, settings_on

from admin.service import AdminService
from admin.settings import AdminSettings
from admin.signins import Identity, SignIns, Visitor, WrongError
from authz.cache import KeyCache
from store.auditlog import AuditLog
from store.errors import InputError
from store.records import Account, KeyRecord, Role
from store.sessions import SignInRepository
from store.settings import StoreSettings
from store.webschema import identities, invites, sessions

ANNA = "anna@example.org"
SOMEBODY = Visitor("192.0.2.7", "a test")
GOOGLE = Identity("https://accounts.example.org", "anna-1", None)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> StoreSettings:
    return settings_on(tmp_path, database_url)


@pytest.fixture
def service(settings: StoreSettings) -> Iterator[AdminService]:
    with service_on(settings) as opened:
        opened.add_user(ANNA, password=PASSWORD)
        yield opened


@pytest.fixture
def doors(settings: StoreSettings) -> Iterator[SignIns]:
    with repository_on(settings) as repository:
        web = AdminSettings.model_validate(settings.model_dump())
        yield SignIns(SignInRepository(repository.engine), web, FakeClock())


def anna(service: AdminService) -> Account:
    found = service.find_user(ANNA)
    assert found is not None
    return found


def count(settings: StoreSettings, table: object) -> int:
    with repository_on(settings) as repository, repository.engine.connect() as connection:
        return len(connection.execute(select(table)).all())  # type: ignore[call-overload]


def test_its_keys_do_not_pass_and_pass_again(
    service: AdminService, settings: StoreSettings
) -> None:
    """As a process that caches keys sees it: by the feed alone."""
    minted = service.mint(ANNA, "laptop", models="*")
    digests = tuple(settings.digester().digests(minted.key))
    with repository_on(settings) as repository:
        cache = KeyCache(repository, FakeClock(), stale_us=0)
        cache.beat()

        def seen() -> KeyRecord:
            for change in repository.changes_since(before):
                cache.apply(change)
            found = cache.get(digests)
            assert found is not None
            return found

        before = repository.last_change()
        assert seen().disabled_us is None
        disabled = service.disable(ANNA)
        assert seen().disabled_us == disabled.disabled_us == service.now_us()
        assert seen().revoked_us is None
        assert service.disable(ANNA).disabled_us == disabled.disabled_us, "again changes nothing"
        assert service.enable(ANNA).disabled_us is None
        assert seen() == minted.record
        assert [e.action for e in AuditLog(repository.engine).page().entries][:2] == [
            "account.enable",
            "account.disable",
        ]


def test_nobody_comes_in_as_it(
    service: AdminService, doors: SignIns, settings: StoreSettings
) -> None:
    entered = doors.by_password(ANNA, PASSWORD, SOMEBODY)
    doors.link(entered.account, GOOGLE, SOMEBODY)
    link = doors.invite(ANNA, entered.account, SOMEBODY)
    service.disable(ANNA)
    assert doors.current(entered.token) is None
    assert [count(settings, table) for table in (sessions, invites)] == [0, 0]
    with pytest.raises(WrongError, match="do not belong together"):
        doors.by_password(ANNA, "not the password", SOMEBODY)
    with pytest.raises(WrongError, match="disabled"):
        doors.by_password(ANNA, PASSWORD, SOMEBODY)
    with pytest.raises(WrongError, match="disabled"):
        doors.by_identity(GOOGLE, SOMEBODY)
    with pytest.raises(WrongError, match="used before"):
        doors.accept(link, "another horse battery", SOMEBODY)
    with pytest.raises(InputError, match="Enable"):
        doors.invite(ANNA, entered.account, SOMEBODY)
    assert count(settings, sessions) == 0
    service.enable(ANNA)
    assert doors.current(entered.token) is None, "it was ended"
    assert doors.by_password(ANNA, PASSWORD, SOMEBODY).account == entered.account
    assert doors.by_identity(GOOGLE, SOMEBODY)


def test_a_session_that_is_there_all_the_same_is_none(
    service: AdminService, doors: SignIns, settings: StoreSettings
) -> None:
    entered = doors.by_password(ANNA, PASSWORD, SOMEBODY)
    with repository_on(settings) as repository:
        with repository.engine.connect() as connection:
            row = connection.execute(select(sessions)).mappings().one()
        service.disable(ANNA)
        with repository.engine.begin() as connection:
            connection.execute(insert(sessions).values(**row))
    assert doors.current(entered.token) is None


def test_who_signs_in_while_it_is_being_disabled_does_not(
    service: AdminService, doors: SignIns, settings: StoreSettings
) -> None:
    with repository_on(settings) as repository, ThreadPoolExecutor(1) as pool:
        with repository.changing("test", service.now_us()) as writer:
            account = writer.lock_account(ANNA)
            assert account is not None
            writer.disable(account)
            coming = pool.submit(doors.by_password, ANNA, PASSWORD, SOMEBODY)  # not committed yet
            with suppress(TimeoutError):
                coming.result(0.5)
        with pytest.raises(WrongError, match="disabled"):
            coming.result(10)
    assert count(settings, sessions) == 0


def test_one_admin_always_stays(service: AdminService) -> None:
    for email in ("first@example.org", "second@example.org"):
        service.add_user(email, role=Role.ADMIN, make_one=False)
    service.disable("first@example.org")
    for change in (
        lambda: service.disable("second@example.org"),
        lambda: service.set_role("second@example.org", Role.USER),
    ):
        with pytest.raises(InputError, match="only admin"):
            change()
    assert service.set_role("first@example.org", Role.USER).role is Role.USER, "it was none"
    service.enable("first@example.org")


@pytest.mark.parametrize("how", ["disable", "demote"])
def test_two_admins_who_undo_each_other_leave_one(
    settings: StoreSettings, service: AdminService, how: str
) -> None:
    for email in ("first@example.org", "second@example.org"):
        service.add_user(email, role=Role.ADMIN, make_one=False)
    with repository_on(settings) as repository, ThreadPoolExecutor(1) as pool:
        with repository.changing("test", service.now_us()) as writer:
            first = writer.lock_account("first@example.org")
            assert first is not None
            assert writer.admins() == 2
            if how == "disable":
                writer.disable(first)
                other = pool.submit(service.disable, "second@example.org")
            else:
                writer.set_role(first, Role.USER)
                other = pool.submit(service.set_role, "second@example.org", Role.USER)
            with suppress(TimeoutError):  # that is not committed yet
                other.result(0.3)
        with pytest.raises(InputError, match="only admin"):
            other.result(10)
        with repository.changing("test", service.now_us()) as writer:
            assert writer.admins() == 1


# -- a new password


@pytest.mark.parametrize("how", ["by the command", "by a link"])
def test_a_reset_ends_sessions_and_parts_identities(
    service: AdminService, doors: SignIns, settings: StoreSettings, how: str
) -> None:
    entered = doors.by_password(ANNA, PASSWORD, SOMEBODY)
    doors.link(entered.account, GOOGLE, SOMEBODY)
    if how == "by a link":
        token = doors.invite(ANNA, entered.account, SOMEBODY)
        doors.accept(token, "another horse battery", SOMEBODY)
    else:
        service.set_password(ANNA, "another horse battery")
    assert doors.current(entered.token) is None
    with pytest.raises(WrongError, match="Nobody here is known"):
        doors.by_identity(GOOGLE, SOMEBODY)
    with repository_on(settings) as repository:
        log = AuditLog(repository.engine).page(action="account.unlink_identity").entries
        assert [entry.before for entry in log] == [
            {"issuer": GOOGLE.issuer, "subject": GOOGLE.subject}
        ]


def test_ones_own_change_parts_identities_if_one_says_so(
    service: AdminService, doors: SignIns, settings: StoreSettings
) -> None:
    entered = doors.by_password(ANNA, PASSWORD, SOMEBODY)
    doors.link(entered.account, GOOGLE, SOMEBODY)
    found = doors.current(entered.token)
    assert found is not None
    here = Visitor(SOMEBODY.address, SOMEBODY.agent, found[0])
    doors.change_password(anna(service), PASSWORD, "another horse battery", here)
    assert count(settings, identities) == 1
    doors.change_password(
        anna(service), "another horse battery", "one more horse battery", here, unlink=True
    )
    assert count(settings, identities) == 0
    assert doors.current(entered.token) is not None, "this session goes on"


# -- the pages


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with dashboard(tmp_path_factory.mktemp("disabled")) as running:
        yield running


def test_an_admin_disables_and_enables_on_a_page(board: Dashboard) -> None:
    boss = board.user("boss@example.org", role=Role.ADMIN)
    bob = board.user("bob@example.org")
    theirs, page = board.browser(bob), board.browser(boss)
    assert theirs.get("/keys").status_code == 200
    done = page.post(f"/admin/users/{bob.id}/disable", {})
    assert done.headers["location"] == f"/admin/users/{bob.id}?done=disabled"
    assert theirs.get("/keys").status_code == 303, "signed out"
    shown = page.get(f"/admin/users/{bob.id}").text
    assert "Enable the account" in shown
    assert "Make a link" not in shown
    assert page.post(f"/admin/users/{bob.id}/link", {}).status_code == 422
    assert ">disabled<" in page.get("/admin/users?q=bob").text
    assert page.post(f"/admin/users/{bob.id}/enable", {}).status_code == 303
    assert ">disabled<" not in page.get("/admin/users?q=bob").text
    assert {entry.actor for entry in AuditLog(board.engine).page(search="bob@").entries} >= {
        "web:boss@example.org"
    }


def test_nobody_disables_themself(board: Dashboard) -> None:
    for number in range(2):
        boss = board.user(f"boss-{number}@example.net", role=Role.ADMIN)
    page = board.browser(boss)
    answer = page.post(f"/admin/users/{boss.id}/disable", {})
    assert answer.status_code == 422
    assert "Nobody disables themself" in answer.text
    assert page.get("/keys").status_code == 200
