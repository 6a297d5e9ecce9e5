"""A real llama.cpp server with a tiny model of random weights."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers.ports import free_port
from peers.process import Child
from peers.venvs import VENVS, ensure_venv, exclusive

MODEL: Final = "tiny-llama"

_HERE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Llama:
    """`address` is host:port; the server answers to any model name and lists MODEL."""

    address: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"


def model_file(python: Path) -> Path:
    """The model, made once for each version of the program that makes it."""
    maker = _HERE / "llama_model.py"
    version = hashlib.sha256(maker.read_bytes()).hexdigest()[:12]
    path = VENVS / f"tiny-llama-{version}.gguf"
    with exclusive("tiny-llama"):
        if not path.exists():
            subprocess.run([python, maker, path], check=True, capture_output=True)
    return path


@contextmanager
def llama_server(log: Path) -> Iterator[Llama]:
    """Run the server until the block ends."""
    python = ensure_venv("llama")
    port = free_port()
    child = Child([python, _HERE / "llama_serve.py", model_file(python), str(port)], log=log)
    try:
        child.line("ready ", seconds=60)
        yield Llama(f"127.0.0.1:{port}")
    finally:
        child.end()
