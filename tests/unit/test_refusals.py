"""What is kept of refusals: who, what and why; never a key; and no more than so many."""

from __future__ import annotations

import json

import pytest
from moneysupport import Gate
from support import ManualClock, minted

from authz import refusals
from authz.check import Checker
from authz.denial import Answer
from authz.model import Dialect, Fault, Reason, Request
from authz.refusals import Refusals
from authz.words import Occasion
from store.keyformat import KeyForm


def request(number: object = 1, **given: object) -> Request:
    plain = {"model": "m", "method": "POST", "path": "/v1/chat/completions"} | given
    return Request(
        id=str(number), dialect=Dialect.OPENAI, digests=(b"digest",), endpoint=None, **plain
    )  # type: ignore[arg-type]


def refused(kept: Refusals, asked: Request, body: bytes = b"{}", gate: Gate | None = None) -> None:
    key = None if gate is None else gate.record
    kept.note(Occasion(Fault(Reason.MODEL_NOT_ALLOWED), asked, key), Answer(403, (), body))


def test_a_refusal_is_told_as_the_client_read_it() -> None:
    gate = Gate(models=frozenset({"other"}))
    kept = Refusals(gate.clock, KeyForm())
    fields = {name: getattr(gate.checker, name) for name in Checker.__slots__}
    checker = Checker(**fields | {"refused": kept.note})
    checker.check(gate.message(request_id="r1", model="llama"))
    found = kept.find("r1")
    assert found is not None
    assert str(found.pop("message")).startswith("This key may not call `llama`; it may call")
    assert str(found.pop("at")).endswith("Z")
    record = gate.record
    assert found == {
        "reason": "model_not_allowed",
        "status": 403,
        "key_id": record.id,
        "user": record.user,
        "team": record.team,
        "alias": record.alias,
        "hint": record.hint,
        "method": "POST",
        "path": "/v1/chat/completions",
        "endpoint": "chat.completions",
        "model": "llama",
    }
    gate.call(request_id="r2", model="llama")
    assert kept.find("r2") is None, "that was another gate's"


def test_a_key_in_a_wrong_place_is_not_repeated() -> None:
    kept, key = Refusals(ManualClock(), KeyForm()), minted(1)
    body = json.dumps({"error": {"message": f"no `{key}`"}}).encode()
    refused(kept, request(model=key, path=f"/v1/{key}"), body)
    found = kept.find("1")
    assert found is not None
    assert (found["model"], found["path"], found["message"]) == (
        "(a key)",
        "/v1/(a key)",
        "no `(a key)`",
    )
    assert key[6:20] not in json.dumps(found)
    assert "digest" not in json.dumps(found)


def test_long_texts_are_cut_and_long_answers_left_out() -> None:
    kept = Refusals(ManualClock(), KeyForm())
    refused(kept, request(model="m" * 10**6, path="/" * 10**6), b"{" * 10**6)
    found = kept.find("1")
    assert found is not None
    assert len(json.dumps(found)) < 2000
    refused(kept, request("x" * 201))
    refused(kept, request(""))
    assert kept.find("x" * 201) is kept.find("") is None


def test_the_oldest_is_forgotten_and_who_is_unknown_pushes_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusals, "WITH_KEY", 3)
    monkeypatch.setattr(refusals, "WITHOUT_KEY", 2)
    kept, gate = Refusals(ManualClock(), KeyForm()), Gate()
    for number in (1, 2, 3, 1, 4):  # the first came again
        refused(kept, request(number), gate=gate)
    for number in (11, 12, 13):
        refused(kept, request(number))
    known = [number for number in (1, 2, 3, 4, 11, 12, 13) if kept.find(str(number))]
    assert known == [1, 3, 4, 12, 13]
