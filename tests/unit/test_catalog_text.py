"""What `tensorgate catalog check` shows of calls beyond the built-in table."""

from __future__ import annotations

from pathlib import Path

from store.catalog import Catalog
from tensorgate import catalogtext

CATALOG = Catalog.parse(
    """
models:
  m: {price: {input: 1}, context_tokens: 9}
native_model: m
endpoints:
  - {name: fill, path: /v1/fim, output: [a.b, c], usage: none}
  - {name: ask, path: "/v3/{model}", model: path}
  - {name: voices, path: /voices, method: GET, model: none, lane: listing}
  - {name: own, path: /own, model: server, output: [n]}
plans: {free: {}}
default_plan: free
""",
    "a test's",
)


def test_a_line_for_each_endpoint() -> None:
    lines = [
        line.strip() for line in catalogtext.as_text(CATALOG, Path("c.yaml"), None).splitlines()
    ]
    shown = [" ".join(line.split()) for line in lines if "endpoint" in line or "native" in line]
    assert shown == [
        "endpoint fill POST /v1/fim; inference; model in its body; output bounded by a.b, c; "
        "usage not seen",
        "endpoint ask POST /v3/{model}; inference; model in its path; output not bounded, the "
        "context is held; usage as openai's",
        "endpoint voices GET /voices; listing; model: none; usage as openai's",
        "endpoint own POST /own; inference; model: server; output bounded by n; usage as openai's",
        "native paths ask m",
    ]


def test_the_same_as_json() -> None:
    shown = catalogtext.as_json(CATALOG, None)
    assert shown["native_model"] == "m"
    rows = shown["endpoints"]
    assert isinstance(rows, list)
    assert [row["name"] for row in rows] == ["fill", "ask", "voices", "own"]
    assert rows[0] | {"output": [*rows[0]["output"]]} == {
        "name": "fill",
        "path": "/v1/fim",
        "method": "POST",
        "model": "body",
        "model_member": "model",
        "input": None,
        "output": ["a.b", "c"],
        "repeats": [],
        "usage": "none",
        "dialect": "openai",
        "lane": "inference",
    }
