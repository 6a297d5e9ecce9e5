"""Counters in Redis answer as those in process do, for whatever steps and amounts up to int64.

Those in process count in Python's integers, which have no end; a script has doubles.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from counterhelp import Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from moneyhelp import ACCOUNT, KEY, OTHER_KEY, account_money, draft, hold, reopened
from statehelp import NOW_US, FakeClock

from store.counters.memory import MemoryCounters
from store.counters.model import Counters, Limit, MinuteLimit, MoneyLimit, Seed, Taken
from store.records import INT64_MAX, MINUTE_US, WINDOW_US, Hold, Window, window_at

EDGES = [0, 1, 10**9 - 1, 10**9, 10**9 + 1, 10**15, 2**53 - 1, 2**53, 2**53 + 1, 10**18, INT64_MAX]
KEYS = (KEY, OTHER_KEY)
CREATED = {key.id: key.created_us for key in KEYS} | {ACCOUNT.id: ACCOUNT.created_us}
AMOUNTS = st.sampled_from(EDGES) | st.integers(0, INT64_MAX) | st.integers(0, 3 * 10**9)


@dataclass(frozen=True, slots=True)
class Step:
    """Time passes, then something is done with a key, or with a hold of some steps before."""

    do: str
    gap_us: int
    key: int
    amount: int
    back: int
    budgets: tuple[int | None, int | None]
    ceiling: str
    rpm: int


STEPS = st.builds(
    Step,
    do=st.sampled_from(
        ["take", "take", "take", "settle", "settle", "give back", "close", "repeat"]
    ),
    gap_us=st.sampled_from([0, 0, 1, 10**6, MINUTE_US, WINDOW_US // 2, WINDOW_US]),
    key=st.integers(0, 1),
    amount=AMOUNTS,
    back=st.integers(0, 5),
    budgets=st.tuples(st.none() | AMOUNTS, st.none() | AMOUNTS),
    ceiling=st.sampled_from(["hold", "start"]),
    rpm=st.integers(1, 4),
)


Scripted = list[tuple[Step, Hold]]


def walk(counters: Counters, clock: FakeClock, steps: Scripted) -> list[object]:
    """All that is answered, and how all stands at the end."""
    clock.now_us = NOW_US
    before = hold(INT64_MAX, at=NOW_US - 1, id="f" * 32, request_id="before")
    spent = {Window(KEY.id, 0): INT64_MAX - 1, Window(ACCOUNT.id, 1): 2**53 + 1}
    reopened(counters, [before], spent)
    answers: list[object] = [counters.settle(before, 2**53 + 1)]
    holds: list[Hold] = []
    for step, asked in steps:
        clock.now_us += step.gap_us
        old = holds[-1 - step.back] if step.back < len(holds) else None
        if step.do == "take":
            limits = limits_of(step, asked.key_id)
            answers.append(counters.peek(limits, ACCOUNT.id))
            taken = counters.take(asked.request_id, asked, limits)
            answers.append(taken)
            if isinstance(taken, Taken) and taken.hold is not None:
                holds.append(taken.hold)
        elif old is not None and step.do == "settle":
            answers.append(counters.settle(old, step.amount))
        elif old is not None and step.do == "repeat":
            again = msgspec.structs.replace(asked, request_id=old.request_id, key_id=old.key_id)
            answers.append(counters.take(old.request_id, again, limits_of(step, old.key_id)))
        elif old is not None:
            answers.append(
                counters.give_back(old) if step.do == "give back" else counters.close(old)
            )
    known = counters.generation(ACCOUNT.id)
    answers += [sorted(known.open_holds), counters.open_holds()]
    answers += [counters.hold(ACCOUNT.id, each.id) for each in holds]
    present = {
        Window(scope, window_at(created, clock.now_us)): 0 for scope, created in CREATED.items()
    }
    answers.append(counters.drift(known, Seed(present, {})))
    return [*answers, counters.overdue(MINUTE_US)]  # the last, as it gives idle accounts up


def limits_of(step: Step, key_id: str) -> list[Limit]:
    return [
        MinuteLimit(key_id, step.rpm),
        MoneyLimit(key_id, CREATED[key_id], step.budgets[0], step.ceiling),  # type: ignore[arg-type]
        account_money(step.budgets[1]),
    ]


def script(steps: list[Step]) -> Scripted:
    """Each step with a draft of its own, for all backends the same."""
    return [(step, draft(step.amount, key=KEYS[step.key])) for step in steps]


@pytest.mark.parametrize("new_counters", ["valkey"], indirect=True)
def test_every_answer_is_that_of_counters_in_process(new_counters: Kind) -> None:
    @settings(max_examples=80)
    @given(st.lists(STEPS, min_size=1, max_size=25))
    def proved(steps: list[Step]) -> None:
        scripted, clock = script(steps), FakeClock()
        expected = walk(MemoryCounters(clock), clock, scripted)
        assert walk(new_counters(clock), clock, scripted) == expected

    proved()
