"""Builders for the tests of the data path: one of each, changed where a test says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from authz.model import Dialect, Endpoint, Lane, Request
from authz.pb.auth_pb2 import CheckRequest, CheckResponse
from store import keyformat
from store.catalog import Catalog
from store.errors import StoreUnavailableError
from store.keyformat import Digester, KeyForm
from store.records import DAY_US, SECOND_US, KeyRecord

NOW_US: Final = 1_795_000_000 * SECOND_US  # 2026-11-18T11:06:40Z
CHAT: Final = Endpoint("chat.completions", "POST", "/v1/chat/completions", Lane.INFERENCE)
FORM: Final = KeyForm()
DIGESTER: Final = Digester()

CATALOG: Final = Catalog.parse(
    """
models:
  llama-3.1-8b:
    price: {input: 0.05, output: 0.08}
    context_tokens: 131072
    aliases: ["claude-*", llama]
  org/deep/model: {price: {input: 1, output: 1}, context_tokens: 4096}
  "qwen*": {price: {input: 0.2, output: 0.6}, context_tokens: 32768}
plans: {free: {}}
default_plan: free
""",
    "a test's",
)


class ManualClock:
    """Stands still until it is moved. Microseconds."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us

    def advance(self, *, seconds: float = 0, us: int = 0) -> None:
        self.now_us += round(seconds * SECOND_US) + us


class KeyTable:
    """A KeySource: what lies under which digest, how often it was asked, and whether it is out."""

    def __init__(self, *rows: tuple[bytes, KeyRecord]) -> None:
        self.rows = dict(rows)
        self.asked = 0
        self.out = False

    def by_digests(self, digests: Sequence[bytes]) -> tuple[bytes, KeyRecord] | None:
        self.asked += 1
        if self.out:
            raise StoreUnavailableError("the database does not answer")
        return next(((d, self.rows[d]) for d in digests if d in self.rows), None)


RECORD: Final = KeyRecord(
    id="key_1",
    account_id="acc_1",
    user="ann@example.org",
    team=None,
    plan="free",
    account_created_us=NOW_US - 20 * DAY_US,
    alias="laptop",
    hint="sk-tg_…x4Qz",
    models=None,
    budget_nanousd=None,
    rpm=60,
    created_us=NOW_US - 10 * DAY_US,
    expires_us=NOW_US + 80 * DAY_US,
    revoked_us=None,
)


def key_record(**changes: Any) -> KeyRecord:
    """A live key for every model, 60 requests a minute, without a budget."""
    if "models" in changes and changes["models"] is not None:
        changes["models"] = frozenset(changes["models"])
    return replace(RECORD, **changes)


def request(**changes: Any) -> Request:
    """A chat call for `llama-3.1-8b` whose credential has the form of a key."""
    plain = Request(
        id="req-1",
        method="POST",
        path="/v1/chat/completions",
        dialect=Dialect.OPENAI,
        digests=(b"d" * 32,),
        endpoint=CHAT,
        model="llama-3.1-8b",
    )
    return msgspec.structs.replace(plain, **changes)


def minted(number: int, prefix: str = keyformat.DEFAULT_PREFIX) -> str:
    """A key of our form with a right checksum, the same one for the same number."""
    text = prefix + keyformat._base62(number, keyformat.BODY_CHARS)
    return text + keyformat._checksum(text)


def mistyped(key: str) -> str:
    """The same key with one character of its checksum changed."""
    return key[:-1] + ("0" if key[-1] != "0" else "1")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def message(
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] | None = None,
    body: bytes | Mapping[str, Any] = b"",
    *,
    method: str = "POST",
    request_id: str = "req-1",
) -> CheckRequest:
    """A CheckRequest as Envoy sends it: lower-case header names, the body in `raw_body`."""
    made = CheckRequest()
    http = made.attributes.request.http
    http.id, http.method, http.path, http.host = "42", method, path, "gate.example"
    http.raw_body = body if isinstance(body, bytes) else json.dumps(body).encode()
    http.headers.update({":path": path, "x-request-id": request_id, **(headers or {})})
    return made


def status(response: CheckResponse) -> int:
    """What the client gets: 200 also stands for "passed on" (`is_allowed` tells)."""
    return 200 if is_allowed(response) else response.denied_response.status.code


def is_allowed(response: CheckResponse) -> bool:
    """As Envoy judges: the code alone."""
    return response.status.code == 0


def client_headers(response: CheckResponse) -> dict[str, str]:
    """What we add to the client's answer. A header that stands twice is a fault."""
    if is_allowed(response):
        options = response.ok_response.response_headers_to_add
    else:
        options = response.denied_response.headers
    names = [option.header.key for option in options]
    assert len(set(names)) == len(names), names
    return {option.header.key: option.header.value for option in options}


def upstream_headers(response: CheckResponse) -> dict[str, str]:
    """What we set for the model server."""
    return {o.header.key: o.header.value for o in response.ok_response.headers}


def answer_body(response: CheckResponse) -> Any:
    return json.loads(response.denied_response.body)


def error(response: CheckResponse) -> dict[str, Any]:
    """The error object of a refusal, in either dialect."""
    found: dict[str, Any] = answer_body(response)["error"]
    return found


def metadata(response: CheckResponse) -> dict[str, str]:
    """Dynamic metadata. All of it is strings."""
    fields = response.dynamic_metadata.fields
    assert all(value.WhichOneof("kind") == "string_value" for value in fields.values())
    return {name: value.string_value for name, value in fields.items()}
