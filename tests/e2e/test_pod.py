"""The sidecar's own story: pods from the manifest as processes, and a rollout under load.

In small the hooks take a fifth of what the manifest says; marked `soak`, all of it.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from peers import kubernetes
from peers.image import Image
from peers.kubernetes import Manifest
from peers.pod import Network, Pod, Site, network
from peers.postgres import running as postgres_running
from peers.process import Child
from peers.prometheus import scraping
from peers.valkey import valkey_node
from peers.venvs import ROOT
from promql import asked_for

README: Final = (ROOT / "deploy/README.md").read_text()
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


def _deployment(site: Site, name: str = "vllm") -> Manifest:
    return next(
        each
        for each in site.resources
        if each["kind"] == "Deployment" and each["metadata"]["name"] == name
    )


def _migrated(site: Site) -> None:
    """As the Job does."""
    (job,) = (each for each in site.resources if each["kind"] == "Job")
    _once(site, *job["spec"]["template"]["spec"]["containers"][0]["args"])


def _prepare(site: Site) -> str:
    """Migrate, and mint a key."""
    _migrated(site)
    _once(site, "users", "add", "ada@example.com", "--plan", "pro", "--service")
    minted = _once(
        *(site, "keys", "mint", "--user", "ada@example.com", "--alias", "one"),
        *("--models", "*", "--budget-usd", "50", "--rpm", "600", "--json"),
    )
    key = json.loads(minted)["key"]
    assert isinstance(key, str)
    return key


def _begun(site: Site, pods: list[Pod], name: str = "vllm") -> Pod:
    """A new pod, once it is ready."""
    pod = Pod(site, _deployment(site, name))
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


def test_one_pod_keeps_all_on_its_volume(site: Site) -> None:
    """The overlay `single` begins by migrating, needs no store elsewhere, and is well."""
    with _model(site, "overlays/single") as resources:
        pepper = {"tensorgate-pepper": site.secrets["tensorgate-pepper"]}
        alone = replace(site, resources=resources, secrets=pepper, mounts={})
        pods: list[Pod] = []
        try:
            pod = _begun(alone, pods, "tensorgate")
            assert httpx.get(f"http://{pod.address}:8081/readyz", timeout=5).is_success
            key = _minted(pod)
            assert _called(f"http://{pod.address}:8080", key) == httpx.codes.OK
            # its books, its own Envoy and the model server as Envoy sees it
            parts = _doctor(pod)
            assert {part: each["status"] for part, each in parts.items()} == dict.fromkeys(
                parts, "ok"
            )
            assert parts["gate"]["text"] == "Envoy answers on its admin socket"
            assert parts["upstream"]["text"] == f"well, says Envoy: {site.network.host}:8000"
            assert "a volume" in parts["state"]["text"]
            # the backup of deploy/README.md, which has no other program to make it with
            (code,) = re.findall(r'\$POD python3 -c "(.*)"\n', README)
            saved = pod.execute("authz", "python3", "-c", code.replace('\\"', '"'))
            assert saved.returncode == 0, saved.stdout + saved.stderr
            (volume,) = site.folder.glob("tg-*/state")
            with closing(sqlite3.connect(volume / "copy.db")) as copy:
                assert copy.execute("select count(*) from keys").fetchone() == (1,)
            assert (volume / "journal").exists()
        finally:
            for each in pods:
                each.close()


def test_a_renewed_certificate_is_taken_without_a_restart(site: Site) -> None:
    """The overlay `production` speaks TLS, and takes what cert-manager puts into the Secret."""
    with _model(site, "overlays/production") as resources:
        secrets_ = dict(site.secrets)
        production = replace(site, resources=resources, secrets=secrets_)
        _migrated(production)
        secrets_["tensorgate-tls"], first = _certificate()
        pods: list[Pod] = []
        try:
            pod = _begun(production, pods, "tensorgate")
            key = _minted(pod)
            assert _shown(pod) == first
            assert _called(f"https://{pod.address}:8080", key) == httpx.codes.OK
            secrets_["tensorgate-tls"], second = _certificate()
            pod.renew("tensorgate-tls")
            deadline = time.monotonic() + 10
            while _shown(pod) != second:
                assert time.monotonic() < deadline, "Envoy still shows the old certificate"
                time.sleep(0.1)
            assert _called(f"https://{pod.address}:8080", key) == httpx.codes.OK
            parts = _doctor(pod)
            assert {each["status"] for each in parts.values()} == {"ok"}, parts
        finally:
            for each in pods:
                each.close()


def _minted(pod: Pod) -> str:
    """A key, as deploy/README.md mints one in a cluster."""
    made = pod.execute("authz", "tensorgate", "users", "add", "ada@example.com")
    assert made.returncode == 0, made.stdout + made.stderr
    said = pod.execute(
        *("authz", "tensorgate", "keys", "mint", "--user", "ada@example.com", "--alias", "laptop"),
        *("--models", "*", "--budget-usd", "5", "--rpm", "60", "--json"),
    )
    assert said.returncode == 0, said.stdout + said.stderr
    key = json.loads(said.stdout)["key"]
    assert isinstance(key, str)
    return key


def _called(gate: str, key: str) -> int:
    """The status of a call."""
    return httpx.post(
        f"{gate}/v1/chat/completions",
        json={"model": "demo-model", "messages": [{"role": "user", "content": "hello"}]},
        headers={"authorization": f"Bearer {key}"},
        timeout=20,
        verify=False,  # nobody signed it
    ).status_code


def _doctor(pod: Pod) -> dict[str, dict[str, str]]:
    """Part → what doctor says of it, from within the pod; what fails is shown."""
    said = pod.execute("authz", "tensorgate", "doctor", "--json")
    assert said.returncode == 0, said.stdout + said.stderr
    return {each["part"]: each for each in json.loads(said.stdout)["parts"]}


def _certificate() -> tuple[dict[str, str], str]:
    """A Secret as cert-manager fills one, and the certificate in it."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "models.example.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=90))
        .sign(private, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM).decode()
    key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {"tls.crt": pem, "tls.key": key}, pem


def _shown(pod: Pod) -> str:
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate((pod.address, 8080), timeout=10)


@contextmanager
def _model(site: Site, overlay: str) -> Iterator[list[Manifest]]:
    """A model server beside the pods; an overlay's resources, which have its address as a name."""
    tensorgate = Path(sys.executable).with_name("tensorgate")
    address = f"{site.network.host}:8000"
    text = kubernetes.build(overlay)
    named = 'address: "model"'
    assert named in text  # for HTTP and for gRPC
    child = Child([tensorgate, "demo", "--listen", address], log=site.folder / "model.log")
    try:
        yield kubernetes.parse(text.replace(named, f'address: "{site.network.host}"'))
    finally:
        child.end()
