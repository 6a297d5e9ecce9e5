"""The journal of open holds, for counters in process: what a crash must not forget.

One file, only appended to, one `write` a take and one for all that ended together: what a call
has returned for is in the kernel's hands, and survives the death of this process in any form. A
power failure is another matter. A thread syncs the file in groups, so at worst it costs the
records of the last 50 ms and of the time that an fsync takes; holds among them that SQL has a
copy of come back from there.

FROZEN FORMAT. A first line HEADER, then one line a record: CRC-32 of the rest as 8 hex digits, a
space, the kind, and (JSON has no raw newline in it) the payload:

  T hold      (store.holdformat) money was taken; written before its request is answered
  E charge    (store.holdformat) how the hold ended; written before its row is in SQL
  D hold_id   its row is in SQL and the counters were settled: both records above are dead

A line that does not add up, with no good line behind it, is a torn tail: it was never
acknowledged, and is cut. With a good line behind it the file is damaged, which is an error.
New kinds come with a new header; what an earlier header announces is read for ever.

Worst cases. File: dead records are left out by a rewrite (to the side, then renamed) as soon as
they outweigh the live ones and 8 MB. Memory: the records of all open holds, about 500 bytes each.
A file that somebody removed, replaced or cut is written anew, from memory, within a second or
two; where that fails, nothing is taken. A crash before that costs what the file had.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOENT, ENOSPC
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import Final, Self
from zlib import crc32

from store.errors import JournalDamagedError, StoreUnavailableError
from store.holdformat import pack_charge, pack_hold, unpack_charge, unpack_hold
from store.records import Charge, Hold

JOURNAL_NAME: Final = "journal"
HEADER: Final = b"tensorgate journal 1\n"
SYNC_SECONDS: Final = 0.05
HEAL_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0  # after the file, also if nothing is written
COMPACT_BYTES: Final = 8 * 1024 * 1024
_CRC_DIGITS: Final = 8
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal says: open holds (oldest first), known ends of some, bytes that count."""

    holds: tuple[Hold, ...]
    ends: tuple[Charge, ...]
    good_bytes: int


class Journal:
    """The open file. Thread-safe; one process at a time may have it (the lease sees to that).

    Opening reads it and cuts a torn tail; `found` is what it said then. Raises
    JournalDamagedError, and StoreUnavailableError where the file cannot be used.
    """

    def __init__(self, path: Path, *, compact_bytes: int = COMPACT_BYTES) -> None:
        self._path = path
        self._compact_bytes = compact_bytes
        self._lock = Lock()
        self._takes: dict[str, bytes] = {}  # the lines of open holds, by hold id
        self._ends: dict[str, bytes] = {}
        self._live = 0  # bytes of these lines
        self._since: list[bytes] | None = None  # lines written while a rewrite is under way
        self._fault: OSError | None = None  # the file cannot be appended to until rewritten
        self._dirty = False
        self._rewrite_after = 0.0  # by the monotonic clock
        self._wake = Event()
        self._stop = Event()
        try:
            self._file = _open_private(path)
            try:
                self.found = self._recover()
            except BaseException:
                os.close(self._file)
                raise
        except OSError as fault:
            raise _unusable(path, fault) from fault
        self._syncer = Thread(target=self._keep, name="journal", daemon=True)
        self._syncer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, hold: Hold) -> None:
        """Write a hold down. When this returns it survives us; if it raises, nothing was written.

        Raises StoreUnavailableError, or ValueError for a hold that cannot be written down.
        """
        line = _line(b"T" + pack_hold(hold))
        with self._lock:
            if hold.id not in self._takes:
                self._append(line)
                self._takes[hold.id] = line
                self._live += len(line)

    def end(self, *charges: Charge) -> None:
        """Write down how holds ended, all of it or nothing.

        The first end of a hold counts; of one that is not open here, none does. Raises
        StoreUnavailableError. The ends may be booked all the same: only a crash before that would
        forget them, and the holds are then swept.
        """
        lines = [(charge.hold_id, _line(b"E" + pack_charge(charge))) for charge in charges]
        with self._lock:
            new: dict[str, bytes] = {}
            for hold_id, line in lines:
                if hold_id in self._takes and hold_id not in self._ends:
                    new.setdefault(hold_id, line)
            if new:
                self._append(b"".join(new.values()))
                self._ends.update(new)
                self._live += sum(map(len, new.values()))

    def done(self, *hold_ids: str) -> None:
        """Their rows are in SQL and the counters were settled. Raises StoreUnavailableError.

        A hold whose `done` was lost is booked again after a start, which finds the row.
        """
        with self._lock:
            lines = []
            for hold_id in hold_ids:
                taken = self._takes.pop(hold_id, None)
                if taken is not None:
                    self._live -= len(taken) + len(self._ends.pop(hold_id, b""))
                    lines.append(_line(b"D" + hold_id.encode()))
            if lines:
                self._append(b"".join(lines))

    def close(self) -> None:
        """Sync and let go of the file."""
        with self._lock:
            if self._stop.is_set():
                return
            self._stop.set()
            self._wake.set()
        self._syncer.join()
        self._sync()
        with self._lock:
            os.close(self._file)

    def _recover(self) -> Contents:
        raw = _read_all(self._file)
        found = read(raw, self._path)
        if found.good_bytes < len(raw):
            _log.warning(
                "the journal %s ended in %d bytes of a record that was never acknowledged; cut",
                self._path,
                len(raw) - found.good_bytes,
            )
            os.ftruncate(self._file, found.good_bytes)
        self._size = found.good_bytes
        if not found.good_bytes:
            self._size = os.write(self._file, HEADER)
            _sync_folder(self._path.parent)
        self._takes = {hold.id: _line(b"T" + pack_hold(hold)) for hold in found.holds}
        self._ends = {end.hold_id: _line(b"E" + pack_charge(end)) for end in found.ends}
        self._live = sum(map(len, self._live_lines()))
        return found

    def _live_lines(self) -> Iterator[bytes]:
        yield from self._takes.values()
        yield from self._ends.values()

    def _append(self, lines: bytes) -> None:
        """One record or several, all of it or nothing. The lock is held."""
        if self._fault is not None or self._stop.is_set():
            raise _unusable(self._path, self._fault)
        try:
            written = os.write(self._file, lines)
        except OSError as fault:
            self._restore_length(fault)
            raise _unusable(self._path, fault) from fault
        if written < len(lines):  # a full disk, in most cases
            short = OSError(ENOSPC, "only a part of a record could be written")
            self._restore_length(short)
            raise _unusable(self._path, short)
        self._size += written
        if self._since is not None:
            self._since.append(lines)
        if not self._dirty:
            self._dirty = True
            self._wake.set()

    def _restore_length(self, fault: OSError) -> None:
        """Cut off what a failed write left; where that fails too, nothing more is appended."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._fault = fault
            self._wake.set()

    def _keep(self) -> None:
        """The thread that syncs, rewrites, and heals."""
        over = False
        while not over:
            try:
                over = self._turn()
            except Exception:  # noqa: BLE001  a defect of ours; without this thread nothing is synced
                _log.exception("keeping the journal %s failed, and goes on", self._path)

    def _turn(self) -> bool:
        """Sync what was written, and see that the file is in order. True once it is closed."""
        self._wake.wait(LOOK_SECONDS if self._fault is None else HEAL_SECONDS)
        if self._stop.wait(SYNC_SECONDS):  # more records join the group
            return True
        with self._lock:
            if self._stop.is_set():  # asked again: clearing must not undo what close() set
                return True
            dirty, self._dirty = self._dirty, False
            self._wake.clear()
            dead = self._size - self._live
            due = dead > max(self._compact_bytes, self._live)
            wrong = "" if self._fault is not None else self._wrong()
        if wrong:
            _log.error("the journal %s %s; it is written anew", self._path, wrong)
        if dirty and self._fault is None:
            self._sync()
        if (due or wrong or self._fault is not None) and monotonic() >= self._rewrite_after:
            self._rewrite()
        if wrong:
            with self._lock:
                if still := self._wrong():  # what is appended now would be lost
                    self._fault = OSError(ENOENT, f"it {still}")
        return False

    def _wrong(self) -> str:
        """What somebody did to the file; nothing, or what follows its name. The lock is held."""
        ours = os.fstat(self._file)
        try:
            found = self._path.stat(follow_symlinks=False)
        except OSError:
            return "is gone"
        if (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino):
            return "was replaced by another file"
        return "" if ours.st_size == self._size else "was changed by somebody else"

    def _sync(self) -> None:
        try:
            _fsync(self._file)
        except OSError as fault:
            # What the kernel could not write it may have dropped: only a new file is known good.
            _log.error("the journal %s could not be synced: %s", self._path, fault)
            with self._lock:
                self._fault = fault

    def _rewrite(self) -> None:
        """Leave out dead records. Only the syncing thread comes here; takes wait for no disk."""
        beside = self._path.with_name(self._path.name + ".new")
        with self._lock:
            lines = [HEADER, *self._live_lines()]
            self._since = []
        file = None
        try:
            beside.unlink(missing_ok=True)
            file = _open_private(beside)
            _write_all(file, b"".join(lines))
            _fsync(file)
            with self._lock:
                if self._since:
                    _write_all(file, b"".join(self._since))
                beside.rename(self._path)
                self._file, file = file, self._file
                self._size = sum(map(len, lines)) + sum(map(len, self._since))
                self._fault = None
            self._sync()
            _sync_folder(self._path.parent)
        except OSError as fault:
            self._rewrite_after = monotonic() + HEAL_SECONDS
            _log.warning("the journal %s could not be rewritten: %s", self._path, fault)
        finally:
            with self._lock:
                self._since = None
            if file is not None:
                os.close(file)


def read(raw: bytes, path: Path) -> Contents:
    """What a journal's bytes say. Raises JournalDamagedError; `path` is for its words."""
    if not raw.startswith(HEADER):
        if HEADER.startswith(raw):
            return Contents((), (), 0)  # it was only just being made
        if raw.startswith(HEADER.rpartition(b" ")[0]):
            raise JournalDamagedError(
                f"The journal {path} was written by another version of Tensorgate. Start that one, "
                "let it drain, and then this one."
            )
        raise _damaged(path, 0)
    holds: dict[str, Hold] = {}
    ends: dict[str, Charge] = {}
    at = len(HEADER)
    while at < len(raw):
        stop = raw.find(b"\n", at)
        body = _body(raw[at:stop]) if stop >= 0 else None
        if body is None:
            if _any_good_line(raw, stop):
                raise _damaged(path, at)
            break
        try:
            _apply(body, holds, ends)
        except ValueError:  # the sum is right, so it was written like that: by other code than this
            raise _damaged(path, at) from None
        at = stop + 1
    return Contents(tuple(holds.values()), tuple(ends.values()), at)


def _apply(body: bytes, holds: dict[str, Hold], ends: dict[str, Charge]) -> None:
    kind, payload = body[:1], body[1:]
    if kind == b"T":
        hold = unpack_hold(payload)
        holds.setdefault(hold.id, hold)
    elif kind == b"E":
        charge = unpack_charge(payload)
        if charge.hold_id in holds:
            ends.setdefault(charge.hold_id, charge)
    elif kind == b"D":
        holds.pop(payload.decode(), None)
        ends.pop(payload.decode(), None)
    else:
        raise ValueError("no such kind")


def _line(body: bytes) -> bytes:
    return b"%08x %b\n" % (crc32(body), body)


def _body(line: bytes) -> bytes | None:
    """What a line carries, None if it does not add up."""
    body = line[_CRC_DIGITS + 1 :]
    return body if body and line[: _CRC_DIGITS + 1] == b"%08x " % crc32(body) else None


def _any_good_line(raw: bytes, newline: int) -> bool:
    """Whether a good line stands anywhere behind the newline at an offset (-1: there is none)."""
    return newline >= 0 and any(
        _body(line) is not None for line in raw[newline + 1 :].split(b"\n")[:-1]
    )


def _open_private(path: Path) -> int:
    file = os.open(path, _FLAGS, 0o600)
    if os.fstat(file).st_mode & 0o077:
        os.fchmod(file, 0o600)
    return file


def _read_all(file: int) -> bytes:
    with os.fdopen(os.dup(file), "rb") as reader:
        return reader.read()


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _fsync(file: int) -> None:
    os.fdatasync(file)  # of the file's facts only its length matters, and that is included


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _unusable(path: Path, fault: OSError | None) -> StoreUnavailableError:
    why = "it is closed" if fault is None else fault.strerror or str(fault)
    return StoreUnavailableError(
        f"The journal {path} cannot be written ({why}). "
        "Nothing is admitted until it can: look at the disk and at who owns the file."
    )


def _damaged(path: Path, at: int) -> JournalDamagedError:
    return JournalDamagedError(
        f"The journal {path} is damaged at byte {at}. Move it away and start again: open holds "
        "are then read from the database, whose copy is at most a second older."
    )
