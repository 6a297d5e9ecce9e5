"""The state folder is private, held by one, and never somebody else's folder."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from store.errors import InputError
from tensorgate.ports import Address
from tensorgate.statefolder import LONGEST_NAME, StateFolder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        state = StateFolder(tmp_path / "deep" / "state")
        state.prepare()
    finally:
        os.umask(before)
    assert mode(state.path) == mode(state.logs) == 0o700


def test_a_folder_of_ours_that_was_opened_is_closed_again(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.prepare()
    state.path.chmod(0o755)
    state.prepare()
    assert mode(state.path) == 0o700


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds other files and no Tensorgate state"):
        StateFolder(tmp_path).prepare()
    assert mode(tmp_path) == 0o755
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_its_place_is_a_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(InputError, match=r"state cannot be used: File exists\. Name another"):
        StateFolder(tmp_path / "state").prepare()


def test_a_second_up_on_the_state_is_told_of_the_first(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.prepare()
    assert not state.is_locked()
    lock = state.lock()
    try:
        here = Address("127.0.0.1", 8080)
        state.write_running(
            "http://127.0.0.1:8080", here, here, metrics=here, admin=here, workers=2
        )
        assert state.is_locked()
        about = rf"Another `tensorgate up` \(pid {os.getpid()}, http://127.0.0.1:8080\) runs"
        with pytest.raises(InputError, match=about) as refused:
            state.lock()
        assert refused.value.code == "already_running"
    finally:
        os.close(lock)
    assert not state.is_locked()
    os.close(state.lock())


def test_small_files_are_replaced_whole_and_private(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.prepare()
    for text in ("http://a:1\n", "http://b:2\n"):
        state.write("url", text)
    assert state.read("url") == "http://b:2"
    assert mode(state.path / "url") == 0o600
    assert sorted(each.name for each in state.path.iterdir()) == ["log", "url"]
    assert state.read("none") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0"])
def test_what_up_wrote_of_itself_may_be_anything(tmp_path: Path, text: str) -> None:
    (tmp_path / "up.json").write_text(text)
    assert StateFolder(tmp_path).running() == {}


def test_the_runtime_folder_is_private_short_and_new_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateFolder(tmp_path / "state")
    state.prepare()
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    first = state.make_runtime()
    assert mode(first) == 0o700
    assert len(os.fsencode(first / LONGEST_NAME)) <= 107
    assert state.read("runtime") == str(first)
    (first / "authz-0.sock").touch()  # left by one that was killed
    second = state.make_runtime()
    assert not first.exists()
    state.remove_runtime()
    assert not second.exists()
    assert state.read("runtime") is None


def test_only_a_folder_that_up_made_is_ever_removed(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.prepare()
    precious = tmp_path / "precious"
    precious.mkdir()
    link = tmp_path / "tensorgate-link"
    link.symlink_to(precious)
    for path in (precious, link):
        state.write("runtime", f"{path}\n")
        state.remove_runtime()
        assert precious.exists()
