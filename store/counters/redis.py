"""Counters in Redis or Valkey, for many workers: every step is one script on one node.

The scripts are the `.lua` files beside this one; common.lua says what stands in Redis and for how
long. The clock is Redis's own. Nothing there is the truth: what is missing, or of another epoch
(store/counters/node.py), is not served until it is seeded from SQL.

The **sweep index** names the accounts that may have open holds: `tg:sweep:{0…63}`, hashes under
tags of their own. An account is put in before it is seeded, each time under another name, and
leaves only after the sweeper has given it up in its own slot, and only if nobody put it in since.
So whatever runs at once, a seeded account is in the index; one that is there need not be seeded. A
node of a cluster that loses its part of the index alone is the exception: until these accounts are
seeded again, their silent holds are found in SQL's table only. `tg:sweep:{0…63}:look` says that
somebody looks at this part, or did a moment ago.

Worst cases. Memory (`tests/load/redis_cost.py` measures it): 530 bytes for each open hold, 90 for
each request that ended in the last 60 s, 10 for each request of a minute; 230 for each account that
was used in the last hour (where no sweeper runs: in the last day), and 50 for each of its scopes
and each older window that something still runs in. Time: a take is one round trip, 40 µs of CPU
here and 65 there, of which a third is the network's; a script looks at no more than one account,
and the longest is the one that seeds it, 40 µs for each of its open holds and 1 µs for each request
of the last minute (10 ms for one that makes 300 calls a second).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Final
from zlib import crc32

import msgspec

from store.clock import Clock
from store.counters.link import Link
from store.counters.model import (
    Counters,
    Ended,
    Generation,
    Limit,
    MinuteLimit,
    MoneyLimit,
    NotSeeded,
    Refused,
    Seed,
    Standings,
    Taken,
    check_draft,
)
from store.counters.money import drift_of
from store.counters.node import Words
from store.counters.scripts import (
    BEAT,
    ENDED,
    GENERATION,
    HOLDS,
    LEAVE,
    PEEK,
    RELEASE,
    SEED,
    SETTLE,
    TAKE,
    Script,
)
from store.counters.scriptwords import as_kept, by_age, hold_in, standings_in, words_of
from store.errors import StoreUnavailableError
from store.holdformat import pack_hold
from store.records import SECOND_US, Hold, Window

SHARDS: Final = 64
SEEDING_MS: Final = 200
"""How long a worker that reads an account from SQL keeps others from doing the same: shorter than
they wait, as it may die meanwhile."""

_ENDED_AT_ONCE: Final = 1024  # a few milliseconds of Redis's
_MORE: Final = 1000  # overdue holds of an account that are found at a time
_END, _TOOK, _REFUSED = b"1", b"2", b"3"
_GIVEN_UP: Final = b"1"


class RedisCounters(Counters):
    """Thread-safe. Raises StoreUnavailableError; UnansweredError where a step may be taken yet.

    `clock` is in place of Redis's own: for those who move it by hand.
    """

    def __init__(self, link: Link, clock: Clock | None = None) -> None:
        self._link = link
        self._clock = clock

    def take(
        self,
        request_id: str,
        draft: Hold | None,
        limits: Sequence[Limit],
        account_id: str | None = None,
    ) -> Taken | Refused | Ended | NotSeeded:
        if draft is None:
            if account_id is None:
                raise ValueError("neither a draft nor an account")
            if any(isinstance(limit, MoneyLimit) for limit in limits):
                raise ValueError("a money limit without a draft")
            asked: tuple[str, int, bytes] = ("", 0, b"")
        else:
            account_id = draft.account_id
            money = [limit.scope for limit in limits if isinstance(limit, MoneyLimit)]
            check_draft(request_id, draft, money)
            asked = (draft.id, draft.nanousd, pack_hold(draft))
        marks = (_key(account_id, f"r:{request_id}"), _key(account_id, f"x:{asked[0]}"))
        keys = (*_own_keys(account_id), *marks, *_minute_keys(account_id, limits))
        told = words_of(limits)
        now = self._now()
        reply: bytes = self._link.run(
            TAKE,
            keys,
            (now, request_id, *asked, "", *told),
            (now, request_id, *asked, "1", *told),
        )
        said, _, kept = reply.partition(b"\n")
        words = said.split(b" ")
        if words[0] == _TOOK:
            hold = hold_in(kept, draft) if kept else None
            return Taken(int(words[1]), hold, standings_in(limits, words[2:]))
        if words[0] == _REFUSED:
            at, retry_us, held = map(int, words[2:5])
            standings = standings_in(limits, words[5:])
            return Refused(int(words[1]), limits[at], retry_us, standings, bool(held))
        return Ended(int(words[1])) if words[0] == _END else NotSeeded(account_id)

    def peek(self, limits: Sequence[Limit], account_id: str) -> tuple[int, Standings] | NotSeeded:
        keys = (*_own_keys(account_id), *_minute_keys(account_id, limits))
        reply: bytes = self._link.run(PEEK, keys, (self._now(), *words_of(limits)))
        words = reply.split(b" ")
        if words[0] != _TOOK:
            return NotSeeded(account_id)
        return int(words[1]), standings_in(limits, words[2:])

    def give_back(self, hold: Hold, mark: str = "") -> bool:
        """As Counters.give_back. Asked again with the same `mark`, it is done once."""
        return self._release(hold, "give", f"g:{mark or token_hex(8)}") is not None

    def close(self, hold: Hold) -> bool:
        return self._release(hold, "close", f"x:{hold.id}") is not None

    def withdraw(self, draft: Hold) -> Hold | None:
        """A take of this draft was not answered: undo it, and let it not come late.

        The answer is its hold if it was taken and no other Check has it: closed now, and the
        caller ends it. Otherwise nothing is open under this id, or others go on with it. Asked
        again, it is done once.
        """
        return self._release(draft, "abandon", f"x:{draft.id}")

    def settle(self, hold: Hold, charge_nanousd: int) -> bool:
        return bool(self._link.run(SETTLE, *self._settling(hold, charge_nanousd)))

    def settle_all(self, ends: Sequence[tuple[Hold, int]]) -> list[bool | StoreUnavailableError]:
        """As `settle`, for many in one go. An error stands where one was not answered."""
        calls = [self._settling(hold, nanousd) for hold, nanousd in ends]
        return [_flag(reply) for reply in self._link.run_all(SETTLE, calls)]

    def beat(self, account_id: str, hold_id: str) -> bool:
        return bool(self._link.run(BEAT, _own_keys(account_id), (self._now(), hold_id)))

    def hold(self, account_id: str, hold_id: str) -> Hold | None:
        found = self._link.run(HOLDS, _own_keys(account_id), (self._now(), "one", hold_id))
        return hold_in(found[0], None) if found and found[0] is not None else None

    def open_holds(self) -> list[Hold]:
        found: list[Hold] = []
        calls: list[tuple[Words, Words]] = [
            (_own_keys(account_id), (self._now(), "all")) for account_id in self.accounts()
        ]
        for kept in self._answers(HOLDS, calls):
            found += [hold_in(each, None) for each in kept]
        return sorted(found, key=by_age)

    def overdue(self, deadline_us: int, claim_us: int = 0) -> list[Hold]:
        """As Counters.overdue: the holds of accounts that are seeded here and now.

        Gives up accounts that are idle, too. Raises StoreUnavailableError if any node does not
        answer, as silence proves nothing then.

        With `claim_us`, of several who look each part of the index is left to the one who came
        first, for so long: whoever claims ends what is found, or what fell silent waits as much
        longer. Where this raises, nothing is claimed.
        """
        found: list[Hold] = []
        claimed: list[bytes] = []
        try:
            for shard in range(SHARDS):
                index = _shard(shard)
                if claim_us:
                    claim = index + b":look"
                    words = (b"SET", claim, b"1", b"NX", b"PX", max(1, claim_us // 1000))
                    if self._link.command(claim, *words) is None:
                        continue
                    claimed.append(claim)
                found += self._overdue_in(index, deadline_us)
        except BaseException:
            with suppress(StoreUnavailableError):  # they lapse by themselves
                for claim in claimed:
                    self._link.command(claim, b"DEL", claim)
            raise
        return sorted(found, key=by_age)

    def _overdue_in(self, index: bytes, deadline_us: int) -> list[Hold]:
        found: list[Hold] = []
        flat: list[bytes] = self._link.command(index, b"HGETALL", index)
        named = list(zip(flat[::2], flat[1::2], strict=True))
        calls: list[tuple[Words, Words]] = [
            (_own_keys(account.decode()), (self._now(), "overdue", deadline_us))
            for account, _ in named
        ]
        for (account, name), kept in zip(named, self._answers(HOLDS, calls), strict=True):
            found += [hold_in(each, None) for each in kept[1:] if each is not None]
            if kept[0] == _GIVEN_UP:
                self._link.run(LEAVE, (index,), ("", account, name))
        return found

    def clocks(self) -> list[int]:
        """What time it is, in µs, on the node of each part of the sweep index."""
        if self._clock is not None:
            return [self._clock()] * SHARDS
        said = [self._link.command(_shard(shard), b"TIME") for shard in range(SHARDS)]
        return [int(seconds) * SECOND_US + int(micros) for seconds, micros in said]

    def accounts(self) -> list[str]:
        found: list[str] = []
        for shard in range(SHARDS):
            index = _shard(shard)
            found += [name.decode() for name in self._link.command(index, b"HKEYS", index)]
        return found

    def generation(self, account_id: str) -> Generation:
        known, spent = self._look(account_id)
        return msgspec.structs.replace(known, windows=tuple(spent))

    def claim(self, account_id: str) -> bool:
        """Whether the caller is the one who reads the account from SQL; for SEEDING_MS at most."""
        key = _key(account_id, "seeding")
        said = self._link.command(key, b"SET", key, token_hex(8), b"NX", b"PX", SEEDING_MS)
        return said is not None

    def unclaim(self, account_id: str) -> None:
        """It is read, or could not be."""
        key = _key(account_id, "seeding")
        self._link.command(key, b"DEL", key)

    def seed(self, generation: Generation, seed: Seed) -> bool:
        account_id = generation.account_id
        index = _shard(crc32(account_id.encode()) % SHARDS)
        self._link.command(index, b"HSET", index, account_id, token_hex(8))
        self._remember(account_id, seed.ended)
        minutes = {scope: list(times) for scope, times in seed.minutes.items()}
        for hold in seed.holds:
            if hold.minute is not None:
                minutes.setdefault(hold.minute, []).append(hold.admitted_us)
        payload = msgspec.json.encode(
            {
                "windows": [
                    (window.scope, str(window.number), str(spent))
                    for window, spent in seed.spent.items()
                    if spent
                ],
                "holds": [(hold.id, hold.request_id, as_kept(hold)) for hold in seed.holds],
                "minutes": [list(map(str, sorted(times))) for times in minutes.values()],
            }
        )
        keys = (
            *_own_keys(account_id),
            *(_key(account_id, f"m:{scope}") for scope in minutes),
        )
        words = (self._now(), generation.life, generation.number, payload)
        return bool(self._link.run(SEED, keys, words))

    def _remember(self, account_id: str, ended: Sequence[tuple[str, int]]) -> None:
        for at in range(0, len(ended), _ENDED_AT_ONCE):
            part = ended[at : at + _ENDED_AT_ONCE]
            marks = (_key(account_id, f"r:{request_id}") for request_id, _ in part)
            words: Words = (self._now(), *(ended_us for _, ended_us in part))
            self._link.run(ENDED, (*_own_keys(account_id), *marks), words)

    def drift(self, generation: Generation, seed: Seed) -> int | None:
        now, spent = self._look(generation.account_id)
        same = (now.life, now.number) == (generation.life, generation.number)
        return drift_of(spent, seed) if same and now.seeded else None

    def forget(self, account_id: str) -> None:
        """As Counters.forget; its open holds come back from SQL as well."""
        keys = _own_keys(account_id)
        self._link.command(keys[0], b"UNLINK", *keys)

    def ask_flush(self) -> int:
        """Tell all workers that somebody waits for what they took to be in SQL."""
        return int(self._link.command(_FLUSH, b"INCR", _FLUSH))

    def flush_asked(self) -> int:
        """How often that was asked, as far as Redis remembers."""
        return int(self._link.command(_FLUSH, b"GET", _FLUSH) or 0)

    def _release(self, hold: Hold, how: str, mark: str) -> Hold | None:
        keys = (*_own_keys(hold.account_id), _key(hold.account_id, mark))
        kept: bytes = self._link.run(RELEASE, keys, (self._now(), hold.id, how))
        return hold_in(kept, None) if kept else None

    def _settling(self, hold: Hold, charge_nanousd: int) -> tuple[Words, Words]:
        mark = _key(hold.account_id, f"r:{hold.request_id}")
        words = (self._now(), hold.id, charge_nanousd, hold.request_id)
        return (*_own_keys(hold.account_id), mark), words

    def _look(self, account_id: str) -> tuple[Generation, dict[Window, int]]:
        """The generation without its windows, and these with what is spent in each."""
        said: list[bytes] = self._link.run(
            GENERATION, _own_keys(account_id), (self._now(), token_hex(8))
        )
        life, number, now, seeded, holds = said[:5]
        behind = 5 + int(holds)
        opened = tuple(each.decode() for each in said[5:behind])
        spent: dict[Window, int] = {}
        for field, packed in zip(said[behind::2], said[behind + 1 :: 2], strict=True):
            figures = packed.split(b" ")
            for at in range(0, len(figures), 4):
                window = Window(field[1:].decode(), int(figures[at]))
                spent[window] = int(figures[at + 1])
        known = Generation(
            account_id, int(number), int(now), opened, seeded == b"1", (), life.decode()
        )
        return known, spent

    def _answers(self, script: Script, calls: Sequence[tuple[Words, Words]]) -> list[list[bytes]]:
        answers: list[list[bytes]] = []
        for answer in self._link.run_all(script, calls):
            if isinstance(answer, StoreUnavailableError):
                raise answer
            answers.append(answer)
        return answers

    def _now(self) -> str:
        return "" if self._clock is None else str(self._clock())


_FLUSH: Final = b"tg:flush"


def _key(account_id: str, name: str) -> bytes:
    return f"tg:{{{account_id}}}:{name}".encode()


def _own_keys(account_id: str) -> tuple[bytes, bytes, bytes]:
    prefix = b"tg:{%b}:" % account_id.encode()
    return prefix + b"account", prefix + b"holds", prefix + b"beats"


def _minute_keys(account_id: str, limits: Iterable[Limit]) -> list[bytes]:
    return [
        _key(account_id, f"m:{limit.scope}") for limit in limits if isinstance(limit, MinuteLimit)
    ]


def _shard(number: int) -> bytes:
    return b"tg:sweep:{%d}" % number


def _flag(reply: int | StoreUnavailableError) -> bool | StoreUnavailableError:
    return reply if isinstance(reply, StoreUnavailableError) else bool(reply)
