"""What reads manifests: kubectl's kustomize, the API's schemas, checkov. Each from its wheel."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from peers.venvs import ROOT, ensure_venv

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("overlays/demo", "overlays/single", "overlays/production", "examples/vllm")
API_VERSION = "1.34"
Manifest = dict[str, Any]


def build(overlay: str) -> str:
    """What `kubectl kustomize` makes of a folder; RuntimeError with what it says else."""
    kubectl = ensure_venv("kubernetes").parent / "kubectl"
    return _run(str(kubectl), "kustomize", str(FOLDER / overlay))


def validate(path: Path) -> str:
    """What `kubernetes-validate --strict` says of a file: a line for each resource."""
    tool = ensure_venv("kubernetes").parent / "kubernetes-validate"
    return _run(str(tool), "--strict", "-k", API_VERSION, str(path))


def checkov(*arguments: str) -> str:
    """What checkov finds, as we configured it; empty for nothing."""
    tool = ensure_venv("checkov").parent / "checkov"
    config = ROOT / "deploy" / "checkov.yaml"
    argv = (str(tool), "--config-file", str(config), "--skip-download", *arguments)
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def parse(text: str) -> list[Manifest]:
    """The resources of a stream of documents."""
    return [document for document in yaml.safe_load_all(text) if document]


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout + done.stderr
