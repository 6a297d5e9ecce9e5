"""Rules, alerts and the dashboard: promtool's word, and that each names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from peers.debian import program
from peers.venvs import ROOT
from prometheus_client import CollectorRegistry
from promql import asked_for

from authz.metrics import Metrics

FOLDER = ROOT / "deploy/prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDED = {
    rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule
}
ENVOYS = {
    # as Envoy 1.40 itself names them; test_pod.py scrapes them from a real one
    "envoy_http_ext_authz_failure_mode_allowed",
    "envoy_http_lua_body_room_errors",
    "envoy_http_lua_inference_errors",
    "envoy_server_days_until_first_cert_expiring",
}
PROMETHEUS_OWN = {"up"}


def promtool(*words: str) -> str:
    done = subprocess.run(
        (program("prometheus", "promtool"), *words),
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_rules_and_configuration() -> None:
    promtool("check", "rules", "rules.yaml")
    promtool("check", "config", "prometheus.yaml")


def test_every_alert_fires_in_a_test_of_promtools() -> None:
    promtool("test", "rules", "rules_test.yaml")
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    names = {alert["alert"] for alert in ALERTS}
    assert fired == names
    assert quiet == names


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_it_means_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    said = alert["annotations"]
    assert said.keys() == {"summary", "impact", "first", "runbook"}
    path, _, anchor = said["runbook"].partition("#")
    headings = re.findall(r"(?m)^### (\w+)$", (ROOT / path).read_text())
    assert anchor in {heading.lower() for heading in headings}
    assert alert["alert"].lower() == anchor


def test_the_dashboard_is_current() -> None:
    argv = (sys.executable, "-P", str(ROOT / "deploy/grafana/render.py"), "--check")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_metric_that_is_asked_for_exists() -> None:
    known = _ours() | RECORDED | ENVOYS | PROMETHEUS_OWN
    assert asked_for()
    assert asked_for() <= known


def _ours() -> set[str]:
    """Every name under which a sample of ours is exposed."""
    registry = Metrics().registry
    assert isinstance(registry, CollectorRegistry)
    found = {"tensorgate_process_restarts_total"}  # the supervisor's own (authz/fleet.py)
    for family in registry.collect():
        found.add(family.name)
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        found |= {family.name + suffix for suffix in suffixes.get(family.type, ())}
    return found
