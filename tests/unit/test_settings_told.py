"""Each setting that the code reads stands in the README's table, and each row there is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from admin.settings import AdminSettings
from authz.settings import AuthzSettings
from store.settings import PREFIX, StoreSettings
from tensorgate.envoy.cli import app as envoy_app
from tensorgate.preflight import UpSettings

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("store", "authz", "admin", "tensorgate")
KINDS: Final = (StoreSettings, AuthzSettings, AdminSettings, UpSettings)
PARTS_OWN: Final = {
    "WORKER",  # a supervisor says to a worker which it is
    "ENVOY_MARK",  # `up` says to authz what Envoy was rendered from
}
_TABLE: Final = re.compile(r"(?ms)^\| `TENSORGATE_…` .*?\n\n")
_READ: Final = re.compile(r"(?:TENSORGATE_|\{PREFIX\})([A-Z][A-Z_]*[A-Z])\b")


def told() -> dict[str, str]:
    """Names in the first column of the table → the rest of the row."""
    (table,) = _TABLE.findall((ROOT / "README.md").read_text())
    rows = [line.split("|", 2)[1:] for line in table.splitlines()[2:] if line]
    return {name: rest for names, rest in rows for name in re.findall(r"`([A-Z_]+)`", names)}


def fields() -> set[str]:
    return {name.upper() for kind in KINDS for name in kind.model_fields}


def named_in_code() -> set[str]:
    """What stands in the sources with our prefix before it, messages and `envvar=` alike."""
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return {name for path in sources for name in _READ.findall(path.read_text())}


def test_every_setting_stands_in_the_table() -> None:
    wanted = (fields() | named_in_code()) - PARTS_OWN
    assert {"REDIS_TIMEOUT_MS", "LITELLM_URL", "HEALTH_LISTEN", "TRACING"} <= wanted
    assert sorted(wanted - told().keys()) == []


def test_every_row_is_a_setting() -> None:
    assert sorted(told().keys() - fields() - named_in_code()) == []
    for name, rest in told().items():
        default, what = (cell.strip() for cell in rest.strip().strip("|").split("|", 1))
        assert default, name
        assert what, name


@pytest.mark.parametrize(
    ("name", "default"),
    [
        (name, field.default)
        for kind in KINDS
        for name, field in kind.model_fields.items()
        if type(field.default) in {int, float}
    ],
)
def test_a_number_that_is_told_is_the_one_in_the_code(name: str, default: float) -> None:
    assert re.match(rf"\s*{default:g}\b", told()[name.upper()].replace(" | ", " ", 1)), name


@pytest.mark.parametrize(
    ("name", "value", "rendered"),
    [
        ("IDLE_SECONDS", "901", "stream_idle_timeout: 901s"),
        ("STREAM_SECONDS", "3601", "3601s"),
        ("HEARTBEAT_SECONDS", "14", "access_log_flush_interval: 14s"),
        ("BODY_LIMIT_MIB", "31", str(31 << 20)),
        ("TRACING", "10.0.0.5:4317", "10.0.0.5"),
        ("CORS_ORIGINS", "https://chat.example.com", "https://chat"),
    ],
)
def test_envoy_is_rendered_with_the_settings_that_authz_reads(
    name: str, value: str, rendered: str
) -> None:
    """As in compose.yaml, where one environment is given to all."""
    options = ["render", "--upstream", "127.0.0.1:8000"]
    done = CliRunner().invoke(envoy_app, options, env={f"{PREFIX}{name}": value})
    assert done.exit_code == 0, done.output
    assert rendered in done.output
    assert rendered not in CliRunner().invoke(envoy_app, options).output
