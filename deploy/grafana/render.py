"""The Grafana dashboard as code: writes tensorgate.json; with --check only compares.

Three rows, in the order in which somebody who was woken looks: requests, errors and durations;
money; stores and processes. Import the JSON, or provision it: it asks which Prometheus to read.
"""

# ruff: noqa: INP001 - a folder of deployment files, not a package

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

TARGET: Final = Path(__file__).with_name("tensorgate.json")
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
WIDTH: Final = 24
HEIGHT: Final = 8

Json = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One picture: a title, queries (legend → PromQL), a unit of Grafana's, and what it tells."""

    title: str
    queries: dict[str, str]
    unit: str
    about: str
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    alarm: float | None = None  # red from here on
    colors: dict[str, str] = field(default_factory=dict)


ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Requests, errors, durations": (
        Panel(
            "Checks a second, by outcome",
            {"{{outcome}}": "sum by (outcome) (rate(tensorgate_checks_total[$__rate_interval]))"},
            "reqps",
            "What the gate answered. `error` is ours to mend; `denied` is somebody's key or limit.",
            stacked=True,
            colors={"allowed": "green", "denied": "orange", "answered": "blue", "error": "red"},
        ),
        Panel(
            "Share of checks that failed",
            {
                "5 minutes": "tensorgate:check_errors:ratio5m",
                "1 hour": "tensorgate:check_errors:ratio1h",
            },
            "percentunit",
            "The objective is 0.1 %. Above 1.44 % for an hour somebody is paged.",
            alarm=0.0144,
        ),
        Panel(
            "How long a check takes",
            {
                "p50": "histogram_quantile(0.5, sum by (le) "
                "(rate(tensorgate_check_duration_seconds_bucket[$__rate_interval])))",
                "p99": "histogram_quantile(0.99, sum by (le) "
                "(rate(tensorgate_check_duration_seconds_bucket[$__rate_interval])))",
            },
            "s",
            "From a Check's arrival in the service to its answer; Envoy adds a fraction of a ms.",
        ),
        Panel(
            "Refused, by reason",
            {
                "{{reason}}": "sum by (reason) "
                '(rate(tensorgate_checks_total{outcome="denied"}[$__rate_interval])) > 0'
            },
            "reqps",
            "The reason is the error's `code`, as the client sees it.",
            width=12,
            stacked=True,
        ),
        Panel(
            "Calls that run now",
            {"open holds": "sum(tensorgate_holds_outstanding)"},
            "short",
            "Admitted, and not ended yet. Each holds the most that it can cost.",
            width=12,
        ),
    ),
    "Money": (
        Panel(
            "Spend an hour, by model",
            {"{{model}}": "tensorgate:spend_usd:rate1h"},
            "currencyUSD",
            "For the eye; the ledger is exact.",
            stacked=True,
        ),
        Panel(
            "Tokens a second",
            {"{{kind}}": "sum by (kind) (rate(tensorgate_tokens_total[$__rate_interval]))"},
            "short",
            "As charged.",
            stacked=True,
        ),
        Panel(
            "How calls were settled",
            {"{{basis}}": "sum by (basis) (rate(tensorgate_settlements_total[$__rate_interval]))"},
            "reqps",
            "`metered` is exact, `estimated` was cut, `held` cost its hold, `released` nothing.",
            stacked=True,
            colors={"metered": "green", "estimated": "yellow", "held": "red", "released": "blue"},
        ),
        Panel(
            "Age of the oldest end that is not booked",
            {"lag": "max(tensorgate_ledger_lag_seconds)"},
            "s",
            "Below a second while SQL answers.",
            alarm=10,
        ),
        Panel(
            "Counters and ledger differ by",
            {"nano-USD": "max(abs(tensorgate_drift_nanousd))"},
            "short",
            "Is zero. Anything else is a defect, and pages.",
            alarm=1,
        ),
        Panel(
            "Swept, above their hold, late",
            {
                "swept": "sum(increase(tensorgate_holds_swept_total[$__rate_interval]))",
                "above": "sum(increase(tensorgate_hold_exceeded_total[$__rate_interval]))",
                "late": "sum(increase(tensorgate_late_settlements_total[$__rate_interval]))",
            },
            "short",
            "Ends that were not as they should be. See the runbook of each alert.",
        ),
    ),
    "Stores and processes": (
        Panel(
            "p99 of operations on stores",
            {
                "{{store}} {{op}}": "histogram_quantile(0.99, sum by (le, store, op) "
                "(rate(tensorgate_store_operation_duration_seconds_bucket[$__rate_interval])))"
            },
            "s",
            "SQL and Redis as the service sees them.",
        ),
        Panel(
            "Failures of stores a second",
            {
                "{{store}} {{op}}": "sum by (store, op) "
                "(rate(tensorgate_store_errors_total[$__rate_interval]))"
            },
            "ops",
            "Each is a call that was answered 503, or work that is tried again.",
            alarm=0.5,
        ),
        Panel(
            "Where keys were found",
            {
                "{{result}}": "sum by (result) "
                "(rate(tensorgate_key_cache_requests_total[$__rate_interval]))"
            },
            "ops",
            "`stale` is a record that goes on while SQL is out.",
            stacked=True,
        ),
        Panel(
            "Until a changed key is seen",
            {
                "p99": "histogram_quantile(0.99, sum by (le) "
                "(rate(tensorgate_revocation_lag_seconds_bucket[$__rate_interval])))"
            },
            "s",
            "A revoked key is refused within a second.",
            alarm=1,
        ),
        Panel(
            "Workers that hear of changes",
            {"{{instance}}": "tensorgate_feed_healthy"},
            "bool_yes_no",
            "A worker that does not asks SQL for each call.",
        ),
        Panel(
            "Envoy's scripts: failures",
            {
                "metering": "sum(increase(envoy_http_lua_inference_errors[$__rate_interval]))",
                "room for bodies": (
                    "sum(increase(envoy_http_lua_body_room_errors[$__rate_interval]))"
                ),
            },
            "short",
            "Answers whose usage was not read; long requests that were let in uncounted.",
            alarm=1,
        ),
    ),
}


def dashboard() -> Json:
    """The whole document."""
    panels: list[Json] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": []}
            | {"gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}}
        )
        top += 1
        left = 0
        for panel in row:
            if left + panel.width > WIDTH:
                left, top = 0, top + HEIGHT
            at = {"x": left, "y": top, "w": panel.width, "h": HEIGHT}
            panels.append(_panel(panel, len(panels) + 1) | {"gridPos": at})
            left += panel.width
        top += HEIGHT
    return {
        "title": "Tensorgate",
        "uid": "tensorgate",
        "tags": ["tensorgate"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": panels,
    }


def _panel(panel: Panel, number: int) -> Json:
    targets = [
        {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "datasource": SOURCE}
        for at, (legend, query) in enumerate(panel.queries.items())
    ]
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.alarm is not None:
        steps.append({"color": "red", "value": panel.alarm})
    custom: Json = {
        "lineWidth": 1,
        "fillOpacity": 25 if panel.stacked else 5,
        "showPoints": "never",
    }
    custom["stacking"] = {"mode": "normal" if panel.stacked else "none"}
    if panel.alarm is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [
                {
                    "matcher": {"id": "byName", "options": name},
                    "properties": [
                        {"id": "color", "value": {"mode": "fixed", "fixedColor": color}}
                    ],
                }
                for name, color in panel.colors.items()
            ],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 when the file is current, or has been made so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args(arguments).check
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    if check:
        print(f"{TARGET.name} is not current; run `make manifests`", file=sys.stderr)  # noqa: T201
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
