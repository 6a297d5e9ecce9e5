"""The peers themselves: what they record and how they answer is what other tests rest on."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from order import ROOMS, SLOWEST, TESTS, slowest_first
from peers import venvs
from peers.ports import free_port, listens
from peers.process import Child, PeerError, descendants
from peers.recorder import (
    Abort,
    Hangup,
    Pause,
    Recorder,
    Reply,
    Until,
    chat_completion,
    json_reply,
    sse_reply,
)


def raw(recorder: Recorder, request: bytes) -> bytes:
    """Send bytes, and no more; return all that comes until the server has said enough."""
    host, port = recorder.address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while data := connection.recv(65536):
            said += data
        return said


def get(recorder: Recorder, path: str = "/x") -> http.client.HTTPResponse:
    host, port = recorder.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    connection.sock.close()
    return response


def test_a_request_is_recorded_as_it_came(recorder: Recorder) -> None:
    raw(
        recorder,
        b"POST //v1/../x?a=%2f HTTP/1.1\r\nhOsT: h\r\nX-A:  1 \r\nx-a: 2\r\n"
        b"Content-Length: 4\r\n\r\n\x00\xff\r\n"
        b"PUT /y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )
    first, second = recorder.wait_for(2)
    assert (first.method, first.target) == ("POST", "//v1/../x?a=%2f")
    assert first.headers == (("hOsT", "h"), ("X-A", "1"), ("x-a", "2"), ("Content-Length", "4"))
    assert first.values("x-A") == ["1", "2"]
    assert first.body == b"\x00\xff\r\n"
    assert (second.method, second.body) == ("PUT", b"abcde")


def test_the_gates_own_listings_are_kept_apart(recorder: Recorder) -> None:
    recorder.models = ["a", "b"]
    with get(recorder, "/v1/models") as response:
        assert [each["id"] for each in json.load(response)["data"]] == ["a", "b"]
    assert [recorder.requests, len(recorder.listings)] == [[], 1]


def test_answers_are_scripted_one_by_one_and_then_for_all(recorder: Recorder) -> None:
    recorder.next.append(json_reply({"a": 1}, 418, (("set-cookie", "a=b"), ("set-cookie", "c=d"))))
    recorder.answer = lambda request: Reply(body=request.target.encode())
    with get(recorder) as first:
        assert (first.status, json.load(first)) == (418, {"a": 1})
        assert first.headers.get_all("set-cookie") == ["a=b", "c=d"]
    with get(recorder, "/y") as second:
        assert second.read() == b"/y"
    recorder.forget()
    with get(recorder) as third:
        assert json.load(third) == chat_completion()


def test_a_stream_comes_in_its_steps(recorder: Recorder) -> None:
    release = threading.Event()
    recorder.answer = sse_reply({"n": 1}, Until(release), Pause(0.05), {"n": 2}, "[DONE]")
    with get(recorder) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.readline() == b'data: {"n": 1}\n'
        response.readline()
        release.set()
        begun = time.monotonic()
        assert response.readline() == b'data: {"n": 2}\n'
        assert time.monotonic() - begun >= 0.05
        assert response.read() == b"\ndata: [DONE]\n\n"


def test_it_holds_answers_back_until_released(recorder: Recorder) -> None:
    done = threading.Event()

    def call() -> None:
        with get(recorder):
            done.set()

    with recorder.held() as release:
        thread = threading.Thread(target=call)
        thread.start()
        recorder.wait_for(1)
        assert not done.wait(0.1)
        release.set()
        assert done.wait(5)
    thread.join()
    with get(recorder) as response:
        assert response.status == 200


def test_it_resets_and_hangs_up(recorder: Recorder) -> None:
    recorder.next.append(Reply(before=(Abort(),)))
    with pytest.raises(ConnectionResetError):
        get(recorder)
    recorder.next.append(Reply(body=(b"part", Hangup())))
    with get(recorder) as response, pytest.raises(http.client.IncompleteRead):
        response.read()


def test_waiting_for_what_does_not_come_fails(recorder: Recorder) -> None:
    with pytest.raises(AssertionError, match="0 requests came"):
        recorder.wait_for(1, seconds=0.01)


def test_ports_are_free_and_given_once() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert not any(listens(port) for port in ports)
    with socket.create_server(("127.0.0.1", ports[0])):
        assert listens(ports[0])


def test_a_child_says_why_it_did_not_come_up(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "print('no luck'); exit(3)"], log=tmp_path / "log")
    with pytest.raises(PeerError, match=r"(?s)ended with 3 before line 'ready'.*no luck"):
        child.line("ready", seconds=10)
    assert child.end() == 3


def test_a_child_that_does_not_end_is_killed_and_told(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True)"
    program = f"{stubborn}; time.sleep(60)"
    child = Child([sys.executable, "-c", program], log=tmp_path / "log")
    assert child.line("ready", seconds=10) == "ready"
    with pytest.raises(PeerError, match="outlived SIGTERM"):
        child.end(seconds=0.1)
    assert child.process.returncode == -9


def test_descendants_are_found_to_the_last(tmp_path: Path) -> None:
    inner = "import time; print('ready', flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    child = Child([sys.executable, "-c", outer], log=tmp_path / "log")
    child.line("ready", seconds=10)
    below = descendants(child.pid)
    assert len(below) == 1
    child.end()
    assert descendants(child.pid) == []


def test_a_postgresql_ends_with_the_tests_however_these_end(tmp_path: Path) -> None:
    program = (
        "import sys, time; from peers.postgres import running\n"
        "with running() as server: print(server.pid, server.folder, flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = Child([sys.executable, "-c", program], log=tmp_path / "out", env=env)
    child.wait_until(lambda: child.output.endswith("\n"), seconds=30, what="a server")
    server, folder = child.output.split()
    assert descendants(int(server)), "it serves"
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait(5)
    deadline = time.monotonic() + 15
    while Path(f"/proc/{server}").exists():
        assert time.monotonic() < deadline, "it outlives the tests"
        time.sleep(0.02)
    shutil.rmtree(folder)


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for venv and pip: note what is run, and leave what they would."""
    ran: list[str] = []

    def run(*argv: str) -> None:
        ran.append(argv[2])
        time.sleep(0.01)
        if argv[2] == "venv":
            (Path(argv[-1]) / "bin").mkdir(parents=True)
            (Path(argv[-1]) / "bin" / "python").touch()
        elif "broken" in Path(argv[-1]).read_text():
            raise RuntimeError("no such package")

    monkeypatch.setattr(venvs, "VENVS", tmp_path / "venvs")
    monkeypatch.setattr(venvs, "run", run)
    return ran


def test_a_venv_is_made_once_and_anew_when_its_lock_changes(
    installs: list[str], tmp_path: Path
) -> None:
    lock = tmp_path / "tool.lock"
    lock.write_text("tool==1")
    threads = [threading.Thread(target=venvs.ensure_venv, args=("tool", lock)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert installs == ["venv", "pip"]
    lock.write_text("broken==2")
    for _ in range(2):  # a half-made venv is not taken for a whole one
        with pytest.raises(RuntimeError, match="no such package"):
            venvs.ensure_venv("tool", lock)
    lock.write_text("tool==3")
    assert venvs.ensure_venv("tool", lock).exists()
    assert installs == ["venv", "pip"] * 4


def test_what_takes_longest_is_begun_first_and_all_of_it_is_there() -> None:
    assert [name for name in SLOWEST if not (TESTS / name).is_file()] == []
    assert len(set(SLOWEST)) == len(SLOWEST)
    assert {path.parent.name for path in TESTS.glob("*/test_*.py")} == set(ROOMS)

    class Item:
        def __init__(self, name: str) -> None:
            self.path = TESTS / name

    names = ["unit/test_a.py", SLOWEST[1], "contract/test_b.py", SLOWEST[0], "unit/test_a.py"]
    items = [Item(name) for name in names]
    slowest_first(items)  # type: ignore[arg-type]
    assert [each.path.relative_to(TESTS).as_posix() for each in items] == [
        *(SLOWEST[0], SLOWEST[1], "contract/test_b.py", "unit/test_a.py", "unit/test_a.py")
    ]
