"""How a gate stands after a load: its keys' budgets and minutes, its counters, Envoy's filters."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from fractions import Fraction
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from load.audit import Row
from load.calls import SHARED_NANOUSD, Key
from peers.client import call as make
from peers.stack import Stack
from waiting import until

from store.records import MINUTE_US, SECOND_US, WINDOW_US


class _Admin(HTTPConnection):
    """HTTP to Envoy's admin socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def envoy_stats(gate: Stack, pattern: str) -> dict[str, int]:
    """Envoy's counters and gauges whose names match."""
    with closing(_Admin(gate.runtime / "envoy-admin.sock")) as admin:
        admin.request("GET", f"/stats?type=Counters&filter={pattern}")
        lines = admin.getresponse().read().decode().splitlines()
    return {name: int(count) for name, count in (line.rsplit(": ", 1) for line in lines)}


def check_filters(gate: Stack) -> None:
    """No script of Envoy's has failed, and it has run."""
    stats = envoy_stats(gate, "lua")
    assert [name for name, count in stats.items() if "errors" in name and count] == []
    assert stats["http.gate.lua.inference.executions"] > 0


def check_budgets(
    gate: Stack, keys: Sequence[Key], ledger: Sequence[Row], leapt_us: int = 0
) -> None:
    """In no window has a key spent more than it may, and the counters say what the ledger says.

    `leapt_us` is how far the gate's clock is ahead.
    """
    until(lambda: make(gate, "/v1/key", key=keys[0].secret).status == 200, 20, "a gate that checks")
    for key in keys:
        mine = [row for row in ledger if row["key_id"] == key.id]
        spent = windows(gate, "keys", key.id, mine)
        if key.budget_nanousd is not None:
            assert max(spent.values(), default=0) <= key.budget_nanousd, (key, spent)
        said = make(gate, "/v1/key", key=key.secret).json()
        now = spent[present(gate, "keys", key.id, leapt_us)]
        assert int(Fraction(str(said["spent_usd"])) * 10**9) == now, (key, said, spent)
        assert said["held_usd"] == 0, (key, said)
        check_minutes(key, mine)
    for user in {key.user for key in keys if key.plan == "shared"}:
        account = gate.sql("select id from accounts where email = ?", user)
        spent = windows(gate, "accounts", account, [r for r in ledger if r["user"] == user])
        assert max(spent.values(), default=0) <= SHARED_NANOUSD, (user, spent)


def windows(gate: Stack, table: str, scope: str, mine: Sequence[Row]) -> Counter[int]:
    """What a key or an account spent in each of its windows, by when its calls were admitted."""
    created = _created_us(gate, table, scope)
    spent = Counter[int]()
    for row in mine:
        spent[(_us(row["admitted_at"]) - created) // WINDOW_US] += row["charge_nanousd"]
    return spent


def present(gate: Stack, table: str, scope: str, leapt_us: int) -> int:
    """The number of the window that runs now, by a clock that leapt so far."""
    return (time.time_ns() // 1000 + leapt_us - _created_us(gate, table, scope)) // WINDOW_US


def window_said(gate: Stack, key: Key) -> int:
    """The number of the window of which a gate speaks to a key; -1 where it does not answer."""
    try:
        answer = make(gate, "/v1/key", key=key.secret)
    except (OSError, HTTPException):
        return -1
    if answer.status != 200:
        return -1
    reset_us = _us(answer.json()["budget_reset"])
    # of whole seconds, so that it may say a little less than it is
    return (reset_us + SECOND_US - _created_us(gate, "keys", key.id)) // WINDOW_US - 1


def _created_us(gate: Stack, table: str, scope: str) -> int:
    return int(gate.sql(f"select created_us from {table} where id = ?", scope))


def _us(moment: str) -> int:
    parsed = datetime.fromisoformat(moment)
    return int(parsed.timestamp()) * 10**6 + parsed.microsecond


def check_minutes(key: Key, mine: Sequence[Row]) -> None:
    """In no minute were more calls admitted than the key may make."""
    times = sorted(_us(row["admitted_at"]) for row in mine)
    for first, last in zip(times, times[key.rpm :], strict=False):
        assert last - first >= MINUTE_US, (key, first, last)
