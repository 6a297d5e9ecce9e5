"""The servers' listings: read through Envoy's socket, kept in an outage, never trusted."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread

import pytest
from waiting import until

from authz import listings
from authz.listings import Listings


def listing(*names: object, **more: object) -> bytes:
    """A model server's answer, in full as it stands on the wire."""
    return ok(json.dumps({"object": "list", "data": [{"id": n} for n in names], **more}).encode())


def ok(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Envoy(ThreadingUnixStreamServer):
    """What stands behind Envoy's socket: an answer a path, as raw bytes."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        super().__init__(str(path), _Handler)

    def serve(self, upstream: str, answer: bytes, path: str = "/v1/models") -> None:
        self.answers[f"/{upstream}{path}"] = answer


class _Handler(BaseHTTPRequestHandler):
    server: Envoy

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path))
        self.wfile.write(self.server.answers.get(self.path, b""))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[Envoy]:
    with Envoy(tmp_path / "upstreams.sock") as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


GPU_A = frozenset({"on-gpu-a", "on-gpu-a:too"})


@pytest.fixture
def of(tmp_path: Path) -> Callable[..., Listings]:
    """Listings of so many upstreams; the catalog sends GPU_A to `gpu-a`, the rest to `default`."""

    def make(*upstreams: str) -> Listings:
        return Listings(
            tmp_path / "upstreams.sock",
            upstreams or ("default",),
            lambda name: "gpu-a" if name in GPU_A else "default",
        )

    return make


def test_before_anything_was_read_nothing_is_listed(of: Callable[..., Listings]) -> None:
    assert of("default", "gpu-a")() == []


def test_each_server_is_asked_once_and_all_names_are_listed(
    envoy: Envoy, of: Callable[..., Listings]
) -> None:
    envoy.serve("default", listing("a", "org/b", "c:latest"))
    envoy.serve("gpu-a", listing("on-gpu-a", "on-gpu-a:too", first_id="d", has_more=False))
    found = of("default", "gpu-a")
    found.refresh()
    assert found() == ["a", "org/b", "c:latest", "on-gpu-a", "on-gpu-a:too"]
    assert envoy.asked == [("GET", "/default/v1/models"), ("GET", "/gpu-a/v1/models")]


def test_a_model_counts_only_where_its_calls_go(envoy: Envoy, of: Callable[..., Listings]) -> None:
    envoy.serve("default", listing("a", "on-gpu-a"))
    envoy.serve("gpu-a", listing("on-gpu-a:too", "b"))
    found = of("default", "gpu-a")
    found.refresh()
    assert found() == ["a", "on-gpu-a:too"]


def tags(*names: object) -> bytes:
    """Ollama's listing."""
    rows = [{"name": name, "model": name, "size": 1, "details": {}} for name in names]
    return ok(json.dumps({"models": rows}).encode())


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "401 Unauthorized"])
def test_a_server_that_knows_only_ollamas_listing(
    envoy: Envoy, of: Callable[..., Listings], status: str
) -> None:
    envoy.serve("default", ok(b"no such thing", status))
    envoy.serve("default", tags("llama3:latest", "qwen:7b", "\x1b"), "/api/tags")
    found = of()
    found.refresh()
    assert found() == ["llama3:latest", "qwen:7b"]
    assert envoy.asked == [("GET", "/default/v1/models"), ("GET", "/default/api/tags")]


def test_a_server_without_any_listing_is_not_asked_every_second(
    envoy: Envoy, of: Callable[..., Listings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "RETRY_SECONDS", 0.005)
    envoy.serve("default", ok(b"", "404 Not Found"))
    envoy.serve("default", ok(b"", "404 Not Found"), "/api/tags")
    found = of()
    found.start()
    try:
        until(lambda: len(envoy.asked) == 2)
        time.sleep(0.05)
    finally:
        found.stop()
    assert len(envoy.asked) == 2
    assert found() == []


def test_a_server_that_is_down_keeps_its_last_good_listing_and_the_others_go_on(
    envoy: Envoy, of: Callable[..., Listings]
) -> None:
    envoy.serve("default", listing("a"))
    envoy.serve("gpu-a", listing("on-gpu-a"))
    found = of("default", "gpu-a")
    found.refresh()
    envoy.serve("default", ok(b"upstream connect error", "503 Service Unavailable"))
    envoy.serve("gpu-a", listing("on-gpu-a:too"))
    found.refresh()
    assert found() == ["a", "on-gpu-a:too"]
    envoy.serve("default", listing())
    found.refresh()
    assert found() == ["on-gpu-a:too"]


BAD: dict[str, bytes] = {
    "no answer": b"",
    "not HTTP": b"\x00\x01\x02",
    "401": ok(b'{"data":[{"id":"x"}]}', "401 Unauthorized"),
    "404": ok(b'{"data":[{"id":"x"}]}', "404 Not Found"),
    "redirect": b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n",
    "HTML": ok(b"<html>"),
    "empty": ok(b""),
    "cut short": b'HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{"data":[{"id":"x"}',
    "no data": ok(b'{"things":[]}'),
    "data that is none": ok(b'{"data":{"id":"x"}}'),
    "an id that is a number": ok(b'{"data":[{"id":"x"},{"id":1}]}'),
    "no id": ok(b'{"data":[{"name":"x"}]}'),
    "not UTF-8": ok(b'{"data":[{"id":"\xff"}]}'),
    "nested beyond reason": ok(b'{"data":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "longer than may be": ok(b'{"data":[{"id":"x"}]}' + b" " * (4 << 20)),
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n",
    "a bad length": b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n" + b"x" * (4 << 20),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=list(BAD))
def test_an_answer_that_is_no_listing_changes_nothing(
    envoy: Envoy, of: Callable[..., Listings], answer: bytes
) -> None:
    envoy.serve("default", listing("good"))
    found = of()
    found.refresh()
    envoy.serve("default", answer)
    found.refresh()
    assert found() == ["good"]


@pytest.mark.parametrize("answer", BAD.values(), ids=list(BAD))
def test_an_answer_that_is_no_listing_of_ollamas_changes_nothing(
    envoy: Envoy, of: Callable[..., Listings], answer: bytes
) -> None:
    envoy.serve("default", ok(b"", "404 Not Found"))
    envoy.serve("default", tags("good"), "/api/tags")
    found = of()
    found.refresh()
    envoy.serve("default", answer.replace(b"data", b"tags"), "/api/tags")
    found.refresh()
    assert len(envoy.asked) == 4
    assert found() == ["good"]


def test_names_that_could_stand_in_no_request_are_dropped(
    envoy: Envoy, of: Callable[..., Listings]
) -> None:
    bad = ["", " ", " a", "a\n", "a\x00", "\x1b[31m", "a" * 257, "\u202ea"]
    envoy.serve("default", listing("a", *bad, "b" * 256, "模型"))
    found = of()
    found.refresh()
    assert found() == ["a", "b" * 256, "模型"]


def test_no_more_names_than_anybody_serves(
    envoy: Envoy, of: Callable[..., Listings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MAX_MODELS", 3)
    envoy.serve("default", listing(*"abcdef"))
    found = of()
    found.refresh()
    assert found() == ["a", "b", "c"]


def test_without_envoy_there_is_no_listing_and_no_noise(of: Callable[..., Listings]) -> None:
    found = of()
    found.refresh()
    assert found() == []


def test_a_server_that_does_not_answer_is_given_up(
    tmp_path: Path, of: Callable[..., Listings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "TIMEOUT_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "upstreams.sock"))
        silent.listen()
        started = time.monotonic()
        found = of()
        found.refresh()
    assert found() == []
    assert time.monotonic() - started < 2


def test_the_thread_asks_at_once_then_again_only_those_that_never_answered(
    envoy: Envoy, of: Callable[..., Listings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "RETRY_SECONDS", 0.005)
    envoy.serve("default", listing("a"))
    found = of("default", "gpu-a")
    found.start()
    try:
        until(lambda: len(envoy.asked) > 5)
        envoy.serve("gpu-a", listing("on-gpu-a"))
        until(lambda: found() == ["a", "on-gpu-a"])
        settled = len(envoy.asked)
        time.sleep(0.05)
    finally:
        found.stop()
    assert envoy.asked.count(("GET", "/default/v1/models")) == 1
    assert len(envoy.asked) == settled


def test_after_the_interval_all_are_asked_again(
    envoy: Envoy, of: Callable[..., Listings], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listings.REFRESH_SECONDS == 30
    monkeypatch.setattr(listings, "REFRESH_SECONDS", 0.02)
    envoy.serve("default", listing("a"))
    found = of()
    found.start()
    try:
        until(lambda: found() == ["a"], seconds=0.9)  # before any interval is over
        envoy.serve("default", listing("a", "b"))
        until(lambda: found() == ["a", "b"])
    finally:
        found.stop()


def test_a_defect_does_not_end_the_thread(
    envoy: Envoy,
    of: Callable[..., Listings],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listings, "RETRY_SECONDS", 0.005)
    envoy.serve("default", listing("a"))
    found = of()
    read = found._names_of
    failures = iter([KeyError("a defect of ours")] * 3)

    def breaks(upstream: str) -> tuple[str, ...] | None:
        for failure in failures:
            raise failure
        return read(upstream)

    monkeypatch.setattr(found, "_names_of", breaks)
    found.start()
    try:
        until(lambda: found() == ["a"])
    finally:
        found.stop()
    assert len([record for record in caplog.records if record.exc_info]) == 3
