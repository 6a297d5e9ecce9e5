"""`tensorgate import litellm` and `keys list --search`, as a person runs them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litellmhelp import LiteLLM, litellm_on, plaintext
from peers.postgres import PASSWORD, Postgres
from statehelp import new_state

from admin.litellmkeys import FOREIGN_FORM
from tensorgate import cli

Outcome = tuple[int, str, str]


@pytest.fixture
def litellm(postgres: Postgres) -> Iterator[LiteLLM]:
    with litellm_on(postgres) as made:
        made.user("u1", "anna@example.org")
        made.key(plaintext(1), key_alias="Anna's Laptop", user_id="u1", max_budget=2, spend=0.5)
        made.key(plaintext(2), key_alias="Old", user_id="u1", blocked=True)
        made.key(plaintext(3), key_alias="Röntgen", user_id="u1", models=["elsewhere"])
        yield made


class Desk:
    """A state folder, and commands on it in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: str) -> Outcome:
        status = cli.run(arguments)
        return (status, *self._capfd.readouterr())

    def json(self, *arguments: str) -> Any:
        status, out, err = self(*arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Desk:
    for name in [name for name in os.environ if name.startswith("TENSORGATE_")]:
        monkeypatch.delenv(name)
    settings = new_state(tmp_path)
    monkeypatch.setenv("TENSORGATE_STATE", str(settings.state))
    monkeypatch.setenv("TENSORGATE_CATALOG", str(settings.catalog))
    return Desk(capfd)


def test_for_people_it_says_what_is_not_as_it_was_and_what_to_set(
    desk: Desk, litellm: LiteLLM
) -> None:
    status, out, err = desk("import", "litellm", "--from", litellm.url, "--dry-run")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == (
        "2 keys would be imported, 0 would be changed, 0 unchanged, 1 refused; "
        "1 accounts would be added, $0.50 of spend would be carried over."
    )
    assert desk.json("users", "list") == []
    status, out, err = desk("import", "litellm", "--from", litellm.url)
    assert out.splitlines()[0] == (
        "2 keys imported, 0 changed, 0 unchanged, 1 refused; "
        "1 accounts added, $0.50 of spend carried over."
    )
    for part in ("blocked there", "anna-s-laptop", "rontgen", "never", "elsewhere", FOREIGN_FORM):
        assert part in out
    # what is alike in several keys is one line
    assert sum("expires" in line for line in out.splitlines()) == 1
    assert desk("import", "litellm", "--from", litellm.url)[1].startswith(
        "0 keys imported, 0 changed, 2 unchanged, 1 refused"
    )


def test_what_was_imported_is_found_by_either_name(desk: Desk, litellm: LiteLLM) -> None:
    desk.json("import", "litellm", "--from", litellm.url)
    for text in ("LAPTOP", "anna's l", "anna-s-"):
        (found,) = desk.json("keys", "list", "--search", text)
        assert found["imported_from"] == "litellm"
        assert (found["alias"], found["imported_name"]) == ("anna-s-laptop", "Anna's Laptop")
    (found,) = desk.json("keys", "list", "--search", "RÖNT")
    assert found["alias"] == "rontgen"
    desk.json("keys", "mint", "--user", "anna@example.org", "--alias", "own", "--models", "*")
    (own,) = desk.json("keys", "list", "--search", "own")
    assert (own["imported_from"], own["imported_name"]) == (None, None)
    status, out, _ = desk("keys", "list", "--user", "anna@example.org")
    assert status == 0
    assert "WAS" in out.splitlines()[0]
    assert "Anna's Laptop" in out
    assert "No key has that" in desk("keys", "list", "--search", "nothing")[1]
    assert desk("keys", "list")[0] == 1
    assert desk("keys", "list", "--search", "\x1b")[0] == 1


def test_the_address_is_never_repeated(desk: Desk, postgres: Postgres) -> None:
    for url in (
        postgres.tcp_url(password="hunter22"),
        f"postgresql://root:hunter22@127.0.0.1:{postgres.port}/nowhere",
        "postgresql://root:hunter22@nowhere.invalid/litellm",
        "mysql://root:hunter22@x/y",
    ):
        status, out, err = desk("import", "litellm", "--from", url, "--json")
        assert status == 1
        assert "hunter22" not in out + err
        assert "127.0.0.1" not in out + err
        assert "--from" in json.loads(out)["error"]["message"]


def test_the_address_may_stand_in_the_environment_and_has_a_password(
    desk: Desk, litellm: LiteLLM, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = litellm.url.partition("@/")[2].partition("?")[0]
    monkeypatch.setenv("TENSORGATE_LITELLM_URL", postgres.tcp_url(name))
    assert PASSWORD in os.environ["TENSORGATE_LITELLM_URL"]
    assert len(desk.json("import", "litellm", "--dry-run")["imported"]) == 2


def test_a_dry_run_makes_no_state(
    desk: Desk, litellm: LiteLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORGATE_STATE", str(tmp_path / "none"))
    status, out, _ = desk("import", "litellm", "--from", litellm.url, "--dry-run", "--json")
    assert status == 1
    assert json.loads(out)["error"]["code"] == "no_state"
    assert not (tmp_path / "none").exists()
