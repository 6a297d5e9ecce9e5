"""The catalog in force: what a Check sees of a reload, and what is not taken."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from moneysupport import Gate
from support import error, is_allowed, metadata

from authz.change import frame
from authz.pb.auth_pb2 import CheckResponse
from authz.reload import InForce, Loaded
from store.errors import ConfigError, StoreUnavailableError
from store.records import KeyRecord

FIRST = """\
models:
  llama: {price: {input: 1, output: 2}, context_tokens: 100000, max_output_tokens: 10}
plans: {free: {}}
default_plan: free
endpoints: [{name: own, path: /own, input: text}]
"""
DEARER = FIRST.replace("output: 2", "output: 4").replace(
    "max_output_tokens: 10", "max_output_tokens: 20"
)


class Running:
    """A Checker behind the catalog of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text(FIRST)
        self.gate = Gate(catalog=FIRST)
        self.in_force = InForce(path, Loaded.read(path), self.gate.metrics)
        self.in_force.begin(self.gate.checker, lambda: {"free": 3})

    def most(self) -> int:
        """The hold of a call that sets no bound."""
        sent = self.gate.message()
        self.in_force.checker.check(sent)
        return self.gate.hold.nanousd

    @property
    def failures(self) -> float | None:
        name = "tensorgate_catalog_reload_failures_total"
        return self.gate.metrics.registry.get_sample_value(name)

    @property
    def loaded(self) -> float:
        name = "tensorgate_catalog_loaded_timestamp_seconds"
        found = self.gate.metrics.registry.get_sample_value(name)
        assert found is not None
        return found


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path / "catalog.yaml")


def test_the_next_check_is_answered_by_the_new_catalog(running: Running) -> None:
    before = running.most()
    loaded = running.loaded
    assert abs(loaded - time.time()) < 60
    running.path.write_text(DEARER)
    done = running.in_force.reload()
    assert [each["change"] for each in done["changes"]] == ["repriced", "changed"]
    assert done["warnings"] == []
    assert running.most() == before - 10 * 2_000 + 20 * 4_000
    assert running.in_force.catalog().models["llama"].max_output_tokens == 20
    assert running.loaded > loaded
    assert running.failures == 0


def test_a_check_sees_one_catalog_though_another_comes_meanwhile(running: Running) -> None:
    before = running.most()
    gate, asked = running.gate, running.gate.table.by_digests
    gate.clock.advance(seconds=100)  # so that the key is read anew, inside the next Check
    running.path.write_text(DEARER)

    def slowly(digests: tuple[bytes, ...]) -> tuple[bytes, KeyRecord] | None:
        running.in_force.reload()
        return asked(digests)

    gate.table.by_digests = slowly  # type: ignore[method-assign]
    assert running.most() == before
    assert running.in_force.catalog().models["llama"].price.output == 4 * 10**9
    gate.table.by_digests = asked  # type: ignore[method-assign]
    assert running.most() == before - 10 * 2_000 + 20 * 4_000


def test_a_check_that_is_repeated_over_a_reload_is_not_served_under_a_hold_of_before(
    running: Running,
) -> None:
    """Its output would be bounded by the new catalog, and held by the old one."""
    sent = running.gate.message()
    check, memory = running.in_force.checker.check, running.gate.memory
    first = CheckResponse.FromString(check(sent))
    assert is_allowed(first)
    hold = running.gate.hold
    running.path.write_text(DEARER)
    running.in_force.reload()
    repeated = CheckResponse.FromString(running.in_force.checker.check(sent))
    assert not is_allowed(repeated)
    assert error(repeated)["code"] == "authorization_unavailable"
    assert memory.hold(hold.account_id, hold.id) == hold, "the first Check may have been answered"
    assert running.gate.settled.ends == []
    running.path.write_text(FIRST)
    running.in_force.reload()
    again = CheckResponse.FromString(running.in_force.checker.check(sent))
    assert metadata(again) == metadata(first)
    assert len(running.gate.journal) == 1
    assert not memory.give_back(hold)
    assert memory.give_back(hold), "two Checks were given it"


def test_bodies_are_read_by_the_new_catalogs_rows(running: Running) -> None:
    members = {"text": "x", "most": 3}
    held = []
    for catalog in (FIRST, FIRST.replace("input: text", "input: text, output: [most]")):
        running.path.write_text(catalog)
        running.in_force.reload()
        running.in_force.checker.check(running.gate.message("/own", **members))
        held.append(running.gate.hold.output_bound)
    assert held[1] == 3
    assert held[0] > 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (DEARER.replace("input: 1,", "input: one,"), "line 2: models.llama.price.input: "),
        (DEARER.replace("/own", "/v1/messages"), "line 5: endpoints.0.path: a built-in endpoint"),
        (DEARER.replace("/own", "/other"), "endpoints, native_model: Envoy was started with"),
        ("\x00", "line 1: "),
        (None, "No such file"),
    ],
)
def test_what_cannot_be_used_leaves_all_as_it_was(
    running: Running, text: str | None, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, loaded = running.most(), running.loaded
    if text is None:
        running.path.unlink()
    else:
        running.path.write_text(text)
    with pytest.raises(ConfigError) as caught, caplog.at_level(logging.ERROR):
        running.in_force.reload()
    assert fault in caught.value.faults[0]
    (record,) = caplog.records
    assert caught.value.faults[0] in record.getMessage()
    assert record.exc_info is None
    assert (running.most(), running.loaded, running.failures) == (before, loaded, 1)
    running.path.write_text(DEARER)
    running.in_force.reload()
    assert running.most() > before


def test_a_plan_that_accounts_are_on_and_is_gone_is_warned_of(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.path.write_text(FIRST.replace("free", "basic"))
    with caplog.at_level(logging.WARNING):
        (warning,) = running.in_force.reload()["warnings"]
    assert warning.startswith("3 accounts are on plan 'free', which the catalog does not name")
    assert warning in caplog.text


def test_a_database_that_is_out_keeps_no_catalog_from_coming(running: Running) -> None:
    def out() -> dict[str, int]:
        raise StoreUnavailableError("out")

    running.in_force.begin(running.gate.checker, out)
    running.path.write_text(DEARER)
    (warning,) = running.in_force.reload()["warnings"]
    assert "the database does not answer" in warning
    assert running.in_force.catalog().models["llama"].price.output == 4 * 10**9


def test_a_catalog_of_another_envoy_is_not_begun_with(running: Running) -> None:
    loaded = Loaded.read(running.path)
    loaded.check_mark(None)
    loaded.check_mark(frame(loaded.catalog, loaded.table).mark)
    running.path.write_text(FIRST.replace("/own", "/other"))
    with pytest.raises(ConfigError, match="stop the gate and start it again"):
        Loaded.read(running.path).check_mark(frame(loaded.catalog, loaded.table).mark)


# -- SIGHUP


# In a process of its own: a signal may go to any thread of a process that does not block it, and
# the process of the tests may have some.
HANGUPS: Final = """
import logging, os, signal, sys, threading
from authz.reload import note_hangups, reloading
from store.errors import ConfigError

def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)

note_hangups()
turned = threading.Semaphore(0)
"""
TOGETHER: Final = """
for _ in range(3):
    hang_up()
with reloading(turned.release):
    assert turned.acquire(timeout=5)
    assert not turned.acquire(timeout=0.1)
    hang_up()
    assert turned.acquire(timeout=5)
assert [each for each in threading.enumerate() if each.name == "reload"] == []
"""
FAILING: Final = """
logging.basicConfig(stream=sys.stdout, format="%(message)s")
faults = [ConfigError("bad", ()), RuntimeError("worse")]

def fail():
    turned.release()
    if faults:
        raise faults.pop(0)

with reloading(fail):
    for _ in range(3):
        hang_up()
        assert turned.acquire(timeout=5)
"""


def hung_up(script: str) -> str:
    """What a process that is hung up on says; it ends well."""
    argv = [sys.executable, "-P", "-c", HANGUPS + script]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_hangups_reload_and_those_that_came_before_are_one() -> None:
    assert hung_up(TOGETHER) == ""


def test_a_reload_that_fails_is_not_the_last() -> None:
    said = hung_up(FAILING)
    assert said.startswith("the catalog was not reloaded\nTraceback")
    assert said.count("the catalog was not reloaded") == 1
