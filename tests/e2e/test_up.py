"""`tensorgate up` as a person meets it: from nothing to a call, a stop, a second start, accidents.

The real command, the real Envoy, a state of its own and ports found at run time.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from peers.llama import MODEL, Llama
from peers.process import Child, command, descendants, parent, processes
from peers.process import environment as environ
from peers.recorder import Recorder
from waiting import until

from tensorgate.ports import free_port

ROOT = Path(__file__).parents[2]
PARTS = 4  # authz, admin, demo, Envoy
TENSORGATE = Path(sys.executable).with_name("tensorgate")
START_SECONDS = 60


def environment(state: Path | None = None) -> dict[str, str]:
    """This process's, without what might configure a gate; on the repository's catalog."""
    clean = {n: v for n, v in os.environ.items() if not n.startswith("TENSORGATE_")}
    named = {} if state is None else {"TENSORGATE_STATE": str(state)}
    return clean | named | {"TENSORGATE_CATALOG": str(ROOT / "catalog.yaml")}


class Up:
    """A `tensorgate up` under test; `pids` are all processes that it started."""

    def __init__(self, folder: Path, name: str, *options: str, port: int | None = None) -> None:
        self.state = folder / "state"
        self.port = port or free_port("127.0.0.1")
        self.child = Child(
            [TENSORGATE, "up", "--state", self.state, "--port", str(self.port), *options],
            log=folder / f"{name}.out",
            env=environment(),
            cwd=folder,
        )

    def ready(self) -> str:
        """Wait for the ready line and all that is printed below it."""
        line = self.child.line("tensorgate ready", seconds=START_SECONDS)
        self.child.line("Ctrl-C stops it.", seconds=START_SECONDS)
        return line

    @property
    def output(self) -> str:
        return self.child.output

    @property
    def pids(self) -> list[int]:
        return descendants(self.child.pid)

    def part(self, *words: str) -> int:
        """The pid of the child whose command line has these words, the only one."""
        (pid,) = [pid for pid in self.pids if set(words) <= set(command(pid))]
        return pid

    def envoy(self) -> int:
        (pid,) = [pid for pid in self.pids if command(pid)[0].endswith("/envoy")]
        return pid

    def kill(self) -> None:
        """End it by force, whatever a test left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.process.wait()


@contextmanager
def running(folder: Path, name: str, *options: str, port: int | None = None) -> Iterator[Up]:
    gate = Up(folder, name, *options, port=port)
    try:
        gate.ready()
        yield gate
    finally:
        gate.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def gate(folder: Path) -> Iterator[Up]:
    """One gate on a new state, before the demo server."""
    with running(folder, "first") as started:
        yield started


def tensorgate(state: Path, *words: str, status: int = 0) -> str:
    """Run a command on the state; what it printed, stdout and stderr."""
    ran = subprocess.run(
        [TENSORGATE, *words],
        env=environment(state),
        cwd=state.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == status, ran.stdout
    return ran.stdout


def pasted(gate: Up) -> str:
    """The line below "Try it:", run by a shell as it stands."""
    (line,) = re.findall(r"^Try it:\n(curl .*)$", gate.output, re.MULTILINE)
    ran = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=30, check=True
    )
    return ran.stdout


def printed_key(gate: Up) -> str:
    (key,) = re.findall(r"^  key +(sk-tg_\w{49})$", gate.output, re.MULTILINE)
    return str(key)


def gone(pids: list[int]) -> bool:
    return all(parent(pid) is None for pid in pids)


def assert_all_end(pids: list[int]) -> None:
    assert pids
    until(lambda: gone(pids), 10)


def test_the_ready_line_and_the_pasted_curl_line(gate: Up) -> None:
    assert gate.ready() == f"tensorgate ready  http://127.0.0.1:{gate.port}"
    assert gate.output.count("tensorgate ready") == 1
    answer = json.loads(pasted(gate))
    assert "no model runs here" in answer["choices"][0]["message"]["content"]
    assert re.search(
        r"^  upstream  demo at \S+ · models: demo-model · yours", gate.output, re.MULTILINE
    )
    assert re.search(r"^  user +\S+@\S+ · password \S{12,}$", gate.output, re.MULTILINE)
    assert "every model · $5.00 per 30 days · 60 requests a minute · until 20" in gate.output
    assert "Traceback" not in gate.output
    assert "admin port" not in gate.output


def test_who_it_says_signs_in_where_it_says_and_nowhere_else(gate: Up) -> None:
    found = re.search(
        r"^  dashboard (http://127\.0\.0\.1:\d+) · sign in as (\S+)$", gate.output, re.MULTILINE
    )
    assert found is not None, gate.output
    url, email = found.groups()
    (password,) = re.findall(r"^  user +\S+ · password (\S+)$", gate.output, re.MULTILINE)
    form = {"email": email, "password": password}
    with httpx2.Client(headers={"origin": url}, trust_env=False) as browser:
        assert browser.post(f"{url}/sign-in", data=form).headers["location"] == "/keys"
        assert "first" in browser.get(f"{url}/keys").text
        page = browser.get(f"{url}/admin/system")
        assert "counters and ledger agree" in page.text
        findings = browser.get(f"{url}/admin/system/parts").text
        assert findings.count(">good</span>") >= 10, findings
        through = f"http://127.0.0.1:{gate.port}"
        for path in ("/sign-in", "/keys", "/admin/users", "/static/app.css"):
            answer = browser.get(f"{through}{path}")  # with its cookie: it is of the same host
            assert answer.status_code in {401, 403}, path
            assert "tensorgate_session" not in answer.text
        assert browser.post(f"{through}/sign-in", data=form).status_code in {401, 403}
    other = httpx2.get(f"{url}/keys", headers={"authorization": f"Bearer {printed_key(gate)}"})
    assert other.status_code == 303
    assert password not in (gate.state / "log" / "admin.log").read_text()


def test_what_the_state_holds_is_private_and_the_key_is_nowhere_in_it(gate: Up) -> None:
    key = printed_key(gate).encode()
    runtime = Path((gate.state / "runtime").read_text().strip())
    assert (gate.state / "url").read_text() == f"http://127.0.0.1:{gate.port}\n"
    for folder in (gate.state, gate.state / "log", runtime):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [each for each in gate.state.rglob("*") if each.is_file()]
    assert {"tensorgate.db", "envoy.yaml", "authz.log", "envoy.log"} <= {f.name for f in files}
    for each in files:
        assert not stat.S_IMODE(each.stat().st_mode) & 0o077, each
        assert key not in each.read_bytes(), each


def test_each_part_is_a_child_with_its_own_command_line(gate: Up) -> None:
    group = os.getpgid(gate.child.pid)
    for part in ("authz", "admin", "demo"):
        assert os.getpgid(gate.part(part)) == group
    assert os.getpgid(gate.envoy()) == gate.envoy()
    assert len(gate.pids) == PARTS


def test_a_user_of_a_running_gate_finds_everything_well(gate: Up) -> None:
    report = tensorgate(gate.state, "doctor")
    lines = report.splitlines()
    assert all(line.startswith("ok  ") for line in lines), report
    parts = [line.split()[1] for line in lines]
    assert parts == [
        *("python", "envoy", "settings", "clock", "state", "catalog", "database", "pepper"),
        *("journal", "authz", "ledger", "gate", "upstream", "metrics", "dashboard"),
    ]
    rows = json.loads(tensorgate(gate.state, "doctor", "--json"))["parts"]
    assert [row["part"] for row in rows] == parts
    assert {row["status"] for row in rows} == {"ok"}


def test_a_second_one_on_the_same_state_is_told_of_the_first(gate: Up) -> None:
    port = free_port("127.0.0.1")
    said = tensorgate(gate.state, "up", "--port", str(port), status=1)
    assert f"(pid {gate.child.pid}, http://127.0.0.1:{gate.port}) runs on the state" in said
    assert said.startswith("error: Another `tensorgate up`")
    assert len(said.splitlines()) == 1


def test_a_taken_port_names_who_has_it_and_what_to_change(gate: Up, tmp_path: Path) -> None:
    said = tensorgate(tmp_path / "state", "up", "--port", str(gate.port), status=1)
    assert re.search(
        rf"--port \(make: PORT\) {gate.port}: 127\.0\.0\.1:{gate.port} is taken by envoy\S* "
        rf"\(pid {gate.envoy()}\); choose another",
        said,
    ), said
    assert not (tmp_path / "state").exists()


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    options = {
        "--port": "70000",
        "--admin-port": "0",
        "--workers": "65",
        "--listen": "gate.example",
        "--upstream": "https://models.example",
        "--metrics-listen": "9464",
    }
    words = [word for pair in options.items() for word in pair]
    said = tensorgate(tmp_path / "state", "up", *words, status=1)
    faults = [line.strip() for line in said.splitlines()[1:]]
    assert sorted(fault.split()[0] for fault in faults) == sorted(options)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("part", ["authz", "admin", "demo", "envoy"])
def test_a_part_that_is_killed_comes_back(gate: Up, part: str) -> None:
    def pid() -> int:
        return gate.envoy() if part == "envoy" else gate.part(part)

    before = pid()
    lines = gate.output.count(f"{part} was killed by SIGKILL")
    os.kill(before, signal.SIGKILL)
    until(lambda: gate.output.count(f"{part} was killed by SIGKILL") == lines + 1)

    def replaced() -> bool:
        with suppress(ValueError):  # not yet, or the tether has not become the program yet
            return len(gate.pids) == PARTS and pid() != before
        return False

    until(replaced)

    def answers() -> bool:
        with suppress(subprocess.CalledProcessError, json.JSONDecodeError):
            return "choices" in json.loads(pasted(gate))
        return False

    until(answers)


def test_ctrl_c_ends_all_and_the_next_start_finds_its_state(folder: Path, gate: Up) -> None:
    key, pids = printed_key(gate), gate.pids
    runtime = Path((gate.state / "runtime").read_text().strip())
    assert gate.child.end(signal.SIGINT) == 0
    assert_all_end(pids)
    assert not runtime.exists()
    assert "Traceback" not in gate.output

    report = tensorgate(gate.state, "doctor", status=1)
    failed = [line for line in report.splitlines() if line.startswith("fail")]
    assert [line.split()[1] for line in failed] == ["authz", "gate", "metrics"]
    assert all("start the gate: `make run` or `tensorgate up`" in line for line in failed)

    with running(folder, "second", port=gate.port) as again:
        assert "sk-tg_" not in again.output
        assert "password" not in again.output
        assert "keys mint" in again.output
        models = subprocess.run(
            [
                *("curl", "-sS", "-H", f"Authorization: Bearer {key}"),
                f"http://127.0.0.1:{again.port}/v1/models",
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert "data" in json.loads(models.stdout)
        pids = again.pids
        os.kill(again.child.pid, signal.SIGTERM)  # as a service manager does: to `up` alone
        assert again.child.process.wait(15) == 0
        assert_all_end(pids)


def test_none_outlives_an_up_that_is_killed_and_the_next_one_starts(tmp_path: Path) -> None:
    with running(tmp_path, "first") as gate:
        pids = gate.pids
        assert len(pids) == PARTS
        runtime = Path((gate.state / "runtime").read_text().strip())
        os.kill(gate.child.pid, signal.SIGKILL)
        gate.child.process.wait()
        assert_all_end(pids)
        assert runtime.exists()
    with running(tmp_path, "second", port=gate.port) as again:
        assert not runtime.exists()
        assert again.child.end(signal.SIGINT) == 0


def test_a_part_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "state" / "authz.lock").mkdir(parents=True)  # authz will want a file there
    said = tensorgate(tmp_path / "state", "up", "--port", str(free_port("127.0.0.1")), status=1)
    assert "error: authz ended with status 1." in said
    assert f"The end of {tmp_path}/state/log/authz.log:\n  error: cannot start: " in said
    assert "Traceback" not in said
    assert "tensorgate ready" not in said
    assert not [pid for pid in processes() if f"TENSORGATE_STATE={tmp_path}/state" in environ(pid)]


def test_a_second_ctrl_c_does_not_wait_for_a_stream(tmp_path: Path, recorder: Recorder) -> None:
    with running(tmp_path, "out", "--upstream", recorder.address) as gate, recorder.held():
        assert f"at {recorder.address} · models: recorder" in gate.output
        (line,) = re.findall(r"^Try it:\n(curl .*)$", gate.output, re.MULTILINE)
        with subprocess.Popen(
            ["bash", "-c", line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as client:
            until(lambda: "POST" in [request.method for request in recorder.requests])
            pids = gate.pids
            assert len(pids) == PARTS - 1  # no demo server before one of ours
            begun = time.monotonic()
            os.killpg(gate.child.pid, signal.SIGINT)
            until(lambda: "1 in flight; waiting at most 5 s" in gate.output)
            os.killpg(gate.child.pid, signal.SIGINT)
            assert gate.child.process.wait(5) == 0
            assert time.monotonic() - begun < 4
            assert_all_end(pids)
            client.wait(10)


def test_a_real_model_server_is_named_with_its_models(tmp_path: Path, llama: Llama) -> None:
    with running(tmp_path, "out", "--upstream", llama.address) as gate:
        found = re.search(r"^  upstream  (.*)$", gate.output, re.MULTILINE)
        assert found
        named = rf"llama\.cpp( \S+)? at {llama.address} · models: {re.escape(MODEL)}"
        assert re.fullmatch(named, found[1])
        assert json.loads(pasted(gate))["choices"][0]["message"]["role"] == "assistant"
        assert "ok    upstream  llama.cpp" in tensorgate(gate.state, "doctor")
        assert gate.child.end(signal.SIGINT) == 0


def test_an_upstream_that_is_not_there_yet_and_an_open_address_are_told(tmp_path: Path) -> None:
    nobody = free_port("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = free_port("127.0.0.1")
        port = taken.getsockname()[1]
        refused = tensorgate(
            tmp_path / "x", "up", "--metrics-listen", f"127.0.0.1:{port}", status=1
        )
        assert f"--metrics-listen (TENSORGATE_METRICS_LISTEN) 127.0.0.1:{port}: " in refused
    options = ("--listen", "127.0.0.2", "--metrics-listen", f"127.0.0.1:{metrics}")
    with running(tmp_path, "out", "--upstream", f"127.0.0.1:{nobody}", *options) as gate:
        assert f"127.0.0.1:{nobody} does not answer yet (connection refused)" in gate.output
        assert "without TLS" not in gate.output  # loopback, whichever
        assert json.loads(pasted(gate))["object"] == "list"  # no model is known: it lists them
        assert gate.child.end(signal.SIGINT) == 0
