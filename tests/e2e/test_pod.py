"""The sidecar's own story: pods from the manifest as processes, and a rollout under load.

In small the hooks take a fifth of what the manifest says; marked `soak`, all of it.
"""

from __future__ import annotations

from typing import Final

import pytest
from peers import kubernetes
from peers.kubernetes import Manifest

LAG_SECONDS: Final = 1.0  # until balancers have learnt that a pod leaves
CALLERS: Final = 4
OVERLAY: Final = "examples/vllm"


@pytest.fixture(scope="module")
def resources() -> list[Manifest]:
    return kubernetes.parse(kubernetes.build(OVERLAY))
