"""The run of which the picture of the dashboard is drawn: compose.yaml's services and their people.

    .venv/bin/python tests/load/picture.py [MINUTES]

writes deploy/grafana/tensorgate.png. Everything is real but Grafana: Envoy, two workers, Valkey,
PostgreSQL, a demo model server, and the Prometheus that scrapes them with the project's own
configuration. People of three teams call, some beyond what they may; meanwhile a worker is killed,
the model server and then Valkey and PostgreSQL stop for a while, and Envoy is killed in the midst
of calls. The data stay in `.cache/picture`, to draw it anew.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.compose import Compose, composed
from peers.process import descendants, environment
from peers.venvs import ROOT
from waiting import until

from admin.service import AdminService, open_service
from store.settings import StoreSettings

FOLDER: Final = ROOT / ".cache" / "picture"
MINUTES: Final = 15.0
THREADS: Final = 24
CHAT: Final = "/v1/chat/completions"
CATALOG: Final = """\
models:
  llama-3.1-8b: {price: {input: 0.05, output: 0.08}, context_tokens: 131072}
  qwen3-coder: {price: {input: 0.3, output: 1.2}, context_tokens: 131072}
  mistral-small: {price: {input: 0.1, output: 0.3}, context_tokens: 32768}
  deepseek-r1: {price: {input: 0.55, output: 2.19}, context_tokens: 65536}
plans:
  free: {max_keys: 2, max_budget_usd: 5, max_rpm: 60}
  pro: {max_rpm: 100000}
default_plan: free
"""
MODELS: Final = (
    ("llama-3.1-8b",) * 5 + ("qwen3-coder",) * 4 + ("mistral-small",) * 2 + ("deepseek-r1",)
)
WORDS: Final = "the gate counts what each call may cost before it is let through and settles after "


@dataclass(frozen=True)
class Keys:
    """What callers hold."""

    good: tuple[str, ...]
    narrow: str  # one model
    hurried: str  # ten requests a minute
    poor: str  # a budget that is soon spent
    revoked: str


class Callers:
    """Threads that call at a rate that rises and falls, as people do."""

    def __init__(self, gate: str, keys: Keys, seconds: float) -> None:
        self._gate = gate
        self._keys = keys
        self._began = time.monotonic()
        self._seconds = seconds
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._live, args=(n,)) for n in range(THREADS)]

    def __enter__(self) -> None:
        for each in self._threads:
            each.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()

    def _live(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._over.wait(chance.expovariate(self._rate() / THREADS)):
            try:
                self._call(chance)
            except (OSError, HTTPException):  # the gate was killed, or we hung up
                continue

    def _rate(self) -> float:
        """Calls a second: two waves in a run, and less at its ends."""
        part = (time.monotonic() - self._began) / self._seconds
        return 9 + 4 * math.sin(part * 4 * math.pi - 1.2) + 2 * math.sin(part * 17)

    def _call(self, chance: random.Random) -> None:
        keys, drawn = self._keys, chance.random()
        model = chance.choice(MODELS)
        if drawn < 0.06:
            self._ask(chance.choice(keys.good), "GET", chance.choice(("/v1/models", "/v1/key")))
        elif drawn < 0.74:
            self._chat(chance, chance.choice(keys.good), model)
        elif drawn < 0.80:
            self._chat(chance, keys.narrow, model)
        elif drawn < 0.87:
            self._chat(chance, keys.hurried, model)
        elif drawn < 0.92:
            self._chat(chance, keys.poor, model)
        elif drawn < 0.94:
            self._chat(chance, keys.revoked, model)
        elif drawn < 0.96:
            self._chat(chance, f"{keys.revoked[:-1]}!", model)
        elif drawn < 0.98:
            self._ask(chance.choice(keys.good), "POST", "/v1/fine_tuning/jobs", b"{}")
        else:
            self._ask(chance.choice(keys.good), "POST", CHAT, b'{"model": "a", "model": "b"}')

    def _chat(self, chance: random.Random, key: str, model: str) -> None:
        said = WORDS * chance.choice((1, 2, 4, 12))
        stream = chance.random() < 0.5
        body = {
            "model": model,
            "stream": stream,
            "max_tokens": chance.choice((32, 64, 128)),
            "messages": [{"role": "user", "content": said}],
        }
        leaves = stream and chance.random() < 0.08
        self._ask(key, "POST", CHAT, json.dumps(body).encode(), leaves=leaves)

    def _ask(
        self, key: str, method: str, path: str, body: bytes | None = None, *, leaves: bool = False
    ) -> None:
        connection = HTTPConnection(self._gate, timeout=20)
        try:
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            if leaves:
                answer.read(600)
            else:
                answer.read()
        finally:
            connection.close()


def administration(compose: Compose, catalog: Path) -> StoreSettings:
    """Where keys are kept, for changing them as the dashboard does."""
    env = compose.environment("authz")
    return StoreSettings(
        state=compose.mount("authz", "/var/lib/tensorgate"),
        runtime=compose.mount("authz", "/run/tensorgate"),
        catalog=catalog,
        database_url=env["TENSORGATE_DATABASE_URL"],
        redis_url=env["TENSORGATE_REDIS_URL"],
    )


def mint_keys(service: AdminService) -> Keys:
    """Six people of three teams, and what they hold."""
    people = ("ada", "grace", "alan", "edsger", "barbara", "donald")
    for number, name in enumerate(people):
        team = ("research", "product", "support")[number % 3]
        service.add_user(f"{name}@example.com", plan="pro", team=team, service=True)
    aliases = count()

    def mint(name: str, models: str = "*", budget: str = "none", rpm: int = 100_000) -> str:
        return service.mint(
            f"{name}@example.com",
            f"key-{next(aliases)}",
            models=models,
            budget_usd=budget,
            rpm=rpm,
            expires_in_days=90,
        ).key

    revoked = mint("donald")
    service.revoke("donald@example.com", "key-0", confirm="key-0")
    return Keys(
        good=tuple(mint(name) for name in people),
        narrow=mint("ada", models="llama-3.1-8b"),
        hurried=mint("grace", rpm=10),
        poor=mint("alan", budget="0.0015"),
        revoked=revoked,
    )


def changes(service: AdminService, over: threading.Event) -> None:
    """Keys are revoked now and then: how soon that is seen is a panel's."""
    for number in count():
        if over.wait(7):
            return
        alias = f"short-{number}"
        try:
            service.mint(
                "barbara@example.com",
                alias,
                models="*",
                budget_usd="1",
                rpm=60,
                expires_in_days=1,
            )
            service.revoke("barbara@example.com", alias, confirm=alias)
        except Exception as fault:  # noqa: BLE001  a store that is out, as it is meant to be
            print(f"{alias}: {fault}")


def mishaps(compose: Compose, minute: float) -> None:
    """What befalls the stack, by minutes of a run of fifteen."""
    began = time.monotonic()

    def at(minutes: float, what: str, do: Callable[[], None]) -> None:
        time.sleep(max(0.0, began + minutes * minute - time.monotonic()))
        print(f"{minutes:4.1f} min: {what}", flush=True)
        do()

    def kill_worker() -> None:
        workers = {
            pid
            for pid in descendants(compose.children["authz"].pid)
            if "TENSORGATE_WORKER=1" in environment(pid)
        }
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    def pause(name: str, seconds: float) -> None:
        with compose.paused(name):
            time.sleep(seconds)

    def pause_postgres() -> None:
        with compose.postgres.paused():
            time.sleep(14)

    at(3.5, "a worker is killed", kill_worker)
    at(5, "the model server is killed", lambda: compose.restart("model"))
    at(7, "Valkey stops for 5 s", lambda: pause("valkey", 5))
    at(9.5, "PostgreSQL stops for 14 s", pause_postgres)
    at(11.5, "Envoy is killed", lambda: compose.restart("envoy"))
    at(15, "the end", lambda: None)


def draw(prometheus: str, minutes: float, end: float) -> None:
    """The picture, by the project's own tool."""
    tool = ROOT / "deploy/grafana/draw.py"
    options = (f"--prometheus={prometheus}", f"--minutes={minutes:g}", f"--until={end:.0f}")
    subprocess.run([sys.executable, tool, *options], check=True)


def main(minutes: float) -> None:
    """Run and draw."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    catalog = FOLDER / "catalog.yaml"
    catalog.write_text(CATALOG)
    with composed(FOLDER, catalog=catalog) as compose:
        until(compose.serves, 60, "a gate")
        over = threading.Event()
        with open_service(administration(compose, catalog), actor="cli:picture") as service:
            keys = mint_keys(service)
            changing = threading.Thread(target=changes, args=(service, over))
            changing.start()
            try:
                with Callers(compose.gate, keys, minutes * 60):
                    mishaps(compose, minutes * 60 / 15)
            finally:
                over.set()
                changing.join()
        end = time.time()
        (FOLDER / "end").write_text(f"{minutes:g} {end:.0f}\n")
        draw(f"http://{compose.addresses['prometheus']}:9090", minutes, end)
        compose.down()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES)
