"""The sidecar's own story: pods from the manifest as processes, and a rollout under load.

In small the hooks take a fifth of what the manifest says; marked `soak`, all of it.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import pytest
from peers import kubernetes
from peers.image import Image
from peers.kubernetes import Manifest
from peers.pod import Network, Pod, Site, network
from peers.postgres import running as postgres_running
from peers.prometheus import scraping
from peers.valkey import valkey_node
from peers.venvs import ROOT
from promql import asked_for

LAG_SECONDS: Final = 0.7  # until balancers have learnt that a pod leaves
CALLERS: Final = 4
REPLICAS: Final = 2
NOT_HERE: Final = {
    "tensorgate_process_restarts_total",  # of several workers in one pod
    "tensorgate_hold_exceeded_total",  # by model, once there was one
}
MODEL: Final = ("tensorgate", "demo", "--listen", "127.0.0.1:8000")  # where vLLM would be


@pytest.fixture(scope="module")
def resources() -> list[Manifest]:
    return kubernetes.parse(kubernetes.build("examples/vllm"))


@pytest.fixture(scope="module")
def bridge() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def site(resources: list[Manifest], bridge: Network, tmp_path: Path) -> Iterator[Site]:
    """An image, PostgreSQL and Valkey, which pods reach by sockets that each of them mounts."""
    image = Image()
    image.build()
    root = image.container()
    socket = "/stores/valkey/valkey.sock"
    valkey_folder = tmp_path / "valkey"
    options = ("--unixsocket", str(valkey_folder / "valkey.sock"), "--unixsocketperm", "777")
    with (
        postgres_running() as postgres,
        postgres.database(migrated=False) as url,
        valkey_node(valkey_folder, *options),
    ):
        name = url.partition("@/")[2].partition("?")[0]
        stores = {
            "TENSORGATE_DATABASE_URL": f"postgresql://postgres@/{name}?host=/stores/postgres"
            f"&port={postgres.port}",
            "TENSORGATE_REDIS_URL": f"unix://{socket}",
        }
        yield Site(
            image,
            root,
            bridge,
            tmp_path,
            resources,
            secrets={
                "tensorgate-stores": stores,
                "tensorgate-pepper": {"pepper": f"1:{secrets.token_hex(32)}"},
            },
            mounts={postgres.folder: "/stores/postgres", valkey_folder: "/stores/valkey"},
            instead={"vllm": MODEL},
        )
    image("rm", root)


class Clients:
    """People who call, each call on a connection of its own, by whichever pod the Service names."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CALLERS)]
        self.pods: Sequence[Pod] = ()
        self.answers: list[tuple[int, str]] = []

    def begin(self) -> None:
        for each in self._threads:
            each.start()

    def end(self) -> None:
        self._stop.set()
        for each in self._threads:
            if each.ident is not None:
                each.join()

    def _call(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            pods = self.pods
            turn += 1
            address = pods[turn % len(pods)].address
            body = {
                "model": "qwen3-8b",
                "messages": [{"role": "user", "content": "tell me a story"}],
                "stream": turn % 2 == 0,
            }
            try:
                answer = httpx.post(
                    f"http://{address}:8080/v1/chat/completions",
                    json=body,
                    headers={"authorization": f"Bearer {self._key}"},
                    timeout=30,
                )
                whole = "[DONE]" in answer.text if body["stream"] else answer.is_success
                said = "" if whole else answer.text[-300:]
                self.answers.append((answer.status_code if whole else 0, said))
            except httpx.HTTPError as fault:
                self.answers.append((0, f"{type(fault).__name__}: {fault}"))
            time.sleep(0.05)


def _roll(site: Site, pace: float) -> None:
    """Two pods are replaced one by one, as the Deployment's strategy has it, under load."""
    site.pace = pace
    deployment = _deployment(site)
    assert deployment["spec"]["replicas"] == REPLICAS
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    clients = Clients(_prepare(site))
    pods: list[Pod] = []

    try:
        serving = [_begun(site, pods) for _ in range(REPLICAS)]
        clients.pods = tuple(serving)
        clients.begin()
        time.sleep(2)
        for old in tuple(serving):
            serving.append(_begun(site, pods))
            clients.pods = tuple(serving)
            serving.remove(old)
            took: list[float] = []
            leaving = threading.Thread(target=_leave, args=(old, took))
            leaving.start()
            time.sleep(LAG_SECONDS)  # it is still sent calls
            clients.pods = tuple(serving)
            leaving.join()
            assert took[0] < old.grace
        time.sleep(1)
        clients.end()
        time.sleep(1)  # what ended last is on its way to the ledger
    finally:
        clients.end()
        for pod in pods:
            pod.close()
    failed = [each for each in clients.answers if each[0] != httpx.codes.OK]
    print(f"\n{len(clients.answers)} calls over a rollout of {REPLICAS} pods, {len(failed)} failed")
    assert failed == []
    assert len(clients.answers) > 10 * CALLERS
    deadline = time.monotonic() + 10
    while len(rows := _rows(site)) < len(clients.answers) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(rows) == len(clients.answers)
    assert {row["basis"] for row in rows} == {"metered"}


def _deployment(site: Site) -> Manifest:
    return next(
        each
        for each in site.resources
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "vllm"
    )


def _prepare(site: Site) -> str:
    """Migrate as the Job does, and mint a key."""
    (job,) = (each for each in site.resources if each["kind"] == "Job")
    _once(site, *job["spec"]["template"]["spec"]["containers"][0]["args"])
    _once(site, "users", "add", "ada@example.com", "--plan", "pro", "--service")
    minted = _once(
        *(site, "keys", "mint", "--user", "ada@example.com", "--alias", "one"),
        *("--models", "*", "--budget-usd", "50", "--rpm", "600", "--json"),
    )
    key = json.loads(minted)["key"]
    assert isinstance(key, str)
    return key


def _begun(site: Site, pods: list[Pod]) -> Pod:
    """A new pod, once it is ready."""
    pod = Pod(site, _deployment(site))
    pods.append(pod)
    pod.begin()
    deadline = time.monotonic() + 60
    while not pod.ready():
        assert time.monotonic() < deadline, "a pod did not become ready"
        time.sleep(0.2)
    return pod


def _leave(pod: Pod, took: list[float]) -> None:
    took.append(pod.end())


def _once(site: Site, *words: str) -> str:
    """A command of the image, with the stores of the pods."""
    env = dict(site.secrets["tensorgate-stores"])
    env["TENSORGATE_PEPPER_FILE"] = "/pepper/pepper"
    pepper = site.folder / "pepper"
    pepper.mkdir(exist_ok=True)
    (pepper / "pepper").write_text(site.secrets["tensorgate-pepper"]["pepper"])
    catalog = next(
        each["data"]["catalog.yaml"]
        for each in site.resources
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("tensorgate-catalog")
    )
    (pepper / "catalog.yaml").write_text(catalog)
    env["TENSORGATE_CATALOG"] = "/pepper/catalog.yaml"
    env["TENSORGATE_STATE"] = "/tmp/state"
    volumes = {**site.mounts, pepper: "/pepper"}
    argv = site.image.run_argv(site.root, *words, volumes=volumes, env=env)
    done = subprocess.run(
        argv, env=dict(site.image.env), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _rows(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _once(site, "ledger", "export").splitlines()]


def test_prometheus_sees_what_rules_and_dashboard_ask_for(site: Site) -> None:
    """A real one scrapes a pod by the ports that its manifest names; no alert goes off."""
    clients = Clients(_prepare(site))
    pods: list[Pod] = []
    try:
        pod = _begun(site, pods)
        jobs = {
            "tensorgate": ("/metrics", [f"{pod.address}:9464"]),
            "tensorgate-envoy": ("/stats/prometheus", [f"{pod.address}:9902"]),
        }
        rules = site.folder / "rules.yaml"
        written = (ROOT / "deploy/prometheus/rules.yaml").read_text()
        rules.write_text(written.replace("interval: 30s", "interval: 1s"))
        with scraping(site.folder / "prometheus", jobs, rules) as prometheus:
            clients.pods = (pod,)
            clients.begin()
            time.sleep(6)
            clients.end()
            time.sleep(3)
            assert prometheus.ask("up == 0") == []
            answered = len(clients.answers)
            assert prometheus.value('sum(tensorgate_checks_total{outcome="allowed"})') == answered
            assert prometheus.value("sum(tensorgate_settlements_total)") == answered
            spent = sum(int(row["charge_nanousd"]) for row in _rows(site))
            told = prometheus.value("sum(tensorgate_spend_usd_total)")
            assert told is not None
            assert round(told * 1e9) == spent
            missing = asked_for() - prometheus.names() - NOT_HERE
            assert missing == set()
            assert prometheus.alerts() == {}
    finally:
        clients.end()
        for each in pods:
            each.close()


def test_a_rollout_fails_no_call(site: Site) -> None:
    _roll(site, pace=0.2)


@pytest.mark.soak
def test_a_rollout_at_its_own_pace_fails_no_call(site: Site) -> None:
    _roll(site, pace=1.0)
