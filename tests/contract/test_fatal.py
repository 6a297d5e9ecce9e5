"""An authz that lost a thread it cannot do without ends, so that it is started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from moneyhelp import KEY, fast_engine, mint
from peers.ports import free_port

ROOT = Path(__file__).parents[2]
LOSES_ITS_FEED = """
import sys
from authz.feed import Feed
from authz.server import main

def ends(self):
    self._stopped.wait(0.5)
    raise SystemExit("nobody catches this")

Feed._run = ends
sys.exit(main())
"""


def test_authz_does_not_go_on_without_a_thread(tmp_path: Path) -> None:
    engine = fast_engine(tmp_path)
    mint(engine, KEY)
    engine.dispose()
    settings = {
        "TENSORGATE_STATE": str(tmp_path / "state"),
        "TENSORGATE_RUNTIME": str(tmp_path / "run"),
        "TENSORGATE_CATALOG": str(tmp_path / "catalog.yaml"),
        "TENSORGATE_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOSES_ITS_FEED],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | settings,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    said = [line.split(" ", 3)[2:] for line in done.stderr.splitlines() if line.startswith("20")]
    assert ["CRITICAL", "thread feed ended"] in said
    assert [words[1] for words in said][-2:] == ["draining", "stopped"]
