"""Data as YAML that people like to read: on one line where it fits, else as a block. Pure.

A scalar is bare only if it is a plain word that no YAML reader takes for anything else; all other
strings are JSON, which YAML contains. So no value can become structure.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

WIDTH: Final = 100
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NOT_STRINGS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def scalar(value: object) -> str:
    """A string, number, boolean or None."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_STRINGS:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def flow(value: Any) -> str:
    """All on one line."""
    match value:
        case dict():
            members = ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items())
            return f"{{{members}}}"
        case list() | tuple():
            return f"[{', '.join(map(flow, value))}]"
        case _:
            return scalar(value)


def block(value: Any, indent: int) -> str:
    """Lines that stand `indent` deep; the first one is where the caller puts it."""
    line = flow(value)
    if not isinstance(value, (dict, list, tuple)) or not value or indent + len(line) <= WIDTH:
        return line
    start = "\n" + " " * indent
    if isinstance(value, dict):
        return start.join(f"{scalar(k)}:{_below(v, indent, len(k))}" for k, v in value.items())
    return start.join(f"- {block(item, indent + 2)}" for item in value)


def _below(value: Any, indent: int, key: int) -> str:
    """A mapping's value: behind its key where it fits."""
    line = flow(value)
    whole = isinstance(value, (dict, list, tuple)) and value
    if not whole or indent + key + 2 + len(line) <= WIDTH:
        return f" {line}"
    return "\n" + " " * (indent + 2) + block(value, indent + 2)
