"""The table of endpoints: what it names, and that everything else is none."""

from __future__ import annotations

import re

import pytest

from authz import endpoints
from authz.endpoints import BUILT_IN
from authz.model import Dialect, Lane
from tensorgate.envoy import replies

ROWS = [
    ("POST", "/v1/chat/completions", "chat.completions", Lane.INFERENCE, Dialect.OPENAI, True),
    ("POST", "/v1/completions", "completions", Lane.INFERENCE, Dialect.OPENAI, True),
    ("POST", "/v1/responses", "responses", Lane.INFERENCE, Dialect.OPENAI, True),
    ("POST", "/v1/embeddings", "embeddings", Lane.INFERENCE, Dialect.OPENAI, True),
    ("POST", "/v1/messages", "messages", Lane.INFERENCE, Dialect.ANTHROPIC, True),
    (
        "POST",
        "/v1/messages/count_tokens",
        "messages.count_tokens",
        Lane.LISTING,
        Dialect.ANTHROPIC,
        True,
    ),
    ("GET", "/v1/models", "models", Lane.OURS, Dialect.OPENAI, False),
    ("GET", "/v1/models/llama", "model", Lane.OURS, Dialect.OPENAI, False),
    ("GET", "/v1/models/org/deep/model:tag", "model", Lane.OURS, Dialect.OPENAI, False),
    ("GET", "/v1/key", "key", Lane.OURS, Dialect.OPENAI, False),
]


@pytest.mark.parametrize(("method", "path", "name", "lane", "dialect", "reads_model"), ROWS)
def test_rows(
    method: str, path: str, name: str, lane: Lane, dialect: Dialect, reads_model: bool
) -> None:
    match = BUILT_IN.find(method, path)
    assert match is not None
    row = match.endpoint
    assert (row.name, row.lane, row.reads_model) == (name, lane, reads_model)
    assert row.dialect == dialect == endpoints.dialect_of(path)


@pytest.mark.parametrize("path", [row[1] for row in ROWS])
def test_another_method_is_another_endpoint(path: str) -> None:
    own = {method for method, named, *_ in ROWS if named == path}
    for method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "post", ""} - own:
        assert BUILT_IN.find(method, path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "*",
        "/v1",
        "/v1/",
        "/v1/chat",
        "/v1/chat/completions/",
        "/v1/chat/completions;x=1",
        "/v1/chat/completions#x",
        "/V1/chat/completions",
        "/v1/Chat/Completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/x/../v1/chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/chat\\completions",
        "v1/chat/completions",
        "http://gate.example/v1/chat/completions",
        "/v1/messages/batches",
        "/v1/files",
        "/v1/load_lora_adapter",
        "/metrics",
        "/sleep",
        "/collective_rpc",
        "/api/pull",
        "/v2/repository/models/m/unload",
    ],
)
def test_what_no_row_names_is_no_endpoint(path: str) -> None:
    assert BUILT_IN.find("POST", path) is None
    assert BUILT_IN.find("GET", path) is None


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/modelsx", "/v1/keys", "/v1/key/", "/v1/keyx"])
def test_near_a_listing(path: str) -> None:
    assert BUILT_IN.find("GET", path) is None


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", Dialect.ANTHROPIC),
        ("/v1/messages/", Dialect.ANTHROPIC),
        ("/v1/messages/batches", Dialect.ANTHROPIC),
        ("/v1/messagesx", Dialect.OPENAI),
        ("/v1/models", Dialect.OPENAI),
        ("/nowhere", Dialect.OPENAI),
        ("", Dialect.OPENAI),
    ],
)
def test_whose_error_shape_a_path_speaks(path: str, dialect: Dialect) -> None:
    assert endpoints.dialect_of(path) is dialect
    assert endpoints.dialect_of(path, "application/json") is dialect
    assert endpoints.dialect_of(path, "application/grpc") is Dialect.GRPC


@pytest.mark.parametrize(
    ("content_type", "grpc"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc+json", True),
        ("application/grpc-web", False),
        ("application/grpc; a=b", False),
        ("Application/gRPC", False),
        ("application/grp", False),
    ],
)
def test_who_waits_for_a_grpc_answer(content_type: str, grpc: bool) -> None:
    """As Envoy judges it, which makes a gRPC answer of a refusal or does not."""
    assert endpoints.is_grpc(content_type) is grpc
    assert (re.fullmatch(replies.GRPC_TYPE, content_type) is not None) is grpc
