"""The whole gate as a person starts it: `tensorgate up` on free ports with a state of its own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from peers.commands import tensorgate
from peers.ports import free_port, listens
from peers.process import (
    Child,
    PeerError,
    command,
    descendants,
    environment,
    processes,
)

from store.records import DAY_US

READY_SECONDS: Final = 120
STOP_SECONDS: Final = 20
COMMAND_SECONDS: Final = 30
PLENTY_RPM: Final = 100_000
USER: Final = "dev@example.com"

# The plans of the project's own catalog are too small for tests: `test` has no limits.
CATALOG: Final = """\
default: {price: {input: 0.5, output: 1.5}, context_tokens: 131072, max_output_tokens: 4096}
plans:
  test: {}
  free: {max_keys: 2, max_budget_usd: 5, max_rpm: 60}
  pro: {max_keys: 10, max_budget_usd: 500, max_rpm: 600, account_budget_usd: 1000}
default_plan: test
"""


class Stack:
    """A running gate. Make it with `start`, end it with `stop`."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.port, self.admin_port, self.metrics_port = free_port(), free_port(), free_port()
        self._env = env
        self._users: set[str] | None = None
        self._minted = 0
        self._tensorgate = Path(sys.executable).with_name("tensorgate")

    @classmethod
    def start(
        cls,
        upstream: str | None = None,
        *,
        folder: Path,
        catalog: str | None = CATALOG,
        env: Mapping[str, str] | None = None,
        program: Sequence[str | Path] | None = None,
        workers: int = 1,
    ) -> Stack:
        """Start a gate and wait until it is ready. Raises PeerError that shows what it printed.

        Without an `upstream` (host:port) it has its demo server. `folder` takes its state, its
        catalog and its output; one that was used before goes on where it stopped, and with
        `catalog=None` finds the catalog that lies there. `env` goes to all of its processes.
        `program` is what runs as `tensorgate`, with `up` and its options behind it.
        """
        own = {
            name: value for name, value in os.environ.items() if not name.startswith("TENSORGATE_")
        }
        path = folder / "catalog.yaml"
        if catalog is not None:
            path.write_text(catalog)
        own |= {"TENSORGATE_STATE": str(folder / "state"), "TENSORGATE_CATALOG": str(path)}
        stack = cls(folder, own | dict(env or {}))
        stack._up(upstream, program or [stack._tensorgate], workers)
        return stack

    def _up(self, upstream: str | None, program: Sequence[str | Path], workers: int) -> None:
        options = {
            "--upstream": upstream,
            "--port": self.port,
            "--admin-port": self.admin_port,
            "--state": self.state,
            "--workers": workers,
            "--listen": "127.0.0.1",
            "--metrics-listen": f"127.0.0.1:{self.metrics_port}",
        }
        given = [str(each) for pair in options.items() if pair[1] is not None for each in pair]
        argv: list[str | Path] = [*program, "up", *given]
        self._child = Child(argv, log=self.folder / "up.log", env=self._env, cwd=self.folder)
        try:
            self._child.line("tensorgate ready", seconds=READY_SECONDS)
        except PeerError as fault:
            logs = sorted((self.state / "log").glob("*"))
            said = [f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs]
            self._kill_leftovers()
            raise PeerError("\n".join([str(fault), *said])) from None

    @property
    def address(self) -> str:
        """Where Envoy listens, host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The same as a URL without a path."""
        return f"http://{self.address}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    @property
    def pid(self) -> int:
        """Of `tensorgate up` itself."""
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.process.poll() is None

    @property
    def runtime(self) -> Path:
        """The folder with the sockets, as the state names it."""
        return Path((self.state / "runtime").read_text().strip())

    @property
    def output(self) -> str:
        """All that `tensorgate up` has printed, on stdout and stderr."""
        return self._child.output

    def run(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `tensorgate ARGS` on this gate's state, as a person without a terminal does."""
        return tensorgate(
            *args, env=self._env, cwd=self.folder, stdin=stdin or "", seconds=COMMAND_SECONDS
        )

    def cli(self, *args: str, stdin: str | None = None) -> Any:
        """Run a command with --json; what it printed. Raises PeerError where it fails."""
        done = self.run(*args, "--json", stdin=stdin)
        if done.returncode:
            raise PeerError(
                f"tensorgate {' '.join(args)} ended with {done.returncode}:\n"
                f"{done.stdout}{done.stderr}"
            )
        return json.loads(done.stdout)

    def cli_error(self, *args: str, stdin: str | None = None) -> dict[str, str]:
        """Run a command that has to fail with exit code 1; its error's message and code."""
        done = self.run(*args, "--json", stdin=stdin)
        if done.returncode != 1:
            raise PeerError(f"tensorgate {' '.join(args)} ended with {done.returncode}, not 1")
        error: dict[str, str] = json.loads(done.stdout)["error"]
        return error

    def mint(
        self,
        *,
        models: str = "*",
        user: str = USER,
        alias: str | None = None,
        budget_usd: float | str | None = "none",
        rpm: int | None = PLENTY_RPM,
        expires_in_days: int | None = None,
        plan: str = "test",
    ) -> dict[str, Any]:
        """Mint a key (adding its user if need be): id, alias, key, hint, models, limits.

        It has no budget and more requests a minute than any test makes, unless told otherwise;
        with None for a limit the command is not told, and takes its own default.
        """
        self._minted += 1
        if self._users is None:
            self._users = {each["email"] for each in self.cli("users", "list")}
        if user not in self._users:
            self.cli("users", "add", user, "--plan", plan)
            self._users.add(user)
        limits = {
            "--budget-usd": budget_usd,
            "--rpm": rpm,
            "--expires-in-days": expires_in_days,
        }
        given = [str(each) for pair in limits.items() if pair[1] is not None for each in pair]
        alias = alias or f"test-{os.getpid()}-{self._minted}"
        minted: dict[str, Any] = self.cli(
            "keys", "mint", "--user", user, "--alias", alias, "--models", models, *given
        )
        return minted

    def expire(self, key_id: str) -> int:
        """Let a key expire yesterday, which nobody can mint; when, in µs."""
        expires_us = time.time_ns() // 1000 - DAY_US
        self.sql("update keys set expires_us = ? where id = ?", expires_us, key_id)
        self.sql(
            "insert into changes (digest, account_id, at_us) select digest, null, ? from keys "
            "where id = ?",
            expires_us,
            key_id,
        )
        return expires_us

    def sql(self, statement: str, *values: Any) -> Any:
        """Run one statement on the gate's database; the first column of the first row, if any."""
        database = sqlite3.connect(self.state / "tensorgate.db", timeout=10)
        try:
            with database:
                row = database.execute(statement, values).fetchone()
            return row and row[0]
        finally:
            database.close()

    def revoke(self, alias: str, *, user: str = USER) -> None:
        """Revoke a key for ever."""
        self.cli("keys", "revoke", "--user", user, "--alias", alias, "--confirm", alias)

    def children(self) -> dict[str, list[int]]:
        """The pids of the processes that `up` started, by role: authz, envoy, demo, …

        With several workers these are authz-0, authz-1, … and `authz` is their supervisor.
        """
        found: dict[str, list[int]] = {}
        for pid in descendants(self.pid):
            role = _role(command(pid))
            if role == "authz":
                worker = [e for e in environment(pid) if e.startswith("TENSORGATE_WORKER=")]
                role = f"authz-{worker[0].partition('=')[2]}" if worker else role
            if role is not None:
                found.setdefault(role, []).append(pid)
        return found

    def stop(self, signal_number: int = signal.SIGINT) -> None:
        """End it as Ctrl-C does. Raises PeerError if it does not end well or leaves anything."""
        named = self.state / "runtime"
        runtime = self.runtime if named.exists() else None
        faults = []
        try:
            code = self._child.end(signal_number, seconds=STOP_SECONDS)
            if code:
                faults.append(f"`tensorgate up` ended with {code}")
        except PeerError as fault:
            faults.append(str(fault))
        faults += [f"left running: {each}" for each in self._kill_leftovers()]
        faults += [
            f"port {port} is still open"
            for port in (self.port, self.admin_port, self.metrics_port)
            if listens(port)
        ]
        if runtime is not None and runtime.exists():
            faults.append(f"left behind: {runtime}")
        if faults:
            raise PeerError("\n".join([*faults, self.output]))

    def kill(self) -> None:
        """End it without any courtesy, for a clean-up after a failure."""
        if self._child.process.poll() is None:
            self._child.end(signal.SIGKILL)
        self._kill_leftovers()

    def _kill_leftovers(self) -> list[str]:
        """End what still runs on this state; the commands of what there was."""
        ours = f"TENSORGATE_STATE={self.state}"
        left = [pid for pid in processes() if ours in environment(pid) and pid != os.getpid()]
        commands = [" ".join(command(pid)) for pid in left]
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return commands


def _role(argv: list[str]) -> str | None:
    names = [Path(word).name for word in argv]
    if "envoy" in names[:1]:
        return "envoy"
    if "valkey-server " in " ".join(argv[:1]):  # it says in there where it listens
        return "valkey"
    if "tensorgate" in names[:-1]:
        return names[names.index("tensorgate") + 1]
    return None


StartStack = Callable[..., Stack]  # `Stack.start`, but the folder may be left to the fixture
