"""An Envoy that runs in a container of its own, as it says of itself on its admin socket.

`tensorgate up` knows of the Envoy that it started. In a pod nobody does, and the socket, in the
folder that both containers have, is where to ask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tensorgate import vitals
from tensorgate.finding import Finding, Status

ADMIN: Final = "envoy-admin.sock"
LIVE: Final = "LIVE"  # else it starts, or drains
_DEFAULT: Final = "model-default"


@dataclass(frozen=True, slots=True)
class Beside:
    """One Envoy. `upstream`: each address of the default model server, and whether it is well."""

    version: str
    state: str
    upstream: dict[str, bool]

    @property
    def is_live(self) -> bool:
        """Whether it takes calls."""
        return self.state == LIVE


def look(runtime: Path) -> Beside | None:
    """What the Envoy of a runtime folder says; None where none answers, or not as Envoy does."""
    admin = runtime / ADMIN
    raw = vitals.ask_admin(admin, "GET", "/server_info")
    # it says: HASH/1.40.0/Clean/RELEASE/BoringSSL
    fields = str(vitals.json_member(raw, "version")).split("/")
    state = vitals.json_member(raw, "state")
    if not isinstance(state, str):
        return None
    clusters = vitals.ask_admin(admin, "GET", "/clusters?format=json")
    version = fields[1] if len(fields) > 1 else "unknown"
    return Beside(version, state, dict(_hosts(clusters)))


def findings(envoy: Beside) -> Iterator[Finding]:
    """The Envoy that `up` did not start, and the model server as it sees it."""
    if envoy.is_live:
        yield Finding("gate", Status.OK, "Envoy answers on its admin socket")
    else:
        text = f"Envoy answers, and is {envoy.state.lower().replace('_', ' ')}"
        yield Finding("gate", Status.WARN, text, "wait, or look at its log")
    named = ", ".join(envoy.upstream)
    if not envoy.upstream:
        advice = "is there a Service by that name? Else `tensorgate envoy render --upstream …`"
        text = "Envoy finds no address for the name of the model server"
        yield Finding("upstream", Status.FAIL, text, advice)
    elif not any(envoy.upstream.values()):
        text = f"not well, says Envoy: {named}"
        yield Finding("upstream", Status.FAIL, text, "start the model server")
    else:
        yield Finding("upstream", Status.OK, f"well, says Envoy: {named}")


def _hosts(raw: bytes | None) -> Iterator[tuple[str, bool]]:
    """Of Envoy's ClusterStatuses, which leave out what is empty or false."""
    try:
        told = json.loads(raw or b"{}").get("cluster_statuses", ())
        for cluster in told:
            if cluster["name"] != _DEFAULT:
                continue
            for host in cluster.get("host_statuses", ()):
                address = host["address"]["socket_address"]
                health = host.get("health_status", {})
                failing = any(name.startswith("failed_") for name in health)
                yield f"{address['address']}:{address['port_value']}", not failing
    except (ValueError, TypeError, LookupError, AttributeError):
        return
