"""What a key repository must do, the same for every database (see conftest.py)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine, delete, event, select, update
from sqlalchemy.exc import DBAPIError
from statehelp import NOW_US

from store import keyrows
from store.breaker import PROBE_SECONDS
from store.engines import write_options
from store.errors import InputError, StoreUnavailableError
from store.keys import FEED_BATCH, KeyRepository, everything_changed
from store.keywriter import FEED_KEPT_US
from store.records import DAY_US, SECOND_US, Account, Change, KeyRecord, Role
from store.schema import audit, changes, keys

OpenEngine = Callable[[], Engine]


@pytest.fixture
def engine(another_engine: OpenEngine) -> Engine:
    return another_engine()


@pytest.fixture
def repository(engine: Engine) -> Iterator[KeyRepository]:
    with KeyRepository(engine) as opened:
        yield opened


def account(name: str = "anna", **given: object) -> Account:
    made = Account(
        id=f"acc_{name}",
        email=f"{name}@example.org",
        team="red",
        plan="free",
        role=Role.USER,
        service=False,
        created_us=NOW_US - 5,
    )
    return replace(made, **given)


def key(of: Account, alias: str = "laptop", **given: object) -> KeyRecord:
    made = KeyRecord(
        id=f"key_{of.id[4:]}_{alias}",
        account_id=of.id,
        user=of.email,
        team=of.team,
        plan=of.plan,
        account_created_us=of.created_us,
        alias=alias,
        hint="sk-tg_…x4Qz",
        models=frozenset({"b-model", "a:latest"}),
        budget_nanousd=5_000_000_001,
        rpm=60,
        created_us=NOW_US,
        expires_us=NOW_US + 90 * DAY_US,
        revoked_us=None,
    )
    return replace(made, **given)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def put(
    repository: KeyRepository, record: KeyRecord, number: int, *, pepper: int = 0, at: int = NOW_US
) -> None:
    with repository.changing("cli:tester", at) as writer:
        writer.add_key(record, digest(number), pepper)


def put_account(repository: KeyRepository, made: Account) -> Account:
    with repository.changing("cli:tester", NOW_US) as writer:
        writer.add_account(made, None)
    return made


def change_and_fail(
    repository: KeyRepository, holder: Account, record: KeyRecord, *, at: int = NOW_US
) -> None:
    with repository.changing("cli:tester", at) as writer:
        writer.add_key(record, digest(1 << 200), 0)
        writer.set_plan(holder, "pro")
        raise InputError("no")


# -- looking up


def test_what_is_stored_is_what_is_found(repository: KeyRepository) -> None:
    plain = put_account(repository, account())
    odd = put_account(
        repository, account("bot", team=None, plan="pro", role=Role.ADMIN, service=True)
    )
    records = [
        key(plain),
        key(plain, "everything", models=None, budget_nanousd=None, rpm=None),
        key(plain, "nothing", models=frozenset(), budget_nanousd=0, rpm=1),
        key(odd, models=frozenset({"modèle ä/§ \"x\" 'y'", "m" * 256})),
        key(odd, "expired", expires_us=NOW_US - 1),
        key(odd, "large", budget_nanousd=10**15, rpm=1_000_000),
    ]
    for number, record in enumerate(records, 1):
        put(repository, record, number)
    for number, record in enumerate(records, 1):
        assert repository.by_digests([digest(number)]) == (digest(number), record)
    assert repository.keys_of(plain.id) == sorted(records[:3], key=lambda r: r.id)
    assert repository.account("anna@example.org") == plain
    assert repository.account("nobody@example.org") is None
    assert repository.accounts(NOW_US) == [(plain, 3), (odd, 2)]


def test_unknown_digests_are_nothing(repository: KeyRepository) -> None:
    put(repository, key(put_account(repository, account())), 1)
    assert repository.by_digests([digest(2), digest(3)]) is None
    assert repository.by_digests([]) is None


def test_any_of_the_digests_finds_it_and_the_earliest_counts(repository: KeyRepository) -> None:
    holder = put_account(repository, account())
    one, two = key(holder, "one"), key(holder, "two")
    put(repository, one, 1, pepper=1)
    put(repository, two, 2, pepper=2)
    assert repository.by_digests([digest(9), digest(2)]) == (digest(2), two)
    assert repository.by_digests([digest(1), digest(9), digest(8)]) == (digest(1), one)
    assert repository.by_digests([digest(2), digest(1)]) == (digest(2), two)
    assert repository.by_digests([digest(1), digest(2)]) == (digest(1), one)


def test_a_revoked_key_is_found_and_stays_revoked(repository: KeyRepository) -> None:
    record = key(put_account(repository, account()))
    put(repository, record, 1)
    gone = replace(record, revoked_us=NOW_US + 7)
    with repository.changing("cli:tester", NOW_US + 7) as writer:
        writer.change_key(record, gone, action="key.revoke")
    assert repository.by_digests([digest(1)]) == (digest(1), gone)


def test_a_held_connection_sees_what_another_process_commits(
    another_engine: OpenEngine, repository: KeyRepository
) -> None:
    holder = put_account(repository, account())
    record = key(holder)
    put(repository, record, 1)
    assert repository.by_digests([digest(1)])
    with KeyRepository(another_engine()) as other:
        for rpm in range(1, 20):
            before, record = record, replace(record, rpm=rpm)
            with other.changing("cli:tester", NOW_US) as writer:
                writer.change_key(before, record, action="key.update")
            assert repository.by_digests([digest(1)]) == (digest(1), record)
        with other.changing("cli:tester", NOW_US) as writer:
            writer.set_plan(holder, "pro")
        found = repository.by_digests([digest(1)])
        assert found is not None
        assert found[1].plan == "pro"


def test_lookups_share_few_connections(engine: Engine, repository: KeyRepository) -> None:
    """A checkout and its rollback would double what a lookup costs."""
    put(repository, key(put_account(repository, account())), 1)
    checkouts: list[int] = []
    event.listen(engine, "checkout", lambda *_: checkouts.append(1))
    for _ in range(300):
        assert repository.by_digests([digest(1)])
    assert len(checkouts) <= 1


def test_threads_look_up_while_another_process_writes(
    another_engine: OpenEngine, repository: KeyRepository
) -> None:
    holder = put_account(repository, account())
    record = key(holder)
    put(repository, record, 1)
    stop = threading.Event()

    def look() -> int:
        seen = 0
        while not stop.is_set():
            found = repository.by_digests([digest(9), digest(1)])
            assert found is not None
            assert found[1].rpm is not None
            assert found[1].rpm >= seen, "a lookup went back in time"
            seen = found[1].rpm
        return seen

    with ThreadPoolExecutor(6) as pool, KeyRepository(another_engine()) as other:
        looking = [pool.submit(look) for _ in range(6)]
        try:
            for rpm in range(61, 120):
                before, record = record, replace(record, rpm=rpm)
                with other.changing("cli:tester", NOW_US) as writer:
                    writer.change_key(before, record, action="key.update")
        finally:
            stop.set()
        assert all(future.result() >= 60 for future in looking)


def test_pepper_versions_in_use(repository: KeyRepository) -> None:
    holder = put_account(repository, account())
    put(repository, key(holder, "live"), 1, pepper=3)
    put(repository, key(holder, "expired", expires_us=NOW_US), 2, pepper=2)
    put(repository, key(holder, "revoked", revoked_us=NOW_US), 3, pepper=1)
    assert repository.pepper_versions_in_use(NOW_US) == {3}
    assert repository.pepper_versions_in_use(NOW_US - 1) == {2, 3}
    assert repository.pepper_versions_in_use() == {2, 3}


# -- changing


def test_an_exception_undoes_all_of_a_change(repository: KeyRepository, engine: Engine) -> None:
    holder = put_account(repository, account())
    last = repository.last_change()
    with pytest.raises(InputError, match="no"):
        change_and_fail(repository, holder, key(holder))
    assert repository.by_digests([digest(1 << 200)]) is None
    assert repository.account(holder.email) == holder
    assert repository.last_change() == last
    with engine.connect() as connection:
        assert len(connection.execute(select(audit)).all()) == 1


def test_live_keys_and_key_by_alias(repository: KeyRepository) -> None:
    holder = put_account(repository, account())
    put(repository, key(holder, "live"), 1)
    put(repository, key(holder, "expired", expires_us=NOW_US), 2)
    put(repository, key(holder, "revoked", revoked_us=NOW_US), 3)
    with repository.changing("cli:tester", NOW_US) as writer:
        assert writer.lock_account("nobody@example.org") is None
        locked = writer.lock_account(holder.email)
        assert locked == holder
        assert writer.live_keys(holder) == 1
        assert writer.key(holder, "live") == key(holder, "live")
        assert writer.key(holder, "expired") == key(holder, "expired", expires_us=NOW_US)
        assert writer.key(holder, "revoked") is None


def test_the_database_itself_keeps_aliases_apart(repository: KeyRepository) -> None:
    """Of one account and not revoked; the use cases ask first, this is the last word."""
    holder, other = (put_account(repository, account(name)) for name in ("anna", "bob"))
    put(repository, key(holder), 1)
    put(repository, key(other), 2)
    put(repository, key(holder, id="key_old", revoked_us=NOW_US), 3)
    with pytest.raises(InputError) as caught:
        put(repository, key(holder, id="key_new", expires_us=NOW_US - 1), 4)
    assert caught.value.code == "conflict"
    with pytest.raises(InputError):
        put_account(repository, account(id="acc_twin"))
    with pytest.raises(InputError):
        put(repository, key(holder, "twin"), 1)
    put(repository, key(holder, "next"), 5)


def test_writers_wait_for_each_other(another_engine: OpenEngine, repository: KeyRepository) -> None:
    """What was counted under the lock still holds when it is written."""
    holder = put_account(repository, account())

    def add(number: int) -> bool:
        with (
            KeyRepository(another_engine()) as own,
            own.changing("cli:tester", NOW_US) as writer,
        ):
            assert writer.lock_account(holder.email)
            if writer.live_keys(holder) >= 3:
                return False
            writer.add_key(key(holder, f"a{number}"), digest(number), 0)
            return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(add, range(1, 13))) == 3
    assert len(repository.keys_of(holder.id)) == 3


# -- the audit log


def test_every_change_is_in_the_audit_log_without_secrets(
    repository: KeyRepository, engine: Engine
) -> None:
    holder = put_account(repository, account())
    record = key(holder)
    put(repository, record, 0xABCDEF)
    changed = replace(record, models=None, budget_nanousd=None)
    with repository.changing("cli:root", NOW_US + 1) as writer:
        writer.set_plan(holder, "pro")
        writer.set_password(holder, "$argon2id$secret")
        writer.change_key(record, changed, action="key.update")
        writer.change_key(changed, replace(changed, revoked_us=NOW_US + 1), action="key.revoke")
    with engine.connect() as connection:
        rows = connection.execute(select(audit).order_by(audit.c.id)).all()
    assert [(row.actor, row.action, row.subject, row.at_us) for row in rows] == [
        ("cli:tester", "account.add", holder.id, NOW_US),
        ("cli:tester", "key.mint", record.id, NOW_US),
        ("cli:root", "account.set_plan", holder.id, NOW_US + 1),
        ("cli:root", "account.set_password", holder.id, NOW_US + 1),
        ("cli:root", "key.update", record.id, NOW_US + 1),
        ("cli:root", "key.revoke", record.id, NOW_US + 1),
    ]
    told = [
        (row.before and json.loads(row.before), row.after and json.loads(row.after)) for row in rows
    ]
    assert told[0][1]["email"] == holder.email
    assert told[1] == (
        None,
        {
            "user": holder.email,
            "alias": "laptop",
            "hint": "sk-tg_…x4Qz",
            "models": ["a:latest", "b-model"],
            "budget_nanousd": 5_000_000_001,
            "rpm": 60,
            "expires_us": record.expires_us,
            "revoked_us": None,
        },
    )
    assert told[2] == ({"plan": "free"}, {"plan": "pro"})
    assert told[3] == (None, None)
    assert told[4] == (
        {"models": ["a:latest", "b-model"], "budget_nanousd": 5_000_000_001},
        {"models": None, "budget_nanousd": None},
    )
    assert told[5] == ({"revoked_us": None}, {"revoked_us": NOW_US + 1})
    written = repr(rows)
    assert "argon2" not in written
    assert "abcdef" not in written.lower()


def test_the_audit_log_cannot_be_altered(repository: KeyRepository, engine: Engine) -> None:
    put_account(repository, account())
    alterations = (
        update(audit).values(actor="nobody"),
        delete(audit),
        delete(audit).where(audit.c.id == 1),
    )
    for statement in alterations:
        with (
            engine.connect().execution_options(**write_options(engine)) as connection,
            connection.begin(),
            pytest.raises(DBAPIError, match="append-only"),
        ):
            connection.execute(statement)
    with engine.connect() as connection:
        assert connection.execute(select(audit.c.actor)).scalars().all() == ["cli:tester"]


# -- the feed


def test_each_change_is_announced_once_in_order(repository: KeyRepository) -> None:
    assert repository.last_change() == 0
    assert repository.changes_since(0) == []
    holder = put_account(repository, account())
    record = key(holder)
    put(repository, record, 1)
    put(repository, key(holder, "other"), 2)
    with repository.changing("cli:tester", NOW_US) as writer:
        writer.set_plan(holder, "pro")
        writer.change_key(record, replace(record, rpm=1), action="key.update")
    told = repository.changes_since(0)
    assert [(change.digest, change.account_id) for change in told] == [
        (digest(1), None),
        (digest(2), None),
        (None, holder.id),
        (digest(1), None),
    ]
    numbers = [change.seq for change in told]
    assert numbers == sorted(set(numbers))
    assert repository.last_change() == numbers[-1]
    assert repository.changes_since(numbers[1]) == told[2:]
    assert repository.changes_since(numbers[-1]) == []


def test_a_reader_misses_nothing_while_others_write(
    another_engine: OpenEngine, repository: KeyRepository
) -> None:
    holder = put_account(repository, account())
    expected = {digest(100 * writer + number) for writer in range(1, 4) for number in range(20)}

    def write(writer: int) -> None:
        with KeyRepository(another_engine()) as own:
            for number in range(20):
                put(own, key(holder, f"w{writer}-{number}"), 100 * writer + number)

    seen: list[Change] = []
    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, writer) for writer in range(1, 4)]
        done = False
        while not done:
            done = all(future.done() for future in writing)
            told = repository.changes_since(seen[-1].seq if seen else 0)
            for change in told:
                assert change.digest is not None
                assert repository.by_digests([change.digest]), "told before it was there"
            seen += told
        for future in writing:
            future.result()
    assert [change.seq for change in seen] == sorted({change.seq for change in seen})
    assert {change.digest for change in seen} == expected
    assert len(seen) == len(expected)


def test_a_long_feed_comes_in_parts(repository: KeyRepository, engine: Engine) -> None:
    rows = [{"seq": n + 1, "digest": digest(n), "at_us": NOW_US} for n in range(FEED_BATCH + 5)]
    options = write_options(engine)
    with engine.connect().execution_options(**options) as connection, connection.begin():
        connection.execute(changes.insert(), rows)
    first = repository.changes_since(0)
    assert len(first) == FEED_BATCH
    rest = repository.changes_since(first[-1].seq)
    assert [change.digest for change in first + rest] == [row["digest"] for row in rows]


def test_old_entries_go_and_who_needed_them_is_told(repository: KeyRepository) -> None:
    holder = put_account(repository, account())
    for number in range(1, 5):
        put(repository, key(holder, f"old-{number}"), number)
    behind = repository.changes_since(0)[1].seq
    latest = repository.last_change()
    put(repository, key(holder, "new"), 5, at=NOW_US + FEED_KEPT_US + SECOND_US)

    told = repository.changes_since(latest)
    assert [change.digest for change in told] == [digest(5)], "who was up to date missed nothing"
    for position in (behind, 0):
        (gap,) = repository.changes_since(position)
        assert everything_changed(gap)
        assert gap.seq == told[-1].seq
        assert repository.changes_since(gap.seq) == []


def test_an_idle_feed_is_no_gap(repository: KeyRepository) -> None:
    """The newest row stays however old it is: by it a reader knows the feed again."""
    holder = put_account(repository, account())
    put(repository, key(holder, "a0"), 1)
    position = repository.last_change()
    for turn in range(1, 5):
        at = NOW_US + turn * 3 * FEED_KEPT_US
        put(repository, key(holder, f"a{turn}"), turn + 1, at=at)
        told = repository.changes_since(position)
        assert [change.digest for change in told] == [digest(turn + 1)]
        position = told[-1].seq


def test_another_database_in_the_same_place_is_a_gap(repository: KeyRepository) -> None:
    """A restored backup: fewer changes than the reader has already seen."""
    (gap,) = repository.changes_since(17)
    assert everything_changed(gap)
    assert gap.seq == 0
    put(repository, key(put_account(repository, account())), 1)
    (gap,) = repository.changes_since(17)
    assert everything_changed(gap)
    assert repository.changes_since(gap.seq) == []


def test_what_is_undone_leaves_no_hole(repository: KeyRepository) -> None:
    """A hole in the numbers would look like a gap to a reader, as soon as older rows go."""
    holder = put_account(repository, account())
    put(repository, key(holder, "one"), 1)
    position = repository.last_change()
    for alias in ("two", "three"):
        with pytest.raises(InputError, match="no"):
            change_and_fail(repository, holder, key(holder, alias), at=NOW_US + 9 * FEED_KEPT_US)
    assert repository.last_change() == position
    put(repository, key(holder, "four"), 4, at=NOW_US + 9 * FEED_KEPT_US)
    assert [change.digest for change in repository.changes_since(position)] == [digest(4)]


# -- trouble


def test_a_database_that_fails_is_unavailable_and_comes_back(
    another_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any driver error, on a held connection or a new one; no parameter is in its text."""
    engine = another_engine()
    with KeyRepository(engine) as repository:
        record = key(put_account(repository, account()))
        put(repository, record, 0x736563726574)
        assert repository.by_digests([digest(0x736563726574)])
        broken = True

        def fail(*_: object) -> None:
            if broken:
                raise engine.dialect.loaded_dbapi.OperationalError("disk I/O error")

        event.listen(engine, "before_cursor_execute", fail)
        monkeypatch.setattr(engine.dialect, "is_disconnect", lambda *_: True)
        for call in (
            lambda: repository.by_digests([digest(0x736563726574)]),
            lambda: repository.changes_since(0),
            repository.last_change,
            repository.pepper_versions_in_use,
            lambda: repository.account("a@b"),
            lambda: repository.accounts(NOW_US),
            lambda: repository.keys_of("acc_anna"),
            lambda: put(repository, key(account(), "two"), 2),
        ):
            with pytest.raises(StoreUnavailableError) as caught:
                call()
            assert "secret" not in str(caught.value)
        broken = False
        with pytest.raises(StoreUnavailableError, match="a moment ago"):
            repository.by_digests([digest(0x736563726574)])
        time.sleep(PROBE_SECONDS)
        assert repository.by_digests([digest(0x736563726574)])
        assert repository.by_digests([digest(0x736563726574)])


def test_the_writer_knows_no_more_than_the_tables() -> None:
    """Adding a column to `keys` means deciding what the record and the audit log make of it."""
    read = {column.name for column in keyrows.select_keys().selected_columns}
    assert {column.name for column in keys.c} - read == {"pepper_version"}
