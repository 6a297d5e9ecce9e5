"""`tensorgate ledger export --by|prune` and `explain`, on rows made as authz makes them."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from ledgerdesk import Desk
from moneyhelp import ACCOUNT, KEY, OTHER_KEY, PRICE, charge, hold, mint
from statehelp import NOW_US

from admin import ledgerprune
from authz import upkeep
from authz.books import open_books
from authz.metrics import Metrics
from authz.settings import AuthzSettings
from store import keyformat
from store.catalog import Catalog
from store.clock import wall_us
from store.control import Control
from store.journal import Journal
from store.ledgersums import CALLS
from store.records import DAY_US, Basis, Charge, Hold, Price, Seen
from store.schema import AMOUNTS

SUMS = """calls, calls_metered, calls_estimated, calls_held, calls_released, input_tokens,
cached_input_tokens, cache_write_tokens, output_tokens, charge_nanousd, charge_usd"""


# -- export --by


def test_sums_have_exact_money_and_a_month_is_a_calendar_month(books: Desk) -> None:
    first, second, third = hold(10**9), hold(10**9, key=OTHER_KEY, team="=red"), hold()
    books.book(first, charge(first, 123_456_789))
    books.book(second, charge(second, 10**9, basis=Basis.HELD))
    books.book(third, charge(third, at=NOW_US + 13 * DAY_US))  # the first of December
    [row, other] = books.lines("--by", "team, model", "--month", "2026-11")
    assert row == {
        "team": "=red", "model": "llama-3.1-8b", "calls": 1, "calls_metered": 0,
        "calls_estimated": 0, "calls_held": 1, "calls_released": 0, "input_tokens": 11,
        "cached_input_tokens": 3, "cache_write_tokens": 0, "output_tokens": 7,
        "charge_nanousd": 10**9, "charge_usd": "1.000000000",
    }  # fmt: skip
    assert (other["team"], other["charge_usd"]) == ("red", "0.123456789")
    assert [name.strip() for name in SUMS.split(",")] == list(row)[2:]
    ran = books("export", "--by", "month,team", "--format", "csv")
    read = list(csv.DictReader(io.StringIO(ran.out, newline="")))
    assert [(row["month"], row["team"], row["calls"]) for row in read] == [
        ("2026-11", "'=red", "1"), ("2026-11", "red", "1"), ("2026-12", "red", "1"),
    ]  # fmt: skip
    assert len(books.lines("--month", "2026-11")) == 2, "rows have months too"
    assert len(books.lines("--month", "2026-12")) == 1
    assert books.lines("--month", "2027-01", "--by", "team") == []
    [day] = books.lines("--by", "day", "--from", "2026-11-19", "--user", ACCOUNT.email)
    assert (day["day"], day["charge_usd"]) == ("2026-12-01", "0.000000040")


def test_a_file_of_sums_says_what_was_proven(books: Desk) -> None:
    books.book(hold())
    out = books.folder / "sums.csv"
    ran = books("export", "--by", "team", "--output", str(out))
    assert ran.err == "1 line: 1 calls, $0.00000004; proven by the rows.\n"
    assert json.loads(out.read_text())["calls"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--month", "2026-11", "--from", "2026-11-01"), "--month says from when and until when"),
        (("--month", "2026-13"), "--month is not a month. Write it like 2026-11."),
        (("--month", "2026-1"), "--month is not a month."),
        (("--month", "9999-12"), "--month is not a month."),
        (("--by", "team,modle"), "`modle` is nothing that sums can be by. Write some of account,"),
        (("--by", ""), "That is nothing that sums can be by."),
        (("--by", "team", "--from", "2026-11-01T01:00"), "--from is in the middle of a UTC day"),
        (("--by", "team", "--to", "2026-11-01T00:00+01:00"), "--to is in the middle of a UTC day"),
        (("--by", "team", "--from", "2026-11-02", "--to", "2026-11-01"), "--from is not before"),
    ],
)
def test_what_cannot_be_summed_is_one_line(
    books: Desk, arguments: tuple[str, ...], says: str
) -> None:
    ran = books("export", *arguments)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"error: {says}")
    assert ran.err.count("\n") == 1


def test_sums_that_rows_do_not_prove_are_not_written(books: Desk) -> None:
    books.book(hold())
    books.execute("UPDATE daily SET charge_nanousd = 41")
    out = books.folder / "sums"
    ran = books("export", "--by", "team", "--output", str(out))
    assert ran.status == 1
    assert "they have charge_nanousd 40 and not 41. `tensorgate ledger verify` says" in ran.err
    assert not out.exists()


@pytest.mark.parametrize("column", [*CALLS, *AMOUNTS])
def test_each_sum_of_each_group_is_proven(books: Desk, column: str) -> None:
    """Also where the total of all groups is right, and of what was pruned."""
    books.book(hold())
    books.book(hold(key=OTHER_KEY))
    books.lines("--by", "key")
    for sign, key in (("+", KEY), ("-", OTHER_KEY)):
        change = f"UPDATE daily SET {column} = {column} {sign} 1 WHERE key_id = '{key.id}'"
        books.execute(change)
    ran = books("export", "--by", "model")
    assert (ran.status, ran.out) == (1, "")
    assert f"they have {column} " in ran.err
    assert ran.err.count("\n") == 1
    assert books("export", "--by", "key", "--to", "2026-11-18").status == 0, "another period"


# -- prune


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred days after the rows."""
    monkeypatch.setattr(ledgerprune, "wall_us", lambda: NOW_US + 100 * DAY_US)


def test_pruning_asks_twice_and_tells(books: Desk, later: None) -> None:
    kept = hold()
    for of in (hold(), hold(), kept):
        books.book(of, charge(of, at=NOW_US + (5 if of is kept else 0) * DAY_US))
    with Journal(books.state / "journal"):
        pass
    for confirm in ((), ("--confirm", "2026-11-20")):
        ran = books("prune", "--before", "2026-11-19", *confirm)
        assert ran.status == 1
        assert ran.err.startswith("error: 2 rows of before 2026-11-19 would be deleted for ever;")
        assert "--confirm 2026-11-19" in ran.err
    assert len(books.lines()) == 3
    ran = books("prune", "--before", "2026-11-19", "--confirm", "2026-11-19", "--json")
    assert json.loads(ran.out) == {"rows": 2, "charge_nanousd": 80, "before": "2026-11-19"}
    ran = books("export")
    assert [json.loads(line)["hold_id"] for line in ran.out.splitlines()] == [kept.id]
    says = "2 rows of these days were pruned and are not here; --by has their sums.\n"
    assert (ran.status, ran.err) == (0, says)
    assert books("export", "--to", "2026-11-18T12:00", "--user", ACCOUNT.email).err == says
    for elsewhere in (("--from", "2026-11-19"), ("--key", OTHER_KEY.id), ("--team", "blue")):
        assert books("export", *elsewhere).err == ""
    assert books("prune", "--before", "2026-11-19").out.startswith("0 rows of before 2026-11-19")
    [total] = books.lines("--by", "account")
    assert (total["calls"], total["charge_usd"]) == (3, "0.000000120")
    found = books.verified()
    assert (found["ok"], found["rows"], found["pruned_rows"]) == (True, 1, 2)
    assert "pruned      2, $0.00000008 charged" in books("verify").out


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("2027-02-26", "--before is less than 2 days ago"),
        ("soon", "--before is not a time."),
    ],
)
def test_what_cannot_be_pruned_is_one_line(
    books: Desk, later: None, before: str, says: str
) -> None:
    ran = books("prune", "--before", before)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"error: {says}")


def test_a_damaged_journal_keeps_the_rows(books: Desk, later: None) -> None:
    with Journal(books.state / "journal") as journal:
        journal.take(hold())
        journal.take(hold())
    path = books.state / "journal"
    path.write_bytes(path.read_bytes().replace(b"llama", b"lhama", 1))
    books.book(hold())
    ran = books("prune", "--before", "2026-11-19", "--confirm", "2026-11-19")
    assert ran.status == 1
    assert "is damaged at byte" in ran.err
    assert len(books.lines()) == 1


def test_a_running_authz_prunes_where_it_is_told_for_how_long(
    books: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORGATE_LEDGER_RETENTION_DAYS", "62")
    monkeypatch.setattr(upkeep, "TICK_SECONDS", 0.02)
    now_us = wall_us()
    old = replace(
        KEY,
        id="key_old",
        alias="old",
        created_us=now_us - 200 * DAY_US,
        account_created_us=now_us - 200 * DAY_US,
        account_id="acc_old",
    )
    mint(books.engine, old, account=replace(ACCOUNT, id="acc_old", email="old@example.org",
         created_us=now_us - 200 * DAY_US))  # fmt: skip
    for days in (100, 64, 60):
        books.book(hold(key=old, at=now_us - days * DAY_US))
    assert books.verified()["ok"]
    settings = AuthzSettings()
    with open_books(settings, lambda: Catalog.read(settings.catalog), Metrics()):
        for _ in range(500):
            if len(books.lines()) == 1:
                break
            time.sleep(0.02)
    found = books.verified()
    assert (found["ok"], found["rows"], found["pruned_rows"]) == (True, 1, 2)


# -- explain


def explained(books: Desk, asked: str) -> tuple[str, dict[str, Any]]:
    said = books.run("explain", asked)
    assert (said.status, said.err) == (0, "")
    ran = books.run("explain", asked, "--json")
    found: dict[str, Any] = json.loads(ran.out)
    return said.out, found


def ended(of: Hold, basis: Basis, nanousd: int, status: int, *tokens: int, **seen: Any) -> Charge:
    plain = {
        "reached": True, "answered": True, "complete": True, "events": 0, "content_bytes": 0,
        "duration_us": 1_500_000,
    }  # fmt: skip
    return Charge(
        of.id, basis, status, *tokens, nanousd, of.admitted_us + 2_000_000, Seen(**plain | seen)
    )


MILLION = 10**6
DEAR = Price(input=3 * MILLION, cached_input=MILLION, output=15 * MILLION, per_request=7)


def test_a_metered_call_and_its_arithmetic(books: Desk) -> None:
    of = hold(100 * 3 + 10 * 15 + 7, price=DEAR, input_bound=100, output_bound=10)
    books.book(of, ended(of, Basis.METERED, 10 * 3 + 2 + 4 * 15 + 7, 200, 10, 2, 0, 4))
    said, found = explained(books, of.request_id)
    lines = [line.strip() for line in said.splitlines()]
    assert lines[0] == f"Call {of.request_id} was admitted and cost $0.000000099."
    assert f"who        anna@example.org, team red; key `laptop` ({KEY.hint})" in lines
    assert "what       chat/completions of llama-3.1-8b" in lines
    assert "admitted   2026-11-18T11:06:40Z" in lines
    assert (
        "held       $0.000000457, the most it could cost: (100 input x $0.003 + 10 output x "
        "$0.015) per million tokens + $0.000000007 per request"
    ) in lines
    assert "ended      2026-11-18T11:06:42Z, 2.0 s later; the client got 200" in lines
    assert "metered    10 input, 2 cached input, 4 output tokens" in lines
    assert (
        "charged    (10 input x $0.003 + 2 cached input x $0.001 + 4 output x $0.015) per million "
        "tokens + $0.000000007 per request = $0.000000099"
    ) in lines
    assert "why        metered: the whole answer's usage was seen" in lines
    assert "counts in  window 0 of the key, 2026-11-06T11:06:40Z to 2026-12-06T11:06:40Z" in lines
    assert "counts in  window 1 of the account, 2026-11-01T11:06:40Z to 2026-12-01T11:06:40Z" in (
        lines
    )
    assert explained(books, of.id) == (said, found), "by hold id as well"
    assert (found["found"], found["charge"]["charge_nanousd"]) == ("row", 99)
    assert found["price_nanousd"]["per_request"] == 7
    assert [window["number"] for window in found["windows"]] == [0, 1]


@pytest.mark.parametrize(
    ("basis", "nanousd", "status", "tokens", "seen", "says"),
    [
        (
            Basis.ESTIMATED, 345, 200, (100, 0, 0, 3),
            {"complete": False, "events": 3, "content_bytes": 312},
            "estimated: the answer was cut; 312 bytes of content in 3 events were seen",
        ),
        (
            Basis.ESTIMATED, 457, 200, (100, 0, 0, 999), {"content_bytes": 999, "events": 9},
            "an estimate is never above the hold: $0.000000457",
        ),
        (
            Basis.ESTIMATED, 345, 200, (100, 0, 0, 3), {"content_bytes": 3, "events": 1},
            "estimated: the answer came without its usage; 3 bytes",
        ),
        (Basis.HELD, 457, 504, (0, 0, 0, 0), {"complete": False}, "held: a model server got it"),
        (
            Basis.HELD, 457, 504, (0, 0, 0, 0), {"complete": False, "answered": False},
            "held: a model server got it, and the call ended before its answer was seen",
        ),
        (
            Basis.HELD, 457, 200, (0, 0, 0, 0), {},
            "held: a model server got it, and what it answered does not say what it used",
        ),
        (Basis.HELD, 457, 504, (0, 0, 0, 0), {}, "charged    $0.000000457, the whole hold"),
        (
            Basis.RELEASED, 0, 503, (0, 0, 0, 0), {"reached": False, "answered": False},
            "released: it never reached a model server",
        ),
        (Basis.RELEASED, 0, 429, (0, 0, 0, 0), {}, "the model server answered 429 before any"),
        (Basis.METERED, 99, 200, (1, 0, 0, 0), {}, "and yet $0.000000099 was charged"),
    ],
)  # fmt: skip
def test_why(
    books: Desk, basis: Basis, nanousd: int, status: int, tokens: Any, seen: Any, says: str
) -> None:
    of = hold(457, price=DEAR, input_bound=100, output_bound=10)
    books.book(of, ended(of, basis, nanousd, status, *tokens, **seen))
    assert says in explained(books, of.id)[0]


def test_seconds_and_a_shared_context_are_told(books: Desk) -> None:
    price = Price(per_second=1000)
    of = hold(105_000, price=price, input_bound=9, output_bound=0)
    books.book(of, ended(of, Basis.METERED, 1500, 200, 0, 0, 0, 0))
    said, _ = explained(books, of.id)
    assert "the most it could cost: 105 s x $0.000001" in said
    assert "1.500000 s x $0.000001 = $0.0000015" in said
    assert "metered: all that its price depends on was seen" in said
    less = hold(100, price=DEAR, input_bound=100, output_bound=10)
    books.book(less, ended(less, Basis.RELEASED, 0, 503, 0, 0, 0, 0))
    assert "less, as input and output share the model's context" in explained(books, less.id)[0]


def test_a_row_of_before_these_were_kept(books: Desk) -> None:
    of = hold()
    books.book(of)
    books.execute(
        "UPDATE ledger SET price = NULL, tokens_per_byte = NULL, input_bound = NULL, "
        "output_bound = NULL, seen = NULL"
    )
    said, found = explained(books, of.id)
    assert "held       $0.0000001; its price was not kept then" in said
    assert "charged    $0.00000004; its price was not kept then" in said
    assert found["price_nanousd"] is None
    assert books.verified()["ok"], "that is no damage"


def test_what_is_open_or_only_in_the_journal(books: Desk) -> None:
    copied, journaled, over = hold(), hold(price=PRICE), hold()
    books.ledger.copy_holds([copied])
    with Journal(books.state / "journal") as journal:
        journal.take(journaled)
        journal.take(over)
        journal.end(charge(over))
    for of, state, says in (
        (copied, "open", "is still open."),
        (journaled, "open", "why        open: it still runs, or its end was not seen yet"),
        (over, "ended", "cost $0.00000004. It is not booked yet."),
    ):
        for asked in (of.id, of.request_id):
            said, found = explained(books, asked)
            assert says in said
            assert found["found"] == state


def test_a_refusal_is_asked_of_authz(books: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = {
        "reason": "model_not_allowed", "status": 403, "key_id": KEY.id, "user": KEY.user,
        "team": None, "alias": KEY.alias, "hint": KEY.hint, "method": "POST", "path": "/v1/x",
        "endpoint": None, "model": "m", "message": "This key may not.",
        "at": "2026-11-18T11:06:40Z",
    }  # fmt: skip
    answers: dict[str, Any] = {"r1": refusal, "r2": refusal | {"key_id": None, "model": None}}
    monkeypatch.setattr(Control, "ask", lambda _, method, id: answers.get(id))  # noqa: A006  its name on the wire
    said, found = explained(books, "r1")
    assert said.startswith("Call r1 was refused, and cost nothing.\n")
    assert f"anna@example.org; key `laptop` ({KEY.hint})" in said
    assert "answered  403 model_not_allowed" in said
    assert "why       This key may not." in said
    assert found == {"found": "refusal"} | refusal
    assert "nobody that is known" in explained(books, "r2")[0]
    ran = books.run("explain", "r3")
    assert ran.status == 1
    assert ran.err.startswith(
        "error: No row, no open hold and no recent refusal has that id: it was refused longer "
        "ago or before the gate's last start, never came here, or reached another gate."
    )


@pytest.mark.parametrize(
    "bad", ["r\x1b3", "r 3", "r\n3", "\udcff", "é", "", "r" * 257, "sk-tg_…x4Qz"]
)
def test_what_cannot_be_an_id_is_refused_and_not_repeated(books: Desk, bad: str) -> None:
    ran = books.run("explain", bad, "--json")
    assert ran.status == 1
    error = json.loads(ran.out)["error"]
    assert error["code"] == "invalid_id"
    assert ran.err == f"error: {error['message']}\n"
    assert not bad or bad not in ran.err
    assert ran.err.isascii()


def test_a_key_is_no_id_and_is_not_repeated(books: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_FOREIGN_KEYS", "(sk-)?[0-9a-zA-Z-]{20,}")
    key = keyformat.mint()
    of = books.book(hold())
    for given in (key, key[:-1], key[:20], f"x.{key}", "sk-0123456789abcdefghij"):
        for asked in ((given,), (given, "--json")):
            ran = books.run("explain", *asked)
            assert ran.status == 1
            assert "has the form of a key" in ran.err
            assert given[6:] not in ran.err + ran.out
    for id_ in (of.id, of.request_id):  # which the form of foreign keys fits as well
        assert explained(books, id_)[1]["found"] == "row"
    for arguments in (("explain", "one", key), (key,), ("explain", f"--{key}"), ("ledger", key)):
        ran = books.run(*arguments, "--json")
        assert ran.status == 2
        assert key[6:] not in ran.err + ran.out


def test_what_nobody_knows(books: Desk, later: None) -> None:
    of = hold()
    books.book(of)
    assert "refused (no authz runs that would know of it)" in books.run("explain", "x").err
    books("prune", "--before", "2026-11-19", "--confirm", "2026-11-19")
    ran = books.run("explain", of.id, "--json")
    assert ran.status == 1
    assert json.loads(ran.out)["error"]["code"] == "not_found"
    assert "its row was pruned, or it was refused" in ran.err
