"""What agents and SDKs really send passes the gate, byte for byte.

`data/clients/*.json` holds the shapes of requests that each tool sent through the gate: method,
target, headers with the key where the tool put it, and a body of stubs. In a file, `{key}` is
the key; `status` is the answer's (200 unless said); `by` is who gives it (the model server
unless said); `separators` are those of the tool's JSON where they are not the compact ones.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from peers.client import call
from peers.recorder import Recorder
from peers.stack import Stack

CLIENTS: Final = Path(__file__).parent / "data" / "clients"
TOOLS: Final = {
    "aider",
    "anthropic",
    "claude-code",
    "codex",
    "continue",
    "openai",
    "opencode",
}
COMPACT: Final = (",", ":")
# The credential stays here, and the server is not to compress what the gate has to read.
# The last picks a worker at servers that know it (tensorgate/envoy/headers.py).
KEPT_BACK: Final = {"authorization", "x-api-key", "accept-encoding", "x-session-id"}
# Those of one connection only: a proxy makes them anew.
OF_A_HOP: Final = {"connection", "host", "content-length", "transfer-encoding"}


def shapes() -> list[Any]:
    """Every recorded request, named by its tool and by what it is."""
    return [
        pytest.param(shape, id=f"{path.stem}: {shape['name']}")
        for path in sorted(CLIENTS.glob("*.json"))
        for shape in json.loads(path.read_text())["requests"]
    ]


def body_of(shape: dict[str, Any]) -> bytes | None:
    """The body as the tool writes JSON: characters as they are, in most tools no spaces."""
    if "body" not in shape:
        return None
    separators = tuple(shape.get("separators", COMPACT))
    return json.dumps(shape["body"], ensure_ascii=False, separators=separators).encode()


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    """May call what the tools were told to call, and nothing else."""
    return str(stack.mint(models="recorder")["key"])


def test_every_tool_has_its_shapes() -> None:
    files = {path.stem: json.loads(path.read_text()) for path in CLIENTS.glob("*.json")}
    assert set(files) == TOOLS
    for recorded in files.values():
        assert recorded["version"]
        assert recorded["provenance"]
        assert recorded["requests"]


def without_ours(body: bytes) -> bytes:
    """A body without what the gate puts in front: a bound of the output, a stream's usage."""
    ours = (
        rb'"max_(?:output_)?tokens":4096,'
        rb'|"stream_options":\{"include_usage":true\},'
    )
    return re.sub(rb"^\{(?:" + ours + rb")+", b"{", body)


@pytest.mark.parametrize("shape", shapes())
def test_a_tool_is_understood(
    stack: Stack, recorder: Recorder, key: str, shape: dict[str, Any]
) -> None:
    headers = {
        name.lower(): value.replace("{key}", key) for name, value in shape["headers"].items()
    }
    body = body_of(shape)
    answer = call(stack, shape["path"], method=shape["method"], headers=headers, body=body)
    assert answer.status == shape.get("status", 200), answer.body
    if shape.get("by") == "gate":
        assert not recorder.requests
        return
    (arrived,) = recorder.requests
    assert (arrived.method, arrived.target) == (shape["method"], shape["path"])
    assert without_ours(arrived.body) == body
    for name, value in headers.items():
        if name in KEPT_BACK:
            assert not arrived.values(name), name
        elif name not in OF_A_HOP:
            assert arrived.values(name) == [value], name
    assert key not in str(arrived.headers)
