"""The Kubernetes manifests: they build, the API would take them, and they keep their promises."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from peers import kubernetes
from peers.kubernetes import OVERLAYS, Manifest
from peers.venvs import ROOT

from admin.settings import AdminSettings
from authz.settings import AuthzSettings
from store.settings import PREFIX
from tensorgate.binaries import envoy_path

OURS = "registry.example.com/tensorgate:0.1.0"
README = (ROOT / "deploy/README.md").read_text()
ENVOYS_PORTS = {8080, 9902}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {overlay: kubernetes.build(overlay) for overlay in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def resources(texts: dict[str, str], overlay: str) -> list[Manifest]:
    return kubernetes.parse(texts[overlay])


def workloads(resources: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each workload and its pod's spec."""
    for each in resources:
        if each["kind"] in {"Deployment", "Job"}:
            yield each, each["spec"]["template"]["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def gates(resources: list[Manifest]) -> list[tuple[Manifest, Manifest]]:
    """The workloads with an Envoy of ours in them."""
    return [
        (workload, pod)
        for workload, pod in workloads(resources)
        if any("envoy" in each["name"] for each in containers(pod))
    ]


def labels(workload: Manifest) -> Manifest:
    found: Manifest = workload["spec"]["template"]["metadata"]["labels"]
    return found


def of(resources: list[Manifest], kind: str) -> list[Manifest]:
    return [each for each in resources if each["kind"] == kind]


def test_what_config_maps_carry_is_current() -> None:
    argv = (sys.executable, "-P", str(ROOT / "deploy/kubernetes/render.py"), "--check")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_api_would_take_them(texts: dict[str, str], overlay: str, tmp_path: Path) -> None:
    built = tmp_path / "built.yaml"
    built.write_text(texts[overlay])
    said = kubernetes.validate(built)
    doubts = [line for line in said.splitlines() if "passed for resource" not in line]
    # kinds of cert-manager and of the Prometheus operator are not of the API itself
    others = ("kind Certificate", "kind PodMonitor", "kind PrometheusRule")
    assert all(any(kind in line for kind in others) for line in doubts), doubts
    assert said.count("passed for resource") == len(kubernetes.parse(texts[overlay])) - len(doubts)


def test_checkov_finds_nothing_that_is_not_argued(texts: dict[str, str], tmp_path: Path) -> None:
    for overlay, text in texts.items():
        (tmp_path / f"{overlay.replace('/', '-')}.yaml").write_text(text)
    (tmp_path / "Dockerfile").write_text((ROOT / "deploy/container/Containerfile").read_text())
    said = kubernetes.checkov("--directory", str(tmp_path))
    assert "FAILED" not in said, said
    assert "kubernetes scan results" in said
    skipped = yaml.safe_load((ROOT / "deploy/checkov.yaml").read_text())["skip-check"]
    argued = (ROOT / "deploy/checkov.yaml").read_text()
    for check in skipped:
        before = argued[: argued.index(f"  - {check}\n")].rstrip().splitlines()[-1]
        assert before.lstrip().startswith("#"), f"{check} is skipped without a reason"


def test_envoy_takes_its_configuration(resources: list[Manifest], tmp_path: Path) -> None:
    seen = 0
    for each in of(resources, "ConfigMap"):
        text = each["data"].get("envoy.yaml")
        if text is None:
            continue
        seen += 1
        for name, value in each["data"].items():
            (tmp_path / name).write_text(value.replace("/etc/tensorgate/tls", str(tmp_path)))
        config = tmp_path / "envoy.yaml"
        config.write_text(text.replace("/etc/envoy/", f"{tmp_path}/"))
        argv = (str(envoy_path()), "--mode", "validate", "--config-path", str(config))
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert seen


def test_every_pod_is_restricted(resources: list[Manifest]) -> None:
    for workload, pod in workloads(resources):
        where = workload["metadata"]["name"]
        assert pod["automountServiceAccountToken"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), where
        for each in containers(pod):
            inside = pod.get("securityContext", {}) | each["securityContext"]
            assert inside["runAsNonRoot"] is True, (where, each["name"])
            assert inside["seccompProfile"] == {"type": "RuntimeDefault"}, (where, each["name"])
            assert inside["allowPrivilegeEscalation"] is False, (where, each["name"])
            assert inside["readOnlyRootFilesystem"] is True, (where, each["name"])
            assert inside["capabilities"] == {"drop": ["ALL"]}, (where, each["name"])
            assert each["resources"]["limits"]["memory"], (where, each["name"])
    for account in of(resources, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    (namespace,) = of(resources, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_secret_stands_in_a_manifest(resources: list[Manifest], overlay: str) -> None:
    if overlay == "overlays/demo":  # it says so at its head, and makes them by itself
        assert {s["metadata"]["name"].rpartition("-")[0] for s in of(resources, "Secret")} == {
            "tensorgate-stores",
            "tensorgate-postgres",
            "tensorgate-pepper",
        }
    else:
        assert of(resources, "Secret") == []
    for _, pod in workloads(resources):
        for each in containers(pod):
            for variable in each.get("env", ()):
                assert "valueFrom" in variable or "PASSWORD" not in variable["name"], variable


def test_the_autoscaler_alone_says_how_many(resources: list[Manifest]) -> None:
    """A number in the Deployment would undo, with each `apply`, what the autoscaler has found."""
    scalers = of(resources, "HorizontalPodAutoscaler")
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in scalers}
    for workload in of(resources, "Deployment"):
        name = workload["metadata"]["name"]
        assert ("replicas" in workload["spec"]) is (name not in scaled), name
    for scaler in scalers:
        assert scaler["spec"]["minReplicas"] >= 2  # a rollout and a node's end find another pod


def test_a_nodes_drain_leaves_somebody(resources: list[Manifest]) -> None:
    """What has several pods says that one may go at a time."""
    budgets = [each["spec"] for each in of(resources, "PodDisruptionBudget")]
    scaled = {
        each["spec"]["scaleTargetRef"]["name"] for each in of(resources, "HorizontalPodAutoscaler")
    }
    for workload in of(resources, "Deployment"):
        name = workload["metadata"]["name"]
        several = name in scaled or workload["spec"].get("replicas", 1) > 1
        mine = [
            each
            for each in budgets
            if each["selector"]["matchLabels"].items() <= labels(workload).items()
        ]
        assert len(mine) == several, name
        for budget in mine:
            assert budget["maxUnavailable"] == 1
            # a pod that is not well anyway is no reason to keep its node
            assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_pods_spread_over_nodes_that_take_them(resources: list[Manifest]) -> None:
    """A node that no pod of ours may go to has none, and would count as the one to be filled."""
    for workload, pod in workloads(resources):
        for rule in pod.get("topologySpreadConstraints", ()):
            assert rule["nodeTaintsPolicy"] == "Honor", workload["metadata"]["name"]
            assert rule["matchLabelKeys"] == ["pod-template-hash"], workload["metadata"]["name"]
            assert rule["labelSelector"]["matchLabels"].items() <= labels(workload).items()


def test_no_service_puts_variables_into_a_pod(resources: list[Manifest]) -> None:
    """A Service named `tensorgate` would set TENSORGATE_PORT, and one named `vllm` VLLM_PORT."""
    for workload, pod in workloads(resources):
        assert pod["enableServiceLinks"] is False, workload["metadata"]["name"]


def test_what_is_not_ours_has_an_exact_tag(resources: list[Manifest]) -> None:
    """deploy/checkov.yaml says that no tag moves: three numbers do not, nor do PostgreSQL's two."""
    for workload, pod in workloads(resources):
        for each in containers(pod):
            assert re.search(r"(postgres:\d+|:[a-z-]*v?\d+\.\d+)\.\d+(-[a-z]+)?$", each["image"]), (
                workload["metadata"]["name"],
                each["image"],
            )


def test_a_config_map_can_be_stored(resources: list[Manifest]) -> None:
    """The API takes 1 MiB, and no more than a quarter of it with a plain `kubectl apply`."""
    for each in of(resources, "ConfigMap"):
        assert len(json.dumps(each).encode()) < 2**20 // 2, each["metadata"]["name"]
    used = {
        volume["configMap"]["name"]
        for _, pod in workloads(resources)
        for volume in pod["volumes"]
        if "configMap" in volume
    }
    used |= {
        source["configMapRef"]["name"]
        for _, pod in workloads(resources)
        for each in containers(pod)
        for source in each.get("envFrom", ())
        if "configMapRef" in source
    }
    assert {each["metadata"]["name"] for each in of(resources, "ConfigMap")} == used


def test_several_pods_count_together(resources: list[Manifest]) -> None:
    scaled = {
        each["spec"]["scaleTargetRef"]["name"] for each in of(resources, "HorizontalPodAutoscaler")
    }
    found = gates(resources)
    assert found
    for workload, pod in found:
        name = workload["metadata"]["name"]
        several = (
            name in scaled
            or workload["spec"]["replicas"] > 1
            or workload["spec"]["strategy"]["type"] != "Recreate"  # two at once while it rolls
        )
        (authz,) = (each for each in containers(pod) if each.get("args") == ["authz"])
        stores = [
            source["secretRef"]["name"]
            for source in authz["envFrom"]
            if source.get("secretRef", {}).get("name", "").startswith("tensorgate-stores")
        ]
        state = next(v for v in pod["volumes"] if v["name"].endswith("state"))
        if several:
            assert stores, f"{name} has several pods and no stores in common"
            assert "emptyDir" in state
        else:
            assert stores == []
            assert state["persistentVolumeClaim"]["claimName"] == "tensorgate-state"
            assert not scaled


def test_the_stores_are_redis_and_sql(texts: dict[str, str]) -> None:
    (secret,) = (
        each
        for each in of(kubernetes.parse(texts["overlays/demo"]), "Secret")
        if each["metadata"]["name"].startswith("tensorgate-stores")
    )
    assert secret["data"].keys() == {f"{PREFIX}DATABASE_URL", f"{PREFIX}REDIS_URL"}


def test_settings_are_ones_that_we_read(resources: list[Manifest]) -> None:
    fields = AuthzSettings.model_fields.keys() | AdminSettings.model_fields.keys()
    known = {f"{PREFIX}{name.upper()}" for name in fields}
    named = set(
        chain.from_iterable(
            each["data"]
            for each in of(resources, "ConfigMap")
            if "settings" in each["metadata"]["name"]
        )
    )
    for _, pod in workloads(resources):
        for each in containers(pod):
            named |= {v["name"] for v in each.get("env", ()) if v["name"].startswith(PREFIX)}
    assert named
    assert named <= known, named - known


def test_commands_are_ones_that_we_have(resources: list[Manifest]) -> None:
    seen = set()
    for _, pod in workloads(resources):
        for each in containers(pod):
            if each["image"] == OURS:
                seen.add(tuple(each["args"]))
            hook = each.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
            if hook:
                assert hook[0] == "tensorgate"
                seen.add(tuple(hook[1:]))
    assert seen
    for arguments in seen:
        argv = (sys.executable, "-P", "-m", "tensorgate", *arguments, "--help")
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stderr)


def test_what_the_page_says_of_images_fits(texts: dict[str, str]) -> None:
    """`set image` goes by the name that an image has in the overlay; others change nothing."""
    names = re.findall(r"(?<=[ ])(\S+)=\S+@sha256:…", README)
    assert len(names) == 2
    for name in names:
        assert f"image: {name}:" in texts["overlays/production"], name


def test_the_page_renders_what_base_has(tmp_path: Path) -> None:
    (words,) = re.findall(r"(?m)^tensorgate (envoy render (?:.*\\\n)*.*)$", README)
    rendered = tmp_path / "envoy.yaml"
    arguments = shlex.split(words.replace("\\\n", " ").replace("envoy.yaml", str(rendered)))
    argv = (sys.executable, "-P", "-m", "tensorgate", *arguments)
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env[f"{PREFIX}CATALOG"] = str(ROOT / "catalog.yaml")
    subprocess.run(argv, check=True, env=env, capture_output=True)
    assert rendered.read_text() == (kubernetes.FOLDER / "base/envoy.yaml").read_text()


def test_what_is_applied_is_applied_by_the_server() -> None:
    """A copy of Envoy's configuration in an annotation is soon longer than one may be."""
    told = [README, *(path.read_text() for path in kubernetes.FOLDER.rglob("*.yaml"))]
    found = [line for text in told for line in re.findall(r"kubectl apply [^\n`]*-k", text)]
    assert len(found) >= 3
    assert all("--server-side" in line for line in found), found


def test_ports_are_where_somebody_listens(resources: list[Manifest]) -> None:
    for workload, pod in gates(resources):
        (envoy,) = (each for each in containers(pod) if each["name"].endswith("envoy"))
        assert {port["containerPort"] for port in envoy["ports"]} == ENVOYS_PORTS
        config = _config_of(resources, pod)
        for listener in config["static_resources"]["listeners"]:
            address = listener["address"]
            if "socket_address" in address:
                assert address["socket_address"]["port_value"] in ENVOYS_PORTS
            else:
                assert address["pipe"]["path"].startswith("/run/tensorgate/")
        # its admin can do anything with it: a socket in a volume of this pod alone
        assert config["admin"]["address"]["pipe"]["path"].startswith("/run/tensorgate/")
        named = {
            p["name"]: p["containerPort"] for each in containers(pod) for p in each.get("ports", ())
        }
        numbers = set(named.values())
        for service in of(resources, "Service"):
            selector = service["spec"]["selector"].items()
            if selector <= labels(workload).items():
                for port in service["spec"]["ports"]:
                    target = port["targetPort"]
                    assert target in named or target in numbers, (service["metadata"]["name"], port)


def _config_of(resources: list[Manifest], pod: Manifest) -> dict[str, Any]:
    name = next(v["configMap"]["name"] for v in pod["volumes"] if v["name"].endswith("envoy"))
    (config,) = (each for each in of(resources, "ConfigMap") if each["metadata"]["name"] == name)
    parsed: dict[str, Any] = yaml.safe_load(config["data"]["envoy.yaml"])
    return parsed


def test_nothing_is_reached_that_is_not_named(resources: list[Manifest]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of(resources, "NetworkPolicy")}
    deny = policies.pop("default-deny")
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for workload, pod in gates(resources):
        open_to_all = set()
        open_to_some = set()
        for spec in policies.values():
            chosen = spec["podSelector"].get("matchLabels", {}).items()
            if chosen <= labels(workload).items():
                for rule in spec.get("ingress", ()):
                    ports = {port["port"] for port in rule["ports"]}
                    (open_to_some if rule.get("from") else open_to_all).update(ports)
        assert open_to_all == {8080}
        extra = {8081} if any(each["name"] == "admin" for each in containers(pod)) else set()
        assert open_to_some == {9464, 9902} | extra


def test_a_model_server_is_reached_by_envoy_alone(resources: list[Manifest], overlay: str) -> None:
    """It binds loopback beside Envoy, or a policy lets only Envoy's pods in."""
    if overlay == "examples/vllm":
        ((_, pod),) = gates(resources)
        (server,) = pod["containers"]
        assert any(re.match(r"--host=127\.0\.0\.1\b", word) for word in server["args"])
        assert "ports" not in server
        upstream = _config_of(resources, pod)["static_resources"]["clusters"][0]
        endpoint = upstream["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        assert endpoint["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 8000}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert server[probe]["httpGet"] == {"path": "/upstreams/default", "port": 9902}
    elif overlay == "overlays/demo":
        servers = [w for w, _ in workloads(resources) if "tensorgate.io/role" in labels(w)]
        assert servers
        (policy,) = (
            each["spec"]
            for each in of(resources, "NetworkPolicy")
            if each["metadata"]["name"] == "model-server"
        )
        assert policy["podSelector"]["matchLabels"] == {"tensorgate.io/role": "model-server"}
        (rule,) = policy["ingress"]
        (source,) = rule["from"]
        assert (
            source["podSelector"]["matchLabels"].items() <= labels(gates(resources)[0][0]).items()
        )
        assert rule["ports"] == [{"port": 8000}]


def test_a_pod_leaves_in_order(resources: list[Manifest]) -> None:
    """Envoy drains while everything that it needs is still there."""
    for _, pod in gates(resources):
        (authz,) = (each for each in containers(pod) if each.get("args") == ["authz"])
        words = authz["lifecycle"]["preStop"]["exec"]["command"]
        drained = sum(
            float(words[words.index(flag) + 1]) for flag in ("--settle-seconds", "--seconds")
        )
        grace = pod["terminationGracePeriodSeconds"]
        names = [each["name"] for each in pod.get("initContainers", ())]
        if "tensorgate-envoy" in names:  # sidecars end last, in the opposite order of their start
            assert names.index("tensorgate-authz") < names.index("tensorgate-envoy")
            for each in pod["initContainers"]:
                assert each["restartPolicy"] == "Always"
            (server,) = pod["containers"]
            assert drained <= server["lifecycle"]["preStop"]["sleep"]["seconds"] < grace - 15
        else:
            (envoy,) = (each for each in containers(pod) if each["name"] == "envoy")
            assert drained < envoy["lifecycle"]["preStop"]["sleep"]["seconds"] < grace - 15


def test_probes_do_not_end_what_only_waits(resources: list[Manifest]) -> None:
    for _, pod in gates(resources):
        (authz,) = (each for each in containers(pod) if each.get("args") == ["authz"])
        assert authz["livenessProbe"]["grpc"] == {"port": 9465, "service": "liveness"}
        assert authz["readinessProbe"]["grpc"] == {"port": 9465}
        (envoy,) = (each for each in containers(pod) if each["name"].endswith("envoy"))
        assert envoy["livenessProbe"]["httpGet"]["path"] == "/ready"
