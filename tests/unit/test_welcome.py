"""The first user and key are made once; the line to paste survives any shell and any model name."""

import json
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from store import engines, upgrades
from tensorgate import ports, preflight, welcome
from tensorgate.ports import Address
from tensorgate.preflight import Asked, Setup
from tensorgate.statefolder import StateFolder
from tensorgate.upstream import Silent, Upstream

AT = Address("127.0.0.1", 9)
FOUND = Upstream(AT, "demo", ("priced",))
CATALOG = """
models:
  "priced*": {price: {input: 1, output: 1}, context_tokens: 8192, max_output_tokens: 64}
plans: {free: {max_keys: 2, max_rpm: 30}}
default_plan: free
"""


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Setup:
    for name in [name for name in os.environ if name.startswith("TENSORGATE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    monkeypatch.setenv("TENSORGATE_CATALOG", str(tmp_path / "catalog.yaml"))
    monkeypatch.setenv("TENSORGATE_STATE", str(tmp_path / "state"))
    made = preflight.check(Asked(port=ports.free_port("127.0.0.1")))
    made.state.prepare()
    engine = engines.open_engine(made.settings.sql_url)
    upgrades.upgrade(engine)
    engine.dispose()
    return made


def line(setup: Setup, *models: str) -> list[str]:
    """The words of the line to paste, as a shell reads them."""
    text = "\n".join(welcome.greet(setup, Upstream(AT, "a server", models)))
    (curl,) = re.findall(r"^curl .*$", text, re.MULTILINE)
    return shlex.split(curl)


def test_the_first_start_makes_one_user_and_one_key_and_the_next_tells_of_none(
    setup: Setup,
) -> None:
    first = "\n".join(welcome.greet(setup, FOUND))
    assert len(re.findall(r"sk-tg_\w{49}", first)) == 2  # the key, and again in the line
    assert "admin@localhost · password " in first
    assert "every model · $5.00 per 30 days · 30 requests a minute · until " in first
    again = "\n".join(welcome.greet(setup, FOUND))
    assert "sk-tg_" not in again
    assert "password" not in again
    assert "keys mint --user EMAIL" in again


def test_the_command_that_is_named_works_from_here(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "tensorgate"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    state = f"TENSORGATE_STATE={setup.state.path}"
    assert welcome.command(setup) == f"{state} {program}"
    monkeypatch.setenv("PATH", str(program.parent))
    assert welcome.command(setup) == f"{state} tensorgate"
    monkeypatch.chdir(tmp_path)
    here = replace(setup, state=StateFolder(tmp_path / ".tensorgate"))
    assert welcome.command(here) == "tensorgate"


@pytest.mark.parametrize("name", ["priced", "priced'; touch x; '", 'priced"\\', "priced é $(x)"])
def test_a_name_reaches_the_server_as_it_is_listed(setup: Setup, name: str) -> None:
    words = line(setup, name)
    assert words[2] == f"http://127.0.0.1:{setup.gate.port}/v1/chat/completions"
    assert json.loads(words[-1])["model"] == name


def test_a_model_to_chat_with_and_with_a_price_is_preferred(setup: Setup) -> None:
    words = line(setup, "free-for-all", "priced-embed", "priced-chat")
    assert json.loads(words[-1])["model"] == "priced-chat"


def test_a_server_that_only_embeds_gets_a_call_that_embeds(setup: Setup) -> None:
    words = line(setup, "priced-bge-m3")
    assert words[2].endswith("/v1/embeddings")
    assert json.loads(words[-1]) == {"model": "priced-bge-m3", "input": "Say hello."}


@pytest.mark.parametrize("models", [(), ("free-for-all",), ("priced\x1b[2J",)])
def test_without_a_model_that_can_be_called_the_line_lists_the_models(
    setup: Setup, models: tuple[str, ...]
) -> None:
    words = line(setup, *models)
    assert words[2].endswith("/v1/models")
    assert "-d" not in words


def test_a_server_that_does_not_answer_yet_is_told(setup: Setup) -> None:
    text = "\n".join(welcome.greet(setup, Silent(AT, "connection refused")))
    assert "127.0.0.1:9 does not answer yet (connection refused); calls get 503" in text
    assert "/v1/models -H" in text
