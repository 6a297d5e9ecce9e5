"""Calls to begin with, for whoever holds a new key. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_NO_CHAT: Final = re.compile(
    r"embed|rerank|whisper|tts|bge|(^|[/_-])(e5|gte|clip)([/_-]|$)", re.IGNORECASE
)


def chats(model: str) -> bool:
    """Whether a model is one to chat with, going by its name."""
    return _NO_CHAT.search(model) is None


def first_to_try(models: Iterable[str]) -> str | None:
    """One to chat with, if there is one; else the first."""
    named = list(models)
    return next(iter([*filter(chats, named), *named]), None)


def body(model: str) -> dict[str, object]:
    """What to POST to `path(model)`."""
    if not chats(model):
        return {"model": model, "input": "Say hello."}
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 64,
    }


def path(model: str) -> str:
    """The endpoint that takes such a call."""
    return "/v1/chat/completions" if chats(model) else "/v1/embeddings"
