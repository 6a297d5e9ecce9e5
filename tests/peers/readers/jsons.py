"""Reads JSON as Python's servers do; runs in the venv `jsons`, driven by peers/jsonreaders.py.

A line in is {"paths": [[NAME, ...], ...], "bodies": [BASE64, ...]}; a line out has what each reader
finds in each body: {READER: [{"seen": [VALUE of each path, null if it is not there]} or
{"error": TEXT}, ...]}. A value that is an object or a list is "(compound)".
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pydantic_core
import rapidjson
import simdjson

Pairs = list[tuple[str, Any]]


def cut_at_nul(pairs: Pairs) -> dict[str, Any]:
    """As a reader whose names are C strings; the first of two counts."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found.setdefault(name.partition("\0")[0], value)
    return found


def simd(body: bytes) -> Any:
    """Its own objects: a member is found by search, the first counts, as in C++."""
    return simdjson.Parser().parse(body)


def triton(body: bytes) -> Any:
    """RapidJSON, which Triton reads with."""
    return rapidjson.loads(body)


READERS: dict[str, Callable[[bytes], Any]] = {
    "json": json.loads,
    "json with C's names": lambda body: json.loads(body, object_pairs_hook=cut_at_nul),
    "orjson": orjson.loads,
    "msgspec": msgspec.json.decode,
    "simdjson": simd,
    "rapidjson": triton,
    "jiter": pydantic_core.from_json,
}


def find(document: Any, path: list[str]) -> Any:
    """The value at a path; of nothing it is nothing."""
    for name in path:
        if document is None:
            return None
        if not isinstance(document, dict | simdjson.Object):
            raise TypeError(f"{'.'.join(path)} is not in an object")
        document = document.get(name)
    return document if isinstance(document, str | int | float | None) else "(compound)"


def read(reader: Callable[[bytes], Any], body: bytes, paths: list[list[str]]) -> dict[str, Any]:
    try:
        document = reader(body)
        if document is None:
            return {"error": "null"}
        return {"seen": [find(document, path) for path in paths]}
    except (ValueError, TypeError, RuntimeError) as fault:
        return {"error": f"{type(fault).__name__}: {fault}"}


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        bodies = [base64.b64decode(body) for body in asked["bodies"]]
        answer = {
            name: [read(reader, body, asked["paths"]) for body in bodies]
            for name, reader in READERS.items()
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
