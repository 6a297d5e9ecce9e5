"""Log files stay private and bounded, and their end is fit for a terminal."""

import stat
from pathlib import Path

from authz import logs


def test_a_log_is_private_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    for line in (b"one\n", b"two\n"):
        with logs.open_log(path) as log:
            log.write(line)
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_that_has_grown_is_moved_aside_under_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    with logs.open_log(path) as log:
        log.write(b"x" * 100)
        logs.bound(path, largest=100)
        assert path.stat().st_size == 100
        log.write(b"y")
        logs.bound(path, largest=100)
        log.write(b"after\n")  # the writer's file is still this one, from its start
    assert path.read_bytes() == b"after\n"
    old = tmp_path / "part.log.1"
    assert old.read_bytes() == b"x" * 100 + b"y"
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


def test_no_log_is_no_fault(tmp_path: Path) -> None:
    logs.bound(tmp_path / "none")
    assert logs.tail(tmp_path / "none", 3) == []


def test_the_end_of_a_log_is_printable(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    path.write_bytes(b"x\n" * 20000 + b"\n\x1b[2Jgone\x07\n\xff tab\there\n\n")
    assert logs.tail(path, 2) == ["?[2Jgone?", "� tab here"]
