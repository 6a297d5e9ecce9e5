"""A plain HTTP client for tests: what went over the wire, nothing decoded or retried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from peers.stack import Stack

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


@dataclass(frozen=True)
class Answer:
    """A status, headers by lower-case name (the last of each, and all of them), a body."""

    status: int
    headers: dict[str, str]
    all_headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal, in either dialect."""
        return str(self.json()["error"]["code"])


def call(
    gate: Stack | str,
    path: str = CHAT,
    *,
    key: str | None = None,
    model: str = "recorder",
    body: bytes | None = None,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30,
) -> Answer:
    """One call on a connection of its own; a chat with `model` unless it says otherwise."""
    address = gate if isinstance(gate, str) else gate.address
    if method is None:
        method = "GET" if path.startswith(("/v1/models", "/v1/key")) else "POST"
    if body is None and method == "POST":
        body = json.dumps(
            {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        ).encode()
    sent = {"content-type": "application/json", **(headers or {})}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    connection = HTTPConnection(address, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=sent)
        answer = connection.getresponse()
        received = tuple((name.lower(), value) for name, value in answer.getheaders())
        return Answer(answer.status, dict(received), received, answer.read())
    finally:
        connection.close()
