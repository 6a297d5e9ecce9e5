"""A process without one of its threads does not go on as if it were well."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from authz.watch import ESSENTIAL, Watch, watching


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def watch(ended: list[str]) -> Iterator[Watch]:
    before = threading.excepthook
    with watching(lambda: ended.append(threading.current_thread().name)) as made:
        yield made
    assert threading.excepthook is before


def die(name: str, fault: BaseException) -> None:
    def work() -> None:
        raise fault

    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()


@pytest.mark.parametrize("name", sorted(ESSENTIAL))
@pytest.mark.parametrize("fault", [KeyError("why"), SystemExit("why"), MemoryError("why")])
def test_an_essential_thread_takes_the_process_along(
    watch: Watch,
    ended: list[str],
    caplog: pytest.LogCaptureFixture,
    name: str,
    fault: BaseException,
) -> None:
    assert not watch.failed
    die(name, fault)
    assert watch.failed
    assert ended == [name]
    assert f"thread {name} ended" in caplog.text
    assert type(fault).__name__ in caplog.text


def test_any_other_is_only_logged(
    watch: Watch, ended: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    die("a stranger", KeyError("why"))
    assert not watch.failed
    assert ended == []
    assert "thread a stranger ended" in caplog.text


def test_one_that_ends_well_is_no_news(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    thread = threading.Thread(target=sys.getrecursionlimit, name="settle")
    thread.start()
    thread.join()
    assert not watch.failed
    assert caplog.records == []
