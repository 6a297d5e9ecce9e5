"""What has to be seen of a fleet, at any size: each makes its calls and judges all of them."""

from __future__ import annotations

import random
import statistics
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from load.fleetgate import FleetGate, choosing, most_committed
from load.paced import Answered, Ask, Caller, ask, outcomes, percentile
from peers.prometheus import Prometheus
from waiting import until

from admin.service import Minted
from store.records import MINUTE_US

UNAVAILABLE: Final = "503 authorization_unavailable"
NO_ROOM: Final = {"429 budget_held", "429 budget_exceeded"}
BACK_CALLS: Final = 10
TIGHT_HOLDS: Final = 40


# -- the minute


def most_within(moments: Sequence[float], seconds: float) -> int:
    """The most of these moments that lie in any span (its start excluded) so long."""
    ordered = sorted(moments)
    return max(
        (
            number + 1 - bisect_right(ordered, moment - seconds)
            for number, moment in enumerate(ordered)
        ),
        default=0,
    )


def minute(fleet: FleetGate, *, rpm: int, seconds: float, burst: int) -> str:
    """Ten calls a second, and a burst every ten seconds (the first in the third)."""
    key = fleet.mint(rpm=rpm)
    fleet.warm(key)
    with Caller(fleet.gate.address) as caller:
        above = time.time() - time.monotonic()
        began = time.monotonic()
        with caller.paced(10, lambda: ask("key", key.key)):
            due = began + 2
            while due < began + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                caller.fire([ask("key", key.key)] * burst)
                due += 10
            time.sleep(max(0.0, began + seconds - time.monotonic()))
    answers = caller.answers
    assert {each.outcome for each in answers} <= {"200", "429 rate_limit_exceeded", UNAVAILABLE}
    fleet.settled(answers)
    admitted = sorted(row.admitted_us for row in fleet.rows(key))
    most = most_within(admitted, MINUTE_US)
    came = [entry.came for entry in fleet.entries(key)]
    most_seen = most_within(came, 59.0)
    assert most <= rpm
    assert most_seen <= rpm
    early = [
        each for each in answers if each.status == 429 and had_room(each, admitted, rpm, above)
    ]
    assert not early, early[:5]
    passed = sum(each.status == 200 for each in answers)
    assert most == rpm
    return (
        f"rpm {rpm}, {seconds:.0f} s, {len(answers)} calls: {passed} passed; at most {most} in "
        f"60 s by admitted_at, {most_seen} in 59 s by the server's book; no refusal while there "
        f"was room; {outcomes(answers)}"
    )


def had_room(refused: Answered, admitted: Sequence[int], rpm: int, above: float) -> bool:
    """Whether at no moment of a refused call the minute was full."""
    sent, ended = ((each + above) * 1e6 for each in (refused.sent, refused.ended))

    def lying(at: float) -> int:
        return bisect_right(admitted, at) - bisect_right(admitted, at - MINUTE_US)

    between = admitted[bisect_left(admitted, sent) : bisect_right(admitted, ended)]
    return all(lying(at) < rpm for at in (sent, *between))


# -- a budget


def budget(fleet: FleetGate, *, fits: int, at_once: int, waves: int) -> str:
    """Many calls at once, again and again, with a budget that has room for a few."""
    hold = fleet.hold()
    total = fits * hold + hold // 2
    key = fleet.mint(budget=total)
    fleet.warm(key)
    with Caller(fleet.gate.address) as caller:
        caller.fire([ask("key", key.key, pause=2.0)] * at_once)
        caller.finish()
        first = list(caller.answers)
        for number in range(waves):
            caller.fire([ask("key", key.key, pause=0.05 * (number % 3))] * at_once)
            caller.finish()
            time.sleep(0.2)
    answers = caller.answers
    assert {each.outcome for each in answers} <= {"200", *NO_ROOM, UNAVAILABLE}
    passed = sum(each.status == 200 for each in first)
    assert passed <= fits
    if not any(each.status == 503 for each in first):
        assert passed == fits, "room was left"
    most = most_committed(fleet.entries(key), hold)
    assert most <= total
    told = fleet.agrees_with_book(answers)
    fleet.counters_agree(key)
    return (
        f"{len(answers)} calls, {at_once} at once, budget for {fits}: {passed} passed of the first "
        f"{at_once}; at most {most} of {total} nano-USD committed; {outcomes(answers)}; {told}; "
        "counters say the same"
    )


# -- revocation


@dataclass
class Lasts:
    """Seconds from a revocation's beginning to the last call that was sent and still passed."""

    asked: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)  # from its end, for whoever asked
    rates: list[float] = field(default_factory=list)
    others: int = 0  # calls that were refused for a store that is out

    @property
    def median(self) -> float:
        return statistics.median(self.asked)

    @property
    def most(self) -> float:
        return max(self.asked)

    def __str__(self) -> str:
        return (
            f"{len(self.asked)} revocations under {statistics.median(self.rates):.0f} calls/s: "
            f"last 200 after {self.median * 1000:.0f} ms (median), {self.most * 1000:.0f} ms "
            f"(most) from asking; {statistics.median(self.told) * 1000:.0f} ms and "
            f"{max(self.told) * 1000:.0f} ms from its being done; {self.others} calls were 503"
        )


def revocations(
    fleet: FleetGate,
    *,
    number: int,
    rate: float,
    bound: float,
    failing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Lasts:
    """Revoke a key while all workers serve it, so often. Nothing passes later than `bound` s.

    What is `failing` does so from just before each revocation, which is the worst moment.
    """
    lasts = Lasts()
    for _ in range(number):
        key = fleet.mint()
        fleet.warm(key)
        calls = ask("key", key.key)
        with Caller(fleet.gate.address) as caller, caller.paced(rate, lambda: calls):  # noqa: B023  waits here
            time.sleep(0.5)
            with failing():
                asked = time.monotonic()
                fleet.revoke(key)
                done = time.monotonic()
                time.sleep(bound + 0.3)
        answers = caller.answers
        assert {each.outcome for each in answers} <= {"200", "401 api_key_revoked", UNAVAILABLE}
        early = [each for each in answers if each.status == 401 and each.ended < asked]
        assert not early, early[:3]
        late = {each.outcome for each in answers if each.sent > asked + bound}
        assert late, "no call was made after it"
        assert late <= {"401 api_key_revoked", UNAVAILABLE}, late
        last = max(each.sent for each in answers if each.status == 200)
        lasts.asked.append(max(0.0, last - asked))
        lasts.told.append(max(0.0, last - done))
        before = [each for each in answers if each.sent < asked]
        lasts.rates.append(len(before) / (asked - min(each.sent for each in answers)))
        lasts.others += sum(each.status == 503 for each in answers)
    return lasts


# -- outages


@dataclass
class Outage:
    """What one fault came to."""

    name: str
    recovery: float  # seconds from the fault's end until calls passed again
    refusals: list[float]  # how long each 503 took
    others: list[float]  # and each 401 of the same time: what the machine makes of any answer
    counted: dict[str, dict[str, int]]
    late: int  # 503s that were sent 2 s after the end, or later

    def __str__(self) -> str:
        return (
            f"{self.name}: back {self.recovery:.2f} s after its end; {len(self.refusals)} refused, "
            f"50 % within {percentile(self.refusals, 50) * 1000:.0f} ms, 99 % within "
            f"{percentile(self.refusals, 99) * 1000:.0f} ms (401s: "
            f"{percentile(self.others, 50) * 1000:.0f} and "
            f"{percentile(self.others, 99) * 1000:.0f} ms); {self.late} of them 2 s later or "
            f"more; {self.counted}"
        )


@dataclass
class Outages:
    """Calls of keys that may and keys that may not, at a rate, through one fault after another."""

    fleet: FleetGate
    rate: float
    hold: int
    answers: list[Answered] = field(default_factory=list)
    found: list[Outage] = field(default_factory=list)
    _tights: list[tuple[Minted, int]] = field(default_factory=list)

    def suffer(
        self,
        name: str,
        fault: Callable[[], None],
        *,
        lead: float = 1.5,
        seconds: float = 3.0,
        unavailable: bool = True,
    ) -> Outage:
        """A fault (it returns when what it broke is whole again) in the middle of calls.

        Calls go on for `lead` seconds before it, and for `seconds` after they pass again.

        Fails where a call was answered as it must not be; `unavailable` says whether a 503 may.
        """
        rich, poor, gone = self.fleet.mint(), self.fleet.mint(budget=0), self.fleet.mint()
        total = TIGHT_HOLDS * self.hold
        tight = self.fleet.mint(budget=total)
        self._tights.append((tight, total))
        self.fleet.revoke(gone)
        self.fleet.warm(rich)
        random_ = random.Random(name)
        keys = {"rich": (rich, 14), "tight": (tight, 4), "poor": (poor, 1), "gone": (gone, 1)}

        def of(label: str, key: Minted) -> Callable[[], Ask]:
            return lambda: ask(label, key.key, random_.uniform(0, 0.3))

        choose = choosing(
            [of(label, key) for label, (key, _) in keys.items()],
            [weight for _, weight in keys.values()],
        )
        with Caller(self.fleet.gate.address) as caller, caller.paced(self.rate, choose):
            time.sleep(lead)
            fault()
            whole = time.monotonic()

            def back() -> list[Answered]:
                return [
                    each
                    for each in list(caller.answers)
                    if each.label == "rich" and each.status == 200 and each.sent > whole
                ]

            until(lambda: len(back()) >= BACK_CALLS, 30, f"recovery from {name}")
            recovery = sorted(each.ended for each in back())[BACK_CALLS - 1] - whole
            time.sleep(seconds)
        answers = caller.answers
        self._judge(answers, unavailable=unavailable)
        self.answers += answers
        refused = [each for each in answers if each.status == 503]
        made = Outage(
            name,
            recovery,
            [each.seconds for each in refused],
            [each.seconds for each in answers if each.status == 401],
            outcomes(answers),
            sum(each.sent > whole + 2 for each in refused),
        )
        self.found.append(made)
        print(f"  {made}", flush=True)
        return made

    def _judge(self, answers: Sequence[Answered], *, unavailable: bool) -> None:
        may = {
            "rich": {"200"},
            "tight": {"200", *NO_ROOM},
            "poor": {"429 budget_exceeded"},
            "gone": {"401 api_key_revoked"},
        }
        for label, said in outcomes(answers).items():
            allowed = may[label] | ({UNAVAILABLE} if unavailable else set())
            assert said.keys() <= allowed, (label, said)

    def conclude(self) -> str:
        """Nothing was over a budget, and the ledger is the server's book. Returns the figures."""
        told = self.fleet.agrees_with_book(self.answers)
        parts = []
        for key, total in self._tights:
            most = most_committed(self.fleet.entries(key), self.hold)
            assert most <= total, (most, total)
            parts.append(f"{most / total:.0%}")
        self.fleet.counters_agree(*(key for key, _ in self._tights))
        refusals = [each for outage in self.found for each in outage.refusals]
        return (
            f"{told}; of each tight budget committed at most {', '.join(parts)}; "
            f"{len(refusals)} refusals, 99 % within {percentile(refusals, 99) * 1000:.0f} ms"
        )


# -- metrics

COUNTERS: Final = '{__name__=~"tensorgate_.+(_total|_count|_sum|_bucket)"}'
SCRAPES_SECONDS: Final = 3.0  # until the last scrape has what was counted last


def never_back(prometheus: Prometheus, fleet: FleetGate, *, seconds: float) -> str:
    """No counter went back or was missed, as Prometheus saw them, and all settlements are counted.

    For a gate whose meter was not killed. Returns the figures.
    """
    time.sleep(SCRAPES_SECONDS)
    series = prometheus.range(COUNTERS, seconds)
    assert len(series) > 50, len(series)
    back = [each for each in series if any(after < before for before, after in pairwise(each))]
    assert not back, (len(back), back[:2])
    (up,) = prometheus.range("up", seconds)
    assert set(up) == {1.0}, up
    rows = len(fleet.rows())
    assert prometheus.value("sum(tensorgate_settlements_total)") == rows
    passed = prometheus.value('sum(tensorgate_checks_total{outcome="allowed"})')
    assert passed is not None
    assert passed >= len(fleet.entries())
    samples = sum(map(len, series))
    return (
        f"{len(series)} series, {samples} samples of {len(up)} scrapes: none went back; "
        f"{rows} settlements counted, {rows} rows; {passed:.0f} checks allowed"
    )
