"""Settings: read from the environment, all faults told at once, and no secret in any of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from authz.settings import AuthzSettings
from store.errors import ConfigError
from store.keyformat import DEFAULT_PREFIX, mint
from store.settings import StoreSettings, load


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("TENSORGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults(tmp_path: Path) -> None:
    settings = load(StoreSettings)
    assert settings.state == Path(".tensorgate")
    assert settings.catalog == Path("catalog.yaml")
    assert settings.sql_url == f"sqlite:///{tmp_path}/.tensorgate/tensorgate.db"
    assert settings.key_form().prefixes == (DEFAULT_PREFIX,)
    assert settings.digester().versions() == (0,)
    assert settings.dashboard_url is None


def test_all_of_it_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pepper = tmp_path / "pepper"
    pepper.write_text(f"3:{'ab' * 32}\n")
    for name, value in {
        "STATE": "/srv/gate",
        "CATALOG": "/etc/catalog.yaml",
        "PEPPER_FILE": str(pepper),
        "KEY_PREFIXES": " acme_ , sk-tg_ ",
        "FOREIGN_KEYS": "sk-[a-z]+",
        "DASHBOARD_URL": "https://keys.example.org/",
    }.items():
        monkeypatch.setenv(f"TENSORGATE_{name}", value)
    settings = load(StoreSettings)
    assert settings.sql_url == "sqlite:////srv/gate/tensorgate.db"
    assert settings.catalog == Path("/etc/catalog.yaml")
    assert settings.key_form().prefixes == ("acme_", "sk-tg_")
    assert settings.key_form().is_ours(mint("acme_"))
    assert settings.key_form().is_foreign("sk-abc")
    assert settings.digester().versions() == (3, 0)
    assert settings.dashboard_url == "https://keys.example.org"


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "DATABASE_URL", "PEPPER_FILE", "KEY_PREFIXES", "FOREIGN_KEYS"):
        monkeypatch.setenv(f"TENSORGATE_{name}", "")
    assert load(StoreSettings) == StoreSettings()


def test_every_fault_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_FOREIGN_KEYS", "sk-(")
    monkeypatch.setenv("TENSORGATE_DASHBOARD_URL", "keys.example.org")
    with pytest.raises(ConfigError) as caught:
        load(StoreSettings)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "TENSORGATE_FOREIGN_KEYS",
        "TENSORGATE_DASHBOARD_URL",
    ]
    assert "not a regular expression" in str(caught.value)
    assert "https://host[:port]" in str(caught.value)
    assert caught.value.code == "config"


@pytest.mark.parametrize("prefixes", ["SK_", "sk", ","])
def test_prefixes_that_are_none(prefixes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_KEY_PREFIXES", prefixes)
    with pytest.raises(ConfigError, match="prefix"):
        load(StoreSettings)


def test_a_database_password_is_in_no_repr_and_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_DATABASE_URL", "postgresql://gate:hunter22@db/gate")
    assert load(StoreSettings).sql_url == "postgresql://gate:hunter22@db/gate"
    assert "hunter22" not in repr(load(StoreSettings))
    monkeypatch.setenv("TENSORGATE_KEY_PREFIXES", "SK_")
    with pytest.raises(ConfigError) as caught:
        load(StoreSettings)
    assert "hunter22" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "says"), [(None, "No such file"), ("1:zz", "line 1"), ("", "openssl rand -hex 32")]
)
def test_a_pepper_file_that_cannot_be_used(
    text: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pepper"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("TENSORGATE_PEPPER_FILE", str(path))
    settings = load(StoreSettings)
    with pytest.raises(ConfigError, match="TENSORGATE_PEPPER_FILE") as caught:
        settings.digester()
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_several_workers_need_something_to_count_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_WORKERS", "2")
    with pytest.raises(ConfigError) as caught:
        load(AuthzSettings)
    (fault,) = caught.value.faults
    assert "2 workers count together in Redis or Valkey: name it in REDIS_URL" in fault
    monkeypatch.setenv("TENSORGATE_REDIS_URL", "redis://:hunter22@h")
    settings = load(AuthzSettings)
    assert (settings.workers, settings.worker) == (2, None)
    assert "hunter22" not in repr(settings)
    monkeypatch.setenv("TENSORGATE_WORKERS", "65")
    with pytest.raises(ConfigError, match="TENSORGATE_WORKERS: "):
        load(AuthzSettings)


def test_a_worker_alone_needs_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORGATE_WORKER", "0")
    with pytest.raises(ConfigError, match="REDIS_URL"):
        load(AuthzSettings)


def test_what_an_outage_of_the_counters_means_is_one_of_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load(AuthzSettings).on_counter_outage == "deny"
    monkeypatch.setenv("TENSORGATE_ON_COUNTER_OUTAGE", "local")
    assert load(AuthzSettings).on_counter_outage == "local"
    monkeypatch.setenv("TENSORGATE_ON_COUNTER_OUTAGE", "allow")
    with pytest.raises(ConfigError, match=r"TENSORGATE_ON_COUNTER_OUTAGE: .*'deny' or 'local'"):
        load(AuthzSettings)
