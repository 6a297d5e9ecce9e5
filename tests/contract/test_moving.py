"""LiteLLM's tables, in a real PostgreSQL, become accounts and keys here: once, and again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from litellmhelp import LiteLLM, digest, litellm_on, plaintext
from peers.postgres import Postgres
from sqlalchemy import Engine, text
from statehelp import FakeClock, repository_on, service_on, settings_on

from admin.litellm import Tables, read
from admin.litellmkeys import FOREIGN_FORM, NOBODY
from admin.moving import Line, Mover, Report
from admin.movingcli import report_json, report_text
from store.catalog import Catalog
from store.counters.memory import MemoryCounters
from store.errors import InputError, PlanLimitError, StoreUnavailableError
from store.imports import Imports
from store.keyformat import KeyForm
from store.ledger import Ledger
from store.ledgerreader import LedgerReader
from store.records import DAY_US, NANOUSD, WINDOW_US, KeyRecord, Window, window_at
from store.seeding import SeededCounters
from store.settings import StoreSettings

NOW = datetime.fromtimestamp(FakeClock().now_us / 1e6, UTC).replace(tzinfo=None)
DAY = timedelta(days=1)
HOSTILE = "<script>alert('x')</script>\x1b[31m\u202egnp.exe\r\nSet-Cookie: a=b" + "Ünï" * 5_000


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> StoreSettings:
    return settings_on(tmp_path, database_url)


@pytest.fixture
def litellm(postgres: Postgres) -> Iterator[LiteLLM]:
    with litellm_on(postgres) as made:
        yield made


class Moving:
    """Imports into one state, at a time that is moved by hand."""

    def __init__(self, settings: StoreSettings, litellm: LiteLLM, engine: Engine) -> None:
        self.settings, self.litellm, self.engine = settings, litellm, engine
        self.clock = FakeClock()

    def __call__(self, *, dry_run: bool = False, tables: Tables | None = None) -> Report:
        with repository_on(self.settings) as repository:
            catalog = Catalog.read(self.settings.catalog)
            mover = Mover(
                repository, Imports(self.engine), catalog, actor="cli:tester", clock=self.clock
            )
            return mover.move(tables or read(self.litellm.url), dry_run=dry_run)

    def key(self, plain: str) -> KeyRecord:
        with repository_on(self.settings) as repository:
            found = repository.by_digests((bytes.fromhex(digest(plain)),))
        assert found is not None
        return found[1]

    def rows(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(statement)).all())

    def dump(self) -> dict[str, list[Any]]:
        tables = ("accounts", "keys", "imports", "ledger", "spent", "audit", "changes")
        return {name: self.rows(f"SELECT * FROM {name}") for name in tables}

    def spent(self, record: KeyRecord) -> int:
        """In the window under way, as a gate that starts now reads it."""
        seed = Ledger(self.engine).seed(record.account_id, self.clock.now_us)
        number = window_at(record.created_us, self.clock.now_us)
        return seed.spent[Window(record.id, number)]


@pytest.fixture
def moving(
    settings: StoreSettings, litellm: LiteLLM, another_engine: Callable[[], Engine]
) -> Moving:
    return Moving(settings, litellm, another_engine())


def refused(report: Report) -> dict[str, str]:
    return {line.name: line.why for line in report.refused}


def line(report: Report, name: str) -> Line:
    (found,) = [each for each in (*report.imported, *report.changed) if each.name == name]
    return found


def changes(report: Report, name: str) -> dict[str, tuple[str, str]]:
    return {each.what: (each.there, each.here) for each in line(report, name).changes}


def test_a_key_keeps_its_owner_its_limits_and_what_is_left_of_its_budget(moving: Moving) -> None:
    litellm = moving.litellm
    litellm.team("t1", "Red Team", models=["llama-3.1-8b", "free-model", "openai/*"])
    litellm.user("u1", "Anna@Example.org")
    plain = litellm.key(
        plaintext(1),
        key_alias="Anna's Laptop",
        user_id="u1",
        team_id="t1",
        models=["llama", "all-team-models"],
        max_budget=10.1,
        budget_duration="30d",
        budget_reset_at=NOW + 12 * DAY,
        spend=0.1 + 0.2,
        rpm_limit=77,
        expires=NOW + 100 * DAY,
    )
    report = moving()
    record = moving.key(plain)
    assert (record.user, record.team, record.alias) == (
        "anna@example.org",
        "Red Team",
        "anna-s-laptop",
    )
    assert record.models == {"llama-3.1-8b", "free-model"}
    assert (record.budget_nanousd, record.rpm) == (10_100_000_000, 77)
    assert record.expires_us == moving.clock.now_us + 100 * DAY_US
    assert record.hint == f"sk-…{plain[-4:]}"
    # the window that runs there runs on here, and ends when it would have ended there
    assert record.created_us + WINDOW_US == moving.clock.now_us + 12 * DAY_US
    assert moving.spent(record) == 300_000_000
    assert report.carried_nanousd == 300_000_000
    assert changes(report, "Anna's Laptop") == {
        "alias": ("Anna's Laptop", "anna-s-laptop"),
        "wildcard models": ("openai/*", "llama-3.1-8b, free-model"),
    }
    assert moving.rows("SELECT pepper_version FROM keys") == [(0,)]
    assert moving.rows("SELECT password_hash, service FROM accounts") == [(None, False)]
    actions = [row.action for row in moving.rows("SELECT action FROM audit ORDER BY id")]
    assert actions == ["account.add", "key.import", "key.carry_over"]
    verified = LedgerReader(moving.engine).verify(lambda _: None, lambda _: None)
    assert verified.faults == ()


def test_a_second_run_changes_nothing_and_books_only_what_came_since(moving: Moving) -> None:
    litellm = moving.litellm
    litellm.user("u1", "anna@x")
    spends = {"period": ("30d", NOW + 5 * DAY), "for ever": (None, None)}
    keys = {}
    for number, (name, (duration, reset)) in enumerate(spends.items()):
        keys[name] = litellm.key(
            plaintext(number),
            key_alias=name,
            user_id="u1",
            max_budget=5,
            spend=1.25,
            budget_duration=duration,
            budget_reset_at=reset,
        )
    moving()
    before = moving.dump()
    again = moving()
    assert (again.imported, again.changed, again.refused, again.unchanged) == ([], [], [], 2)
    assert moving.dump() == before

    for plain in keys.values():
        litellm.change(plain, spend=1.75)
    moving.clock.now_us += DAY_US
    since = moving()
    assert since.carried_nanousd == 2 * NANOUSD // 2
    assert {moving.spent(moving.key(plain)) for plain in keys.values()} == {1_750_000_000}
    # spend that was emptied by hand takes nothing back
    for plain in keys.values():
        litellm.change(plain, spend=0.5)
    assert moving().carried_nanousd == 0

    # the next window there: all of its spend is new, here as well
    litellm.change(keys["period"], spend=0.25, budget_reset_at=NOW + 35 * DAY)
    moving.clock.now_us += 10 * DAY_US
    assert moving().carried_nanousd == 250_000_000
    assert moving.spent(moving.key(keys["period"])) == 250_000_000
    assert moving.spent(moving.key(keys["for ever"])) == 1_750_000_000
    assert LedgerReader(moving.engine).verify(lambda _: None, lambda _: None).faults == ()


def test_what_changed_there_is_changed_here_and_what_was_changed_here_stays(
    moving: Moving,
) -> None:
    litellm = moving.litellm
    litellm.user("u1", "anna@x")
    plain = litellm.key(plaintext(1), key_alias="ci", user_id="u1", max_budget=2, rpm_limit=5)
    moving()
    with service_on(moving.settings, moving.clock) as service:
        service.set_plan("anna@x", "open")
        service.update("anna@x", "ci", new_alias="runner", rpm=9)
    litellm.change(plain, max_budget=3, expires=NOW + 3 * DAY, models=["free-model"])
    moving.clock.now_us += DAY_US
    report = moving()
    record = moving.key(plain)
    assert (record.alias, record.rpm) == ("runner", 9)
    assert (record.budget_nanousd, record.models) == (3 * NANOUSD, {"free-model"})
    assert record.expires_us == moving.clock.now_us + 2 * DAY_US
    assert set(changes(report, "ci")) == {"models", "budget", "expires"}
    assert changes(report, "ci")["budget"] == ("$2.00 per 30 days", "$3.00 per 30 days")

    litellm.change(plain, blocked=True)
    assert changes(moving(), "ci") == {"state": ("it is blocked there", "revoked, for ever")}
    assert moving.key(plain).revoked_us == moving.clock.now_us
    assert moving().unchanged == 1
    litellm.change(plain, blocked=False)
    assert "for ever" in refused(moving())["ci"]


def test_what_becomes_of_each_kind_of_expiry(moving: Moving) -> None:
    moments = {
        "none": None,
        "past": NOW - DAY,
        "soon": NOW + DAY,
        "far": NOW + 1000 * DAY,
        "endless": "infinity",
        "always-over": "-infinity",
    }
    keys = {
        name: moving.litellm.key(plaintext(n), key_alias=name, expires=moment)
        for n, (name, moment) in enumerate(moments.items())
    }
    report = moving()
    now_us = moving.clock.now_us
    days = {name: (moving.key(key).expires_us - now_us) / DAY_US for name, key in keys.items()}
    assert days.pop("always-over") == -now_us / DAY_US
    assert days == {"none": 365, "past": -1, "soon": 1, "far": 365, "endless": 365}
    told = {each.name for each in report.imported if any(c.what == "expires" for c in each.changes)}
    assert told == {"none", "far", "endless"}


def test_keys_without_a_usable_e_mail_have_service_accounts(moving: Moving) -> None:
    litellm = moving.litellm
    litellm.team("t-1", "Blue/Ops")
    litellm.user("u-1", "not an e-mail", user_alias="CI Runner")
    litellm.user("u-2", None)
    keys = [
        litellm.key(plaintext(1), key_alias="a", user_id="u-1"),
        litellm.key(plaintext(2), key_alias="b", user_id="u-2"),
        litellm.key(plaintext(3), key_alias="c", user_id="gone"),
        litellm.key(plaintext(4), key_alias="d", team_id="t-1"),
        litellm.key(plaintext(5), key_alias="e"),
    ]
    moving()
    users = [moving.key(key).user for key in keys]
    assert [user.rpartition("-")[0] for user in users[:4]] == [
        "user-ci-runner",
        "user-u-2",
        "user-gone",
        "team-blue-ops",
    ]
    assert users[4] == NOBODY
    assert all(user.endswith("@litellm.invalid") for user in users)
    assert {row.service for row in moving.rows("SELECT service FROM accounts")} == {True}
    assert moving.key(keys[3]).team == "Blue/Ops"


def test_what_cannot_be_imported_is_refused_with_why(moving: Moving) -> None:
    litellm = moving.litellm
    litellm.user("u1", "anna@x")
    litellm.user("u2", "bob@x", models=["no-default-models"])
    litellm.team("t-blocked", "x", blocked=True)
    litellm.team("t-models", "y", models=["free-model"])
    ugly: dict[str, dict[str, Any]] = {
        "blocked": {"blocked": True, "user_id": "u1"},
        "team is blocked": {"team_id": "t-blocked"},
        "team is gone": {"team_id": "t-nowhere"},
        "session": {"team_id": "litellm-dashboard"},
        "routes": {"allowed_routes": ["/v1/embeddings"]},
        "no request": {"rpm_limit": 0},
        "not a number": {"max_budget": "NaN"},
        "no exact model": {"models": ["openai/*"]},
        "no model": {"user_id": "u2"},
        "of its team's": {"models": ["llama"], "team_id": "t-models"},
        "no team": {"models": ["all-team-models"]},
        "more than 256": {"models": [f"m{n}" for n in range(300)]},
    }
    for number, (name, columns) in enumerate(ugly.items()):
        litellm.key(plaintext(number), key_alias=name, **columns)
    litellm.key("x", token="sk-this-is-a-plaintext-in-the-table", key_alias="no SHA-256")
    report = moving()
    assert report.imported == []
    assert refused(report).keys() == {*ugly, "no SHA-256"}
    for name, part in {
        "blocked": "blocked there",
        "team is blocked": "its team is blocked",
        "team is gone": "team is gone",
        "session": "session",
        "routes": "every endpoint",
        "no request": "no request a minute",
        "not a number": "not a number",
        "no exact model": "no exact model",
        "no model": "no exact model",
        "of its team's": "no exact model",
        "no team": "has no team",
        "more than 256": "256 models",
        "no SHA-256": "no SHA-256",
    }.items():
        assert part in refused(report)[name]
    assert "plaintext" not in report_text(report, KeyForm())
    assert moving.rows("SELECT * FROM keys") == moving.rows("SELECT * FROM accounts") == []


def test_limits_that_there_are_none_of_here_are_told(moving: Moving) -> None:
    litellm = moving.litellm
    litellm.budget("b1", max_budget=7, budget_duration="7d", rpm_limit=8, tpm_limit=1000)
    litellm.user("u1", "anna@x", max_budget=50)
    keys = [
        litellm.key(plaintext(1), key_alias="shared", budget_id="b1", user_id="u1"),
        litellm.key(plaintext(2), key_alias="bounded", user_id="u1", max_parallel_requests=3),
        litellm.key(plaintext(3), key_alias="huge", max_budget="Infinity", spend="-1"),
        litellm.key(plaintext(4), key_alias="over", max_budget=5, spend="1e300"),
        litellm.key(
            plaintext(5),
            key_alias="stale",
            max_budget=5,
            spend=4,
            budget_duration="1d",
            budget_reset_at=NOW - DAY,
        ),
    ]
    report = moving()
    shared, bounded, huge, over, stale = (moving.key(key) for key in keys)
    assert (shared.budget_nanousd, shared.rpm) == (7 * NANOUSD, 8)
    assert changes(report, "shared")["budget's period"] == ("$7.00 in 7d", "$7.00 in 30d")
    assert changes(report, "shared")["tpm_limit"] == ("1000", "none")
    assert bounded.budget_nanousd == 50 * NANOUSD
    assert changes(report, "bounded")["max_parallel_requests"] == ("3", "none")
    assert changes(report, "bounded")["budget"] == ("$50.00 for all its user's", "$50.00 in 30d")
    assert huge.budget_nanousd == 1_000_000 * NANOUSD
    assert moving.spent(huge) == 0
    assert moving.spent(over) == 10**18
    assert moving.spent(stale) == 0, "its period is over, and LiteLLM had not emptied it yet"


def test_no_limit_of_an_organization_or_project_vanishes_in_silence(moving: Moving) -> None:
    """It bounds each key, as a team's does, or the report names it as not carried over."""
    litellm = moving.litellm
    litellm.budget("acme-limits", max_budget=100.0, rpm_limit=600, tpm_limit=9000)
    litellm.budget("beta-limits", max_budget=7.5)
    litellm.budget("member-limits", max_budget=3.0)
    litellm.organization("o-1", "Acme", "acme-limits", models=["small", "large"])
    litellm.project("p-1", "Beta", budget_id="beta-limits", models=["small"])
    litellm.project("p-2", "Gamma", blocked=True, model_rpm_limit={"small": 5})
    litellm.team("t-1", "red", organization_id="o-1", models=["small", "other"], rpm_limit=60)
    litellm.user("u-1", "ada@example.com")
    litellm.member("u-1", "t-1", "member-limits")
    litellm.key(plaintext(1), key_alias="bounded", organization_id="o-1", models=["small", "x"])
    litellm.key(plaintext(2), key_alias="own", team_id="t-1", max_budget=2.0, budget_duration="30d")
    litellm.key(plaintext(3), key_alias="in-project", project_id="p-1", organization_id="o-1")
    litellm.key(plaintext(4), key_alias="stopped", project_id="p-2")
    litellm.key(plaintext(5), key_alias="lost", project_id="p-9")
    litellm.key(plaintext(6), key_alias="member", user_id="u-1", team_id="t-1")
    report = moving()

    told = changes(report, "bounded")
    assert told["models outside of its organization's"] == ("x", "none")
    assert told["budget"] == ("$100.00 for all its organization's", "$100.00 in 30d")
    assert told["organization's requests a minute"] == ("600 for all of Acme", "not carried over")
    assert told["organization's tpm_limit"] == ("9000 for all of Acme", "not carried over")

    told = changes(report, "own")
    assert told["organization's budget"] == ("$100 for all of Acme", "not carried over")
    assert told["team's requests a minute"] == ("60 for all of red", "not carried over")
    assert told["models outside of its organization's"] == ("other", "none")

    named = {"bounded": 1, "own": 2, "in-project": 3, "member": 6}
    keys = {name: moving.key(plaintext(number)) for name, number in named.items()}
    assert keys["bounded"].models == {"small"}
    assert keys["bounded"].budget_nanousd == 100 * NANOUSD
    assert (keys["own"].models, keys["own"].budget_nanousd) == ({"small"}, 2 * NANOUSD)
    assert keys["in-project"].models == {"small"}
    assert keys["in-project"].budget_nanousd == 7_500_000_000, "the least of both"
    assert keys["member"].budget_nanousd == 3 * NANOUSD, "of this user in this team"

    why = refused(report)
    assert why["stopped"].startswith("its project is blocked there")
    assert why["lost"].startswith("its project is gone")
    text = report_text(report, KeyForm())
    assert "organization's budget" in text
    assert "not carried over" in text


def test_a_dry_run_says_the_same_and_writes_nothing(moving: Moving) -> None:
    moving.litellm.user("u1", "anna@x")
    moving.litellm.key(plaintext(1), key_alias="A", user_id="u1", spend=1, max_budget=2)
    moving.litellm.key(plaintext(2), key_alias="a", user_id="u1", blocked=None)
    before = moving.dump()
    planned = moving(dry_run=True)
    assert moving.dump() == before
    done = moving()
    assert replace(planned, dry_run=False) == done
    assert len(done.imported) == 2


def test_plan_limits_bind_at_minting_and_do_not_count_what_was_imported(moving: Moving) -> None:
    moving.litellm.user("u1", "anna@x")
    for number in range(5):
        moving.litellm.key(plaintext(number), key_alias="same", user_id="u1", max_budget=900)
    moving()
    with service_on(moving.settings, moving.clock) as service:
        found = service.list_keys("anna@x")
        assert sorted(key.alias for key in found) == [
            "same",
            "same-2",
            "same-3",
            "same-4",
            "same-5",
        ]
        assert {key.budget_nanousd for key in found} == {900 * NANOUSD}, "above the plan's"
        service.mint("anna@x", "one", models="*")
        service.mint("anna@x", "two", models="*")
        with pytest.raises(PlanLimitError):
            service.mint("anna@x", "three", models="*")


def test_hostile_names_are_made_harmless_and_the_old_name_is_found(moving: Moving) -> None:
    litellm = moving.litellm
    litellm.user("u1", HOSTILE, user_alias=HOSTILE)
    litellm.team("t1", HOSTILE)
    plain = plaintext(1)
    litellm.key(plain, key_alias=HOSTILE, user_id="u1", team_id="t1", key_name=plain)
    named_by_itself = plaintext(2)
    litellm.key(named_by_itself, key_alias=named_by_itself)
    other = plaintext(3)
    litellm.key(other, key_alias=f"key {plaintext(4)} of Bob", models=["a,b", "x\ny", "llama"])
    report = moving()
    record = moving.key(plain)
    assert len(record.alias) <= 63
    assert record.alias.startswith("script-alert-x-script-31m-gnp-exe")
    assert record.hint == "sk-…", "what stands in the place of a hint may be the key"
    assert moving.key(named_by_itself).alias.startswith("key-")
    assert moving.key(other).models == {"llama-3.1-8b"}
    written = repr(moving.dump()) + report_text(report, KeyForm())
    written += json.dumps(report_json(report, KeyForm()))
    for secret in (plain, named_by_itself, plaintext(4)):
        assert secret not in written
    for bad in ("\x1b", "\u202e", "\r"):
        assert bad not in report_text(report, KeyForm())
    assert len(line(report, next(n for n in names(report) if "script" in n)).name) <= 256
    with service_on(moving.settings, moving.clock) as service:
        assert service.search_keys("ALERT('X')") == [record]
        assert service.search_keys("of bob") == [moving.key(other)]
        assert service.search_keys("%") == service.search_keys("nobody's") == []
        assert service.search_keys("bob", record.user) == []
        assert service.origins([record])[record.id].source == "litellm"


def names(report: Report) -> list[str]:
    return [each.name for each in report.imported]


def test_a_key_of_this_gate_is_not_taken_over(moving: Moving) -> None:
    with service_on(moving.settings, moving.clock) as service:
        service.add_user("anna@x")
        minted = service.mint("anna@x", "mine", models="*")
    moving.litellm.key(minted.key, key_alias="theirs")
    report = moving()
    assert "minted that key itself" in refused(report)["theirs"]
    assert moving.key(minted.key) == minted.record


def test_counters_that_know_the_account_count_what_was_carried_over(moving: Moving) -> None:
    """A gate that runs hears of it on the feed, and has to read the sums anew."""
    litellm = moving.litellm
    litellm.user("u1", "anna@x")
    plain = litellm.key(plaintext(1), user_id="u1", max_budget=5, spend=1)
    moving()
    record = moving.key(plain)
    memory, ledger = MemoryCounters(moving.clock), Ledger(moving.engine)
    SeededCounters(memory, ledger).seed(record.account_id)
    litellm.change(plain, spend=3)
    moving()
    with repository_on(moving.settings) as repository:
        last = repository.changes_since(repository.last_change() - 1)[-1]
    assert (last.digest, last.account_id) == (bytes.fromhex(digest(plain)), record.account_id)
    assert memory.accounts() == [record.account_id]
    memory.forget(record.account_id)
    assert memory.accounts() == []
    SeededCounters(memory, ledger).seed(record.account_id)
    generation = memory.generation(record.account_id)
    assert memory.drift(generation, ledger.seed(record.account_id, moving.clock.now_us)) == 0


def _fill(litellm: LiteLLM, size: int) -> None:
    chance = random.Random(4711)
    for n in range(40):
        litellm.team(f"team-{n}", f"Team {n}", models=chance.choice(([], ["llama"], ["gpt/*"])))
    for n in range(500):
        email = chance.choice((f"user{n}@example.org", None, f"User {n}", f"USER{n}@EXAMPLE.ORG"))
        litellm.user(f"user-{n}", email, user_alias=chance.choice((None, f"Nr. {n}", "Zoë")))
    for n in range(size):
        litellm.key(
            plaintext(n),
            key_alias=chance.choice((None, f"key {n}", "laptop", "LAPTOP", "ключ", f"k-{n}")),
            user_id=chance.choice((None, f"user-{n % 600}")),
            team_id=chance.choice((None, None, f"team-{n % 41}")),
            models=chance.choice(([], ["all-proxy-models"], ["llama", "free-model"], ["gpt/*"])),
            max_budget=chance.choice((None, n / 7)),
            spend=n / 70_000,
            budget_duration=chance.choice((None, "30d", "1mo")),
            budget_reset_at=NOW + chance.randint(1, 30) * DAY,
            rpm_limit=chance.choice((None, n + 1)),
            expires=chance.choice((None, NOW + (n - 100) * DAY)),
            blocked=chance.choice((None, False, False, True)),
        )


def test_three_thousand_keys(moving: Moving) -> None:
    """Every kind beside every other; then again, and the gate has not moved."""
    size = 3000 if moving.engine.dialect.name == "postgresql" else 600
    with moving.litellm.at_once():
        _fill(moving.litellm, size)
    report = moving()
    assert len(report.imported) + len(report.refused) == size
    assert len(report.imported) > size // 3
    records = {row.id: row for row in moving.rows("SELECT * FROM keys")}
    assert len(records) == len(report.imported)
    expected = sum(each.carried_nanousd for each in report.imported)
    (total,) = moving.rows("SELECT sum(nanousd) FROM spent")
    assert int(total[0]) == expected == report.carried_nanousd
    assert LedgerReader(moving.engine).verify(lambda _: None, lambda _: None).faults == ()
    before = moving.rows("SELECT count(*) FROM audit"), moving.rows("SELECT max(seq) FROM changes")
    again = moving()
    assert (again.imported, again.changed, again.unchanged) == ([], [], len(report.imported))
    assert again.refused == report.refused
    after = moving.rows("SELECT count(*) FROM audit"), moving.rows("SELECT max(seq) FROM changes")
    assert after == before
    assert len(report_text(report, KeyForm()).splitlines()) < 250


def test_it_says_which_form_of_keys_the_gate_has_to_be_told_of(moving: Moving) -> None:
    report = moving()
    assert FOREIGN_FORM in report_text(report, KeyForm())
    assert FOREIGN_FORM in report_text(report, KeyForm(foreign="sk-[0-9]+"))
    told = KeyForm(foreign=FOREIGN_FORM)
    assert "TENSORGATE_FOREIGN_KEYS" not in report_text(report, told)
    assert told.is_foreign(plaintext(1))
    assert report_json(report, told)["foreign_keys"] == {"accepted": True, "set": FOREIGN_FORM}


def test_older_and_newer_tables_are_read_and_others_are_none(
    litellm: LiteLLM, postgres: Postgres
) -> None:
    litellm.key(plaintext(1), key_alias="old")
    for column in ("blocked", "allowed_routes", "access_group_ids", "budget_id", "created_at"):
        litellm.execute(f'ALTER TABLE "LiteLLM_VerificationToken" DROP COLUMN {column}')
    litellm.execute('ALTER TABLE "LiteLLM_VerificationToken" ADD COLUMN newer integer')
    prisma = f"{litellm.url}&schema=public&connection_limit=5&pgbouncer=true"
    (token,) = read(prisma).tokens
    assert (token.name, token.blocked, token.routes) == ("old", False, ())
    with pytest.raises(InputError, match="it is not LiteLLM's"):
        read(postgres.url())
    for wrong in ("mysql://root:geheim@x/y", "geheim", "sqlite:////geheim"):
        with pytest.raises(InputError) as caught:
            read(wrong)
        assert "geheim" not in str(caught.value)
    with pytest.raises(StoreUnavailableError) as out:
        read(postgres.tcp_url(password="geheim-and-wrong"))
    assert "geheim" not in str(out.value)
