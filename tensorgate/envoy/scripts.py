"""Envoy's Lua: several files become the one script that a filter takes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent / "lua"
MODULES: Final = (
    *("strings", "json", "sse", "usage", "splice"),
    *("openai", "gemini", "ollama"),
)
"""What inference.lua requires."""


def body_room() -> str:
    """The filter that bounds long bodies: deploy/lua/body_room.lua."""
    return _source("body_room")


def inference() -> str:
    """The filter of calls that go to a model server: deploy/lua/inference.lua and its modules."""
    return bundle(_source("inference"))


def bundle(script: str) -> str:
    """A script in which `require "tensorgate.NAME"` finds deploy/lua/NAME.lua, of those modules."""
    parts = [
        f'package.preload["tensorgate.{name}"] = function(...)\n{_source(name)}end\n'
        for name in MODULES
    ]
    return "\n".join(["-- Tensorgate's", *parts, script])


def _source(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
