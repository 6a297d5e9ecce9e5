"""Revoking while a gate on PostgreSQL serves the key: two workers told by Valkey, one by NOTIFY.

The real stack, under calls; nobody nudges it through its control socket.
"""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection

import pytest
from moneygate import metric
from peers.client import CHAT, call
from peers.postgres import Postgres
from peers.recorder import Recorder
from peers.stack import PLENTY_RPM, USER, Stack, StartStack

from admin.service import AdminService
from store.engines import open_engine
from store.keys import KeyRepository
from store.push import open_publisher
from store.settings import StoreSettings
from tensorgate import valkey

CALLERS = 4
BODY = b'{"model": "recorder", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}'


@dataclass
class Fleet:
    gate: Stack
    admin: AdminService


@pytest.fixture(scope="module", params=[2, 1], ids=["valkey", "notify"])
def fleet(
    request: pytest.FixtureRequest, start_stack: StartStack, postgres: Postgres
) -> Iterator[Fleet]:
    workers = request.param
    with ExitStack() as stack:
        url = stack.enter_context(postgres.database())
        server = Recorder()
        stack.callback(server.close)
        gate = start_stack(
            server.address,
            workers=workers,
            env={"TENSORGATE_DATABASE_URL": url, "TENSORGATE_REDIS_TIMEOUT_MS": "2000"},
        )
        stack.callback(gate.stop)
        settings = StoreSettings(
            state=gate.state,
            catalog=gate.folder / "catalog.yaml",
            database_url=url,
            redis_url=valkey.url(gate.runtime) if workers > 1 else None,
        )
        engine = open_engine(url)
        stack.callback(engine.dispose)
        publisher = open_publisher(settings)
        if publisher is not None:
            stack.callback(publisher.close)
        repository = stack.enter_context(KeyRepository(engine, publisher))
        yield Fleet(gate, AdminService(repository, settings, actor="cli:tester"))


@contextmanager
def called(gate: Stack, key: str) -> Iterator[list[tuple[float, int]]]:
    """Calls without a rest; (when it was sent, its status)."""
    over, answers = threading.Event(), list[tuple[float, int]]()

    def run() -> None:
        connection = HTTPConnection(gate.address, timeout=30)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        while not over.wait(0.005):
            sent = time.monotonic()
            connection.request("POST", CHAT, body=BODY, headers=headers)
            answer = connection.getresponse()
            answer.read()
            answers.append((sent, answer.status))
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("revocations", [3, pytest.param(50, marks=pytest.mark.soak)])
def test_a_revoked_key_is_refused_everywhere_at_once(fleet: Fleet, revocations: int) -> None:
    lasts = []
    for _ in range(revocations):
        key = fleet.gate.mint()
        deadline = time.monotonic() + 20
        while call(fleet.gate, key=key["key"], body=BODY).status != 200:
            assert time.monotonic() < deadline
        with called(fleet.gate, key["key"]) as answers:
            time.sleep(0.3)
            fleet.admin.revoke(USER, key["alias"], confirm=key["alias"])
            revoked = time.monotonic()
            time.sleep(1.2)
        assert {status for sent, status in answers if sent > revoked + 1} == {401}
        assert {status for _, status in answers} == {200, 401}
        lasts.append(max([sent - revoked for sent, status in answers if status == 200], default=0))
    assert max(lasts) < 1
    assert statistics.median(lasts) < 0.25


def test_keys_of_a_disabled_account_are_refused_everywhere_at_once(fleet: Fleet) -> None:
    """And served again as soon, when it is enabled."""
    email = "disabled@example.org"
    fleet.admin.add_user(email, make_one=False)
    key = fleet.admin.mint(email, "laptop", models="*", rpm=PLENTY_RPM).key
    with called(fleet.gate, key) as answers:
        time.sleep(0.5)
        fleet.admin.disable(email)
        disabled = time.monotonic()
        time.sleep(1.5)
        enabling = time.monotonic() - 0.1  # a call that was sent just before is judged just after
        fleet.admin.enable(email)
        enabled = time.monotonic()
        time.sleep(1.5)
    assert {status for sent, status in answers if disabled + 1 < sent < enabling} == {401}
    assert {status for sent, status in answers if sent > enabled + 1} == {200}


def test_the_command_names_the_replicas_and_the_lag_is_measured(fleet: Fleet) -> None:
    key = fleet.gate.mint()
    done = fleet.gate.run(
        *("keys", "revoke", "--user", USER, "--alias", key["alias"], "--confirm", key["alias"])
    )
    workers = 2 if "valkey" in str(fleet.admin._settings.redis_url) else 1
    said = re.search(r"revoked everywhere in (\d+) ms \((\d) replica", done.stdout)
    assert said is not None, done.stdout + done.stderr
    assert int(said[1]) < 1000
    assert int(said[2]) == workers
    assert metric(fleet.gate, "tensorgate_revocation_lag_seconds_count") >= workers
