"""The state folder as `up` keeps it, and the runtime folder that holds the sockets.

    STATE/              0700; the database and whatever the parts keep
      up.lock           held by the one `tensorgate up` that runs on it
      up.json           what that one runs: pid, url, upstream, metrics, admin, workers
      url               where clients reach the gate (kept after a stop: `share` prints it)
      runtime           path of the runtime folder, while the gate runs
      envoy.yaml        0600, as rendered at the last start
      log/              the children's logs

The runtime folder is short (a socket's path has at most 107 bytes), private and temporary.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from store.errors import InputError
from tensorgate.ports import Address

PRIVATE: Final = 0o700
LONGEST_SOCKET: Final = 107
LONGEST_NAME: Final = "upstreams.sock"
RUNTIME_PREFIX: Final = "tensorgate-"
# What a folder that is ours has in it: any one of these.
MARKS: Final = ("tensorgate.db", "up.lock", "authz.lock", "log")


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths in the state folder; nothing is read or made before it is asked for."""

    path: Path

    @property
    def logs(self) -> Path:
        """Where the children's logs are."""
        return self.path / "log"

    @property
    def envoy_yaml(self) -> Path:
        """The rendered configuration."""
        return self.path / "envoy.yaml"

    def prepare(self) -> None:
        """Make the folder, or make sure that it is ours and private. Raises InputError."""
        try:
            self.path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            self._claim()
            self.logs.mkdir(mode=PRIVATE, exist_ok=True)
        except OSError as fault:
            raise InputError(
                f"The state folder {self.path} cannot be used: {fault.strerror}. "
                "Name another with --state (make: STATE=)."
            ) from None

    def _claim(self) -> None:
        found = {entry.name for entry in self.path.iterdir()}
        if found and found.isdisjoint(MARKS):
            raise InputError(
                f"{self.path} holds other files and no Tensorgate state. "
                "Name an empty or new folder with --state (make: STATE=)."
            )
        if stat.S_IMODE(self.path.stat().st_mode) != PRIVATE:
            self.path.chmod(PRIVATE)  # umask, or somebody opened it: it holds digests and spend

    def lock(self) -> int:
        """Take the one place on this state; hold the descriptor. Raises InputError if taken."""
        descriptor = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            running = self.running()
            where = f" (pid {running['pid']}, {running['url']})" if running else ""
            raise InputError(
                f"Another `tensorgate up`{where} runs on the state in {self.path}. "
                "Stop it first, or name another folder with --state (make: STATE=).",
                code="already_running",
            ) from None
        return descriptor

    def is_locked(self) -> bool:
        """Whether a `tensorgate up` runs on this state now."""
        try:
            descriptor = os.open(self.path / "up.lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def write(self, name: str, text: str) -> None:
        """Replace a small file as a whole, readable by the owner only."""
        path = self.path / name
        half = path.with_name(f".{name}.{os.getpid()}")
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        half.replace(path)

    def read(self, name: str) -> str | None:
        """A small file's text without the line's end, None without such a file."""
        try:
            return (self.path / name).read_text().rstrip("\n") or None
        except (OSError, UnicodeDecodeError):
            return None

    def write_running(
        self,
        url: str,
        local: Address,
        upstream: Address,
        *,
        metrics: Address,
        admin: Address,
        workers: int,
    ) -> None:
        """Say for `doctor` and for a second `up` what runs here."""
        about = {
            "pid": os.getpid(),
            "url": url,
            "local": str(local),
            "upstream": str(upstream),
            "metrics": str(metrics),
            "admin": str(admin),
            "workers": workers,
        }
        self.write("up.json", json.dumps(about) + "\n")

    def running(self) -> Mapping[str, Any]:
        """What the present or last `up` wrote of itself; {} if nothing readable."""
        try:
            value = json.loads(self.read("up.json") or "{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def make_runtime(self) -> Path:
        """A fresh private runtime folder. One that a killed `up` left is removed first."""
        self.remove_runtime()
        base = tempfile.gettempdir()
        spare = len(f"/{RUNTIME_PREFIX}________/{LONGEST_NAME}")
        if len(os.fsencode(base)) + spare > LONGEST_SOCKET:
            base = "/tmp"  # noqa: S108 -- mkdtemp makes a private folder of unforeseeable name
        runtime = Path(tempfile.mkdtemp(prefix=RUNTIME_PREFIX, dir=base))  # mode 0700
        self.write("runtime", f"{runtime}\n")
        return runtime

    def remove_runtime(self) -> None:
        """Remove the runtime folder that the state names, if it is one that `up` made."""
        name = self.read("runtime")
        if name:
            path = Path(name)
            with suppress(OSError):
                seen = path.lstat()
                ours = path.name.startswith(RUNTIME_PREFIX) and seen.st_uid == os.geteuid()
                if ours and stat.S_ISDIR(seen.st_mode):
                    shutil.rmtree(path, ignore_errors=True)
        (self.path / "runtime").unlink(missing_ok=True)
