"""Programs in Go, built once with Go's own toolchain, which comes by wheel."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from peers.venvs import VENVS, ensure_venv, exclusive, run

_SOURCES: Final = Path(__file__).resolve().parent / "readers" / "go"


def ensure_go_program(name: str) -> Path:
    """The program of `readers/go/NAME.go`, which uses the standard library alone."""
    go = ensure_venv("go").parent / "go"
    source = _SOURCES / f"{name}.go"
    program = VENVS / "go-programs" / name
    stamp = program.with_suffix(".made-from")
    wanted = hashlib.sha256(source.read_bytes()).hexdigest()
    with exclusive("go-programs"):
        if not (program.exists() and stamp.exists() and stamp.read_text() == wanted):
            program.parent.mkdir(exist_ok=True)
            env = os.environ | {
                "CGO_ENABLED": "0",
                "GOCACHE": str(program.parent / "cache"),
                "GOFLAGS": "-trimpath",
                "GOPROXY": "off",  # there is nothing to fetch
                "GOTOOLCHAIN": "local",
            }
            quick = ("-gcflags=all=-N -l", "-ldflags=-s -w")  # it is built once and asked little
            run(str(go), "build", *quick, "-o", str(program), str(source), env=env)
            stamp.write_text(wanted)
    return program
