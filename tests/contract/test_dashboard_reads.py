"""What the pages of keys and usage read, on every database: one account's alone, and bounded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from moneyhelp import (
    ACCOUNT,
    KEY,
    OTHER_KEY,
    STRANGER,
    STRANGERS,
    charge,
    hold,
    mint,
    with_a_stranger,
)
from sqlalchemy import Engine, event
from statehelp import NOW_US

from store.clock import elapsed_seconds
from store.daymemory import KEPT_SECONDS, MOST, DayMemory
from store.engines import open_engine
from store.errors import StoreUnavailableError
from store.keylist import PAGE_KEYS, KeyList, Show
from store.ledger import Ledger
from store.records import DAY_US, INT64_MAX, WINDOW_US, Basis, KeyRecord, Seen
from store.refusedcalls import RefusedCalls, RefusedOf, Times
from store.usagereads import (
    DEAREST_SECONDS,
    SERIES,
    By,
    Of,
    Place,
    Sums,
    UsageReader,
    place_of,
)

OpenEngine = Callable[[], Engine]

TODAY = NOW_US // DAY_US
WEEK = Of(ACCOUNT.id, TODAY - 6, TODAY)
EVERYBODY = replace(WEEK, account_id=None)


@pytest.fixture
def engine(another_engine: OpenEngine) -> Engine:
    return with_a_stranger(another_engine())


def book(
    engine: Engine, nanousd: int = 40, *, at: int = NOW_US, key: KeyRecord = KEY, **more: object
) -> str:
    """One call that is over; its request id."""
    seen = more.pop("seen", None)
    basis = more.pop("basis", Basis.METERED)
    of = hold(key=key, at=at, **more)  # type: ignore[arg-type]
    end = charge(of, nanousd, at=at, basis=basis)  # type: ignore[arg-type]
    Ledger(engine).book([(of, msgspec.structs.replace(end, seen=seen))])
    return of.request_id


# -- keys


def test_a_page_has_the_accounts_own_keys_of_a_kind(engine: Engine) -> None:
    records = [
        replace(KEY, id=f"key_{n:03}", alias=f"worker-{n}", created_us=NOW_US - n)
        for n in range(60)
    ]
    gone = replace(KEY, id="key_gone", alias="gone", revoked_us=NOW_US - 5)
    old = replace(KEY, id="key_old", alias="old", expires_us=NOW_US)
    mint(engine, *records, gone, old, add_account=False)
    keys = KeyList(engine)
    page = keys.page(ACCOUNT.id, Show.LIVE, NOW_US)
    assert page.counts == {Show.LIVE: 62, Show.EXPIRED: 1, Show.REVOKED: 1}
    assert [line.record.id for line in page.lines] == [r.id for r in records[:PAGE_KEYS]]
    last = keys.page(ACCOUNT.id, Show.LIVE, NOW_US, number=999)
    assert (last.number, last.pages) == (3, 3)
    assert {line.record.id for line in last.lines} >= {KEY.id, OTHER_KEY.id}
    assert [line.record for line in keys.page(ACCOUNT.id, Show.REVOKED, NOW_US).lines] == [gone]
    assert [line.record for line in keys.page(ACCOUNT.id, Show.EXPIRED, NOW_US).lines] == [old]
    everything = [
        line.record.account_id
        for show in Show
        for number in (1, 2, 3)
        for line in keys.page(ACCOUNT.id, show, NOW_US, number=number).lines
    ]
    assert set(everything) == {ACCOUNT.id}


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("LAP", ["laptop"]),
        ("x4q", ["build", "laptop"]),
        ("llama", ["modest"]),
        ("%", []),
        ("_", ["build", "laptop", "modest"]),  # stands in every hint, and is not "any character"
        ("p_o", []),
        ("'; drop table keys; --", []),
    ],
)
def test_keys_are_searched_by_alias_hint_and_model(
    engine: Engine, search: str, found: list[str]
) -> None:
    modest = replace(KEY, id="key_m", alias="modest", hint="sk-tg_…9999")
    mint(engine, replace(modest, models=frozenset({"llama-3.1-8b"})), add_account=False)
    page = KeyList(engine).page(ACCOUNT.id, Show.LIVE, NOW_US, search=search)
    assert sorted(line.record.alias for line in page.lines) == found
    assert page.found == len(found)
    assert page.counts[Show.LIVE] == 3


def test_a_key_has_what_its_present_window_has(engine: Engine) -> None:
    start = KEY.created_us
    book(engine, 70, at=start + DAY_US)
    book(engine, 5, at=start + 2 * DAY_US, key=OTHER_KEY)
    running = [hold(90, at=NOW_US), hold(8, at=NOW_US - 1), hold(1, key=STRANGERS)]
    Ledger(engine).copy_holds(running)
    line = KeyList(engine).line(ACCOUNT.id, KEY.id, NOW_US)
    assert line is not None
    assert (line.spent_nanousd, line.held_nanousd, line.left_nanousd) == (70, 98, 832)
    assert line.resets_us == start + WINDOW_US
    assert line.last_us == NOW_US  # what still runs is a use, too
    later = KeyList(engine).line(ACCOUNT.id, KEY.id, start + WINDOW_US)
    assert later is not None
    assert (later.spent_nanousd, later.held_nanousd) == (0, 0)
    assert later.resets_us == start + 2 * WINDOW_US
    never = KeyList(engine).line(STRANGER.id, STRANGERS.id, NOW_US - 1)
    assert never is not None
    assert never.record == STRANGERS


def test_a_last_call_is_the_last_one_that_began(engine: Engine) -> None:
    for at in (NOW_US - 30, NOW_US - 10, NOW_US - 20):
        book(engine, at=at)
    keys = KeyList(engine)
    line, other = (keys.line(ACCOUNT.id, each.id, NOW_US) for each in (KEY, OTHER_KEY))
    assert line is not None
    assert other is not None
    assert (line.last_us, other.last_us) == (NOW_US - 10, None)


def test_another_accounts_key_is_none(engine: Engine) -> None:
    keys = KeyList(engine)
    assert keys.line(STRANGER.id, KEY.id, NOW_US) is None
    assert keys.line(ACCOUNT.id, STRANGERS.id, NOW_US) is None
    assert keys.line(ACCOUNT.id, "key_that-is-none", NOW_US) is None
    assert [name[0] for name in keys.names(STRANGER.id)] == [STRANGERS.id]


# -- sums


def test_the_dearest_are_told_apart_and_the_rest_is_together(engine: Engine) -> None:
    for number in range(SERIES + 3):
        book(engine, 100 - number, model=f"m{number}", at=NOW_US - (number % 3) * DAY_US)
    book(engine, 7, key=STRANGERS, model="theirs")
    series = UsageReader(engine).series(WEEK, By.MODEL, TODAY)
    assert [each.name for each in series] == [*(f"m{n}" for n in range(SERIES)), None]
    assert [each.total.nanousd for each in series][-2:] == [95, 94 + 93 + 92]
    total = UsageReader(engine).total(WEEK, TODAY)
    assert total == Sums(9, 99, 27, 0, 63, sum(range(92, 101)))
    summed = Sums()
    for each in series:
        summed = summed.plus(each.total)
    assert summed == total


def test_sums_are_of_the_range_the_key_and_the_account(engine: Engine) -> None:
    for days in (0, 6, 7):
        book(engine, 10**days, at=NOW_US - days * DAY_US)
    book(engine, 5, key=OTHER_KEY)
    reader = UsageReader(engine)
    assert reader.total(WEEK, TODAY).nanousd == 1_000_006
    assert reader.total(WEEK.before(), TODAY).nanousd == 10_000_000
    assert reader.total(replace(WEEK, key_id=OTHER_KEY.id), TODAY).nanousd == 5
    assert reader.total(replace(WEEK, account_id=STRANGER.id), TODAY) == Sums()
    assert reader.total(replace(WEEK, account_id=STRANGER.id, key_id=KEY.id), TODAY) == Sums()
    by_key = reader.series(WEEK, By.KEY, TODAY)
    assert {each.name: each.total.calls for each in by_key} == {KEY.id: 2, OTHER_KEY.id: 1}
    assert [each.name for each in reader.series(WEEK, By.TEAM, TODAY)] == ["red"]
    assert by_key[0].by_day.keys() == {TODAY - 6, TODAY}


def test_sums_beyond_64_bits_are_exact(engine: Engine) -> None:
    for number in range(3):
        book(engine, INT64_MAX, model=f"m{number}")
    assert UsageReader(engine).total(WEEK, TODAY).nanousd == 3 * INT64_MAX
    [day] = UsageReader(engine).series(WEEK, By.TEAM, TODAY)
    assert day.total.nanousd == 3 * INT64_MAX


@pytest.mark.parametrize(("first", "last"), [(5, 4), (0, 366)])
def test_a_range_has_an_end(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="1 to 366 days"):
        Of(ACCOUNT.id, first, last)


def test_everybodys_sums_are_of_every_account(engine: Engine) -> None:
    book(engine, 100, model="mine")
    book(engine, 30, key=STRANGERS, model="theirs")
    book(engine, 7, key=STRANGERS, model="theirs", at=NOW_US - 7 * DAY_US)
    reader = UsageReader(engine)
    assert reader.total(EVERYBODY, TODAY).nanousd == 130
    named = {by: [s.name for s in reader.series(EVERYBODY, by, TODAY)] for by in By}
    assert named[By.MODEL] == ["mine", "theirs"]
    assert named[By.TEAM] == ["red", ""]
    assert named[By.USER] == [ACCOUNT.id, STRANGER.id]
    assert [line[:6] for line in reader.lines(EVERYBODY)] == [
        (TODAY, ACCOUNT.email, KEY.id, KEY.alias, "red", "mine"),
        (TODAY, STRANGER.email, STRANGERS.id, STRANGERS.alias, "", "theirs"),
    ]
    # what is remembered of everybody is told of nobody
    assert reader.total(replace(WEEK, account_id=STRANGER.id), TODAY).nanousd == 30


def test_a_keys_usage_is_an_accounts() -> None:
    with pytest.raises(ValueError, match="an account's"):
        replace(EVERYBODY, key_id=KEY.id)


# -- refused calls


def test_refused_calls_add_up_and_are_the_accounts_own(engine: Engine) -> None:
    def of(reason: str, key: KeyRecord = KEY, days: int = 0) -> RefusedOf:
        return RefusedOf.at(key.account_id, key.id, reason, NOW_US - days * DAY_US)

    calls = RefusedCalls(engine)
    calls.add({of("budget_exceeded"): Times(3, 10), of("model_not_allowed"): Times(1, 30)})
    calls.add({of("budget_exceeded"): Times(4, 40), of("budget_exceeded", OTHER_KEY): Times(2, 5)})
    calls.add({of("budget_exceeded", days=7): Times(9, 1), of("invalid", STRANGERS): Times(5, 5)})
    calls.add({})
    reader = UsageReader(engine)
    assert reader.refused(WEEK, TODAY) == [
        (TODAY, "budget_exceeded", 9),
        (TODAY, "model_not_allowed", 1),
    ]
    assert reader.refused(replace(WEEK, key_id=OTHER_KEY.id), TODAY) == [
        (TODAY, "budget_exceeded", 2)
    ]
    assert reader.refused(replace(WEEK, account_id=STRANGER.id), TODAY) == [(TODAY, "invalid", 5)]
    assert reader.refused(EVERYBODY, TODAY) == [
        (TODAY, "budget_exceeded", 9),
        (TODAY, "invalid", 5),
        (TODAY, "model_not_allowed", 1),
    ]
    assert reader.last_refused(ACCOUNT.id, KEY.id, TODAY) == "budget_exceeded"
    assert reader.last_refused(STRANGER.id, KEY.id, TODAY) is None
    assert reader.last_refused(ACCOUNT.id, KEY.id, TODAY + 5) is None


# -- a window's days


def test_a_window_is_of_a_key_or_of_the_account(engine: Engine) -> None:
    start = KEY.created_us
    book(engine, 10, at=start - DAY_US + 1, key=OTHER_KEY)  # not in the key's window
    book(engine, 20, at=start + DAY_US)
    book(engine, 30, at=NOW_US)
    reader = UsageReader(engine)
    window = reader.window(ACCOUNT.id, KEY.id, KEY.created_us, NOW_US)
    assert (window.starts_us, window.ends_us) == (start, start + WINDOW_US)
    assert window.nanousd == 50
    assert window.by_day == {start // DAY_US + 1: 20, TODAY: 30}
    whole = reader.window(ACCOUNT.id, ACCOUNT.id, ACCOUNT.created_us, NOW_US)
    assert whole.nanousd == 60
    assert sum(whole.by_day.values()) == 60
    assert reader.window(STRANGER.id, KEY.id, KEY.created_us, NOW_US).by_day == {}


# -- how long calls took


def seen(duration_us: int, first_us: int = 0) -> Seen:
    return Seen(True, True, True, 1, 1, duration_us, first_us)


def test_percentiles_are_of_each_days_calls(engine: Engine) -> None:
    for number in range(1, 101):
        book(engine, seen=seen(number * 1000, number if number % 2 else 0))
    book(engine, seen=seen(7), at=NOW_US - DAY_US)
    book(engine, 0, basis=Basis.RELEASED, seen=seen(10**9))
    book(engine)  # of whose end nothing was seen
    book(engine, seen=seen(10**9), key=STRANGERS)
    *_, yesterday, today = UsageReader(engine).took(WEEK, TODAY)
    assert (today.of, today.p50_us, today.p95_us) == (100, 50_000, 95_000)
    assert (today.first_p50_us, today.first_p95_us) == (49, 95)
    assert (yesterday.day, yesterday.of, yesterday.p50_us) == (TODAY - 1, 1, 7)
    assert yesterday.first_p50_us is None
    nothing = UsageReader(engine).took(replace(WEEK, key_id=OTHER_KEY.id), TODAY)
    assert [each.p50_us for each in nothing] == [None] * 7
    year = UsageReader(engine).took(Of(ACCOUNT.id, TODAY - 365, TODAY), TODAY)
    assert len(year) == 53
    assert (year[-1].of, year[-1].day) == (101, TODAY - 1)


def test_how_long_everybodys_took_is_of_the_calls_that_ended_then(engine: Engine) -> None:
    book(engine, seen=seen(5_000))
    book(engine, seen=seen(9_000), key=STRANGERS)
    *_, today = UsageReader(engine).took(EVERYBODY, TODAY)
    assert (today.of, today.p50_us, today.p95_us) == (2, 5_000, 9_000)


# -- calls


def test_everybodys_calls_are_read_page_by_page_the_last_that_ended_first(engine: Engine) -> None:
    at = [NOW_US - 9, NOW_US, NOW_US - 5, NOW_US, NOW_US - 7 * DAY_US]
    keys = [KEY, STRANGERS, OTHER_KEY, KEY, STRANGERS]
    ids = [book(engine, at=each, key=key) for each, key in zip(at, keys, strict=True)]
    reader = UsageReader(engine)
    wanted = [ids[3], ids[1], ids[2], ids[0], ids[4]]
    found: list[str] = []
    behind = None
    while page := reader.calls(None, behind=behind, limit=2):
        found += [call.row.request_id for call in page]
        behind = place_of(page[-1], None)
    assert found == wanted
    assert [call.row.request_id for call in reader.every_call(EVERYBODY)] == wanted[:-1]
    assert len(reader.calls(None, request_id=ids[1])) == 1


def test_calls_are_read_page_by_page_the_last_first(engine: Engine) -> None:
    at = [NOW_US - 5, NOW_US - 5, NOW_US - 5, NOW_US - 9, NOW_US]  # three began at one moment
    ids = [book(engine, at=each) for each in at]
    book(engine, key=STRANGERS)
    reader = UsageReader(engine)
    wanted = [ids[4], ids[2], ids[1], ids[0], ids[3]]
    assert [call.row.request_id for call in reader.calls(ACCOUNT.id)] == wanted
    found: list[str] = []
    behind = None
    while page := reader.calls(ACCOUNT.id, behind=behind, limit=2):
        found += [call.row.request_id for call in page]
        behind = Place(page[-1].row.admitted_us, page[-1].seq)
    assert found == wanted
    assert [call.row.request_id for call in reader.every_call(WEEK)] == wanted
    assert list(reader.every_call(WEEK.before())) == []


def test_a_call_is_found_by_its_request_only_by_whose_it_is(engine: Engine) -> None:
    mine, theirs = book(engine), book(engine, key=STRANGERS)
    reader = UsageReader(engine)
    assert len(reader.calls(ACCOUNT.id, request_id=mine)) == 1
    assert reader.calls(ACCOUNT.id, request_id=theirs) == []
    assert reader.calls(ACCOUNT.id, key_id=STRANGERS.id) == []
    assert reader.calls(STRANGER.id, key_id=KEY.id) == []


def test_lines_are_the_sums_by_day(engine: Engine) -> None:
    book(engine, 3)
    book(engine, 4)
    book(engine, 5, at=NOW_US - DAY_US, model="m", team=None)
    book(engine, 6, key=STRANGERS)
    lines = list(UsageReader(engine).lines(WEEK))
    assert [line[:5] for line in lines] == [
        (TODAY - 1, KEY.id, "laptop", "", "m"),
        (TODAY, KEY.id, "laptop", "red", "llama-3.1-8b"),
    ]
    assert [line[5].nanousd for line in lines] == [5, 7]


# -- what they cost


def test_no_page_reads_a_whole_table(engine: Engine) -> None:
    """Each statement finds what it reads by an index, however many keys and rows others have."""
    if engine.dialect.name != "sqlite":
        return  # PostgreSQL's planner reads small tables whole, whatever indexes there are
    asked: list[tuple[str, object]] = []

    def note(_c: object, _cu: object, statement: str, values: object, *_: object) -> None:
        asked.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    keys, reader = KeyList(engine), UsageReader(engine)
    book(engine)
    asked.clear()
    for show in Show:
        keys.page(ACCOUNT.id, show, NOW_US, search="a")
    keys.line(ACCOUNT.id, KEY.id, NOW_US)
    keys.names(ACCOUNT.id)
    for of in (WEEK, replace(WEEK, key_id=KEY.id), EVERYBODY):
        reader.total(of, TODAY)
        reader.refused(of, TODAY)
        reader.took(of, TODAY)
        list(reader.lines(of))
        list(reader.every_call(of))
        for by in By:
            reader.series(of, by, TODAY)
    reader.window(ACCOUNT.id, KEY.id, KEY.created_us, NOW_US)
    reader.last_refused(ACCOUNT.id, KEY.id, TODAY)
    for account_id in (ACCOUNT.id, None):
        reader.calls(account_id)
        reader.calls(account_id, behind=Place(NOW_US, 5))
        reader.calls(account_id, request_id="some", behind=Place(NOW_US, 5))
    assert len(asked) > 30
    event.remove(engine, "before_cursor_execute", note)
    with engine.connect() as connection:
        for statement, values in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
            steps = [str(step[3]) for step in plan]
            assert not [
                step for step in steps if re.match(r"SCAN (?!CONSTANT ROW|parts|\(subquery)", step)
            ], (
                statement,
                steps,
            )


def test_a_database_that_is_out_is_said_so(engine: Engine) -> None:
    broken = open_engine("sqlite:////nowhere/at-all.db")
    for read in (
        lambda: KeyList(broken).names(ACCOUNT.id),
        lambda: UsageReader(broken).total(WEEK, TODAY),
        lambda: RefusedCalls(broken).add({RefusedOf("a", 1, "k", "r"): Times(1, 1)}),
    ):
        with pytest.raises(StoreUnavailableError):
            read()
    broken.dispose()


# -- what is remembered


def test_days_that_are_over_are_asked_once_and_the_last_two_each_time(engine: Engine) -> None:
    for days in range(7):
        book(engine, 100 + days, at=NOW_US - days * DAY_US, seen=seen(1000 + days))
    reader = UsageReader(engine)

    def read() -> tuple[int, list[int | None]]:
        for by in By:
            assert sum(each.total.nanousd for each in reader.series(WEEK, by, TODAY)) == (
                reader.total(WEEK, TODAY).nanousd
            )
        took = [each.p50_us for each in reader.took(WEEK, TODAY)]
        return reader.total(WEEK, TODAY).nanousd, took

    before = read()
    assert before == (721, [1006, 1005, 1004, 1003, 1002, 1001, 1000])
    book(engine, 1_000, at=NOW_US, seen=seen(9000))
    book(engine, 10_000, at=NOW_US - DAY_US, seen=seen(9000))
    after = read()  # what is booked late into the day before is there, too
    assert after[0] == 11_721
    # nobody else is told of it
    assert reader.total(replace(WEEK, account_id=STRANGER.id), TODAY) == Sums()
    # a day that is over is not asked again, and not for ever
    book(engine, 100_000, at=NOW_US - 2 * DAY_US)
    assert read()[0] == 11_721
    reader._memory._seconds = lambda: elapsed_seconds() + KEPT_SECONDS
    assert read()[0] == 111_721


def test_the_memory_is_bounded() -> None:
    memory = DayMemory(lambda: 0.0)
    for number in range(MOST + 2):
        memory.put(number, {"some": number})
    assert memory.get(0) is memory.get(1) is None
    assert memory.get(2) == {"some": 2}
    assert len(memory._kept) == MOST


def test_a_name_that_is_new_among_few_is_shown_at_once(engine: Engine) -> None:
    reader = UsageReader(engine)
    assert reader.series(WEEK, By.MODEL, TODAY) == []
    for number in range(SERIES):
        book(engine, 100 - number, model=f"m{number}")
        series = reader.series(WEEK, By.MODEL, TODAY)
        assert [each.name for each in series] == [f"m{n}" for n in range(number + 1)]


def test_who_is_dearest_of_many_is_remembered_and_what_they_cost_is_not(engine: Engine) -> None:
    for number in range(SERIES + 1):
        book(engine, 100 - number, model=f"m{number}")
    reader = UsageReader(engine)
    reader.series(WEEK, By.MODEL, TODAY)
    book(engine, 5_000, model="new")
    book(engine, 1_000, model="m0")
    series = reader.series(WEEK, By.MODEL, TODAY)
    assert (series[0].name, series[0].total.nanousd) == ("m0", 1_100)
    assert (series[-1].name, series[-1].total.nanousd) == (None, 5_000 + 100 - SERIES)
    reader._memory._seconds = lambda: elapsed_seconds() + DEAREST_SECONDS
    assert reader.series(WEEK, By.MODEL, TODAY)[0].name == "new"
