"""`tensorgate ledger export|verify`, on a database with rows made as authz makes them."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ledgerdesk import Desk, Ran
from moneyhelp import ACCOUNT, KEY, OTHER_KEY, charge, draft, hold, limits
from peers.valkey import Valkey
from statehelp import NOW_US

import store.journal
from admin import ledgercheck, ledgerexport
from admin.ledgerexport import defused
from authz.books import Books, open_books
from authz.control import Method, Responder, methods, serving
from authz.metrics import Metrics
from authz.refusals import Refusals
from authz.settings import AuthzSettings
from store.catalog import Catalog
from store.clock import wall_us
from store.control import SOCKET_NAME
from store.counters.model import Taken
from store.journal import HEADER, Journal
from store.records import SECOND_US, Basis, Hold

TENSORGATE = Path(sys.executable).parent / "tensorgate"
DESIGNED = """hold_id, request_id, key_id, user, team, alias, model, endpoint, status, basis,
input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, charge_nanousd, hold_nanousd,
admitted_at, settled_at"""
FIELDS = [name.strip() for name in DESIGNED.split(",")]
HEAD = ",".join(f'"{name}"' for name in FIELDS)


# -- export


def test_rows_have_the_columns_of_the_contract(books: Desk) -> None:
    first = books.book(hold(500))
    second = hold(0, key=OTHER_KEY, team=None, model='né, "x"')
    books.book(second, charge(second, 0, basis=Basis.RELEASED, at=NOW_US + 1_500_000))
    rows = books.lines()
    assert [list(row) for row in rows] == [FIELDS, FIELDS]
    assert rows[0] == {
        "hold_id": first.id,
        "request_id": first.request_id,
        "key_id": KEY.id,
        "user": ACCOUNT.email,
        "team": "red",
        "alias": "laptop",
        "model": "llama-3.1-8b",
        "endpoint": "chat/completions",
        "status": 200,
        "basis": "metered",
        "input_tokens": 11,
        "cached_input_tokens": 3,
        "cache_write_tokens": 0,
        "output_tokens": 7,
        "charge_nanousd": 40,
        "hold_nanousd": 500,
        "admitted_at": "2026-11-18T11:06:40.000000Z",
        "settled_at": "2026-11-18T11:06:40.000000Z",
    }
    assert (rows[1]["team"], rows[1]["model"], rows[1]["basis"]) == (None, 'né, "x"', "released")
    assert rows[1]["settled_at"] == "2026-11-18T11:06:41.500000Z"
    ran = books("export", "--format", "csv")
    assert ran.out.splitlines()[0] == HEAD
    tables = list(csv.DictReader(io.StringIO(ran.out, newline="")))
    as_text = [{n: "" if v is None else str(v) for n, v in row.items()} for row in rows]
    assert tables == as_text
    assert "\r" not in ran.out


def test_nothing_is_a_head_or_nothing(books: Desk) -> None:
    assert books("export") == Ran(0, "", "")
    assert books("export", "--format", "csv") == Ran(0, HEAD + "\n", "")


@pytest.mark.parametrize(
    "model",
    [
        *('=HYPERLINK("http://x")', "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"),
        *("\N{FULLWIDTH EQUALS SIGN}1", "\N{FULLWIDTH PLUS SIGN}1"),
        *("\N{FULLWIDTH HYPHEN-MINUS}1", "\N{FULLWIDTH COMMERCIAL AT}SUM(A1)"),
    ],
)
def test_no_cell_is_a_formula(books: Desk, model: str) -> None:
    """A client names the model; where the catalog has a default, with any text."""
    books.book(hold(model=model, user="=cmd@example.org", team="-2"))
    [row] = csv.DictReader(io.StringIO(books("export", "--format", "csv").out, newline=""))
    assert (row["model"], row["user"], row["team"]) == (f"'{model}", "'=cmd@example.org", "'-2")
    assert books.lines()[0]["model"] == model, "JSON has it as it is"


def test_a_number_is_not_defused() -> None:
    assert [defused(each) for each in (0, 7, None, "a=b", "")] == [0, 7, "", "a=b", ""]


def test_filters(books: Desk) -> None:
    ends = []
    for number, key in enumerate((KEY, OTHER_KEY, KEY)):
        made = hold(key=key, team="blue" if number == 2 else "red")
        ends.append(books.book(made, charge(made, at=NOW_US + number * SECOND_US)).id)

    def found(*arguments: str) -> list[int]:
        return [ends.index(row["hold_id"]) for row in books.lines(*arguments)]

    assert found() == [0, 1, 2]
    assert found("--user", " Anna@Example.org") == [0, 1, 2]
    assert found("--user", "bob@example.org") == []
    assert found("--team", "red") == [0, 1]
    assert found("--key", OTHER_KEY.id) == [1]
    assert found("--key", KEY.id, "--team", "blue") == [2]
    assert found("--from", "2026-11-18T11:06:41Z") == [1, 2]
    assert found("--to", "2026-11-18T11:06:41") == [0], "without a zone it is UTC"
    assert found("--from", "2026-11-18T12:06:41+01:00", "--to", "2026-11-18T11:06:42Z") == [1]
    assert found("--from", "2026-11-19") == []
    assert found("--from", "2026-11-18", "--to", "2026-11-19") == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--from", "yesterday"), "--from is not a time. Write it like 2026-11-01"),
        (("--to", "2026-13-01"), "--to is not a time."),
        (("--from", "2026-11-02", "--to", "2026-11-02"), "--from is not before --to"),
        (("--user", "anna"), "not an e-mail address"),
        (("--output", "no/such/folder/rows"), "rows cannot be written: No such file"),
        (("--output", "."), "cannot be written: it is a folder"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    books: Desk, arguments: tuple[str, ...], says: str
) -> None:
    ran = books("export", *arguments)
    assert (ran.status, ran.out) == (1, "")
    assert says in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1


def test_a_file_is_there_as_a_whole_for_its_owner(
    books: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = books.folder / "rows.jsonl"
    out.write_text("old")
    books.book(hold())
    monkeypatch.setattr(ledgerexport, "exported", _fail)
    assert books("export", "--output", str(out)).status == 1
    assert out.read_text() == "old"
    monkeypatch.undo()
    for name, value in books.env.items():
        monkeypatch.setenv(name, value)
    assert books("export", "--output", str(out)) == Ran(0, "", "")
    assert json.loads(out.read_text())["alias"] == "laptop"
    assert out.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in books.folder.iterdir() if "rows" in each.name] == [out.name]
    assert books("export", "--output", "/dev/null") == Ran(0, "", "")


def _fail(*_: object) -> None:
    raise RuntimeError("on purpose")


def test_more_rows_than_a_batch(books: Desk) -> None:
    made = [hold() for _ in range(2300)]
    books.ledger.book([(each, charge(each)) for each in made])
    assert [row["hold_id"] for row in books.lines()] == [each.id for each in made]


def test_a_reader_that_has_seen_enough_ends_it_quietly(books: Desk) -> None:
    made = [hold() for _ in range(2300)]
    books.ledger.book([(each, charge(each)) for each in made])
    environment = {"PATH": os.environ["PATH"]} | books.env
    with subprocess.Popen(
        [TENSORGATE, "ledger", "export"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["hold_id"] == made[0].id
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_a_terminal_sees_progress_and_a_log_does_not(books: Desk) -> None:
    made = [hold() for _ in range(1500)]
    books.ledger.book([(each, charge(each)) for each in made])
    hasty = "import admin.progress as p; p.QUIET_SECONDS = p.EVERY_SECONDS = 0;"
    code = f"{hasty} import tensorgate.cli as c, sys; sys.exit(c.run(sys.argv[1:]))"

    def shown(*arguments: str) -> str:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", code, "ledger", *arguments],
            env={"PATH": os.environ["PATH"]} | books.env,
            stdout=subprocess.PIPE,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            assert process.stdout is not None
            out, seen = process.stdout.read(), b""
            with suppress(OSError):  # its other end is closed
                while select.select([ours], [], [], 5)[0] and (part := os.read(ours, 4096)):
                    seen += part
            os.close(ours)
            assert process.wait(30) == 0
            assert b"\x1b" not in out
        return seen.decode()

    seen = shown("export")
    assert "500 of 1,500 rows" in seen
    assert seen.endswith("\r\x1b[K"), "the line is taken away"
    assert "1,000 rows read" in shown("verify")


# -- verify


@contextmanager
def counting(
    books: Desk, change: Callable[[dict[str, Method]], dict[str, Method]] = lambda known: known
) -> Iterator[Books]:
    """An authz's books and its control socket, in this process; `change` breaks its answers."""
    settings = AuthzSettings()
    settings.runtime.mkdir(mode=0o700, exist_ok=True)
    with open_books(settings, lambda: Catalog.read(settings.catalog), Metrics()) as opened:
        refusals = Refusals(wall_us, settings.key_form())
        known = change(methods(opened, reload=dict, try_out=dict, catalog=dict, refusals=refusals))
        with serving(settings.runtime / SOCKET_NAME, Responder(settings.state, known)):
            yield opened


def test_authz_says_at_its_start_which_plans_the_catalog_has_lost(
    books: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = books.folder / "catalog.yaml"
    catalog.write_text("plans: {free: {}, pro: {}}\ndefault_plan: free\n")
    with counting(books):
        assert caplog.records == []
    catalog.write_text("plans: {free: {}}\ndefault_plan: free\n")
    with counting(books):
        [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("1 accounts are on plan 'pro', which the catalog does")


def take(opened: Books, nanousd: int) -> Hold:
    asked = draft(nanousd)
    taken = opened.seeded.take(asked.request_id, asked, limits())
    assert isinstance(taken, Taken)
    assert taken.hold is not None
    return taken.hold


def end(opened: Books, of: Hold) -> None:
    """End a hold, and wait until it is booked and settled."""
    opened.settler.end(of, charge(of, 40))
    for _ in range(500):
        if opened.counters.hold(of.account_id, of.id) is None:
            return
        time.sleep(0.01)
    raise AssertionError("not booked")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ledgercheck, "PATIENCE_SECONDS", 1.0
    )  # what is copied a second late is not missed
    monkeypatch.setattr(ledgercheck, "LOOK_EVERY_SECONDS", 0.05)


def test_without_an_authz(books: Desk) -> None:
    assert books.verified() == {
        "ok": True,
        "rows": 0,
        "charged_nanousd": 0,
        "open_holds": 0,
        "held_nanousd": 0,
        "pruned_rows": 0,
        "pruned_nanousd": 0,
        "authz": None,
        "faults": [],
    }
    books.book(hold(500))
    books.ledger.copy_holds([hold(300)])
    with Journal(books.state / "journal") as journal:
        journal.take(hold(70))
        journal.take(books.book(hold(500)))  # its row came, and then the lights went out
    found = books.verified()
    assert (found["rows"], found["charged_nanousd"]) == (2, 80)
    assert (found["open_holds"], found["held_nanousd"]) == (2, 370)
    ran = books("verify")
    assert ran.status == 0
    assert ran.out.startswith("The ledger is in order.\n")
    assert "not compared: no authz runs on this state" in ran.out


def test_rows_that_do_not_add_up_are_named(books: Desk) -> None:
    held, released, estimated, moved = hold(), hold(), hold(), hold()
    books.book(held, charge(held, 100, basis=Basis.HELD))
    books.book(released, charge(released, 0, basis=Basis.RELEASED))
    books.book(estimated, charge(estimated, 90, basis=Basis.ESTIMATED))
    books.book(moved)
    assert books.verified()["ok"]
    where = "WHERE hold_id = '{}'"
    books.execute(
        f"UPDATE ledger SET charge_nanousd = 99 {where.format(held.id)}",
        f"UPDATE ledger SET charge_nanousd = 1 {where.format(released.id)}",
        f"UPDATE ledger SET charge_nanousd = 101 {where.format(estimated.id)}",
        f"UPDATE ledger SET key_window = 3 {where.format(moved.id)}",
    )
    faults = books.verified()["faults"]
    assert len(faults) == 8
    assert faults[4:] == [
        "The rows of window 1 of acc_anna add up to $0.000000241, and not to $0.00000023, "
        "which is kept as spent.",
        "The rows of window 0 of key_laptop add up to $0.000000201, and not to $0.00000023, "
        "which is kept as spent.",
        "The rows of window 3 of key_laptop add up to $0.00000004, and not to $0.00, "
        "which is kept as spent.",
        "The rows of 2026-11-18 of anna@example.org, team red, key laptop (key_laptop), model "
        "'llama-3.1-8b' are not what is kept of that day: they have charge_nanousd 241 and "
        "not 230.",
    ]
    for each in (held, released, estimated, moved):
        assert sum(each.id in fault for fault in faults) == 1
    ran = books("verify")
    assert ran.status == 1
    assert ran.out.startswith("The ledger is NOT in order: 8 faults.\n")
    assert [line for line in ran.out.splitlines() if line.startswith("fault: ")] == [
        f"fault: {fault}" for fault in faults
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("basis", "'paid'"),
        ("charge_nanousd", "'abc'"),
        ("charge_nanousd", "-5"),
        ("settled_us", "1.5"),
        ("account_window", "'x'"),
        ("model", "x'ff00'"),
    ],
)
def test_a_row_that_is_none_of_ours_is_named(
    books_on_sqlite: Desk, column: str, value: str
) -> None:
    """SQLite keeps any type in any column."""
    books = books_on_sqlite
    books.book(hold())
    books.book(hold())
    books.execute(f"UPDATE ledger SET {column} = {value} WHERE seq = 2")
    found = books.verified()
    assert found["faults"] == [f"Row 2 has no such {column} as a row can have."]
    assert (found["rows"], found["charged_nanousd"]) == (2, 40)
    ran = books("export")
    assert ran.status == 1
    assert ran.err.startswith("error: Row 2 of the ledger was not written by Tensorgate. ")
    assert len(ran.out.splitlines()) == 1


def test_two_rows_of_a_request_and_a_booked_hold_that_is_open(books: Desk) -> None:
    first, second = hold(), hold()
    books.book(first)
    books.book(second)
    books.ledger.copy_holds([third := hold()])
    books.execute(
        f"UPDATE ledger SET request_id = '{first.request_id}'",
        f"UPDATE holds SET hold_id = '{first.id}' WHERE hold_id = '{third.id}'",
    )
    faults = " ".join(books.verified()["faults"])
    assert f"Request {first.request_id} has 2 rows." in faults
    assert f"Hold {first.id} is both open and booked." in faults


def test_a_damaged_journal_is_a_fault(books: Desk) -> None:
    with Journal(books.state / "journal") as journal:
        journal.take(hold())
        journal.take(hold())
    path = books.state / "journal"
    path.write_bytes(path.read_bytes().replace(b"llama", b"lhama", 1))
    [fault] = books.verified()["faults"]
    assert "is damaged at byte" in fault


def test_a_running_authz_agrees(books: Desk) -> None:
    with counting(books) as opened:
        ended = take(opened, 300)
        take(opened, 200)
        end(opened, ended)
        found = books.verified()
    assert found["ok"], found
    assert (found["rows"], found["charged_nanousd"]) == (1, 40)
    assert (found["open_holds"], found["held_nanousd"]) == (1, 200)
    assert found["authz"] == {
        "accounts_compared": 1, "accounts_moving": 0, "ends_waiting": 0, "ledger_lag_seconds": 0,
    }  # fmt: skip


def test_counters_that_are_off_are_named(books: Desk, hasty: None) -> None:
    with counting(books) as opened:
        ended = take(opened, 300)
        end(opened, ended)
        assert books.verified()["ok"]
        books.execute(f"UPDATE spent SET nanousd = 0 WHERE scope = '{KEY.id}'")
        off, fault = books.verified()["faults"]
    assert off == (
        "The rows of window 0 of key_laptop add up to $0.00000004, and not to $0.00, "
        "which is kept as spent."
    )
    assert fault.startswith(
        "Account anna@example.org: counters and ledger differ by $0.00000004. Restart the gate"
    )


def test_rows_that_are_gone_are_missed_by_their_sums(books: Desk, hasty: None) -> None:
    with counting(books) as opened:
        end(opened, take(opened, 300))
        today = books.lines()[0]["settled_at"][:10]
        books.execute("DELETE FROM ledger")
        faults = books.verified()["faults"]
    rows = "add up to $0.00, and not to $0.00000004, which is kept as spent."
    counted = (
        "Rows are missing: 0 rows are there and 0 were pruned, of 1 that were booked. Missing "
        "are the numbers 1."
    )
    assert faults == [
        *([counted] if books.engine.dialect.name == "sqlite" else []),  # only it counts rows
        f"The rows of window 0 of key_laptop {rows}",
        f"The rows of {today} of anna@example.org, team red, key laptop (key_laptop), model "
        "'llama-3.1-8b' are not what is kept of that day: they have calls_metered 0 and not 1, "
        "input_tokens 0 and not 11, cached_input_tokens 0 and not 3, output_tokens 0 and not 7, "
        "charge_nanousd 0 and not 40.",
    ]


def test_accounts_that_move_are_no_fault(books: Desk, hasty: None) -> None:
    def moving(known: dict[str, Method]) -> dict[str, Method]:
        return known | {"drift": lambda _: {ACCOUNT.id: None}}

    with counting(books, moving) as opened:
        take(opened, 300)
        found = books.verified()
        assert found["ok"]
        assert (found["authz"]["accounts_compared"], found["authz"]["accounts_moving"]) == (0, 1)
        assert "1 moved at every look" in books("verify").out


def test_open_holds_that_somebody_lost_are_named(
    books: Desk, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.journal, "LOOK_SECONDS", 3600)  # or it would be healed
    nobodys = hold(33)
    with counting(books) as opened:
        mine = take(opened, 300)
        opened.ledger.copy_holds([mine])
        opened.ledger.copy_holds([nobodys])
        [fault] = books.verified()["faults"]
        assert fault == f"Hold {nobodys.id} is open in the database, and authz does not count it."
        books.execute(f"DELETE FROM holds WHERE hold_id = '{nobodys.id}'")
        assert books.verified()["ok"]
        books.execute("DELETE FROM holds")
        opened.upkeep.stop()  # or it would copy it again one day
        [fault] = books.verified()["faults"]
        assert fault == f"Hold {mine.id} is counted, and not in the database's copy."
        opened.ledger.copy_holds([mine])
        journal = books.state / "journal"
        journal.unlink()
        [fault] = books.verified()["faults"]
        assert fault.startswith(f"authz runs, and there is no journal {journal}: a crash")
        journal.write_bytes(HEADER)
        [fault] = books.verified()["faults"]
        assert fault == f"Hold {mine.id} is counted, and not in the journal."


def test_counters_in_redis_have_no_journal_and_their_holds_are_looked_for_all_the_same(
    books: Desk, hasty: None, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey.ask("FLUSHALL")
    monkeypatch.setenv("TENSORGATE_REDIS_URL", valkey.url)
    with counting(books) as opened:
        mine = take(opened, 300)
        found = books.verified()
        assert (found["faults"], found["open_holds"]) == ([], 1)
        assert found["authz"]["accounts_compared"] == 1
        assert not (books.state / "journal").exists()
        books.execute("DELETE FROM holds")
        [fault] = books.verified()["faults"]
        assert fault == f"Hold {mine.id} is counted, and not in the database's copy."
        nobodys = hold(33)
        opened.ledger.copy_holds([mine, nobodys])
        [fault] = books.verified()["faults"]
        assert fault == f"Hold {nobodys.id} is open in the database, and authz does not count it."


def test_a_journal_that_somebody_removed_is_there_again(
    books: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.journal, "LOOK_SECONDS", 0.1)
    with counting(books) as opened:
        take(opened, 300)
        (books.state / "journal").unlink()
        assert books.verified()["ok"]
        assert (books.state / "journal").exists()


def test_an_authz_that_hangs_is_said(books: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(known: dict[str, Method]) -> dict[str, Method]:
        return known | {"holds": _fail}

    with counting(books, broken):
        ran = books("verify")
    assert ran.status == 1
    assert ran.err.startswith("error: internal error: RuntimeError; see authz's log.")
