"""A canary key is used, rightly and wrongly in every way; then all that was written is searched."""

from __future__ import annotations

import base64
import itertools

from peers.client import CHAT, MESSAGES, call
from peers.recorder import Recorder
from peers.stack import StartStack

from store import keyformat

PATHS = (
    CHAT,
    MESSAGES,
    "/v1/{}",
    "/v1/models/{}",
    CHAT + "?key={}",
    CHAT + "?token={}",
    CHAT + "/%2f{}",
    "//{}/../v1/key",
)
HEADERS = (
    {"authorization": "Bearer {}"},
    {"x-api-key": "{}"},
    {"authorization": "{}"},
    {"authorization": "Basic {}"},
    {"api-key": "{}", "x-goog-api-key": "{},{}"},
    {"x-tensorgate-user": "{}", "user-agent": "{}"},
    {"cookie": "{}"},
)
BODIES = ('{{"model":"recorder","messages":[]}}', '{{"model":"{}"}}', '{{"{}')
COMMANDS = (
    ("keys", "mint", "--user", "{}", "--alias", "{}", "--models", "*"),
    ("keys", "list", "--user", "{}"),
    ("{}",),
)


def test_no_plaintext_key_is_written_anywhere(start_stack: StartStack) -> None:
    server = Recorder()
    gate = start_stack(server.address)
    known = gate.mint(alias="canary")["key"]
    mistyped = known[:-1] + ("A" if known[-1] != "A" else "B")
    canaries = (known, keyformat.mint(), mistyped)
    said = []
    for key in canaries:
        for path, headers, body in itertools.product(PATHS, HEADERS, BODIES):
            filled = {name: value.format(key, key) for name, value in headers.items()}
            answer = call(
                gate,
                path.format(key),
                headers=filled,
                body=body.format(key).encode(),
                method="POST",
            )
            if "{}" not in path and "{}" not in body:
                assert key not in f"{answer.body!r} {answer.all_headers}"
        for command in COMMANDS:
            gate.run(*(word.format(key) for word in command))
        said.append(gate.run("keys", "find", "--key-stdin", stdin=key))
    said += [gate.run("keys", "list", "--user", "dev@example.com"), gate.run("doctor")]
    metrics = call(gate.metrics_url.split("/")[2], "/metrics", method="GET").body
    gate.stop()
    server.close()
    written = {str(path): path.read_bytes() for path in gate.folder.rglob("*") if path.is_file()}
    assert any(name.endswith("tensorgate.db") for name in written)
    written["metrics"] = metrics
    written["commands"] = "".join(each.stdout + each.stderr for each in said).encode()
    for key in canaries:
        secret = key.removeprefix(keyformat.DEFAULT_PREFIX)[:-8].encode()
        for form in (secret, base64.b64encode(key.encode())[8:40], secret.hex().encode()):
            assert not [name for name, text in written.items() if form in text]
