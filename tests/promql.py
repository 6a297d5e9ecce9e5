"""Which metrics our rules and our dashboard ask for."""

from __future__ import annotations

import json
import re

import yaml
from peers.venvs import ROOT

_KEYWORDS = {"and", "or", "unless", "offset", "bool"}


def asked_for() -> set[str]:
    """Every name in an expression of deploy/prometheus/rules.yaml and deploy/grafana."""
    dashboard = json.loads((ROOT / "deploy/grafana/tensorgate.json").read_text())
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    found: set[str] = set()
    for expression in asked:
        named = metrics_of(expression)
        assert named, expression
        found |= named
    return found


def metrics_of(expression: str) -> set[str]:
    """The names of metrics in PromQL: words that are no function, label, keyword or string."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b\d+[smhd]\b', " ", expression)
    bare = re.sub(r"\b(by|on|ignoring|without)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)
    return {word for word in words if word not in _KEYWORDS}
