"""Who has obeyed a change: rows of replicas in each database, and real gates on PostgreSQL."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from peers.postgres import Postgres
from sqlalchemy import Engine
from statehelp import settings_on

from admin import acknowledge
from admin.acknowledge import Moment, acknowledged, as_json, as_text
from authz.cache import HEALTHY_US
from authz.keysource import Keys, Known, open_keys, present
from authz.metrics import Metrics
from authz.settings import AuthzSettings
from store.errors import StoreUnavailableError
from store.records import SECOND_US
from store.replicas import UNHEARD_US, Replica, Replicas
from tensorgate import cli

OpenEngine = Callable[[], Engine]
ROW = Replica("r0", "gate/authz-0:7", "authz", "0.1.0", stale_us=5 * SECOND_US)
MADE_US = 1_795_000_000_500_000


@pytest.fixture
def replicas(another_engine: OpenEngine) -> Replicas:
    return Replicas(another_engine())


def waited(replicas: Replicas, seq: int = 7, seconds: float = 0.3) -> acknowledge.Acknowledged:
    return acknowledged(replicas, lambda: seq, Moment(time.monotonic(), MADE_US), seconds=seconds)


def test_all_who_live_have_it(replicas: Replicas) -> None:
    for n in range(4):
        replicas.beat(replace(ROW, id=f"r{n}", applied_seq=7 + n))
    replicas.beat(replace(ROW, id="m", kind="meter"))
    found = waited(replicas)
    assert re.fullmatch(r"revoked everywhere in \d+ ms \(4 replicas\)", as_text(found, "revoked"))
    said = as_json(found)
    assert (said["everywhere"], said["replicas"], said["silent"]) == (True, 4, [])


def test_one_comes_late(replicas: Replicas) -> None:
    replicas.beat(replace(ROW, applied_seq=6))
    late = threading.Timer(0.1, lambda: replicas.beat(replace(ROW, applied_seq=7)))
    late.start()
    found = waited(replicas, seconds=3)
    late.join()
    assert found.seconds >= 0.1
    assert as_text(found, "obeyed").endswith("ms (1 replica)")


def test_one_says_nothing(replicas: Replicas) -> None:
    replicas.beat(replace(ROW, applied_seq=6))
    replicas.beat(replace(ROW, id="r1", name="other", applied_seq=7))
    found = waited(replicas)
    assert found.seconds >= 0.3
    assert as_text(found, "revoked") == (
        f"revoked by 1 of 2 replicas. No answer within {found.seconds:.1f} s from gate/authz-0:7 "
        "(by 11:06:47 UTC at the latest): killed, or cut off"
    )
    said = as_json(found)
    assert said["everywhere"] is False
    assert said["silent"] == [{"name": "gate/authz-0:7", "obeys_by": "2026-11-18T11:06:47Z"}]


def test_one_ends_meanwhile_and_another_begins(replicas: Replicas) -> None:
    replicas.beat(replace(ROW, applied_seq=6))

    def turn() -> None:
        replicas.leave(ROW.id)
        replicas.beat(replace(ROW, id="r1", applied_seq=7))

    soon = threading.Timer(0.1, turn)
    soon.start()
    found = waited(replicas, seconds=3)
    soon.join()
    assert (found.silent, found.seconds < 2) == ((), True)


def test_nobody_runs_and_nobody_knows(replicas: Replicas) -> None:
    assert as_text(waited(replicas), "obeyed") == (
        "no gate runs on this database now, so it is obeyed from the start of the next"
    )

    def out() -> int:
        raise StoreUnavailableError("the database is out")

    found = acknowledged(replicas, out, Moment(time.monotonic(), MADE_US))
    assert "is not known" in as_text(found, "revoked")
    assert as_json(found)["everywhere"] is None


def test_the_bound_is_that_of_the_cache() -> None:
    """Beats of the push go on for as long as a beat counts; then a record counts as stale."""
    assert UNHEARD_US == HEALTHY_US
    assert ROW.obeys_by_us(0) == HEALTHY_US + 5 * SECOND_US
    assert replace(ROW, stale_us=0).obeys_by_us(0) == 2 * HEALTHY_US


# -- real gates


@pytest.fixture
def fleet(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[list[Keys], list[Metrics]]]:
    with postgres.database() as url, ExitStack() as stack:
        base = settings_on(tmp_path, url)
        for name, value in (
            ("STATE", base.state),
            ("CATALOG", base.catalog),
            ("DATABASE_URL", url),
            ("RUNTIME", tmp_path / "run"),
        ):
            monkeypatch.setenv(f"TENSORGATE_{name}", str(value))
        settings = AuthzSettings()
        stack.enter_context(present(settings, Known("meter", lambda: "mark", "r-meter")))
        metrics = [Metrics() for _ in range(3)]
        gates = [
            stack.enter_context(
                open_keys(settings, each, Known(f"authz-{n}", lambda: "mark", f"r{n}"))
            )
            for n, each in enumerate(metrics)
        ]
        yield gates, metrics


def lags(metrics: Metrics) -> float:
    name = "tensorgate_revocation_lag_seconds_count"
    return metrics.registry.get_sample_value(name) or 0


def test_a_command_waits_for_every_gate(
    fleet: tuple[list[Keys], list[Metrics]], capfd: pytest.CaptureFixture[str]
) -> None:
    gates, metrics = fleet
    anna = ("--user", "anna@example.org", "--alias", "laptop")

    def run(*words: str) -> str:
        capfd.readouterr()
        assert cli.run(words) == 0
        return capfd.readouterr().out

    run("users", "add", "anna@example.org")
    run("keys", "mint", *anna, "--models", "*")
    assert "org: obeyed everywhere in" in run("keys", "update", *anna, "--rpm", "7")
    assert "plan: obeyed everywhere in" in run("users", "set-plan", "anna@example.org", "pro")
    said = run("keys", "revoke", *anna, "--confirm", "laptop")
    took = re.search(r"revoked everywhere in (\d+) ms \(3 replicas\)\. What already", said)
    assert took is not None, said
    assert int(took[1]) < 1000
    assert [lags(each) for each in metrics] == [4, 4, 4]
    run("keys", "mint", *anna, "--models", "*")
    gates[1].feed.stop()
    before = time.monotonic()
    told = json.loads(run("keys", "revoke", *anna, "--confirm", "laptop", "--json"))
    assert 2.5 < time.monotonic() - before < 8
    assert told["acknowledged"]["everywhere"] is False
    assert told["acknowledged"]["replicas"] == 2
    [silent] = told["acknowledged"]["silent"]
    assert "/authz-1:" in silent["name"]
