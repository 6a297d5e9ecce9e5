"""The journal: what was acknowledged comes back, what was torn goes, what is damaged is told."""

from __future__ import annotations

import logging
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from moneyhelp import KEY, charge, hold
from waiting import until

from store import journal as journals
from store.errors import JournalDamagedError, StoreUnavailableError
from store.holdformat import pack_charge, pack_hold, unpack_charge, unpack_hold
from store.journal import HEADER, Contents, Journal, read
from store.records import Basis, Charge, Hold, Price, Window

EMPTY = Contents((), (), len(HEADER))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as opened:
        yield opened


def contents(path: Path) -> Contents:
    return read(path.read_bytes(), path)


def reopened(path: Path) -> Contents:
    with Journal(path) as journal:
        return journal.found


# --- the formats, byte by byte: what was once written is read for ever


def test_records_of_the_first_version_are_read_for_ever() -> None:
    raw = (
        b"tensorgate journal 1\n"
        b'f228503d T["h1","r1","acc_1","key_1","a@b.org",null,"laptop","m:\xc3\xa9","chat",1234567,'
        b'[1,2,3,4,5,6],"0.25",10,20,"key_1",[["key_1",3],["acc_1",0]],1795000000000000]\n'
        b'5bcd7079 T["h2","r2","acc_1","key_1","a@b.org","red","laptop","m","chat",0,'
        b'[0,0,0,0,0,0],"1",0,0,null,[["key_1",3]],1795000000000001]\n'
        b'bd1f226f E{"hold_id":"h1","basis":"estimated","status":200,"input_tokens":1,'
        b'"cached_input_tokens":2,"cache_write_tokens":3,"output_tokens":4,"nanousd":5,'
        b'"settled_us":6}\n'
        b"ed214c21 Dh2\n"
    )
    assert read(raw, Path("journal")) == Contents(
        (
            Hold(
                id="h1",
                request_id="r1",
                account_id="acc_1",
                key_id="key_1",
                user="a@b.org",
                team=None,
                alias="laptop",
                model="m:é",
                endpoint="chat",
                nanousd=1_234_567,
                price=Price(1, 2, 3, 4, 5, 6),
                tokens_per_byte="0.25",
                input_bound=10,
                output_bound=20,
                minute="key_1",
                windows=(Window("key_1", 3), Window("acc_1", 0)),
                admitted_us=1_795_000_000_000_000,
            ),
        ),
        (Charge("h1", Basis.ESTIMATED, 200, 1, 2, 3, 4, 5, 6),),
        len(raw),
    )


def test_holds_and_charges_come_back_as_they_were() -> None:
    for opened in (hold(0), hold(5, team=None, model='"\n\\\t\u2028é😀', minute="m")):
        assert unpack_hold(pack_hold(opened)) == opened
        assert b"\n" not in pack_hold(opened)
        end = charge(opened, 3)
        assert unpack_charge(pack_charge(end)) == end


@pytest.mark.parametrize(
    "wrong",
    [{"model": "lone \ud800"}, {"model": "nul \0"}],
)
def test_what_no_store_can_keep_is_refused_before_anything_is_written(
    wrong: dict[str, object], journal: Journal, path: Path
) -> None:
    with pytest.raises(ValueError, match=r"hold|surrogates"):
        journal.take(hold(**wrong))  # type: ignore[arg-type]
    assert contents(path) == EMPTY


@pytest.mark.parametrize(
    "packed", [b"[]", b"{}", b'["a"]', pack_hold(hold()).replace(b"100", b'"100"'), b"nonsense"]
)
def test_a_hold_of_another_form_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack_hold(packed)


# --- what comes back


def test_what_was_taken_and_not_done_comes_back_in_order(journal: Journal, path: Path) -> None:
    first, second, third, fourth = (hold(n) for n in range(4))
    for opened in (first, second, third, fourth):
        journal.take(opened)
    journal.end(charge(second, 7))
    journal.end(charge(second, 8))
    journal.end(charge(third, 9))
    journal.done(third.id)
    journal.done(first.id)
    journal.close()
    assert reopened(path) == Contents((second, fourth), (charge(second, 7),), path.stat().st_size)


def test_a_reopened_journal_goes_on_where_it_was(path: Path) -> None:
    first, second = hold(1), hold(2)
    with Journal(path) as journal:
        journal.take(first)
        journal.end(charge(first, 1))
    with Journal(path) as journal:
        journal.take(first)
        journal.end(charge(first, 2))
        journal.take(second)
        journal.done(first.id)
    assert reopened(path).holds == (second,)
    assert path.read_bytes().count(b"\n") == 5, "nothing is written a second time"


def test_a_group_is_one_write_and_comes_back_as_if_written_one_by_one(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third, stranger = (hold(n) for n in range(4))
    for opened in (first, second, third):
        journal.take(opened)
    write, writes = os.write, list[bytes]()

    def counted(file: int, data: bytes) -> int:
        writes.append(data)
        return write(file, data)

    monkeypatch.setattr(os, "write", counted)
    journal.end(charge(first, 7), charge(second, 8), charge(first, 9), charge(stranger))
    assert contents(path).ends == (charge(first, 7), charge(second, 8))
    journal.done(first.id, stranger.id, third.id)
    journal.end()
    journal.done()
    journal.done(first.id, third.id)
    assert [data.count(b"\n") for data in writes] == [2, 2]
    journal.close()
    assert reopened(path) == Contents((second,), (charge(second, 8),), path.stat().st_size)


@pytest.mark.parametrize("part", [1, 150, -1])
def test_of_a_group_that_could_not_be_written_whole_nothing_stays(
    part: int, journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [hold(n) for n in range(3)]
    for each in opened:
        journal.take(each)
    before, write = path.read_bytes(), os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: write(file, data[:part]))
        with pytest.raises(StoreUnavailableError, match="journal"):
            journal.end(*map(charge, opened))
    assert path.read_bytes() == before
    journal.end(*map(charge, opened))
    assert contents(path).ends == tuple(map(charge, opened))


def test_ends_of_holds_that_are_not_open_are_not_kept(journal: Journal, path: Path) -> None:
    opened = hold()
    journal.end(charge(opened))
    journal.done(opened.id)
    journal.take(opened)
    journal.done(opened.id)
    journal.end(charge(opened))
    assert contents(path) == Contents((), (), path.stat().st_size)
    orphan = journals._line(b"E" + pack_charge(charge(opened)))
    assert read(HEADER + orphan, path).ends == ()
    taken = journals._line(b"T" + pack_hold(opened))
    second = journals._line(b"E" + pack_charge(charge(opened, 99)))
    assert read(HEADER + taken + orphan + second, path).ends == (charge(opened),)


def test_the_file_is_private_also_if_it_was_not(path: Path) -> None:
    for _ in range(2):
        Journal(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)


def test_a_link_is_not_followed_and_a_folder_is_no_journal(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailableError, match="journal"):
        Journal(path)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(StoreUnavailableError, match="journal"):
        Journal(tmp_path)


# --- torn and damaged


def written(path: Path, number: int = 3) -> tuple[bytes, list[Hold]]:
    opened = [hold(n) for n in range(number)]
    with Journal(path) as journal:
        for each in opened:
            journal.take(each)
    return path.read_bytes(), opened


def test_a_tail_that_is_torn_at_any_byte_is_cut_and_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw, opened = written(path)
    whole = raw.rindex(b"\n", 0, -1) + 1
    for length in range(whole, len(raw)):
        found = read(raw[:length], path)
        assert found == Contents(tuple(opened[:-1]), (), whole)
    path.write_bytes(raw[: whole + 9])
    with caplog.at_level(logging.WARNING):
        assert reopened(path).holds == tuple(opened[:-1])
    assert "9 bytes" in caplog.text
    assert path.read_bytes() == raw[:whole]
    assert reopened(path).holds == tuple(opened[:-1])


@pytest.mark.parametrize("garbage", [b"\0" * 5000, b"\n\n\n", b"x\ny\nz", b"00000000 \n"])
def test_a_tail_of_anything_is_cut(garbage: bytes, path: Path) -> None:
    raw, opened = written(path)
    path.write_bytes(raw + garbage)
    assert reopened(path).holds == tuple(opened)
    assert path.read_bytes() == raw


def test_a_journal_that_was_only_being_made_is_empty(path: Path) -> None:
    for length in range(len(HEADER)):
        path.write_bytes(HEADER[:length])
        assert reopened(path).holds == ()
        assert path.read_bytes() == HEADER


def test_damage_at_any_byte_before_the_last_record_is_an_error_that_names_it(path: Path) -> None:
    raw, _ = written(path)
    starts = [len(HEADER)]
    starts.append(raw.index(b"\n", starts[0]) + 1)
    last = raw.rindex(b"\n", 0, -1)
    for at in range(last):
        damaged = bytearray(raw)
        damaged[at] ^= 0x01
        record = 0 if at < len(HEADER) else max(start for start in starts if start <= at)
        with pytest.raises(JournalDamagedError) as caught:
            read(bytes(damaged), path)
        if at < len(HEADER):
            assert "byte 0" in str(caught.value) or "another version" in str(caught.value)
        else:
            assert f"byte {record}." in str(caught.value)


def test_a_damaged_journal_is_left_as_it_is(path: Path) -> None:
    raw, _ = written(path)
    damaged = raw.replace(b"acc_anna", b"acc_anne", 1)
    path.write_bytes(damaged)
    with pytest.raises(JournalDamagedError, match="Move it away"):
        Journal(path)
    assert path.read_bytes() == damaged


def test_records_of_a_kind_that_is_not_known_are_an_error(path: Path) -> None:
    for body in (b"Xfuture", b"T[]", b"E{}"):
        with pytest.raises(JournalDamagedError, match="byte 21"):
            read(HEADER + journals._line(body), path)
    with pytest.raises(JournalDamagedError, match="another version"):
        read(HEADER.replace(b"1", b"2"), path)


# --- when the disk does not play along


def test_a_record_that_could_only_be_written_in_part_leaves_nothing(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = hold(1)
    journal.take(kept)
    write = os.write
    for part in (1, 50):
        monkeypatch.setattr(os, "write", lambda file, data, part=part: write(file, data[:part]))
        with pytest.raises(StoreUnavailableError, match="cannot be written"):
            journal.take(hold(2))
    monkeypatch.setattr(os, "write", write)
    assert path.read_bytes().endswith(b"\n")
    after = hold(3)
    journal.take(after)
    assert contents(path).holds == (kept, after)


def test_a_full_disk_refuses_and_is_forgotten_when_it_is_over(tmp_path: Path) -> None:
    """A real limit on the file's size stands for the disk, in a process of its own."""
    script = f"""
import resource
from pathlib import Path
from moneyhelp import hold
from store.errors import StoreUnavailableError
from store.journal import Journal, read
path = Path({str(tmp_path / "journal")!r})
journal = Journal(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
opened = [hold(n) for n in range(20)]
taken = []
for each in opened:
    try:
        journal.take(each)
    except StoreUnavailableError:
        continue
    taken.append(each)
assert 1 <= len(taken) < 5, len(taken)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.take(opened[-1])
journal.close()
assert read(path.read_bytes(), path).holds == (*taken, opened[-1])
print("passed")
"""
    assert resource.RLIMIT_FSIZE is not None
    ran = subprocess.run([sys.executable, "-c", script], **in_tests(), check=False)
    assert (ran.returncode, ran.stdout) == (0, "passed\n"), ran.stderr


def in_tests() -> dict[str, object]:
    root = Path(__file__).parents[2]
    return {
        "cwd": root,
        "env": {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
        "capture_output": True,
        "text": True,
    }


def test_a_file_that_cannot_be_trusted_any_more_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk gave an error for a sync: what the kernel then dropped, nobody knows."""
    monkeypatch.setattr(journals, "HEAL_SECONDS", 0.02)
    sync, broken = journals._fsync, threading.Event()

    def syncing(file: int) -> None:
        if broken.is_set():
            raise OSError(5, "Input/output error")
        sync(file)

    monkeypatch.setattr(journals, "_fsync", syncing)
    with Journal(path) as journal:
        first, second, third = hold(1), hold(2), hold(3)
        journal.take(first)
        broken.set()
        journal.take(second)
        until(lambda: journal._fault is not None)
        with pytest.raises(StoreUnavailableError, match="Input/output error"):
            journal.take(third)
        inode = path.stat().st_ino
        broken.clear()
        until(lambda: journal._fault is None)
        journal.take(third)
        assert path.stat().st_ino != inode
        assert contents(path).holds == (first, second, third)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Path.unlink, "is gone"),
        (lambda path: path.rename(path.with_name("away")), "is gone"),
        (lambda path: path.with_name("other").rename(path), "was replaced by another file"),
        (lambda path: os.truncate(path, 0), "was changed by somebody else"),
        (lambda path: os.truncate(path, 100_000), "was changed by somebody else"),
    ],
)
def test_a_file_that_somebody_took_away_is_written_anew(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], object],
    said: str,
) -> None:
    monkeypatch.setattr(journals, "LOOK_SECONDS", 0.02)
    path.with_name("other").write_bytes(HEADER)
    with Journal(path) as journal:

        def in_order() -> bool:
            with journal._lock:
                return not journal._wrong()

        first, second, third = hold(1), hold(2), hold(3)
        journal.take(first)
        journal.end(charge(first, 9))
        time.sleep(0.2)
        assert caplog.records == []
        harm(path)
        journal.take(second)  # nothing is refused meanwhile
        until(lambda: "written anew" in caplog.text)
        until(in_order)
        journal.take(third)
        assert contents(path).holds == (first, second, third)
        assert contents(path).ends == (charge(first, 9),)
        time.sleep(0.2)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert said in record.getMessage()


def test_where_it_cannot_be_nothing_is_taken_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(journals, "HEAL_SECONDS", 0.02)
    folder = tmp_path / "state"
    folder.mkdir()
    path = folder / "journal"
    with Journal(path) as journal:
        first, second = hold(1), hold(2)
        journal.take(first)
        folder.rename(tmp_path / "away")
        until(lambda: journal._fault is not None)
        with pytest.raises(StoreUnavailableError, match="it is gone"):
            journal.take(second)
        folder.mkdir()
        until(lambda: journal._fault is None)
        journal.take(second)
        assert contents(path).holds == (first, second)


def test_a_defect_does_not_end_the_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal(path) as journal:
        turn, broken = journal._turn, threading.Event()

        def breaks() -> bool:
            if not broken.is_set():
                broken.set()
                raise KeyError("a defect of ours")
            return turn()

        monkeypatch.setattr(journal, "_turn", breaks)
        journal.take(hold(1))
        assert broken.wait(5)
        journal.take(hold(2))
        until(lambda: not journal._dirty)
    assert "and goes on" in caplog.text


def test_every_record_is_synced_soon(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(journals, "_fsync", lambda file: synced.append(os.fstat(file).st_size))
    with Journal(path) as journal:
        for _ in range(3):
            begun = time.monotonic()
            for _ in range(100):
                journal.take(hold())
            size = path.stat().st_size
            before = len(synced)
            until(lambda size=size: synced and synced[-1] == size)
            assert time.monotonic() - begun < 1
            assert len(synced) - before <= 3, "in groups"
        quiet = len(synced)
        time.sleep(3 * journals.SYNC_SECONDS)
        assert len(synced) == quiet, "an idle journal leaves the disk alone"


def test_closing_does_not_wait_for_a_record_that_never_comes(journal: Journal) -> None:
    """close() speaks up just when the thread has slept and is about to clear its wake-up call."""
    asleep, closing = threading.Event(), threading.Event()

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            asleep.set()
            closing.wait()
            return False

        def set(self) -> None:
            super().set()
            threading.Timer(0.05, closing.set).start()

    journal._stop = Late()
    journal.take(hold())
    asleep.wait()
    closer = threading.Thread(target=journal.close, daemon=True)
    closer.start()
    closer.join(5)
    assert not closer.is_alive()


def test_a_closed_journal_takes_nothing(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    journal.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        journal.take(hold())


# --- rewriting


def test_dead_records_are_left_out_and_the_file_stays_small(path: Path) -> None:
    limit = 20_000
    with Journal(path, compact_bytes=limit) as journal:
        kept = [hold(n) for n in range(5)]
        for opened in kept:
            journal.take(opened)
        journal.end(charge(kept[3], 7))
        largest = 0
        for round_ in range(6):
            for _ in range(150):
                dead = hold()
                journal.take(dead)
                journal.end(charge(dead))
                journal.done(dead.id)
            largest = max(largest, path.stat().st_size)
            until(lambda: path.stat().st_size < limit, 5)
            assert contents(path).holds == tuple(kept), round_
        assert largest > limit
        assert contents(path).ends == (charge(kept[3], 7),)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert reopened(path).holds == tuple(kept)


def test_nothing_is_lost_while_it_is_rewritten(path: Path) -> None:
    """Threads take and end while rewrites go on all the time; a copy at any moment is whole."""
    stop = threading.Event()
    with Journal(path, compact_bytes=2000) as journal:
        journal._stop.wait = lambda _=None: journal._stop.is_set()  # type: ignore[method-assign]
        inodes = {path.stat().st_ino}
        deadline = time.monotonic() + 20

        def work(number: int) -> list[Hold]:
            mine: list[Hold] = []
            turn = 0
            while turn < 100 or (len(inodes) < 5 and time.monotonic() < deadline):
                turn += 1
                opened = hold(number)
                journal.take(opened)
                if turn % 10:
                    journal.end(charge(opened))
                    journal.done(opened.id)
                else:
                    mine.append(opened)
                    assert opened in contents(path).holds
            return mine

        def watch() -> None:
            while not stop.is_set():
                inodes.add(path.stat().st_ino)
                contents(path)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(4) as pool:
            kept = [opened for mine in pool.map(work, range(4)) for opened in mine]
        stop.set()
        watcher.join()
    assert len(inodes) >= 5, "it was rewritten several times"
    assert sorted(h.id for h in reopened(path).holds) == sorted(h.id for h in kept)


def test_a_rewrite_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journals, "_write_all", refuse)
    with Journal(path, compact_bytes=100) as journal:
        kept = hold()
        journal.take(kept)
        for _ in range(10):
            dead = hold()
            journal.take(dead)
            journal.done(dead.id)
        until(lambda: "could not be rewritten" in caplog.text)
        journal.take(after := hold())
    assert reopened(path).holds == (kept, after)


def test_a_rewrite_that_a_crash_cut_short_leaves_the_journal(path: Path) -> None:
    raw, opened = written(path)
    path.with_name("journal.new").write_bytes(raw[:40])
    with Journal(path, compact_bytes=10) as journal:
        journal.done(opened[0].id)
        journal.done(opened[1].id)
        until(lambda: not path.with_name("journal.new").exists())
        until(lambda: path.stat().st_size < len(raw))
    assert reopened(path).holds == (opened[2],)


# --- the process dies


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    script = f"""
import sys
from pathlib import Path
from moneyhelp import hold
from store.journal import Journal
journal = Journal(Path({str(path)!r}), compact_bytes=3000)
n = 0
while True:
    opened = hold(n)
    journal.take(opened)
    sys.stdout.write(opened.id + "\\n")
    sys.stdout.flush()
    if n % 3:
        journal.done(opened.id)
        sys.stdout.write("done " + opened.id + "\\n")
        sys.stdout.flush()
    n += 1
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        **{k: v for k, v in in_tests().items() if k != "capture_output"},  # type: ignore[arg-type]
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(600)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait()
    words = [line.split() for line in lines if line.endswith("\n")]
    done = {word[1] for word in words if len(word) == 2}
    taken = {word[0] for word in words if len(word) == 1}
    found = {opened.id for opened in reopened(path).holds}
    last = max(taken)
    assert taken - done - {last} <= found, "an acknowledged hold is open unless it was done"
    assert not found & done
    assert len(found - taken) <= 1, "the one that was being acknowledged"


def test_it_says_nothing_of_the_key_but_its_id(journal: Journal, path: Path) -> None:
    journal.take(hold())
    assert KEY.id.encode() in path.read_bytes()
    assert KEY.hint.encode() not in path.read_bytes()
