"""compose.yaml: it is by the specification, names what exists, and its services work together."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml
from peers.client import call
from peers.compose import FILE, NOT_HERE, Compose, composed, mounts, services
from peers.node import ensure_node, ensure_node_modules
from peers.venvs import ROOT
from waiting import until

MODEL = "llama-3.1-8b"
TASTE = {"no-build-and-image", "require-quotes-in-ports"} | {  # an image is built, and has a name
    f"{what}-order"
    for what in (
        "service-dependencies-alphabetical",
        "service-keys",
        "services-alphabetical",
        "top-level-properties",
    )
}


def findings(text: str, path: Path) -> list[str]:
    """What the specification's schema and dclint find wrong with a file; not what is but style."""
    path.write_text(yaml.safe_dump(yaml.safe_load(text)))  # merged, as services will have it
    tool = ensure_node_modules("compose") / "node_modules/dclint/bin/dclint.cjs"
    told = path.with_suffix(".json")
    argv = (
        str(ensure_node()),
        str(tool),
        "--formatter",
        "json",
        "--output-file",
        str(told),
        str(path),
    )
    subprocess.run(argv, capture_output=True, check=False)
    (said,) = json.loads(told.read_text())
    return [each["message"] for each in said["messages"] if each["rule"] not in TASTE]


def test_the_file_is_as_the_specification_has_it(tmp_path: Path) -> None:
    text, path = FILE.read_text(), tmp_path / "compose.yaml"
    assert findings(text, path) == []
    (fault,) = findings(text.replace("tmpfs: ", "tmpfss: "), path)
    assert "must NOT have additional properties" in fault


def test_what_services_mount_and_wait_for_exists() -> None:
    document = yaml.safe_load(FILE.read_text())
    for name, service in services().items():
        for source, inside in mounts(service):
            if source.startswith("./"):
                assert (ROOT / source).exists(), (name, source)
            elif source:
                assert source in document["volumes"], (name, source)
            assert inside.startswith("/"), (name, inside)
        for other in service.get("depends_on", {}):
            assert other in document["services"], (name, other)
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).exists()
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), (name, port)


def test_grafana_finds_its_dashboard_and_its_prometheus() -> None:
    """It is the one service that is not run below."""
    here = {inside: source for source, inside in mounts(services()[NOT_HERE])}
    provisioning = ROOT / here["/etc/grafana/provisioning"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/tensorgate.yaml").read_text())[
        "providers"
    ]
    (dashboard,) = (inside for inside in here if inside.endswith(".json"))
    assert provider["options"]["path"] == dashboard.rpartition("/")[0]
    home = services()[NOT_HERE]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == dashboard
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    port = services()["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{port}"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    with composed(tmp_path_factory.mktemp("compose"), pace="1s") as made:
        until(made.serves, 60, "a gate")
        yield made


def test_people_do_as_its_head_says(stack: Compose) -> None:
    """An admin is added in the container, signs in, and her key's call is served and booked."""
    said = stack.run("users", "add", "you@example.com", "--admin", "--json")
    password = json.loads(said)["password"]
    dashboard = f"http://{stack.addresses['admin']}:8081"
    until(lambda: _answers(f"{dashboard}/readyz"), 30, "a dashboard")
    with httpx.Client(base_url=dashboard, headers={"origin": dashboard}) as visitor:
        page = visitor.get("/sign-in")
        assert page.is_success
        entered = visitor.post(
            "/sign-in",
            data={"email": "you@example.com", "password": password} | _hidden(page.text),
        )
        assert entered.status_code == 303, entered.text
    minted = json.loads(
        stack.run(
            *("keys", "mint", "--user", "you@example.com", "--alias", "laptop", "--models", "*"),
            *("--budget-usd", "5", "--rpm", "60", "--json"),
        )
    )
    answer = call(stack.gate, key=minted["key"], model=MODEL)
    assert answer.status == 200, answer.body
    assert answer.headers["x-ratelimit-remaining-requests"] == "59"

    def booked() -> bool:
        rows = stack.run("ledger", "export").splitlines()
        return [json.loads(row)["basis"] for row in rows] == ["metered"]

    until(booked, 20, "a row")


def test_two_workers_decide(stack: Compose) -> None:
    assert {path.name for path in stack.mount("authz", "/run/tensorgate").glob("authz-*.sock")} == {
        "authz-0.sock",
        "authz-1.sock",
    }


def test_its_prometheus_scrapes_all_of_it(stack: Compose) -> None:
    until(
        lambda: len(stack.prometheus.ask("up == 1")) == len(("authz", "envoy", "admin")),
        30,
        "scrapes",
    )
    rules: list[dict[str, str]] = []

    def evaluated() -> bool:
        rules[:] = [rule for group in stack.prometheus.rules() for rule in group["rules"]]
        return all(rule["health"] != "unknown" for rule in rules)

    until(evaluated, 60, "an evaluation of all rules")
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    names = {rule["name"] for rule in rules}
    assert {"TensorgateLuaErrors", "tensorgate:spend_usd:rate1h"} <= names


def test_a_fleet_that_hears_of_changes_says_so(stack: Compose) -> None:
    """Each worker does; what the meter, which has no feed, says of itself does not count."""
    until(lambda: stack.prometheus.value("tensorgate_feed_healthy") == 1, 20, "a healthy feed")


def test_all_of_it_ends_when_it_is_told_to(stack: Compose) -> None:
    """The last test here, as it ends the stack."""
    codes = stack.down()
    assert codes == dict.fromkeys(codes, 0)
    assert set(codes) == set(services()) - {NOT_HERE, "postgres"}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def _hidden(page: str) -> dict[str, str]:
    """A form's hidden fields."""
    return dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page))
