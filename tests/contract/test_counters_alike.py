"""Counters in Redis answer as those in process do, for whatever steps and amounts up to int64.

Those in process count in Python's integers, which have no end; a script has doubles.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from moneyhelp import ACCOUNT, KEY, OTHER_KEY, account_money, draft, hold, reopened
from statehelp import NOW_US, FakeClock

from store.counters.model import Counters, Limit, MinuteLimit, MoneyLimit, Taken
from store.records import INT64_MAX, MINUTE_US, WINDOW_US, Hold, Window

EDGES = [0, 1, 10**9 - 1, 10**9, 10**9 + 1, 10**15, 2**53 - 1, 2**53, 2**53 + 1, 10**18, INT64_MAX]
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
        ["take", "take", "take", "settle", "settle", "give_back", "close", "repeat"]
    ),
    gap_us=st.sampled_from([0, 0, 1, 10**6, MINUTE_US, WINDOW_US // 2, WINDOW_US]),
    key=st.integers(0, 1),
    amount=AMOUNTS,
    back=st.integers(0, 5),
    budgets=st.tuples(st.none() | AMOUNTS, st.none() | AMOUNTS),
    ceiling=st.sampled_from(["hold", "start"]),
    rpm=st.integers(1, 4),
)


def walk(
    counters: Counters, clock: FakeClock, steps: list[Step], drafts: list[Hold]
) -> list[object]:
    """All that is answered, and how all stands at the end."""
    clock.now_us = NOW_US
    before = hold(INT64_MAX, at=NOW_US - 1)
    reopened(
        counters,
        [before],
        {Window(KEY.id, 0): INT64_MAX - 1, Window(ACCOUNT.id, 1): 2**53 + 1, Window(KEY.id, 1): 3},
    )
    answers: list[object] = [counters.settle(before, 2**53 + 1)]
    holds: list[Hold] = []
    for step, asked in zip(steps, drafts, strict=True):
        clock.now_us += step.gap_us
        old = holds[-1 - step.back] if step.back < len(holds) else None
        key = (KEY, OTHER_KEY)[step.key]
        limits: list[Limit] = [
            MinuteLimit(key.id, step.rpm),
            MoneyLimit(key.id, key.created_us, step.budgets[0], step.ceiling),  # type: ignore[arg-type]
            account_money(step.budgets[1]),
        ]
        answers.append(counters.peek(limits, ACCOUNT.id))
        if step.do == "take":
            taken = counters.take(asked.request_id, asked, limits)
            answers.append(taken)
            if isinstance(taken, Taken) and taken.hold is not None:
                holds.append(taken.hold)
        elif old is None:
            continue
        elif step.do == "settle":
            answers.append(counters.settle(old, step.amount))
        elif step.do == "repeat":
            again = replace_request(asked, old.request_id)
            limits = [replace_scope(limit, old.key_id) for limit in limits]
            answers.append(counters.take(old.request_id, again, limits))
        else:
            answers.append(getattr(counters, step.do)(old))
    standing = counters.generation(ACCOUNT.id)
    answers += [sorted(standing.open_holds), set(standing.windows), counters.open_holds()]
    answers += [counters.overdue(MINUTE_US), [counters.hold(ACCOUNT.id, each.id) for each in holds]]
    return answers


def replace_request(asked: Hold, request_id: str) -> Hold:
    return draft(asked.nanousd, id=asked.id, request_id=request_id, key=_key(asked))


def replace_scope(limit: Limit, scope: str) -> Limit:
    if limit.scope == ACCOUNT.id:
        return limit
    if isinstance(limit, MinuteLimit):
        return MinuteLimit(scope, limit.max_requests)
    key = KEY if scope == KEY.id else OTHER_KEY
    return MoneyLimit(scope, key.created_us, limit.budget_nanousd, limit.ceiling)


def _key(asked: Hold) -> object:
    return KEY if asked.key_id == KEY.id else OTHER_KEY
