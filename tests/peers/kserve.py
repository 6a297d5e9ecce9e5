"""A real server of the open inference protocol, mlserver, and Triton's client for it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from peers.ports import free_port, listens
from peers.process import Child
from peers.venvs import ensure_venv

MODELS: Final = ("doubling", "secret")

_HERE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Kserve:
    """`address` speaks HTTP and `grpc` gRPC, both host:port; MODELS double what they are given."""

    address: str
    grpc: str
    child: Child

    def wait(self) -> None:
        """Return when it answers on both of its ports."""
        ports = [int(each.rpartition(":")[2]) for each in (self.address, self.grpc)]
        what = "both of its ports"
        self.child.wait_until(lambda: all(map(listens, ports)), seconds=60, what=what)


@contextmanager
def kserve_server(folder: Path) -> Iterator[Kserve]:
    """Run the server until the block ends; `folder` is new and takes its files.

    It has been started, no more: `wait` waits for it.
    """
    python = ensure_venv("mlserver")
    http, grpc, metrics = free_port(), free_port(), free_port()
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    quiet = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps(ports | quiet))
    for name in MODELS:
        place = folder / name
        place.mkdir()
        shutil.copy(_HERE / "kserve_model.py", place)
        settings = {"name": name, "implementation": "kserve_model.Doubling"}
        (place / "model-settings.json").write_text(json.dumps(settings))
    child = Child([python.with_name("mlserver"), "start", folder], log=folder / "mlserver.log")
    try:
        yield Kserve(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", child)
    finally:
        child.end()


@dataclass(frozen=True)
class Ended:
    """How a call of Triton's client ended: a value, or a status and words."""

    value: Any = None
    status: str | None = None
    message: str = ""


class TritonClient:
    """Triton's client as a process of its own, since its venv clashes with ours."""

    def __init__(self, address: str, key: str | None = None) -> None:
        self._address, self._key = address, key
        self._ready = False
        python = ensure_venv("tritonclient")
        self._process = subprocess.Popen(
            [python, _HERE / "kserve_client.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(15)
        self._process.stdout.close()

    def call(self, over: str, what: str, model: str = "doubling", **more: Any) -> Ended:
        """One call over `http` or `grpc`, with the client's key unless told another."""
        if not self._ready:
            assert self._line() == "ready"
            self._ready = True
        asked = {
            "over": over,
            "url": self._address,
            "what": what,
            "model": model,
            "key": self._key,
            "numbers": [[1.0, 2.5]],
            **more,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"Triton's client ended with {self._process.wait(15)}"
        return line.rstrip("\n")
