"""What refusals say: word for word, at most two sentences, and never a key."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import key_record, request

from authz.model import Dialect, Endpoint, Fault, Lane, Place, Reason
from authz.words import Occasion, seconds, words
from store.counters.model import MinuteLimit, Refused

DASHBOARD = "https://gate.example"
AT_0914_US = 1_795_166_040 * 1_000_000  # 2026-11-20 09:14 UTC


def refused(rpm: int = 60, retry_us: int = 3_200_000) -> Refused:
    return Refused(0, MinuteLimit("key_1", rpm), retry_us, ())


def say(fault: Fault | Reason, **changes: Any) -> str:
    fault = fault if isinstance(fault, Fault) else Fault(fault)
    defaults: dict[str, Any] = {"key": key_record(), "dashboard": DASHBOARD}
    return words(Occasion(fault, **({"request": request()} | defaults | changes)))


EXPIRED = key_record(expires_us=AT_0914_US)
REVOKED = key_record(revoked_us=AT_0914_US)
DISABLED = key_record(disabled_us=AT_0914_US)
TWO = key_record(models=["qwen3-coder", "llama-3.1-8b"])
GRPC = request(
    path="/inference.GRPCInferenceService/ModelStreamInfer", dialect=Dialect.GRPC, endpoint=None
)
UPLOAD = request(
    endpoint=Endpoint("x", "POST", "/v1/images/edits", Lane.INFERENCE, place=Place.FORM)
)
HAIKU = request(model="claude-haiku-4-5")

SAID = {
    "missing": (
        say(Reason.MISSING_API_KEY, key=None),
        "No API key was sent. Send it as the header `Authorization: Bearer sk-tg_…`.",
    ),
    "invalid": (
        say(Reason.INVALID_API_KEY, key=None),
        "This API key is not valid. Check that it was copied whole: it starts with `sk-tg_` and "
        "has 55 characters.",
    ),
    "invalid, with another prefix": (
        say(Reason.INVALID_API_KEY, key=None, prefix="acme_"),
        "This API key is not valid. Check that it was copied whole: it starts with `acme_` and "
        "has 54 characters.",
    ),
    "expired": (
        say(Reason.API_KEY_EXPIRED, key=EXPIRED),
        "This key (sk-tg_…x4Qz) expired on 2026-11-20 09:14 UTC. Create a new one at "
        "https://gate.example/keys.",
    ),
    "expired, no dashboard": (
        say(Reason.API_KEY_EXPIRED, key=EXPIRED, dashboard=None),
        "This key (sk-tg_…x4Qz) expired on 2026-11-20 09:14 UTC. Ask whoever runs this gate for a "
        "new one.",
    ),
    "revoked": (
        say(Reason.API_KEY_REVOKED, key=REVOKED),
        "This key (sk-tg_…x4Qz) was revoked on 2026-11-20 09:14 UTC. Create a new one at "
        "https://gate.example/keys.",
    ),
    "disabled": (
        say(Reason.API_KEY_REVOKED, key=DISABLED),
        "The account of this key (sk-tg_…x4Qz) was disabled on 2026-11-20 09:14 UTC. Ask whoever "
        "runs this gate.",
    ),
    "ambiguous credentials": (
        say(Reason.AMBIGUOUS_CREDENTIALS, key=None),
        "The request carries more than one API key. Send one key, in one header, once.",
    ),
    "key in URL": (
        say(Reason.KEY_IN_URL, key=None),
        "A key stands in the URL, and URLs end up in logs. Send it as the header "
        "`Authorization: Bearer sk-tg_…`, and revoke the one that was in the URL.",
    ),
    "malformed": (
        say(Fault(Reason.MALFORMED_BODY, "it is not UTF-8", offset=17)),
        "The body is not one strict JSON object: it is not UTF-8 (byte 17). Send valid JSON.",
    ),
    "malformed at its first byte": (
        say(Fault(Reason.MALFORMED_BODY, "it is empty", offset=0)),
        "The body is not one strict JSON object: it is empty (byte 0). Send valid JSON.",
    ),
    "malformed somewhere": (
        say(Fault(Reason.MALFORMED_BODY, "it has more than 1000 members")),
        "The body is not one strict JSON object: it has more than 1000 members. Send valid JSON.",
    ),
    "malformed form": (
        say(Fault(Reason.MALFORMED_BODY, "it is empty", offset=0), request=UPLOAD),
        "The body is not one strict multipart form: it is empty (byte 0). Send it as a browser or "
        "curl writes it.",
    ),
    "malformed message": (
        say(Fault(Reason.MALFORMED_BODY, "a name in it is not UTF-8", offset=7), request=GRPC),
        "The body is not one strict message of this call: a name in it is not UTF-8 (byte 7). "
        "Send it as a client of the open inference protocol writes it.",
    ),
    "ambiguous": (
        say(Fault(Reason.AMBIGUOUS_BODY, "a member stands in it twice", "model")),
        "The body can be read in more than one way: a member stands in it twice. Name each member "
        "once, spelled as the API does.",
    ),
    "no model": (
        say(Fault(Reason.MODEL_REQUIRED, param="model")),
        "The body does not name a model. Set `model` to the name of one, as a string; "
        "`GET /v1/models` lists those that this key may call.",
    ),
    "no model in a message": (
        say(Fault(Reason.MODEL_REQUIRED, param="model_name"), request=GRPC),
        "The body does not name a model. Set `model_name` to the name of one, as a string; "
        "`GET /v1/models` lists those that this key may call.",
    ),
    "parameter": (
        say(Fault(Reason.INVALID_PARAMETER, "it must be true or false", "stream")),
        "`stream` is not valid: it must be true or false.",
    ),
    "model": (
        say(Reason.MODEL_NOT_ALLOWED, key=TWO, request=HAIKU),
        "This key may not call `claude-haiku-4-5`; it may call `llama-3.1-8b`, `qwen3-coder`. "
        "Change the model in your client, or use a key that includes it.",
    ),
    "model, of none": (
        say(Reason.MODEL_NOT_ALLOWED, key=key_record(models=[]), request=HAIKU),
        "This key may not call `claude-haiku-4-5`; it may call none. "
        "Change the model in your client, or use a key that includes it.",
    ),
    "model, of many": (
        say(
            Reason.MODEL_NOT_ALLOWED,
            key=key_record(models=[f"m{i}" for i in range(10)]),
            request=HAIKU,
        ),
        "This key may not call `claude-haiku-4-5`; it may call `m0`, `m1`, `m2`, `m3`, `m4`, `m5`, "
        "`m6`, `m7` and 2 more. Change the model in your client, or use a key that includes it.",
    ),
    "endpoint": (
        say(Reason.ENDPOINT_NOT_ALLOWED, request=request(path="/v1/files", endpoint=None)),
        "Keys cannot call `POST /v1/files` here. Check the method and the path: they are compared "
        "letter by letter, and a slash at the end counts.",
    ),
    "endpoint, of gRPC": (
        say(Reason.ENDPOINT_NOT_ALLOWED, request=GRPC),
        "Keys cannot call `POST /inference.GRPCInferenceService/ModelStreamInfer` here. Over gRPC "
        "they can call `ModelInfer` of the open inference protocol, and ask for health and "
        "metadata; nothing that streams.",
    ),
    "price": (
        say(Reason.MODEL_NOT_PRICED, request=HAIKU),
        "`claude-haiku-4-5` has no price here, and this key has a budget. Ask whoever runs this "
        "gate to add the model to the catalog.",
    ),
    "encoding": (
        say(Reason.UNSUPPORTED_ENCODING),
        "The body is compressed, and what cannot be read is not passed on. Send it uncompressed.",
    ),
    "minute": (
        say(Reason.RATE_LIMIT_EXCEEDED, refused=refused()),
        "60 requests in the last 60 seconds is this key's limit. The next one passes in 3.2 s.",
    ),
    "minute of one": (
        say(Reason.RATE_LIMIT_EXCEEDED, refused=refused(1, 59_950_001)),
        "1 request in the last 60 seconds is this key's limit. The next one passes in 60.0 s.",
    ),
    "store out": (
        say(Reason.AUTHORIZATION_UNAVAILABLE, key=None),
        "The gate cannot check keys right now, so nothing was passed on. Try again in a second.",
    ),
    "not found": (
        say(Reason.NOT_FOUND),
        "This key can call no model of that name. `GET /v1/models` lists those that it may call.",
    ),
}


@pytest.mark.parametrize(("said", "expected"), SAID.values(), ids=list(SAID))
def test_word_for_word(said: str, expected: str) -> None:
    assert said == expected


@pytest.mark.parametrize("said", [said for said, _ in SAID.values()], ids=list(SAID))
def test_at_most_two_sentences(said: str) -> None:
    prose = re.sub(r"`[^`]*`|https?://\S+", "x", said)
    assert len(re.findall(r"[.!?](?= |$)", prose)) <= 2
    assert said.endswith(".")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words_also_when_little_is_known(reason: Reason) -> None:
    assert len(say(reason, key=None, dashboard=None)) > 20


@given(us=st.integers(1, 60_000_000))
def test_waiting_as_long_as_it_says_is_long_enough(us: int) -> None:
    said = seconds(us)
    assert 0 <= float(said.removesuffix(" s")) * 1_000_000 - us + 0.5 < 100_001


@pytest.mark.parametrize(
    ("method", "path", "shown"),
    [
        ("GET", "/x" * 100, "GET " + "/x" * 58 + "…"),
        ("GET", "/a\x1b[31m\u202eb", "GET /a?[31m?b"),
        ("X" * 200, "/", "X" * 120 + "…"),
    ],
)
def test_a_path_is_shown_only_as_far_as_a_terminal_can_bear(
    method: str, path: str, shown: str
) -> None:
    asked = request(method=method, path=path, endpoint=None)
    assert f"`{shown}`" in say(Reason.ENDPOINT_NOT_ALLOWED, request=asked)
