"""Which model server is it? Small servers that answer as the real ones do, and hostile ones."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tensorgate.ports import Address, free_port
from tensorgate.upstream import ProbeThread, Silent, Upstream, probe

Answers = dict[str, object]


@contextmanager
def serving(
    answers: Answers, server: str = "uvicorn", other: int = 404, location: str = ""
) -> Iterator[tuple[Address, list[str]]]:
    """A server that knows these paths; `bytes` are sent as they are. Yields what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = answers.get(self.path)
            self.send_response_only(other if body is None else 200)
            self.send_header("server", server)
            if location:
                self.send_header("location", location)
            raw = body if isinstance(body, bytes) else json.dumps(body or {"error": "no"}).encode()
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Address("127.0.0.1", http.server_port), asked
        finally:
            http.shutdown()
            thread.join()


def listing(owner: str, *names: str, **rest: object) -> Answers:
    rows = [{"id": name, "object": "model", "owned_by": owner, **rest} for name in names]
    return {"/v1/models": {"object": "list", "data": rows}}


LLAMA = {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 1, "build_info": "b6100-a"}
TGI = {"model_id": "org/m", "version": "3.3.2", "docker_label": None, "max_total_tokens": 4096}
TEI = {"model_id": "org/e", "model_type": {"embedding": {"pooling": "cls"}}, "version": "1.8.0"}
TRITON = {"name": "triton", "version": "2.59.0", "extensions": ["classification"]}

KNOWN = [
    ("llama.cpp b6100-a", ("tiny",), "llama.cpp", listing("llamacpp", "tiny") | {"/props": LLAMA}),
    ("llama.cpp", ("tiny",), "llama.cpp", listing("somebody", "tiny")),
    ("llama.cpp b6100-a", (), "nginx", {"/props": LLAMA}),
    (
        "vLLM 0.11.0",
        ("a", "b"),
        "uvicorn",
        listing("vllm", "a", "b", max_model_len=8192) | {"/version": {"version": "0.11.0"}},
    ),
    ("vLLM 0.11.0", (), "uvicorn", {"/version": {"version": "0.11.0"}}),
    (
        "SGLang 0.5.1",
        ("m",),
        "uvicorn",
        listing("sglang", "m") | {"/get_server_info": {"model_path": "m", "version": "0.5.1"}},
    ),
    (
        "TensorRT-LLM 1.0.0",
        ("m",),
        "uvicorn",
        listing("tensorrt_llm", "m") | {"/version": {"version": "1.0.0"}},
    ),
    (
        "Ollama 0.12.3",
        ("qwen3:latest",),
        "",
        listing("library", "qwen3:latest") | {"/api/version": {"version": "0.12.3"}},
    ),
    (
        "Ollama 0.12.3",
        ("qwen3:latest",),
        "",
        {
            "/api/version": {"version": "0.12.3"},
            "/api/tags": {"models": [{"name": "qwen3:latest"}]},
        },
    ),
    ("TGI 3.3.2", ("org/m",), "", {"/info": TGI}),
    ("TEI 1.8.0", ("org/e",), "", {"/info": TEI}),
    ("Triton 2.59.0", (), "", {"/v2": TRITON}),
    ("LM Studio", ("m",), "", listing("organization_owner", "m")),
    ("a server that calls itself hypercorn", ("m",), "hypercorn", listing("me", "m")),
    ("an HTTP server", (), "", {}),
]


@pytest.mark.parametrize(("server", "models", "header", "answers"), KNOWN)
def test_a_server_is_known_by_what_it_says(
    server: str, models: tuple[str, ...], header: str, answers: Answers
) -> None:
    with serving(answers, header) as (address, asked):
        assert probe(address) == Upstream(address, server, models)
        assert set(asked) <= {
            *("/v1/models", "/props", "/api/version", "/get_server_info", "/info", "/v2"),
            *("/version", "/api/tags"),
        }


def test_a_server_that_its_listing_gives_away_is_asked_no_more_than_its_version() -> None:
    with serving(listing("vllm", "m")) as (address, asked):
        assert probe(address) == Upstream(address, "vLLM", ("m",))
        assert asked == ["/v1/models", "/version"]


def test_one_that_wants_a_credential_is_said_so() -> None:
    with serving({}, other=401) as (address, _):
        found = probe(address)
        assert found == Upstream(address, "a server that calls itself uvicorn", (), True)
        assert "wants a credential of its own" in str(found)


def test_a_redirect_is_not_followed() -> None:
    with serving(listing("vllm", "m")) as (target, asked):
        elsewhere = f"http://{target}/v1/models"
        with serving({}, other=302, location=elsewhere) as (address, _):
            assert probe(address) == Upstream(address, "a server that calls itself uvicorn")
        assert asked == []


def test_what_is_shown_is_short_and_safe_on_a_terminal() -> None:
    names = [f"m{number}" for number in range(8)]
    with serving(listing("\x1b]0;x\x07", "\x1b[2J", *names), "\x1b[31mred") as (address, _):
        shown = str(probe(address))
    assert shown == (
        f"a server that calls itself ?[31mred at {address} · models: ?[2J, m0, m1, m2, m3 (+4)"
    )


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"data": {"id": "m"}}'),
        *(b'{"data": [null, 1, {"id": 5}, {"id": ""}]}', b'{"data": [{"owned_by": ["vllm"]}]}'),
        b'{"data": [{"id": "' + b"m" * 2_000_000 + b'"}]}',
    ],
)
def test_a_listing_that_makes_no_sense_is_no_listing(raw: bytes) -> None:
    with serving({"/v1/models": raw}, "x") as (address, _):
        assert probe(address) == Upstream(address, "a server that calls itself x")


def test_nobody_there_is_said_in_words() -> None:
    address = Address("127.0.0.1", free_port("127.0.0.1"))
    assert probe(address) == Silent(address, "connection refused")
    assert str(probe(address)) == f"{address} does not answer yet (connection refused)"


@contextmanager
def raw_server(reply: bytes) -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                connection.recv(4096)
                if reply:
                    connection.sendall(reply)
                    connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield Address("127.0.0.1", server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def test_what_speaks_something_else_is_said_so() -> None:
    with raw_server(b"\x15\x03\x03\x00\x02\x02\x16") as address:
        assert probe(address) == Silent(address, "what answers there does not speak HTTP")


def test_one_that_says_nothing_is_given_up_on() -> None:
    with raw_server(b"") as address:
        begun = time.monotonic()
        assert probe(address, seconds=0.3) == Silent(address, "no answer in time")
        thread = ProbeThread.asking(address)
        assert thread is not None
        assert thread.answer(0.1) == Silent(address, "no answer in time")
        assert time.monotonic() - begun < 2
        thread.join()


def test_a_probe_in_the_background_brings_what_a_probe_brings() -> None:
    with serving(listing("vllm", "m")) as (address, _):
        thread = ProbeThread.asking(address)
        assert thread is not None
        assert thread.answer() == Upstream(address, "vLLM", ("m",))
    assert ProbeThread.asking(None) is None
