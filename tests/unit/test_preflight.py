"""`up` checks all that it was asked before it touches anything, and says all that is wrong."""

import os
import socket
from pathlib import Path

import pytest

from store.errors import ConfigError
from tensorgate import machine, ports, preflight
from tensorgate.ports import Address
from tensorgate.preflight import Asked

CATALOG = """
models: {}
default: {price: {input: 0.5, output: 1.5}, context_tokens: 8192, max_output_tokens: 1024}
plans: {free: {max_keys: 2}}
default_plan: free
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("TENSORGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TENSORGATE_STATE", str(tmp_path / "state"))  # put back afterwards
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG)
    monkeypatch.setenv("TENSORGATE_CATALOG", str(catalog))


def asked(**options: object) -> Asked:
    return Asked(**({"port": ports.free_port("127.0.0.1")} | options))  # type: ignore[arg-type]


def faults(**options: object) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        preflight.check(asked(**options))
    return refused.value.faults


def test_nothing_given_is_a_loopback_gate_before_the_demo(tmp_path: Path) -> None:
    setup = preflight.check(asked())
    assert setup.upstream is None
    assert setup.gate.host == "127.0.0.1"
    assert setup.url == f"http://{setup.gate}"
    assert setup.state.path == tmp_path / "state"
    assert not setup.state.path.exists()


def test_the_environment_speaks_where_no_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = f"127.0.0.1:{ports.free_port('127.0.0.1')}"
    monkeypatch.setenv("TENSORGATE_UPSTREAM", "models.internal:8000")
    monkeypatch.setenv("TENSORGATE_METRICS_LISTEN", metrics)
    monkeypatch.setenv("TENSORGATE_CORS_ORIGINS", "https://a.example, https://b.example")
    setup = preflight.check(asked())
    assert setup.upstream == Address("models.internal", 8000)
    assert str(setup.metrics) == metrics
    options = setup.envoy(Path("/run/x"), setup.upstream)
    assert options.cors_origins == ("https://a.example", "https://b.example")
    assert preflight.check(asked(upstream="[::1]:9")).upstream == Address("::1", 9)


def test_grpc_may_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def grpc_of(**options: str) -> str | None:
        setup = preflight.check(asked(upstream="h:1", **options))
        return setup.envoy(Path("/run/x"), Address("h", 1)).upstream_grpc

    assert grpc_of() is None
    assert grpc_of(upstream_grpc="h:2") == "h:2"
    monkeypatch.setenv("TENSORGATE_UPSTREAM_GRPC", "h:3")
    assert grpc_of() == "h:3"
    assert grpc_of(upstream_grpc="h:2") == "h:2"
    (fault,) = faults(upstream="h:1", upstream_grpc="https://h")
    assert fault.startswith("--upstream-grpc https://h: `up` speaks plain HTTP")


def test_the_children_get_what_was_settled(tmp_path: Path) -> None:
    setup = preflight.check(asked(state=tmp_path / "other", upstream="http://127.0.0.1:9/"))
    environ = setup.environ(tmp_path / "run")
    assert environ["TENSORGATE_STATE"] == os.environ["TENSORGATE_STATE"] == str(tmp_path / "other")
    assert environ["TENSORGATE_RUNTIME"] == str(tmp_path / "run")
    assert environ["TENSORGATE_UPSTREAM"] == "127.0.0.1:9"
    assert environ["TENSORGATE_METRICS_LISTEN"] == str(setup.metrics)
    assert environ["PATH"] == os.environ["PATH"]


def test_every_fault_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENSORGATE_KEY_STALE_SECONDS", "301")
    monkeypatch.setenv("TENSORGATE_PEPPER_FILE", str(tmp_path / "none"))
    found = faults(port=0, admin_port=65536, workers=0, upstream="nowhere", listen="x")
    starts = ("TENSORGATE_KEY_STALE_SECONDS", "--listen", "--port", "--admin-port", "--workers")
    assert [fault.split()[0].rstrip(":") for fault in found] == [*starts, "--upstream"]


def test_pepper_and_catalog_are_read_beforehand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "not-hex-but-secret"
    (tmp_path / "peppers").write_text(f"1:{secret}\n")
    (tmp_path / "catalog.yaml").write_text("models: []\n")
    monkeypatch.setenv("TENSORGATE_PEPPER_FILE", str(tmp_path / "peppers"))
    found = faults()
    assert any("TENSORGATE_PEPPER_FILE" in fault for fault in found)
    assert any("models" in fault for fault in found)
    assert secret not in "".join(found)


def test_what_envoy_cannot_do_is_said_before_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_CORS_ORIGINS", "chat.example")
    (fault,) = faults()
    assert "chat.example" in fault


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        ("https://models.example", "plain HTTP"),
        ("127.0.0.1", "host:port"),
        ("127.0.0.1:8000/v1", "host:port"),
    ],
)
def test_an_upstream_is_a_plain_address(upstream: str, words: str) -> None:
    (fault,) = faults(upstream=upstream)
    assert fault.startswith(f"--upstream (make: UPSTREAM) {upstream}: ")
    assert words in fault


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
def test_a_gate_is_not_put_before_itself(listen: str) -> None:
    port = ports.free_port("127.0.0.1")
    (fault,) = faults(port=port, listen=listen, upstream=f"127.0.0.1:{port}")
    assert "that is the gate itself" in fault


def test_several_workers_count_in_a_valkey_of_the_gates_own(tmp_path: Path) -> None:
    setup = preflight.check(asked(workers=2))
    assert setup.own_valkey
    environ = setup.environ(tmp_path)
    assert environ["TENSORGATE_WORKERS"] == "2"
    assert environ["TENSORGATE_REDIS_URL"] == f"unix://{tmp_path}/valkey.sock"
    assert setup.envoy(tmp_path, Address("h", 1)).workers == 2


def test_or_in_the_redis_that_was_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENSORGATE_REDIS_URL", "redis://h")
    monkeypatch.setenv("TENSORGATE_WORKERS", "3")
    setup = preflight.check(asked())
    assert not setup.own_valkey
    assert setup.environ(tmp_path)["TENSORGATE_REDIS_URL"] == "redis://h"
    assert setup.environ(tmp_path)["TENSORGATE_WORKERS"] == "3"
    assert not preflight.check(asked(workers=1)).own_valkey


def test_an_address_of_redis_that_is_none_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TENSORGATE_REDIS_URL", "http://:hunter22@h")
    (fault,) = faults(workers=2)
    assert "it has to begin with one of unix://, redis://" in fault
    assert "hunter22" not in fault


def test_one_worker_has_no_valkey(tmp_path: Path) -> None:
    setup = preflight.check(asked())
    assert not setup.own_valkey
    assert "TENSORGATE_REDIS_URL" not in setup.environ(tmp_path)


def test_where_no_valkey_comes_with_us_several_workers_need_a_redis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Plan9")
    (fault,) = faults(workers=2)
    assert fault.startswith("--workers (make: WORKERS) 2: ")
    assert fault.endswith("run one, and name it in TENSORGATE_REDIS_URL")
    assert preflight.check(asked(workers=1)).settings.workers == 1
    monkeypatch.setenv("TENSORGATE_REDIS_URL", "redis://h")
    assert preflight.check(asked(workers=2)).settings.workers == 2


def test_an_address_that_others_reach_warns_once_and_names_it() -> None:
    port = ports.free_port("127.0.0.1")
    setup = preflight.check(asked(port=port, listen="0.0.0.0"))
    warnings = [note for note in setup.notes if note.startswith("warning: ")]
    (warning,) = warnings
    assert f"0.0.0.0:{port} without TLS" in warning
    assert setup.local == Address("127.0.0.1", port)
    assert "0.0.0.0" not in setup.url
    assert not [n for n in preflight.check(asked()).notes if n.startswith("warning")]


def test_a_taken_port_is_a_fault_but_the_default_for_metrics_steps_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        (fault,) = faults(port=taken)
        assert fault.startswith(f"--port (make: PORT) {taken}: 127.0.0.1:{taken} is taken by ")
        (fault,) = faults(metrics_listen=f"localhost:{taken}")
        assert "choose another" in fault
        monkeypatch.setattr(preflight, "DEFAULT_METRICS", f"127.0.0.1:{taken}")
        setup = preflight.check(asked())
        assert setup.metrics.port != taken
        (note,) = setup.notes
        assert note.startswith(f"metrics are at {setup.metrics}, since port {taken} is taken by ")


def test_metrics_do_not_share_the_gates_port() -> None:
    port = ports.free_port("127.0.0.1")
    (fault,) = faults(port=port, metrics_listen=f"127.0.0.1:{port}")
    assert "the gate's own" in fault


@pytest.mark.parametrize(
    ("quota", "usable", "threads"),
    [
        ("max 100000", 1, 1),
        ("max 100000", 2, 1),
        ("max 100000", 4, 3),
        ("max 100000", 64, 4),
        ("200000 100000", 64, 1),
        ("50000 100000", 64, 1),
        ("300000 100000", 64, 2),
        ("nonsense", 3, 2),
    ],
)
def test_envoy_gets_the_processors_that_authz_leaves(
    quota: str, usable: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)))
    (tmp_path / "cpu.max").write_text(quota)
    assert machine.spare_processors(1, tmp_path / "cpu.max") == threads
    assert machine.spare_processors(1, tmp_path / "none") == min(4, max(1, usable - 1))
    assert machine.spare_processors(3, tmp_path / "none") == min(12, max(1, usable - 3))


def test_the_dashboard_is_on_loopback_and_steps_aside_unless_its_port_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert any(f"{port} is taken" in fault for fault in faults(admin_port=port))
        monkeypatch.setenv("TENSORGATE_ADMIN_LISTEN", f"127.0.0.1:{port}")
        assert any(f"ADMIN_LISTEN 127.0.0.1:{port}" in fault for fault in faults())
        free = ports.free_port("127.0.0.1")
        assert preflight.check(asked(admin_port=free)).admin == Address("127.0.0.1", free)
        monkeypatch.delenv("TENSORGATE_ADMIN_LISTEN")
        monkeypatch.setattr(preflight, "DEFAULT_LISTEN", f"127.0.0.1:{port}")
        setup = preflight.check(asked())
        assert setup.admin.host == "127.0.0.1"
        assert setup.admin.port != port
        assert any("the dashboard is at" in note for note in setup.notes)
        environ = setup.environ(Path("/run/x"))
        assert environ["TENSORGATE_ADMIN_LISTEN"] == str(setup.admin)
        assert environ["TENSORGATE_DASHBOARD_URL"] == f"http://{setup.admin}" == setup.dashboard


def test_a_dashboard_that_others_reach_is_warned_of_unless_tls_is_in_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = ports.free_port("127.0.0.1")
    monkeypatch.setenv("TENSORGATE_ADMIN_LISTEN", f"0.0.0.0:{port}")
    setup = preflight.check(asked())
    assert any("passwords cross the network in the clear" in note for note in setup.notes)
    assert "TENSORGATE_DASHBOARD_URL" not in setup.environ(Path("/run/x")), "it has any name"
    monkeypatch.setenv("TENSORGATE_DASHBOARD_URL", "https://keys.example.org")
    setup = preflight.check(asked())
    assert not any("dashboard" in note for note in setup.notes)
    assert setup.dashboard == "https://keys.example.org"


def test_the_dashboard_is_no_model_server() -> None:
    port = ports.free_port("127.0.0.1")
    found = faults(admin_port=port, upstream=f"127.0.0.1:{port}")
    assert any("that is the dashboard" in fault for fault in found)


def test_what_is_wrong_with_the_dashboards_settings_is_said_with_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TENSORGATE_SESSION_SECONDS", "never")
    assert any("TENSORGATE_SESSION_SECONDS" in fault for fault in faults())
