"""Decisions that are logged or traced: which, what of them is told, and that off is off."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from moneysupport import Gate
from support import bearer, message

from authz.witness import Witness
from store.keyformat import KeyForm
from store.logform import log_as

FORM = KeyForm(foreign="sk-[A-Za-z0-9_-]{16,128}")
SECRET = "sk-abcdefghijklmnopqrstuvwx"


class Spans:
    """In the place of an exporter."""

    def __init__(self) -> None:
        self.seen: list[tuple[Mapping[str, str], Mapping[str, Any]]] = []

    def span(
        self, parent: Mapping[str, str], start_ns: int, fields: Mapping[str, str | int | float]
    ) -> None:
        assert start_ns > 0
        self.seen.append((parent, fields))


class Watched:
    """A gate whose checks a witness watches."""

    def __init__(self, share: float | None, spans: Spans | None = None) -> None:
        self.gate = Gate()
        self.witness = Witness(FORM, share, spans)
        object.__setattr__(self.gate.checker, "noted", self.witness.note)

    def call(self, request_id: str = "req-1", *metadata: tuple[str, str], **given: Any) -> bytes:
        asked = self.gate.message(request_id=request_id, **given)
        return self.answer(asked, *metadata)

    def answer(self, asked: Any, *metadata: tuple[str, str]) -> bytes:
        return self.witness.check(self.gate.checker, asked, lambda: True, lambda: metadata)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is written to the log, as JSON."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    log_as("check-1", "json")
    yield written
    root.handlers[:] = before
    root.setLevel(level)


def told(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_a_line_says_who_asked_for_what_and_what_came_of_it(lines: io.StringIO) -> None:
    watched = Watched(1)
    watched.call("req-1")
    (line,) = told(lines)
    assert line.pop("duration_ms") > 0
    assert line.pop("timestamp").endswith("Z")
    assert len(line.pop("hold_id")) > 0
    assert line.pop("hold_nanousd") > 0
    assert line == {
        "event": "decision",
        "level": "info",
        "logger": "authz.decisions",
        "process": "check-1",
        "request_id": "req-1",
        "outcome": "allowed",
        "key_id": watched.gate.record.id,
        "account_id": watched.gate.record.account_id,
        "model": "llama",
        "endpoint": "chat.completions",
    }


def test_a_refusal_has_its_reason_and_no_secret(lines: io.StringIO) -> None:
    watched = Watched(1)
    watched.call("a", model=SECRET)
    watched.call("b", path="/v1/models")
    watched.answer(message(headers=bearer(SECRET) | {"x-other": "confidential"}, request_id="c"))
    first, second, third = told(lines)
    assert (first["outcome"], first["reason"]) == ("denied", "model_not_priced")
    assert first["model"] == "(not told)"
    assert second["outcome"] == "answered"
    assert (third["reason"], third.get("key_id")) == ("invalid_api_key", None)
    for secret in (SECRET, watched.gate.key, "confidential", "messages"):
        assert secret not in lines.getvalue()


def test_the_share_is_told_by_the_request_alone(lines: io.StringIO) -> None:
    asked = [f"req-{n}" for n in range(400)]
    for share in (0.25, 0.25, 0.0, 1.0):
        watched = Watched(share)
        for request_id in asked:
            watched.answer(message(headers={}, request_id=request_id))
    logged = [line["request_id"] for line in told(lines)]
    whole = logged[-400:]
    parts = logged[:-400]
    assert whole == asked
    half = len(parts) // 2
    assert parts[:half] == parts[half:], "the same each time, and none where the share is 0"
    assert 60 < half < 140


def test_errors_are_always_logged(lines: io.StringIO) -> None:
    watched = Watched(0)
    watched.call("fine")
    object.__setattr__(watched.gate.checker, "keys", Broken())
    watched.call("broken")
    (line,) = told(lines)
    assert (line["request_id"], line["outcome"], line["level"]) == ("broken", "error", "error")


class Broken:
    def get(self, _: tuple[bytes, ...]) -> None:
        from store.errors import StoreUnavailableError

        raise StoreUnavailableError("the database does not answer")


def test_a_span_is_in_envoys_trace_or_else_in_the_clients() -> None:
    spans = Spans()
    watched = Watched(None, spans)
    watched.call("a", ("traceparent", "00-1-2-01"), ("user-agent", "grpc"))
    asked = watched.gate.message(request_id="b")
    asked.attributes.request.http.headers["traceparent"] = "00-3-4-01"
    watched.answer(asked)
    watched.call("c")
    assert [parent for parent, _ in spans.seen] == [
        {"traceparent": "00-1-2-01"},
        {"traceparent": "00-3-4-01"},
        {},
    ]
    assert [fields["request_id"] for _, fields in spans.seen] == ["a", "b", "c"]


def test_the_log_of_other_things_is_json_too_and_traces_are_in_it(lines: io.StringIO) -> None:
    log = logging.getLogger("store.clock")
    log.warning("a %s\nwith an \x1b escape", "line")
    try:
        int("broken")
    except ValueError:
        log.exception("it failed")
    first, second = told(lines)
    assert first["event"] == "a line\nwith an \x1b escape"
    assert (first["level"], first["logger"], first["process"]) == (
        "warning",
        "store.clock",
        "check-1",
    )
    assert "ValueError: invalid literal" in second["exception"]
    assert "\x1b" not in lines.getvalue()


def test_what_nobody_asked_for_is_not_imported() -> None:
    asked = """
        import sys
        from store.logform import log_as
        from authz.tracing import open_tracing
        import authz.server
        log_as("")
        assert open_tracing({}) is None
        print(sorted(n for n in sys.modules if n.split(".")[0] in {"structlog", "opentelemetry"}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(asked)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
