"""What counters must do with money, the same for every backend.

Minutes alone are tested in test_counters.py; what only those in process have to do with (a journal,
request ids without an account, their own memory) at the end.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from threading import Barrier

import pytest
from counterhelp import Kind
from moneyhelp import (
    ACCOUNT,
    KEY,
    NOW_US,
    OTHER_KEY,
    account_money,
    draft,
    hold,
    limits,
    money,
    reopened,
    seeded,
)
from statehelp import FakeClock

from store.counters.memory import IDLE_US, MemoryCounters
from store.counters.model import (
    HELD_RETRY_US,
    REMEMBERED_US,
    Counters,
    Ended,
    Limit,
    MinuteLimit,
    MoneyStanding,
    NotSeeded,
    Refused,
    Seed,
    Standing,
    Taken,
)
from store.errors import StoreUnavailableError
from store.records import DAY_US, INT64_MAX, MINUTE_US, SECOND_US, WINDOW_US, Hold, Window

KEY_WINDOW = Window(KEY.id, 0)
ACCOUNT_WINDOW = Window(ACCOUNT.id, 1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def unseeded(new_counters: Kind, clock: FakeClock) -> Counters:
    return new_counters(clock)


@pytest.fixture
def counters(unseeded: Counters) -> Counters:
    return seeded(unseeded)


@pytest.fixture
def in_process(clock: FakeClock) -> MemoryCounters:
    return seeded(MemoryCounters(clock))


def take(counters: Counters, asked: Hold, wanted: tuple[Limit, ...] | None = None) -> Hold:
    taken = counters.take(asked.request_id, asked, limits() if wanted is None else wanted)
    assert isinstance(taken, Taken), taken
    assert taken.hold is not None
    return taken.hold


def refuse(counters: Counters, asked: Hold, wanted: tuple[Limit, ...] | None = None) -> Refused:
    refused = counters.take(asked.request_id, asked, limits() if wanted is None else wanted)
    assert isinstance(refused, Refused), refused
    return refused


def standing(counters: Counters, limit: Limit | None = None) -> MoneyStanding:
    looked = counters.peek((limit or money(),), ACCOUNT.id)
    assert not isinstance(looked, NotSeeded)
    assert isinstance(looked[1][0], MoneyStanding)
    return looked[1][0]


def spent_and_held(counters: Counters, limit: Limit | None = None) -> tuple[int, int]:
    stands = standing(counters, limit)
    return stands.spent_nanousd, stands.held_nanousd


# --- what fits


def test_a_hold_is_the_draft_with_its_windows_and_its_time(counters: Counters) -> None:
    asked = draft(100)
    both = (money(), account_money())
    taken = counters.take(asked.request_id, asked, both)
    assert isinstance(taken, Taken)
    assert taken.hold == asked.admitted(NOW_US, (KEY_WINDOW, ACCOUNT_WINDOW))
    assert taken.standings == (
        MoneyStanding(both[0], 0, 100, 0, KEY.created_us + WINDOW_US),
        MoneyStanding(both[1], 0, 100, 1, ACCOUNT.created_us + 2 * WINDOW_US),
    )
    assert counters.hold(ACCOUNT.id, asked.id) == taken.hold
    assert counters.open_holds() == [taken.hold]
    assert counters.hold("acc_other", asked.id) is None


@pytest.mark.parametrize("last", [100, 99])
def test_a_budget_is_filled_to_the_nano_dollar(last: int, counters: Counters) -> None:
    for _ in range(9):
        take(counters, draft(100))
    assert refuse(counters, draft(101)).held
    take(counters, draft(last))
    assert refuse(counters, draft(101 - last)).held
    assert spent_and_held(counters) == (0, 900 + last)


def test_concurrent_takes_of_a_budget_for_ten_admit_exactly_ten(counters: Counters) -> None:
    drafts = [draft(100) for _ in range(64)]
    barrier = Barrier(16)

    def run(part: list[Hold]) -> list[object]:
        barrier.wait()
        return [counters.take(d.request_id, d, limits(account_budget=5000)) for d in part]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(16) as pool:
            parts = [drafts[at::16] for at in range(16)]
            answers = [a for part in pool.map(run, parts) for a in part]
    finally:
        sys.setswitchinterval(interval)
    assert sum(isinstance(a, Taken) for a in answers) == 10
    assert all(a.held for a in answers if isinstance(a, Refused))
    assert spent_and_held(counters) == (0, 1000)


def test_nothing_is_taken_where_one_of_several_limits_refuses(counters: Counters) -> None:
    minute = MinuteLimit(KEY.id, 5)
    refused = refuse(counters, draft(100), (minute, money(budget=1000), account_money(99)))
    assert refused.limit == account_money(99)
    assert refused.standings[0] == Standing(minute, 0, 0)
    assert spent_and_held(counters) == (0, 0)
    assert counters.open_holds() == []
    take(counters, draft(100), (minute, money(budget=1000), account_money(100)))


def test_a_minute_without_room_answers_before_money_and_takes_no_money(
    counters: Counters,
) -> None:
    wanted = (money(), MinuteLimit(KEY.id, 1))
    take(counters, draft(100), wanted)
    refused = refuse(counters, draft(5000), wanted)
    assert refused.limit == wanted[1]
    assert refused.retry_us == MINUTE_US
    assert spent_and_held(counters) == (0, 100)


def test_keys_of_an_account_share_its_budget_and_not_their_own(counters: Counters) -> None:
    for key in (KEY, OTHER_KEY):
        take(counters, draft(500, key=key), limits(key, account_budget=1200))
    refused = refuse(counters, draft(300), limits(account_budget=1200))
    assert refused.limit == account_money(1200)
    assert spent_and_held(counters, money(OTHER_KEY)) == (0, 500)
    assert spent_and_held(counters, account_money()) == (0, 1000)


def test_without_a_budget_money_is_counted_and_never_refused(counters: Counters) -> None:
    for _ in range(3):
        take(counters, draft(INT64_MAX // 4), (money(budget=None),))
    stands = standing(counters, money(budget=None))
    assert stands.held_nanousd == 3 * (INT64_MAX // 4)
    assert stands.remaining_nanousd is None


def test_a_hold_of_nothing_fits_when_the_budget_is_spent(counters: Counters) -> None:
    counters.settle(take(counters, draft(1000)), 1000)
    assert not refuse(counters, draft(1)).held
    free = take(counters, draft(0))
    assert counters.open_holds() == [free]
    assert counters.settle(free, 0)
    assert standing(counters).remaining_nanousd == 0


def test_a_budget_of_nothing_admits_nothing_but_the_free(counters: Counters) -> None:
    assert not refuse(counters, draft(1), (money(budget=0),)).held
    take(counters, draft(0), (money(budget=0),))


def test_ceiling_start_admits_while_anything_is_left(counters: Counters) -> None:
    start = (money(budget=1000, ceiling="start"),)
    first = take(counters, draft(900), start)
    second = take(counters, draft(900), start)
    assert refuse(counters, draft(1), start).held
    counters.settle(first, 900)
    counters.settle(second, 99)
    third = take(counters, draft(5000), start)
    counters.settle(third, 1)
    assert not refuse(counters, draft(1), start).held
    assert standing(counters, start[0]).remaining_nanousd == 0


# --- why not


def test_held_is_told_from_exceeded(counters: Counters) -> None:
    counters.settle(take(counters, draft(400)), 400)
    take(counters, draft(300))
    held = refuse(counters, draft(600))
    assert held.held
    assert held.retry_us == HELD_RETRY_US
    exceeded = refuse(counters, draft(601))
    assert not exceeded.held
    assert exceeded.retry_us == KEY.created_us + WINDOW_US - NOW_US
    assert held.standings == exceeded.standings == (standing(counters),)
    assert standing(counters).remaining_nanousd == 300


def test_exceeded_anywhere_is_exceeded_and_the_latest_reset_is_told(
    counters: Counters,
) -> None:
    take(counters, draft(900), limits(account_budget=5000))
    wanted = limits(account_budget=1050)  # the key is held, the account too small for ever
    refused = refuse(counters, draft(1000), wanted)
    assert refused.held
    refused = refuse(counters, draft(1000), (money(budget=1000), account_money(999)))
    assert (refused.held, refused.limit) == (False, account_money(999))
    refused = refuse(counters, draft(1000), (account_money(999), money(budget=999)))
    assert refused.limit == money(budget=999), "it resets in 18 days, the account in 13"
    assert refused.retry_us == KEY.created_us + WINDOW_US - NOW_US


# --- the end of a hold


def test_settling_turns_a_hold_into_a_charge(counters: Counters) -> None:
    taken = take(counters, draft(600), limits(account_budget=1000))
    assert counters.settle(taken, 250)
    assert spent_and_held(counters) == spent_and_held(counters, account_money()) == (250, 0)
    assert counters.open_holds() == []
    assert counters.hold(ACCOUNT.id, taken.id) is None
    take(counters, draft(750))


def test_a_charge_above_its_hold_is_counted_in_full(counters: Counters) -> None:
    counters.settle(take(counters, draft(100)), 1700)
    assert spent_and_held(counters) == (1700, 0)
    assert standing(counters).remaining_nanousd == 0


def test_settling_twice_settles_once(counters: Counters) -> None:
    taken = take(counters, draft(600))
    assert counters.settle(taken, 250)
    assert not counters.settle(taken, 600)
    assert spent_and_held(counters) == (250, 0)


def test_a_window_turns_and_a_hold_stays_in_its_own(counters: Counters, clock: FakeClock) -> None:
    old = take(counters, draft(600))
    older_charge = take(counters, draft(400))
    counters.settle(older_charge, 400)
    clock.now_us = KEY.created_us + WINDOW_US - 1
    assert refuse(counters, draft(601)).retry_us == 1
    clock.now_us += 1
    new = take(counters, draft(1000))
    assert new.windows == (Window(KEY.id, 1),)
    assert standing(counters) == MoneyStanding(money(), 0, 1000, 1, KEY.created_us + 2 * WINDOW_US)
    counters.settle(old, 600)
    assert spent_and_held(counters) == (0, 1000)
    counters.settle(new, 5)
    assert spent_and_held(counters) == (5, 0)


def test_before_it_was_created_a_scope_is_in_its_first_window(
    counters: Counters, clock: FakeClock
) -> None:
    """The admin process made it by another clock."""
    key = replace(KEY, created_us=NOW_US + 5 * SECOND_US)
    assert take(counters, draft(600, key=key), limits(key)).windows == (Window(KEY.id, 0),)
    clock.now_us += 10 * SECOND_US
    assert refuse(counters, draft(600, key=key), limits(key)).held


# --- one request, one hold


def test_a_repeated_check_is_given_the_same_hold(counters: Counters, clock: FakeClock) -> None:
    first = draft(700)
    taken = take(counters, first)
    clock.now_us += 10 * MINUTE_US
    again = draft(700, request_id=first.request_id)
    repeated = counters.take(first.request_id, again, limits())
    assert repeated == Taken(clock.now_us, taken, (standing(counters),))
    assert counters.open_holds() == [taken]
    assert spent_and_held(counters) == (0, 700)


def test_only_the_last_check_that_goes_ends_the_hold(counters: Counters) -> None:
    asked = draft(700)
    for _ in range(3):
        take(counters, asked)
    assert [counters.give_back(asked) for _ in range(4)] == [False, False, True, False]
    assert spent_and_held(counters) == (0, 700), "held until its row is there"
    assert isinstance(counters.take(asked.request_id, asked, limits()), Ended)
    assert counters.settle(asked, 0)
    assert spent_and_held(counters) == (0, 0)


def test_giving_back_what_is_not_open_is_nobodys_last(counters: Counters) -> None:
    assert not counters.give_back(draft())
    taken = take(counters, draft(1))
    counters.settle(taken, 1)
    assert not counters.give_back(taken)


def test_whoever_closes_first_is_told_so(counters: Counters) -> None:
    taken = take(counters, draft(1))
    assert [counters.close(taken) for _ in range(2)] == [True, False]
    assert not counters.close(draft())
    assert not counters.give_back(taken)
    assert isinstance(counters.take(taken.request_id, taken, limits()), Ended)


def test_a_request_whose_hold_ended_is_known_for_a_minute(
    counters: Counters, clock: FakeClock
) -> None:
    taken = take(counters, draft(1))
    clock.now_us += 10 * MINUTE_US
    counters.settle(taken, 1)
    clock.now_us += REMEMBERED_US - 1
    again = draft(1, request_id=taken.request_id)
    assert counters.take(taken.request_id, again, limits()) == Ended(clock.now_us)
    clock.now_us += 1
    take(counters, draft(1, request_id=taken.request_id))


def test_without_a_draft_only_minutes_are_taken_and_no_seed_is_needed(
    unseeded: Counters, clock: FakeClock
) -> None:
    listing = (MinuteLimit(f"{KEY.id}/listings", 1),)
    assert unseeded.take("a", None, listing, ACCOUNT.id) == Taken(
        NOW_US, None, (Standing(listing[0], 1, MINUTE_US),)
    )
    assert isinstance(unseeded.take("a", None, listing, ACCOUNT.id), Taken)
    assert isinstance(unseeded.take("b", None, listing, ACCOUNT.id), Refused)
    clock.now_us += MINUTE_US
    assert isinstance(unseeded.take("b", None, listing, ACCOUNT.id), Taken)


# --- whoever calls it wrongly


def test_drafts_that_no_row_could_be_made_of_take_nothing(counters: Counters) -> None:
    asked = draft(1)
    for request_id, wrong, wanted in (
        ("another", asked, limits()),
        (asked.request_id, asked, (account_money(),)),
        (asked.request_id, asked, ()),
        (asked.request_id, draft(-1, request_id=asked.request_id), limits()),
        (
            asked.request_id,
            draft(INT64_MAX + 1, request_id=asked.request_id),
            (money(budget=None),),
        ),
        (asked.request_id, None, ()),
    ):
        with pytest.raises(ValueError, match="draft"):
            counters.take(request_id, wrong, wanted)
    assert counters.open_holds() == []
    take(counters, asked)
    with pytest.raises(ValueError, match="draft"):
        counters.take("listing", None, limits(), ACCOUNT.id)


# --- signs of life


def test_overdue_is_what_gave_no_sign_of_life(counters: Counters, clock: FakeClock) -> None:
    silent, beating, repeated, closed = (take(counters, draft(1)) for _ in range(4))
    counters.close(closed)
    clock.now_us += 40 * SECOND_US
    assert counters.beat(ACCOUNT.id, beating.id)
    take(counters, repeated)
    clock.now_us += 20 * SECOND_US - 1
    assert counters.overdue(MINUTE_US) == []
    clock.now_us += 1
    assert counters.overdue(MINUTE_US) == [silent, closed]
    counters.settle(silent, 1)
    assert not counters.beat(ACCOUNT.id, silent.id)
    clock.now_us += 40 * SECOND_US
    assert counters.overdue(MINUTE_US) == [beating, repeated, closed]


# --- seeding


def test_an_account_is_not_served_until_it_is_seeded(unseeded: Counters) -> None:
    asked = draft(100)
    assert unseeded.take(asked.request_id, asked, limits()) == NotSeeded(ACCOUNT.id)
    assert unseeded.peek(limits(), ACCOUNT.id) == NotSeeded(ACCOUNT.id)
    assert unseeded.accounts() == []
    generation = unseeded.generation(ACCOUNT.id)
    assert not generation.seeded
    assert unseeded.take(asked.request_id, asked, limits()) == NotSeeded(ACCOUNT.id)
    assert unseeded.seed(generation, Seed({KEY_WINDOW: 950, Window(KEY.id, 1): 7}, {}))
    assert unseeded.generation(ACCOUNT.id).seeded
    assert unseeded.accounts() == [ACCOUNT.id]
    assert not refuse(unseeded, asked).held
    assert spent_and_held(unseeded) == (950, 0)
    other = replace(KEY, id="key_other", account_id="acc_other")
    stranger = draft(1, key=other)
    assert unseeded.take(stranger.request_id, stranger, limits(other)) == NotSeeded("acc_other")


def test_a_seed_that_was_read_before_something_settled_does_not_count(
    unseeded: Counters,
) -> None:
    unknown = hold(300)
    early = unseeded.generation(ACCOUNT.id)
    unseeded.settle(unknown, 200)
    assert not unseeded.seed(early, Seed({KEY_WINDOW: 0}, {})), "its row is not in these sums"
    late = unseeded.generation(ACCOUNT.id)
    assert late.open_holds == ()
    assert unseeded.seed(late, Seed({KEY_WINDOW: 200}, {}))
    assert spent_and_held(unseeded) == (200, 0)


def test_also_the_settling_of_an_unknown_hold_outdates_a_seed(unseeded: Counters) -> None:
    generation = unseeded.generation(ACCOUNT.id)
    assert not unseeded.settle(hold(300), 200)
    assert not unseeded.seed(generation, Seed({}, {}))


def test_a_seed_of_an_account_that_is_served_changes_nothing(counters: Counters) -> None:
    generation = counters.generation(ACCOUNT.id)
    assert counters.seed(generation, Seed({KEY_WINDOW: 999}, {KEY.id: [NOW_US]}))
    assert spent_and_held(counters) == (0, 0)


def test_what_is_forgotten_is_read_anew_and_what_is_open_stays_open(counters: Counters) -> None:
    """A row was added beside the counters, of 500."""
    running = take(counters, draft(100))
    counters.forget(ACCOUNT.id)
    asked = draft(1)
    assert counters.take(asked.request_id, asked, limits()) == NotSeeded(ACCOUNT.id)
    generation = counters.generation(ACCOUNT.id)
    assert not generation.seeded
    assert counters.seed(generation, Seed({KEY_WINDOW: 500}, {}, holds=(running,)))
    assert spent_and_held(counters) == (500, 100)
    assert counters.settle(running, 70)
    assert spent_and_held(counters) == (570, 0)
    counters.forget("acc_that_nobody_knows")


def test_holds_that_were_open_before_count_and_are_given_to_repeated_checks(
    unseeded: Counters, clock: FakeClock
) -> None:
    opened = hold(300, at=NOW_US - 5 * SECOND_US)
    older = hold(200, at=KEY.created_us - 1)
    ended = [("gone", NOW_US - 30 * SECOND_US), ("long gone", NOW_US - REMEMBERED_US)]
    reopened(unseeded, [older, opened], {KEY_WINDOW: 400, ACCOUNT_WINDOW: 1}, ended=ended)
    assert spent_and_held(unseeded) == (400, 500)
    assert refuse(unseeded, draft(101)).held
    assert unseeded.open_holds() == [older, opened]
    assert unseeded.generation(ACCOUNT.id).open_holds in permuted(older, opened)
    assert take(unseeded, opened) == opened
    assert not unseeded.give_back(opened)
    assert unseeded.give_back(opened), "as if one Check had been given it before"
    assert isinstance(unseeded.take("gone", draft(1, request_id="gone"), limits()), Ended)
    take(unseeded, draft(1, request_id="long gone"))
    clock.now_us += MINUTE_US
    assert older in unseeded.overdue(MINUTE_US)
    assert unseeded.settle(opened, 10)
    assert spent_and_held(unseeded) == (410, 201)


def permuted(*holds: Hold) -> set[tuple[str, ...]]:
    return set(permutations([each.id for each in holds]))


def test_the_minute_is_restored_from_rows_and_open_holds(
    unseeded: Counters, clock: FakeClock
) -> None:
    key = replace(KEY, rpm=3)
    opened = hold(1, key=key, at=NOW_US - 10 * SECOND_US)
    rows = [NOW_US - 50 * SECOND_US, NOW_US - MINUTE_US, NOW_US - 61 * SECOND_US]
    reopened(unseeded, [opened], minutes={key.id: rows})
    take(unseeded, draft(1, key=key), limits(key))
    refused = refuse(unseeded, draft(1, key=key), limits(key))
    assert refused.limit == MinuteLimit(key.id, 3)
    assert refused.retry_us == 10 * SECOND_US
    clock.now_us += 10 * SECOND_US
    take(unseeded, draft(1, key=key), limits(key))


def test_a_minute_from_a_clock_that_was_ahead_blocks_for_a_minute_at_most(
    unseeded: Counters, clock: FakeClock
) -> None:
    key = replace(KEY, rpm=1)
    ahead = [NOW_US + 3600 * SECOND_US]
    unseeded.seed(unseeded.generation(ACCOUNT.id), Seed({}, {key.id: ahead}))
    assert refuse(unseeded, draft(1, key=key), limits(key)).retry_us == MINUTE_US
    clock.now_us += MINUTE_US
    take(unseeded, draft(1, key=key), limits(key))


def test_drift_is_what_sums_and_rows_differ_by(counters: Counters) -> None:
    counters.settle(take(counters, draft(400), limits(account=True)), 300)
    right = {KEY_WINDOW: 300, ACCOUNT_WINDOW: 300, Window(OTHER_KEY.id, 0): 0}
    generation = counters.generation(ACCOUNT.id)
    assert counters.drift(generation, Seed(right, {})) == 0
    assert counters.drift(generation, Seed(right | {KEY_WINDOW: 320}, {})) == 20
    assert counters.drift(generation, Seed(right | {Window(OTHER_KEY.id, 0): 7}, {})) == 7
    assert counters.drift(generation, Seed(right | {Window(KEY.id, 1): 1}, {})) == 1
    assert counters.drift(generation, Seed({Window(KEY.id, 1): 0}, {})) == 0, "its past is past"
    take(counters, draft(1))
    assert counters.drift(generation, Seed(right, {})) is None
    stranger = counters.generation("acc_other")
    assert counters.drift(stranger, Seed({}, {})) is None


def test_many_threads_leave_sums_that_add_up(counters: Counters) -> None:
    times = 200 if isinstance(counters, MemoryCounters) else 25

    def work(_: int) -> int:
        charged = 0
        for _ in range(times):
            asked = draft(100)
            answer = counters.take(asked.request_id, asked, limits(account_budget=10**9))
            if isinstance(answer, Taken) and answer.hold is not None:
                assert standing(counters).held_nanousd <= 1000
                counters.settle(answer.hold, 0 if charged else 1)
                charged += 0 if charged else 1
        return charged

    with ThreadPoolExecutor(8) as pool:
        charged = sum(pool.map(work, range(8)))
    assert spent_and_held(counters) == spent_and_held(counters, account_money()) == (charged, 0)


# --- those in process alone


def test_an_abandoned_request_gives_up_its_hold_or_never_gets_one(
    in_process: MemoryCounters, clock: FakeClock
) -> None:
    counters = in_process
    taken = take(counters, draft(5))
    assert counters.abandon(taken.request_id) == taken
    assert counters.abandon(taken.request_id) is None
    assert not counters.give_back(taken)
    late = draft(5)
    assert counters.abandon(late.request_id) is None
    clock.now_us += REMEMBERED_US - 1
    assert isinstance(counters.take(late.request_id, late, limits()), Ended)
    clock.now_us += 1
    take(counters, late)


def test_a_request_that_holds_nothing_cannot_be_abandoned(in_process: MemoryCounters) -> None:
    listing = (MinuteLimit(f"{KEY.id}/listings", 1),)
    assert isinstance(in_process.take("a", None, listing, ACCOUNT.id), Taken)
    assert in_process.abandon("a") is None
    assert isinstance(in_process.take("a", None, listing, ACCOUNT.id), Taken)


def test_restored_holds_count_and_are_given_to_repeated_checks(
    clock: FakeClock,
) -> None:
    unseeded = MemoryCounters(clock)
    opened = hold(300, at=NOW_US - 5 * SECOND_US)
    older = hold(200, at=KEY.created_us - 1)
    known_end = hold(50)
    unseeded.restore(
        [older, opened, known_end],
        closed=[known_end.id],
        ended=[("gone", NOW_US - 30 * SECOND_US), ("long gone", NOW_US - REMEMBERED_US)],
    )
    seeded(unseeded, {KEY_WINDOW: 400, ACCOUNT_WINDOW: 1})
    assert spent_and_held(unseeded) == (400, 550)
    assert refuse(unseeded, draft(51)).held
    assert take(unseeded, opened) == opened
    assert not unseeded.give_back(opened)
    assert unseeded.give_back(opened), "as if one Check had been given it before"
    assert isinstance(unseeded.take(known_end.request_id, known_end, limits()), Ended)
    assert isinstance(unseeded.take("gone", draft(1, request_id="gone"), limits()), Ended)
    take(unseeded, draft(1, request_id="long gone"))
    clock.now_us += MINUTE_US
    assert older in unseeded.overdue(MINUTE_US)
    assert unseeded.settle(opened, 10)
    assert spent_and_held(unseeded) == (410, 251)


def test_a_hold_that_cannot_be_written_down_is_not_taken(clock: FakeClock) -> None:
    written: list[Hold] = []

    def journal(opened: Hold) -> None:
        assert counters.outstanding == len(written)
        if opened.nanousd == 13:
            raise StoreUnavailableError("the disk is full")
        written.append(opened)

    counters = seeded(MemoryCounters(clock, journal))
    wanted = (MinuteLimit(KEY.id, 2), money())
    first = take(counters, draft(100), wanted)
    before = counters.peek(wanted, ACCOUNT.id)
    asked = draft(13)
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            counters.take(asked.request_id, asked, wanted)
    assert counters.peek(wanted, ACCOUNT.id) == before
    second = take(counters, draft(14, request_id=asked.request_id), wanted)
    refuse(counters, draft(1), wanted)
    take(counters, second, wanted)
    assert written == [first, second], "neither refusals nor repetitions are written"


def test_idle_accounts_are_forgotten_and_those_with_holds_are_not(
    in_process: MemoryCounters, clock: FakeClock
) -> None:
    counters = in_process
    kept = take(counters, draft(100))
    for number in range(2000):
        counters.generation(f"acc_{number}")
    clock.now_us += IDLE_US
    for number in range(2000, 4200):
        counters.generation(f"acc_{number}")
    assert len(counters._accounts) < 2300
    assert spent_and_held(counters) == (0, 100)
    counters.settle(kept, 100)
    clock.now_us += IDLE_US
    for number in range(9000):
        counters.generation(f"acc_later_{number}")
    assert counters.peek(limits(), ACCOUNT.id) == NotSeeded(ACCOUNT.id)


def test_nothing_is_left_of_what_is_over(in_process: MemoryCounters, clock: FakeClock) -> None:
    counters = in_process
    for turn in range(40):
        clock.now_us = KEY.created_us + turn * WINDOW_US
        straddling = take(counters, draft(10), limits(account=True))
        clock.now_us += 20 * DAY_US
        take_and_settle(counters, 20)
        clock.now_us += 10 * DAY_US
        take_and_settle(counters, 1)
        counters.settle(straddling, 10)
    clock.now_us += REMEMBERED_US
    counters.take("last", None, (), ACCOUNT.id)
    (account,) = counters._accounts.values()
    assert all(len(scope.windows) <= 2 for scope in account._scopes.values())
    assert not account.open_holds
    assert list(counters._requests) == ["last"]
    assert len(counters._leaving) == 1


def take_and_settle(counters: Counters, times: int) -> None:
    for _ in range(times):
        counters.settle(take(counters, draft(10), limits(account=True)), 1)
