"""A real Prometheus, from Debian's package, that scrapes once a second."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import yaml
from peers.debian import program
from peers.ports import free_port
from peers.process import Child

READY_SECONDS = 30.0


class Prometheus:
    """The server, by its HTTP API."""

    def __init__(self, address: str, child: Child) -> None:
        self.address = address
        self.child = child

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """An instant query's result."""
        found = self._get("query", query=expression)["result"]
        assert isinstance(found, list)
        return found

    def value(self, expression: str) -> float | None:
        """The one sample of a query, or None."""
        found = self.ask(expression)
        return float(found[0]["value"][1]) if found else None

    def range(self, expression: str, seconds: float) -> list[list[float]]:
        """The samples of the last seconds, for each series."""
        found = self._get("query", query=f"{expression}[{seconds:.0f}s]")["result"]
        return [[float(value) for _, value in series["values"]] for series in found]

    def names(self) -> set[str]:
        """Every name that it has seen."""
        found = self._get("label/__name__/values")
        return set(found)

    def alerts(self) -> dict[str, str]:
        """Alerts that are not quiet: name → state."""
        found = self._get("alerts")["alerts"]
        return {each["labels"]["alertname"]: each["state"] for each in found}

    def rules(self) -> list[dict[str, Any]]:
        """Its groups of rules; of each rule, whether its last evaluation went well."""
        found = self._get("rules")["groups"]
        assert isinstance(found, list)
        return found

    def _get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.address}/api/v1/{path}", params=parameters, timeout=10)
        assert answer.is_success, answer.text
        return json.loads(answer.text)["data"]


@contextmanager
def scraping(
    folder: Path, jobs: Mapping[str, tuple[str, Sequence[str]]], rules: Path | None = None
) -> Iterator[Prometheus]:
    """A server for jobs: name → (path, host:port …). It ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [
            {"job_name": name, "metrics_path": path, "static_configs": [{"targets": list(hosts)}]}
            for name, (path, hosts) in jobs.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    child = Child(
        [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ],
        log=folder / "log",
    )
    server = Prometheus(f"http://{address}", child)

    def ready() -> bool:
        try:
            return httpx.get(f"http://{address}/-/ready", timeout=1).is_success
        except httpx.HTTPError:
            return False

    try:
        child.wait_until(ready, seconds=READY_SECONDS, what="ready")
        yield server
    finally:
        child.end()
