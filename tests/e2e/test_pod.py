"""The sidecar's own story: pods from the manifest as processes, and a rollout under load.

In small the hooks take a fifth of what the manifest says; marked `soak`, all of it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
import pytest
from peers import kubernetes
from peers.image import Image
from peers.kubernetes import Manifest
from peers.pod import Network, Pod, Site, network
from peers.postgres import Postgres
from peers.postgres import running as postgres_running
from peers.valkey import valkey_node

LAG_SECONDS: Final = 1.0  # until balancers have learnt that a pod leaves
CALLERS: Final = 4
OVERLAY: Final = "examples/vllm"


@pytest.fixture(scope="module")
def resources() -> list[Manifest]:
    return kubernetes.parse(kubernetes.build(OVERLAY))
