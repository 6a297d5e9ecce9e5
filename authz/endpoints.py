"""Which path is which endpoint. Default deny: a path that no row names is none of them.

Paths are compared byte for byte after Envoy's normalisation: another case, a trailing slash
or a path parameter is another path.
"""

from __future__ import annotations

from typing import Final

from authz import ask
from authz.model import Dialect, Endpoint, Lane

_ANTHROPIC_PREFIX: Final = "/v1/messages"
MODEL_PREFIX: Final = "/v1/models/"
GRPC_TYPE: Final = "application/grpc"

MODELS: Final = Endpoint("models", "GET", "/v1/models", Lane.OURS, reads_model=False)
MODEL: Final = Endpoint("model", "GET", MODEL_PREFIX, Lane.OURS, reads_model=False)
KEY: Final = Endpoint("key", "GET", "/v1/key", Lane.OURS, reads_model=False)

_TABLE: Final = {
    (row.method, row.path): row
    for row in (
        Endpoint(
            "chat.completions", "POST", "/v1/chat/completions", Lane.INFERENCE, shape=ask.CHAT
        ),
        Endpoint("completions", "POST", "/v1/completions", Lane.INFERENCE, shape=ask.COMPLETIONS),
        Endpoint("responses", "POST", "/v1/responses", Lane.INFERENCE, shape=ask.RESPONSES),
        Endpoint("embeddings", "POST", "/v1/embeddings", Lane.INFERENCE, shape=ask.EMBEDDINGS),
        Endpoint(
            "messages",
            "POST",
            "/v1/messages",
            Lane.INFERENCE,
            Dialect.ANTHROPIC,
            shape=ask.MESSAGES,
        ),
        Endpoint(
            "messages.count_tokens",
            "POST",
            "/v1/messages/count_tokens",
            Lane.LISTING,
            Dialect.ANTHROPIC,
        ),
        MODELS,
        KEY,
    )
}


def is_grpc(content_type: str) -> bool:
    """Whether the client waits for a gRPC answer: just where Envoy gives it one."""
    return content_type == GRPC_TYPE or content_type.startswith(f"{GRPC_TYPE}+")


def find(method: str, path: str) -> Endpoint | None:
    """The endpoint of a path without its query, or None: then the request is refused."""
    row = _TABLE.get((method, path))
    if row is None and method == "GET" and len(path) > len(MODEL_PREFIX):
        return MODEL if path.startswith(MODEL_PREFIX) else None
    return row


def dialect_of(path: str, content_type: str = "") -> Dialect:
    """Whose error shape a request speaks, whether or not its path is an endpoint."""
    if is_grpc(content_type):
        return Dialect.GRPC
    anthropic = path == _ANTHROPIC_PREFIX or path.startswith(_ANTHROPIC_PREFIX + "/")
    return Dialect.ANTHROPIC if anthropic else Dialect.OPENAI
