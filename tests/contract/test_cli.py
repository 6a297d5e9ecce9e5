"""The `tensorgate` command, as a person or a script runs it, on a state of its own.

`gate` and `anna` run the command in a process of its own, and `anew` the installed one, from
nothing. `inside` runs the same command line in this process, for what depends on nothing outside.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peers.commands import tensorgate
from statehelp import CATALOG, new_state

from store import upgrades
from store.errors import InputError
from tensorgate import cli

TENSORGATE = Path(sys.executable).parent / "tensorgate"
ANNA = "anna@example.org"
SECONDS = 60
KEY = re.compile(r"sk-tg_[0-9A-Za-z]{49}")


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        assert self.err == ""
        return json.loads(self.out)


class Gate:
    """A state folder and its environment. `TENSORGATE_…` of whoever runs the tests is not in it."""

    def __init__(self, folder: Path) -> None:
        settings = new_state(folder)
        self.folder, self.state, self.catalog = folder, settings.state, settings.catalog
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "TENSORGATE_STATE": str(self.state),
            "TENSORGATE_CATALOG": str(self.catalog),
        }

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Ran:
        done = tensorgate(
            *arguments, env=self.env | env, cwd=self.folder, stdin=stdin, seconds=SECONDS
        )
        assert "Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def anew(self, *arguments: str, **env: str) -> Ran:
        """The same from nothing, for what an interpreter does as it starts."""
        done = subprocess.run(
            [TENSORGATE, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            env=self.env | env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        assert "Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str, stdin: str = "") -> Any:
        return self(*arguments, "--json", stdin=stdin).json

    def rows(self, statement: str) -> list[Any]:
        database = sqlite3.connect(self.state / "tensorgate.db")
        try:
            return database.execute(statement).fetchall()
        finally:
            database.close()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


class Inside(Gate):
    """As Gate, in this process."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        super().__init__(folder)
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Ran:
        raw = io.BytesIO(stdin.encode("utf-8", "surrogateescape"))
        with self._monkeypatch.context() as patched, io.TextIOWrapper(raw) as text:
            for name, value in (self.env | env).items():
                patched.setenv(name, value)
            patched.setattr("sys.stdin", text)
            status = cli.run(arguments)
        return Ran(status, *self._capfd.readouterr())


@pytest.fixture
def inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Inside:
    for name in [name for name in os.environ if name.startswith("TENSORGATE_")]:
        monkeypatch.delenv(name)
    gate = Inside(tmp_path, monkeypatch, capfd)
    add_anna(gate)
    return gate


@pytest.fixture
def anna(gate: Gate) -> Gate:
    add_anna(gate)
    return gate


def add_anna(gate: Gate) -> None:
    """One account, made without the command line."""
    database = sqlite3.connect(gate.state / "tensorgate.db")
    database.execute(
        "INSERT INTO accounts VALUES ('acc_anna', ?, NULL, 'free', 'user', 0, NULL, 1, NULL)",
        (ANNA,),
    )
    database.commit()
    database.close()


# -- the front


def test_alone_it_shows_its_commands(gate: Gate) -> None:
    ran = gate()
    assert (ran.status, ran.err) == (0, "")
    commands = "up authz demo doctor share envoy users keys ledger import db catalog"
    for command in commands.split():
        assert re.search(rf"^  {command} ", ran.out, re.MULTILINE), command
    ran = gate("keys")
    assert ran.status == 0
    for command in ("mint", "update", "list", "revoke", "find"):
        assert re.search(rf"^  {command} ", ran.out, re.MULTILINE), command
    assert gate.anew("--version").out == "tensorgate 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("keys", "mint", "--user", ANNA), "Missing option '--alias'"),
        (("keys", "list", "--user", ANNA, "--nonsense"), "--nonsense"),
        (("keys", "mint", "--rpm", "many"), "'--rpm'"),
    ],
)
def test_a_command_line_that_cannot_be_read(
    inside: Inside, arguments: tuple[str, ...], says: str
) -> None:
    ran = inside(*arguments, "--json")
    assert ran.status == 2
    assert says in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    error = json.loads(ran.out)["error"]
    assert error["code"] == "usage"
    assert ran.err == f"error: {error['message']}\n"
    assert "--help`." in error["message"]


def test_a_command_loads_only_what_it_needs(anna: Gate) -> None:
    """Half of the half second that a command takes is imports; these would double it."""
    ran = anna.anew("keys", "list", "--user", ANNA, PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rsplit("|", 1)[1].strip() for line in ran.err.splitlines() if "|" in line}
    assert "sqlalchemy" in loaded
    heavy = {"grpc", "alembic", "rich", "starlette", "uvicorn", "redis", "jinja2", "envoy"}
    assert loaded & heavy == set()
    ran = anna.anew("ledger", "verify", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rsplit("|", 1)[1].strip() for line in ran.err.splitlines() if "|" in line}
    assert loaded & heavy == {"alembic"}, "the migrations tell which triggers there have to be"
    ran = anna.anew("ledger", "export", "--by", "team", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rsplit("|", 1)[1].strip() for line in ran.err.splitlines() if "|" in line}
    assert loaded & heavy == set()
    ran = anna.anew("--help", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rsplit("|", 1)[1].strip() for line in ran.err.splitlines() if "|" in line}
    assert loaded & (heavy | {"sqlalchemy", "pydantic_settings", "argon2", "yaml"}) == set()


# -- accounts


def test_users(gate: Gate) -> None:
    assert gate("users", "list").out.startswith("There are no accounts yet.")
    ran = gate("users", "add", "Anna@Example.org", "--team", "red", "--admin")
    assert ran.status == 0
    assert "Added anna@example.org. The password is shown this once." in ran.out
    assert re.search(r"password  ([a-z2-7]{4}-){5}[a-z2-7]{4}\n", ran.out)
    added = gate.json(
        "users",
        "add",
        "bob@x",
        "--plan",
        "pro",
        "--password-stdin",
        stdin="correct horse battery\n",
    )
    assert (added["plan"], added["role"], added["password"]) == ("pro", "user", None)
    bot = gate.json("users", "add", "bot@x", "--service")
    assert (bot["service"], bot["password"]) == (True, None)

    assert gate("users", "set-plan", "bob@x", "free").out == (
        "bob@x is on the free plan: no gate runs on this database now, so it is obeyed from the "
        "start of the next.\n"
    )
    made = gate.json("users", "set-password", "bob@x")
    assert made["email"] == "bob@x"
    assert len(made["password"]) == 29
    listed = gate.json("users", "list")
    assert [(user["email"], user["live_keys"]) for user in listed] == [
        (ANNA, 0), ("bob@x", 0), ("bot@x", 0),
    ]  # fmt: skip
    assert set(listed[0]) == {
        "id", "email", "plan", "team", "role", "service", "disabled", "created_at", "live_keys",
    }  # fmt: skip
    assert gate.json("users", "disable", "bob@x")["disabled"] is True
    assert "user, disabled" in gate("users", "list").out
    assert gate("users", "enable", "bob@x").out.startswith("bob@x is enabled: ")
    assert not any(user["disabled"] for user in gate.json("users", "list"))
    assert gate("users", "list").out.splitlines()[1].split()[:5] == [
        ANNA, "free", "admin", "red", "0",
    ]  # fmt: skip
    actors = gate.rows("SELECT DISTINCT actor FROM audit")
    assert actors == [(f"cli:{subprocess.check_output(['id', '-un'], text=True).strip()}",)]


@pytest.mark.parametrize("stdin", ["", "\n", "short\n", "x" * 5000, "\udcff\udcff" * 10])
def test_a_password_that_cannot_be_one(inside: Inside, stdin: str) -> None:
    ran = inside("users", "add", "bob@x", "--password-stdin", stdin=stdin)
    assert ran.status == 1
    assert re.fullmatch(r"error: [^\n]+\n", ran.err)
    assert inside.rows("SELECT email FROM accounts") == [(ANNA,)]


# -- keys


def test_the_life_of_a_key(anna: Gate) -> None:
    of = ("--user", ANNA, "--alias", "laptop")
    limits = ("--models", "llama,free-model", "--budget-usd", "0.50", "--rpm", "7")
    minted = anna.json("keys", "mint", *of, *limits)
    assert list(minted) == [
        "id", "alias", "key", "hint", "models", "budget_usd", "rpm", "expires_at",
    ]  # fmt: skip
    key = minted["key"]
    assert KEY.fullmatch(key)
    assert minted["id"].startswith("key_")
    assert minted["hint"] == f"sk-tg_…{key[-4:]}"
    assert minted["models"] == ["free-model", "llama-3.1-8b"]
    assert (minted["budget_usd"], minted["rpm"]) == (0.5, 7)
    lives = time.mktime(time.strptime(minted["expires_at"], "%Y-%m-%dT%H:%M:%SZ")) - time.mktime(
        time.gmtime()
    )
    assert abs(lives - 90 * 86400) < 4000

    (listed,) = anna.json("keys", "list", "--user", ANNA)
    assert key not in json.dumps(listed)
    assert (listed["state"], listed["revoked_at"]) == ("live", None)
    assert {name: listed[name] for name in minted if name != "key"} == {
        name: minted[name] for name in minted if name != "key"
    }
    changed = anna.json("keys", "update", *of, "--models", "*", "--new-alias", "desk")
    assert (changed["alias"], changed["models"], changed["rpm"]) == ("desk", ["*"], 7)

    found = anna.json("keys", "find", "--key-stdin", stdin=f"{key}\n")
    assert (found["user"], found["alias"], found["state"]) == (ANNA, "desk", "live")

    refused = anna("keys", "revoke", "--user", ANNA, "--alias", "desk")
    assert refused.status == 1
    assert "--confirm" in refused.err
    revoked = anna("keys", "revoke", "--user", ANNA, "--alias", "desk", "--confirm", "desk")
    assert revoked.status == 0
    assert "no gate runs on this database now" in revoked.out
    assert anna("keys", "find", "--key-stdin", stdin=key).out.count("revoked") == 1
    assert anna.json("keys", "list", "--user", ANNA) == []
    (listed,) = anna.json("keys", "list", "--user", ANNA, "--all")
    assert listed["state"] == "revoked"
    assert listed["revoked_at"].endswith("Z")
    assert key not in b"".join(path.read_bytes() for path in anna.state.iterdir()).decode("latin-1")


def test_people_see_a_key_once(inside: Inside) -> None:
    ran = inside("keys", "mint", "--user", ANNA, "--alias", "laptop", "--models", "llama,new-model")
    assert ran.status == 0
    (key,) = KEY.findall(ran.out)
    assert "shown this once" in ran.out
    assert "note: `llama` is an alias of `llama-3.1-8b`" in ran.out
    assert "note: `new-model` is not in the catalog" in ran.out
    assert "budget   $5.00 per 30 days" in ran.out
    listed = inside("keys", "list", "--user", ANNA).out.splitlines()
    assert listed[0].split() == ["ALIAS", "KEY", "STATE", "BUDGET", "RPM", "EXPIRES", "MODELS"]
    assert listed[1].split()[:5] == ["laptop", f"sk-tg_…{key[-4:]}", "live", "$5.00", "60"]
    assert listed[1].endswith("llama-3.1-8b, new-model")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("mint", "--alias", "a", "--models", "*", "--budget-usd", "6"), "plan_limit_budget", "$5"),
        (("mint", "--alias", "a", "--models", "*", "--budget-usd", "9"), "plan_limit_budget", "$"),
        (("mint", "--alias", "a", "--models", "*", "--rpm", "61"), "plan_limit_rpm", "60"),
        (("mint", "--alias", "a", "--models", "*", "--rpm", "0"), "invalid_rpm", "1"),
        (("mint", "--alias", "A", "--models", "*"), "invalid_alias", "lower-case"),
        (("mint", "--alias", "a", "--models", ""), "invalid_models", "name"),
        (("update", "--alias", "a"), "nothing_to_change", "Give"),
        (("update", "--alias", "a", "--rpm", "1"), "not_found", "no key `a`"),
        (("revoke", "--alias", "a", "--confirm", "a"), "not_found", "no key `a`"),
    ],
)  # fmt: skip
def test_what_is_refused_is_one_line_and_json(
    inside: Inside, arguments: tuple[str, ...], code: str, says: str
) -> None:
    ran = inside("keys", arguments[0], "--user", ANNA, *arguments[1:], "--json")
    assert ran.status == 1
    error = json.loads(ran.out)["error"]
    assert error["code"] == code
    assert says in error["message"]
    assert ran.err == f"error: {error['message']}\n"


def test_words_of_the_third_key(inside: Inside) -> None:
    for alias in ("one", "two"):
        assert inside("keys", "mint", "--user", ANNA, "--alias", alias, "--models", "*").status == 0
    ran = inside("keys", "mint", "--user", ANNA, "--alias", "three", "--models", "*")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        "error: You hold 2 of 2 live keys on the free plan. "
        "Revoke one you no longer need, or ask an admin for pro.\n"
    )


def test_a_key_is_never_taken_from_nor_told_on_the_command_line(inside: Inside) -> None:
    ran = inside("keys", "find", "--json")
    assert ran.status == 1
    assert "--key-stdin" in ran.err
    for wrong in ("sk-tg_" + "a" * 49, "hello", ""):
        ran = inside("keys", "find", "--key-stdin", stdin=wrong)
        assert ran.status == 1
        assert "a" * 20 not in ran.err + ran.out
        assert "hello" not in ran.err + ran.out


def at_a_terminal(gate: Gate, arguments: tuple[str, ...], answer: bytes) -> tuple[int, str]:
    """Run with a terminal on all three, answer the first question; status and what was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(TENSORGATE, ["tensorgate", *arguments], gate.env)
    shown, answered, deadline = b"", False, time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    shown += os.read(terminal, 4096)
                except OSError:  # its other end is closed: it has exited
                    break
            if b": " in shown and not answered:
                os.write(terminal, answer + b"\n")
                answered = True
    finally:
        os.close(terminal)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status, shown.decode()


def test_a_terminal_is_asked(anna: Gate) -> None:
    key = anna.json("keys", "mint", "--user", ANNA, "--alias", "laptop", "--models", "*")["key"]
    revoke = ("keys", "revoke", "--user", ANNA, "--alias", "laptop")
    status, shown = at_a_terminal(anna, revoke, b"lap")
    assert status == 1
    assert "Type `laptop`" in shown
    assert "nothing was revoked" in shown
    status, shown = at_a_terminal(anna, ("keys", "find", "--key-stdin"), key.encode())
    assert status == 0
    assert "laptop" in shown
    assert key not in shown, "what is typed is not echoed"
    status, shown = at_a_terminal(anna, revoke, b"laptop")
    assert status == 0
    assert "Revoked `laptop`" in shown


# -- state and database


def test_a_new_state_is_made_by_whoever_comes_first(gate: Gate) -> None:
    """Three at once on a folder that is not there: one migrates, all go on."""
    environment = gate.env | {"TENSORGATE_STATE": str(gate.folder / "deep" / "state")}
    started = [
        subprocess.Popen(
            [TENSORGATE, "users", "list", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in started:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "[]\n", "")
    assert (gate.folder / "deep").stat().st_mode & 0o777 == 0o700


def test_a_named_database_waits_for_db_upgrade(inside: Inside) -> None:
    inside.env["TENSORGATE_DATABASE_URL"] = f"sqlite:///{inside.folder}/other.db"
    ran = inside("users", "list", "--json")
    assert ran.status == 1
    assert json.loads(ran.out)["error"]["code"] == "schema_mismatch"
    assert "Run `tensorgate db upgrade`." in ran.err
    assert not (inside.folder / "other.db").exists()
    assert inside.json("db", "upgrade") == {"before": None, "revision": upgrades.HEAD}
    assert inside("db", "upgrade").out == f"The database is at revision {upgrades.HEAD}.\n"
    assert inside.json("users", "list") == []


def test_settings_that_cannot_be_used(inside: Inside) -> None:
    ran = inside("users", "list", TENSORGATE_DASHBOARD_URL="x", TENSORGATE_FOREIGN_KEYS="(")
    assert ran.status == 1
    assert "TENSORGATE_DASHBOARD_URL: " in ran.err
    assert "TENSORGATE_FOREIGN_KEYS: " in ran.err
    ran = inside("users", "list", TENSORGATE_DATABASE_URL="nosuch://gate:hunter22@db/gate")
    assert ran.status == 1
    assert "TENSORGATE_DATABASE_URL: " in ran.err
    assert "hunter22" not in ran.err + ran.out
    ran = inside("users", "add", "a@b", TENSORGATE_CATALOG="/nowhere.yaml")
    assert ran.status == 1
    assert "/nowhere.yaml: No such file" in ran.err


def test_catalog_check(inside: Inside) -> None:
    ran = inside("catalog", "check")
    assert ran.status == 0
    assert re.search(r"model llama-3\.1-8b +input \$0\.05, cached input \$0\.01", ran.out)
    assert re.search(r"plan free \(default\) +at most 2 keys, \$5\.00 a key", ran.out)
    assert re.search(r"plan open +no caps", ran.out)
    assert re.search(r"model free-model +free", ran.out)
    told = inside.json("catalog", "check")
    assert told["plans"]["pro"] == {
        "max_keys": 10, "max_budget_usd": 500, "max_rpm": 600, "account_budget_usd": None,
    }  # fmt: skip
    assert told["models"]["llama-3.1-8b"]["price"]["cached_input"] == 0.01
    nowhere = inside("catalog", "check", "--json", TENSORGATE_STATE="/nowhere")
    assert nowhere.json["lost_plans"] is None
    inside.catalog.write_text(CATALOG.replace("max_keys: 2", "max_keys: two"))
    ran = inside("catalog", "check", "--json")
    assert ran.status == 1
    line = CATALOG.splitlines().index("  free: {max_keys: 2, max_budget_usd: 5, max_rpm: 60}") + 1
    assert f"line {line}: plans.free.max_keys" in ran.err
    assert json.loads(ran.out)["error"]["code"] == "config"


def test_a_plan_that_the_catalog_has_lost_is_named(inside: Inside) -> None:
    for name in ("carl", "dora"):
        inside.json("users", "add", f"{name}@example.org", "--plan", "pro")
    assert inside.json("catalog", "check")["lost_plans"] == {}
    inside.catalog.write_text(re.sub(r"(?m)^  pro:.*\n", "", CATALOG))
    assert inside.json("catalog", "check")["lost_plans"] == {"pro": 2}
    ran = inside("catalog", "check")
    assert ran.status == 0
    assert "Plan pro is not here, and 2 accounts are on it: they are held to" in ran.out


# -- sharing


def test_share(gate: Gate) -> None:
    assert gate("share", "bob@x").status == 1
    assert gate.rows("SELECT * FROM accounts") == [], "nothing is made for a gate that is nowhere"
    (gate.state / "url").write_text("http://192.0.2.7:8080\n")
    ran = gate("share", "Bob@x")
    assert (ran.status, ran.err) == (0, "")
    assert len(set(KEY.findall(ran.out))) == 1
    key = KEY.findall(ran.out)[0]
    assert f"curl http://192.0.2.7:8080/v1/models -H 'Authorization: Bearer {key}'" in ran.out
    assert f'OpenAI(base_url="http://192.0.2.7:8080/v1", api_key="{key}")' in ran.out
    assert 'model="llama-3.1-8b"' in ran.out
    assert "$5.00 in 30 days" in ran.out
    assert "note:" not in ran.out
    told = gate.json("share", "bob@x", "--budget-usd", "2", "--url", "https://gate.example.org/v1/")
    assert (told["alias"], told["budget_usd"], told["account_added"]) == ("shared-2", 2, False)
    assert told["base_url"] == "https://gate.example.org/v1"
    assert told["models"] == ["*"]
    ran = gate("share", "bob@x")
    assert (ran.status, ran.err[:27]) == (1, "error: You hold 2 of 2 live")
    assert gate.rows("SELECT password_hash FROM accounts") == [(None,)]


def test_share_warns_and_refuses_addresses(inside: Inside) -> None:
    ran = inside("share", "bob@x", "--url", "http://127.0.0.1:8080")
    assert "note: only this machine reaches http://127.0.0.1:8080" in ran.out
    for wrong in ("inside.example.org", "http://x'; rm -rf ~'", "ftp://x", "http://", "http://x y"):
        assert inside("share", "eve@x", "--url", wrong).status == 1
    assert inside.rows("SELECT email FROM accounts ORDER BY email") == [(ANNA,), ("bob@x",)]


# -- what must not be seen


def run(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> Ran:
    status = cli.run(arguments)
    return Ran(status, *capfd.readouterr())


def fail_with(fault: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise fault

    return fail


def test_the_unforeseen_is_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TENSORGATE_STATE", str(tmp_path))
    monkeypatch.delenv("TENSORGATE_DEBUG", raising=False)
    monkeypatch.setattr("admin.service.open_service", fail_with(RuntimeError("hunter22")))
    ran = run(["users", "list", "--json"], capfd)
    assert ran.status == 1
    assert ran.err == "error: internal error: RuntimeError; set TENSORGATE_DEBUG=1 to see more.\n"
    assert json.loads(ran.out)["error"]["code"] == "internal"
    monkeypatch.setenv("TENSORGATE_DEBUG", "1")
    ran = run(["users", "list"], capfd)
    assert "Traceback" in ran.err
    assert "hunter22" in ran.err


def test_an_interrupt_is_quiet(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admin.service.open_service", fail_with(KeyboardInterrupt()))
    assert run(["users", "list"], capfd) == Ran(130, "", "")


def test_a_status_of_a_command_is_the_status(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorgate.doctor.doctor", lambda as_json: 3)
    assert run(["doctor"], capfd).status == 3
    monkeypatch.setattr("tensorgate.up.up", fail_with(InputError("Port taken.", code="port")))
    ran = run(["up"], capfd)
    assert (ran.status, ran.err) == (1, "error: Port taken.\n")


def test_up_is_given_what_was_said(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr("tensorgate.up.up", lambda **given: seen.update(given) or 0)
    said = "--upstream h:1 --upstream-grpc h:2 --port 2 --admin-port 3 --state s --workers 4 "
    said += "--listen ::1 --metrics-listen 127.0.0.1:5"
    assert run(["up", *said.split()], capfd).status == 0
    assert seen == {
        "upstream": "h:1", "upstream_grpc": "h:2", "port": 2, "admin_port": 3, "state": Path("s"),
        "workers": 4, "listen": "::1", "metrics_listen": "127.0.0.1:5",
    }  # fmt: skip


def test_envoy_has_its_own_help(gate: Gate) -> None:
    ran = gate("envoy", "render", "--help")
    assert ran.status == 0
    assert "--upstream" in ran.out
    assert gate("envoy", "nonsense").status == 2
    ran = gate("envoy")
    assert (ran.status, ran.err) == (0, "")
    assert "render" in ran.out


def test_a_reader_that_went_away_is_no_stack_trace(anna: Gate) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [TENSORGATE, "users", "list"],
        check=False,
        env=anna.env,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writing)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert done.returncode == 1


def test_a_terminal_without_utf8_still_gets_its_key(anna: Gate) -> None:
    ran = anna.anew(
        "keys", "mint", "--user", ANNA, "--alias", "a", "--models", "*",
        LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert ran.status == 0
    assert len(KEY.findall(ran.out)) == 1
    ran = anna.anew("keys", "list", "--user", ANNA, PYTHONIOENCODING="ascii")
    assert r"sk-tg_\u2026" in ran.out
