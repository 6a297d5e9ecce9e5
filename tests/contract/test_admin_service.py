"""The use cases on a real database: rules, caps, races, and what is written about them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from statehelp import CATALOG, FakeClock, new_state, repository_on, service_on, settings_on

from admin.passwords import password_matches
from admin.service import AdminService, Minted
from authz.control import Responder, methods, serving
from authz.metrics import Metrics
from authz.reload import InForce, Loaded
from store.control import SOCKET_NAME
from store.engines import open_engine
from store.errors import (
    ConfigError,
    InputError,
    NotFoundError,
    PlanLimitError,
    StoreUnavailableError,
)
from store.keyformat import Digester, Pepper
from store.records import DAY_US, Role
from store.settings import StoreSettings

ANNA = "anna@example.org"


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> StoreSettings:
    return settings_on(tmp_path, database_url)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def service(settings: StoreSettings, clock: FakeClock) -> Iterator[AdminService]:
    with service_on(settings, clock) as opened:
        opened.add_user(ANNA, make_one=False)
        yield opened


def mint(service: AdminService, alias: str = "laptop", **given: Any) -> Minted:
    return service.mint(ANNA, alias, **({"models": "*"} | given))


def refused(code: str, call: Any, *args: Any, **given: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **given)
    assert caught.value.code == code
    return str(caught.value)


def rows(settings: StoreSettings, statement: str) -> list[Any]:
    engine = open_engine(settings.sql_url)
    with engine.connect() as connection:
        found = connection.execute(text(statement)).all()
    engine.dispose()
    return list(found)


# -- accounts


def test_accounts(service: AdminService, settings: StoreSettings) -> None:
    added = service.add_user(" Bob@Example.org", plan="pro", team="red", role=Role.ADMIN)
    account = added.account
    assert (account.email, account.plan, account.team) == ("bob@example.org", "pro", "red")
    assert (account.role, account.service) == (Role.ADMIN, False)
    assert account.id.startswith("acc_")
    assert account.id == account.id.lower()
    assert [(a.email, live) for a, live in service.list_users()] == [(ANNA, 0), (account.email, 0)]
    assert service.find_user("BOB@example.org") == account
    assert service.find_user("nobody@example.org") is None
    hashes = dict(rows(settings, "SELECT email, password_hash FROM accounts"))
    assert hashes[ANNA] is None
    assert added.password is not None
    assert password_matches(hashes[account.email], added.password)
    assert added.password not in repr(added)
    assert "already" in refused("email_taken", service.add_user, "BOB@example.org")
    assert "free, pro, open" in refused("unknown_plan", service.add_user, "c@x", plan="gold")


def test_a_chosen_password_is_not_told_again(
    service: AdminService, settings: StoreSettings
) -> None:
    assert service.add_user("bob@x", password="correct horse battery").password is None
    assert service.set_password("bob@x", "another horse battery") is None
    made = service.set_password(ANNA)
    hashes = dict(rows(settings, "SELECT email, password_hash FROM accounts"))
    assert password_matches(hashes["bob@x"], "another horse battery")
    assert made is not None
    assert password_matches(hashes[ANNA], made)
    refused("invalid_password", service.set_password, ANNA, "short")
    refused("not_found", service.set_password, "nobody@x", "correct horse battery")


def test_service_accounts_never_sign_in(service: AdminService, settings: StoreSettings) -> None:
    added = service.add_user("bot@x", service=True)
    assert (added.account.service, added.password) == (True, None)
    assert rows(settings, "SELECT password_hash FROM accounts WHERE email = 'bot@x'") == [(None,)]
    for given in ({"role": Role.ADMIN}, {"password": "correct horse battery"}):
        refused("invalid_account", service.add_user, "bot2@x", service=True, **given)
    refused("invalid_account", service.set_password, "bot@x")
    assert service.mint("bot@x", "ci", models="*").record.user == "bot@x"


def test_set_plan(service: AdminService) -> None:
    assert service.set_plan(ANNA, "pro").plan == "pro"
    assert service.find_user(ANNA).plan == "pro"
    refused("unknown_plan", service.set_plan, ANNA, "gold")
    refused("not_found", service.set_plan, "nobody@x", "pro")


# -- minting


def test_a_minted_key_is_found_by_its_plaintext_only(
    service: AdminService, settings: StoreSettings, clock: FakeClock
) -> None:
    minted = mint(service, models="llama-3.1-8b,free-model", budget_usd="0.10", rpm=7)
    record = minted.record
    assert record.models == {"llama-3.1-8b", "free-model"}
    assert (record.budget_nanousd, record.rpm) == (100_000_000, 7)
    assert (record.created_us, record.expires_us) == (clock.now_us, clock.now_us + 90 * DAY_US)
    assert record.hint == f"sk-tg_…{minted.key[-4:]}"
    assert minted.notes == ()
    assert service.find_key(f" {minted.key}\n") == record
    assert service.list_keys(ANNA.upper()) == [record]
    assert minted.key not in repr(minted)

    database = b"".join(path.read_bytes() for path in settings.state.iterdir())
    for secret in (minted.key, minted.key[6:-6], minted.key[6:26]):
        assert secret.encode() not in database


def test_defaults_are_the_plans(service: AdminService) -> None:
    record = mint(service).record
    assert (record.models, record.budget_nanousd, record.rpm) == (None, 5_000_000_000, 60)
    service.set_plan(ANNA, "pro")
    record = mint(service, "pro").record
    assert (record.budget_nanousd, record.rpm) == (500_000_000_000, 600)
    service.set_plan(ANNA, "open")
    record = mint(service, "open").record
    assert (record.budget_nanousd, record.rpm) == (5_000_000_000, 60)
    record = mint(service, "unlimited", budget_usd="none", rpm=1_000_000).record
    assert (record.budget_nanousd, record.rpm) == (None, 1_000_000)
    assert mint(service, "nothing", budget_usd="0").record.budget_nanousd == 0


@pytest.mark.parametrize(("days", "lives"), [(1, 1), (365, 365)])
def test_expiry(service: AdminService, clock: FakeClock, days: int, lives: int) -> None:
    assert mint(service, expires_in_days=days).record.expires_us == clock.now_us + lives * DAY_US


def test_what_is_wrong_is_refused_and_nothing_is_written(
    service: AdminService, settings: StoreSettings
) -> None:
    before = rows(settings, "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM changes)")
    for code, given in {
        "invalid_alias": {"alias": "Laptop"},
        "invalid_models": {"models": "a,,b"},
        "invalid_budget": {"budget_usd": "-1"},
        "invalid_rpm": {"rpm": 0},
        "invalid_expiry": {"expires_in_days": 366},
        "plan_limit_budget": {"budget_usd": "5.000000001"},
        "plan_limit_rpm": {"rpm": 61},
    }.items():
        refused(code, mint, service, **given)
    refused("not_found", service.mint, "nobody@example.org", "laptop", models="*")
    assert service.list_keys(ANNA, every=True) == []
    assert before == rows(
        settings, "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM changes)"
    )


def test_names_are_stored_as_calls_are_judged(service: AdminService) -> None:
    """An alias is its model; a name that only a pattern prices stays itself."""
    minted = mint(service, models="llama,claude-sonnet-4,qwen3-coder,unheard-of")
    assert minted.record.models == {"llama-3.1-8b", "qwen3-coder", "unheard-of"}
    assert minted.notes == (
        "`llama` is an alias of `llama-3.1-8b`: the key names that model.",
        "`claude-sonnet-4` is an alias of `llama-3.1-8b`: the key names that model.",
        "`unheard-of` is not in the catalog: a key with a budget cannot call it until it has a "
        "price there.",
    )


def test_a_key_is_stored_under_the_newest_pepper_and_found_under_any(
    service: AdminService, settings: StoreSettings, tmp_path: Path
) -> None:
    bare = mint(service, "bare")
    peppers = tmp_path / "pepper"
    peppers.write_text(f"4:{'ab' * 32}\n")
    seasoned = settings.model_copy(update={"pepper_file": peppers})
    with service_on(seasoned) as other:
        salted = mint(other, "salted")
        assert other.find_key(bare.key) == bare.record
        assert other.find_key(salted.key) == salted.record
    stored = rows(settings, "SELECT alias, pepper_version, digest FROM keys ORDER BY alias")
    assert stored == [
        ("bare", 0, Digester().digests(bare.key)[0]),
        ("salted", 4, Digester((Pepper(4, b"\xab" * 32),)).digests(salted.key)[0]),
    ]
    with pytest.raises(NotFoundError):
        service.find_key(salted.key)
    peppers.write_text("4:abcd")
    with service_on(seasoned) as other, pytest.raises(ConfigError, match="PEPPER_FILE") as caught:
        mint(other, "third")
    assert "abcd" not in str(caught.value)


def test_another_prefix(service: AdminService, settings: StoreSettings) -> None:
    old = mint(service, "old")
    renamed = settings.model_copy(update={"key_prefixes": ("acme_", "sk-tg_")})
    with service_on(renamed) as other:
        new = mint(other, "new")
        assert new.key.startswith("acme_")
        assert new.record.hint == f"acme_…{new.key[-4:]}"
        assert other.find_key(old.key) == old.record
        assert other.find_key(new.key) == new.record
    refused("invalid_api_key", service.find_key, new.key)


# -- caps


def test_words_of_the_caps(service: AdminService, clock: FakeClock) -> None:
    mint(service, "one")
    mint(service, "two")
    with pytest.raises(PlanLimitError) as caught:
        mint(service, "three")
    assert (caught.value.code, str(caught.value)) == (
        "plan_limit_keys",
        "You hold 2 of 2 live keys on the free plan. "
        "Revoke one you no longer need, or ask an admin for pro.",
    )
    assert refused("plan_limit_budget", service.update, ANNA, "one", budget_usd="5.01") == (
        "The free plan allows a budget of at most $5.00 a key. "
        "Choose $5.00 or less, or ask an admin for pro."
    )
    assert refused("plan_limit_budget", service.update, ANNA, "one", budget_usd="none").endswith(
        "ask an admin for open."
    )
    assert refused("plan_limit_rpm", service.update, ANNA, "one", rpm=601) == (
        "The free plan allows at most 60 requests a minute a key. "
        "Choose 60 or less, or ask an admin for open."
    )


def test_only_live_keys_count(service: AdminService, clock: FakeClock) -> None:
    mint(service, "one", expires_in_days=1)
    mint(service, "two")
    refused("plan_limit_keys", mint, service, "three")
    clock.now_us += DAY_US - 1
    refused("plan_limit_keys", mint, service, "three")
    clock.now_us += 1
    mint(service, "three")
    refused("plan_limit_keys", mint, service, "four")
    service.revoke(ANNA, "two", confirm="two")
    clock.now_us += 1
    mint(service, "four")
    assert [r.alias for r in service.list_keys(ANNA)] == ["three", "four"]
    assert len(service.list_keys(ANNA, every=True)) == 4
    assert {a.email: n for a, n in service.list_users()} == {ANNA: 2}


def test_a_plan_that_was_lowered_binds_what_is_given(service: AdminService) -> None:
    service.set_plan(ANNA, "pro")
    before = mint(service, budget_usd="400", rpm=500).record
    service.set_plan(ANNA, "free")
    assert service.list_keys(ANNA)[0].budget_nanousd == before.budget_nanousd
    assert service.update(ANNA, "laptop", new_alias="desk").record.rpm == 500
    refused("plan_limit_budget", service.update, ANNA, "desk", budget_usd="300")
    assert service.update(ANNA, "desk", budget_usd="5").record.budget_nanousd == 5_000_000_000


def test_a_plan_that_the_catalog_lost(service: AdminService, settings: StoreSettings) -> None:
    service.set_plan(ANNA, "pro")
    settings.catalog.write_text(CATALOG.replace("  pro:", "  large:"))
    with pytest.raises(ConfigError, match="tensorgate users set-plan"):
        mint(service)
    service.set_plan(ANNA, "large")
    mint(service)


def test_the_catalog_that_authz_has_in_force_binds_and_not_what_its_file_says_by_now(
    settings: StoreSettings, tmp_path: Path
) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(0o700)
    settings = settings.model_copy(update={"runtime": runtime})
    in_force = InForce(settings.catalog, Loaded.read(settings.catalog), Metrics())
    known = methods(None, reload=dict, try_out=dict, catalog=in_force.written)  # type: ignore[arg-type]  # nothing else is asked
    later = CATALOG.replace("max_rpm: 60", "max_rpm: 10")
    assert later != CATALOG
    with service_on(settings) as service:
        service.add_user(ANNA, make_one=False)
        with serving(runtime / SOCKET_NAME, Responder(settings.state, known)):
            for number, text_now in enumerate((later, "what authz refuses: [")):
                settings.catalog.write_text(text_now)
                assert mint(service, f"by-authz-{number}", rpm=60).record.rpm == 60
                refused("plan_limit_rpm", mint, service, f"over-{number}", rpm=61)
                service.revoke(ANNA, f"by-authz-{number}", confirm=f"by-authz-{number}")
                assert service.add_user(f"{number}@x", service=True).account.plan == "free"
            answers = {**known, "catalog": _out}
        with (
            serving(runtime / SOCKET_NAME, Responder(settings.state, answers)),
            pytest.raises(StoreUnavailableError, match="the catalog cannot be told"),
        ):
            mint(service, "unknown")
        settings.catalog.write_text(later)
        refused("plan_limit_rpm", mint, service, "by-the-file", rpm=11)
        assert mint(service, "by-the-file", rpm=10).record.rpm == 10


def _out(_: object) -> object:
    raise StoreUnavailableError("the catalog cannot be told")


def test_threads_race_for_the_last_place(settings: StoreSettings, service: AdminService) -> None:
    mint(service, "first")

    def race(number: int) -> str:
        with service_on(settings) as own:
            try:
                return mint(own, f"racer-{number}").record.alias
            except PlanLimitError as fault:
                return fault.code

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(race, range(6)))
    assert results.count("plan_limit_keys") == 5
    assert len(service.list_keys(ANNA, every=True)) == 2


RACER = """
import sys
from admin.service import AdminService
from store.errors import PlanLimitError
from store.keys import KeyRepository
from store.engines import open_engine
from store.settings import StoreSettings, load

settings = load(StoreSettings)
engine = open_engine(settings.sql_url, timeout_seconds=10)
with KeyRepository(engine) as repository:
    service = AdminService(repository, settings, actor="race")
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        print(service.mint(sys.argv[1], sys.argv[2], models="*").record.alias)
    except PlanLimitError as fault:
        print(fault.code)
engine.dispose()
"""


def test_processes_race_for_the_last_place(settings: StoreSettings, tmp_path: Path) -> None:
    with service_on(settings) as service:
        service.add_user(ANNA, make_one=False)
        mint(service, "first", expires_in_days=365)
    environment = {
        "TENSORGATE_STATE": str(settings.state),
        "TENSORGATE_DATABASE_URL": settings.sql_url,
        "TENSORGATE_CATALOG": str(settings.catalog),
    }
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, ANNA, f"racer-{number}"],
            env=environment,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        results = [racer.communicate(timeout=30)[0].strip() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert results.count("plan_limit_keys") == 2
    with service_on(settings) as service:
        assert len(service.list_keys(ANNA, every=True)) == 2


# -- aliases


def test_an_alias_is_free_again_once_its_key_is_revoked(
    service: AdminService, clock: FakeClock
) -> None:
    first = mint(service, expires_in_days=1)
    assert "live" in refused("alias_taken", mint, service)
    clock.now_us += 2 * DAY_US
    said = refused("alias_taken", mint, service)
    assert "expired on " in said
    assert first.record.hint in said
    service.revoke(ANNA, "laptop", confirm="laptop")
    mint(service)
    service.add_user("bob@x", make_one=False)
    service.mint("bob@x", "laptop", models="*")


def test_an_alias_cannot_be_changed_to_one_that_is_taken(service: AdminService) -> None:
    mint(service, "one")
    mint(service, "two")
    refused("alias_taken", service.update, ANNA, "one", new_alias="two")
    refused("invalid_alias", service.update, ANNA, "one", new_alias="Two")
    assert service.update(ANNA, "one", new_alias="three").record.alias == "three"
    refused("not_found", service.update, ANNA, "one", rpm=1)


# -- updating, revoking, finding


def test_update_changes_what_is_given(service: AdminService) -> None:
    minted = mint(service)
    updated = service.update(ANNA, "laptop", models="llama", rpm=5, budget_usd="0.5")
    record = updated.record
    assert (record.models, record.rpm, record.budget_nanousd) == ({"llama-3.1-8b"}, 5, 500_000_000)
    assert updated.notes == ("`llama` is an alias of `llama-3.1-8b`: the key names that model.",)
    assert service.find_key(minted.key) == record
    assert (record.id, record.expires_us) == (minted.record.id, minted.record.expires_us)
    assert service.update(ANNA, "laptop", models="*").record.models is None
    refused("nothing_to_change", service.update, ANNA, "laptop")


def test_an_update_that_changes_nothing_writes_nothing(
    service: AdminService, settings: StoreSettings
) -> None:
    mint(service)
    count = "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM changes)"
    before = rows(settings, count)
    service.update(ANNA, "laptop", models="*", rpm=60, budget_usd="5.0", new_alias="laptop")
    service.set_plan(ANNA, "free")
    assert rows(settings, count) == before


def test_revoking_asks_for_the_alias_and_is_for_ever(
    service: AdminService, clock: FakeClock
) -> None:
    minted = mint(service)
    for confirm in ("", "Laptop", "laptop ", "other"):
        refused("confirmation_required", service.revoke, ANNA, "laptop", confirm=confirm)
    assert service.find_key(minted.key).revoked_us is None
    clock.now_us += 5
    assert service.revoke(ANNA, "laptop", confirm="laptop").revoked_us == clock.now_us
    assert service.find_key(minted.key).revoked_us == clock.now_us
    refused("not_found", service.revoke, ANNA, "laptop", confirm="laptop")
    refused("not_found", service.update, ANNA, "laptop", rpm=1)


def test_nobody_reaches_anothers_key(service: AdminService) -> None:
    mint(service)
    service.add_user("bob@x", make_one=False)
    for call in (
        lambda: service.revoke("bob@x", "laptop", confirm="laptop"),
        lambda: service.update("bob@x", "laptop", rpm=1),
    ):
        refused("not_found", call)
    assert service.list_keys("bob@x", every=True) == []
    refused("not_found", service.list_keys, "nobody@x")


def test_find_says_what_is_wrong_and_never_repeats_the_text(service: AdminService) -> None:
    key = mint(service).key
    mistyped = key[:20] + ("a" if key[20] != "a" else "b") + key[21:]
    assert "mistyped" in refused("invalid_api_key", service.find_key, mistyped)
    for wrong in ("", "hello", key[:-1], f"Bearer {key}"):
        said = refused("invalid_api_key", service.find_key, wrong)
        assert "sk-tg_" in said
        assert key[6:] not in said
    with service_on(service._settings) as other:
        other.revoke(ANNA, "laptop", confirm="laptop")
    assert service.find_key(key).revoked_us is not None


def test_foreign_keys_are_looked_up_where_they_were_imported(
    service: AdminService, settings: StoreSettings
) -> None:
    refused("invalid_api_key", service.find_key, "sk-0123456789")
    imported = settings.model_copy(update={"foreign_keys": "sk-[0-9]+"})
    with service_on(imported) as other:
        refused("not_found", other.find_key, "sk-0123456789")


def test_the_audit_log_names_the_actor_and_tells_no_secret(
    service: AdminService, settings: StoreSettings
) -> None:
    with service_on(settings, actor="cli:root") as other:
        added = other.add_user("bob@x")
        minted = other.mint("bob@x", "ci", models="*")
        other.update("bob@x", "ci", rpm=1)
        made = other.set_password("bob@x")
        other.revoke("bob@x", "ci", confirm="ci")
    written = rows(settings, "SELECT actor, action, before, after FROM audit ORDER BY id")
    assert [(row.actor, row.action) for row in written[1:]] == [
        ("cli:root", "account.add"),
        ("cli:root", "key.mint"),
        ("cli:root", "key.update"),
        ("cli:root", "account.set_password"),
        ("cli:root", "key.revoke"),
    ]
    assert json.loads(written[3].before) == {"rpm": 60}
    assert json.loads(written[3].after) == {"rpm": 1}
    told = repr(written)
    assert added.password is not None
    assert made is not None
    for secret in (minted.key, minted.key[10:30], added.password, made, "argon2"):
        assert secret not in told


def test_whoever_serves_is_told_of_each_change_once_it_is_there(tmp_path: Path) -> None:
    """After the commit, or who is told would read what was before; and not of what failed."""
    settings = new_state(tmp_path)
    seen: list[int] = []

    def told() -> None:
        with repository_on(settings) as other:
            seen.append(other.last_change())

    with repository_on(settings) as repository:
        use = AdminService(repository, settings, actor="cli:tester", changed=told)
        use.add_user("anna@example.org")
        use.mint("anna@example.org", "laptop", models="*")
        use.update("anna@example.org", "laptop", rpm=7)
        use.set_plan("anna@example.org", "pro")
        use.revoke("anna@example.org", "laptop", confirm="laptop")
        with pytest.raises(NotFoundError):
            use.revoke("anna@example.org", "laptop", confirm="laptop")
        assert len(seen) == 4
        assert seen == sorted(set(seen)), "each saw the change that it was told of"
        assert seen[-1] == repository.last_change()


def test_an_id_that_goes_along_must_be_the_keys(service: AdminService) -> None:
    """A page that was left open names a key that has another successor by now."""
    older = mint(service).record
    service.revoke(ANNA, "laptop", confirm="laptop", key_id=older.id)
    younger = mint(service).record
    refused("not_found", service.update, ANNA, "laptop", rpm=1, key_id=older.id)
    refused("not_found", service.revoke, ANNA, "laptop", confirm="laptop", key_id=older.id)
    assert service.list_keys(ANNA) == [younger]
    service.update(ANNA, "laptop", rpm=1, key_id=younger.id)
    assert service.revoke(ANNA, "laptop", confirm="laptop", key_id=younger.id).id == younger.id
