"""Render what the ConfigMaps carry; with --check only compare, and fail if it is not current.

kustomize reads no file outside of its folder, so Envoy's configurations and the catalog lie beside
the manifests as copies. This makes them.
"""

# ruff: noqa: INP001 - a folder of manifests, not a package

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

from tensorgate.envoy.options import RenderOptions
from tensorgate.envoy.render import render
from tensorgate.envoy.scripts import inference

HERE = Path(__file__).resolve().parent
CATALOG = HERE.parents[1] / "catalog.yaml"
RULES = HERE.parents[1] / "deploy/prometheus/rules.yaml"
_KIND = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tensorgate
spec:
"""
_ISTIO = """\
# Istio's gateways run our script: usage is read from the answers, and bounds are put into requests.
# Made by `make manifests`.
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: tensorgate-metering
  namespace: istio-ingress
spec:
  workloadSelector: {{labels: {{istio: ingress}}}}
  configPatches:
    - applyTo: HTTP_FILTER
      match:
        context: GATEWAY
        listener:
          filterChain:
            filter:
              name: envoy.filters.network.http_connection_manager
              subFilter: {{name: envoy.filters.http.router}}
      patch:
        operation: INSERT_BEFORE
        value:
          name: tensorgate.inference
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
            stat_prefix: inference
            default_source_code:
              inline_string: |
{script}"""
SHARED = RenderOptions(
    upstream="model:8000",
    upstream_health="/health",
    listen="0.0.0.0",  # noqa: S104  of a pod, behind a network policy
    ops_listen="0.0.0.0:9902",
)


def files() -> dict[str, str]:
    """Path below here → text."""
    return {
        "base/catalog.yaml": CATALOG.read_text(encoding="utf-8"),
        "base/envoy.yaml": render(SHARED),
        "components/monitoring/rules.yaml": _prometheus_rule(),
        "../istio/metering.yaml": _ISTIO.format(script=textwrap.indent(inference(), " " * 18)),
        "overlays/production/envoy.yaml": render(
            replace(SHARED, tls_sds=Path("/etc/envoy/tls.yaml"))
        ),
        "components/sidecar/envoy.yaml": render(replace(SHARED, upstream="127.0.0.1:8000")),
    }


def _prometheus_rule() -> str:
    """The rules as the operator's kind. They are indented and otherwise as they are written."""
    text = RULES.read_text(encoding="utf-8")
    head, _, rest = text.partition("groups:\n")
    return head + _KIND + "  groups:\n" + textwrap.indent(rest, "  ")


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 when all is current, or has been made so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args(arguments).check
    stale = []
    for name, text in files().items():
        path = HERE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"not current: {', '.join(stale)}; run `make manifests`", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
