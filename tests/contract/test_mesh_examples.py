"""Resources for Istio are such as the schemas of its kinds have them."""

from __future__ import annotations

import copy
import json
import subprocess
from typing import Any

import pytest
import yaml
from peers.node import ensure_node, ensure_node_modules
from peers.venvs import ROOT

FOLDER = ROOT / "deploy/istio"
READER = ROOT / "tests/peers/readers/istio.mjs"
Resource = dict[str, Any]


def faults(resources: list[Resource]) -> list[list[str]]:
    """What is wrong with each."""
    argv = (str(ensure_node()), str(READER), str(ensure_node_modules("istio")))
    done = subprocess.run(
        argv, input=json.dumps(resources), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def resources() -> list[Resource]:
    """All that is Istio's own."""
    read = [each for path in FOLDER.glob("*.yaml") for each in yaml.safe_load_all(path.read_text())]
    return [each for each in read if "istio.io/" in each.get("apiVersion", "")]


def test_the_schemas_know_every_member(resources: list[Resource]) -> None:
    kinds = sorted(each["kind"] for each in resources)
    assert kinds == [
        *("AuthorizationPolicy", "AuthorizationPolicy", "EnvoyFilter"),
        *("PeerAuthentication", "Sidecar", "Telemetry"),
    ]
    assert faults(resources) == [[] for _ in resources]


def test_what_they_do_not_know_is_found(resources: list[Resource]) -> None:
    (policy, *_) = (copy.deepcopy(r) for r in resources if r["kind"] == "AuthorizationPolicy")
    policy["spec"]["action"] = "CUSTM"
    policy["spec"]["rules"][0]["to"][0]["operation"]["notPath"] = ["/x"]
    ((first, second),) = faults([policy])
    assert first == "/spec/action: enum"
    assert second == "/spec/rules/0/to/0/operation/notPath: not known"
