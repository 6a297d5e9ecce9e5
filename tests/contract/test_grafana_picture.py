"""The picture of the dashboard: it shows the one that is here, and the tool draws every panel."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from peers.chromium import browser, chromium_path
from peers.debian import program
from peers.prometheus import Prometheus, scraping
from peers.venvs import ROOT
from promql import metrics_of

FOLDER = ROOT / "deploy/grafana"
DASHBOARD = json.loads((FOLDER / "tensorgate.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SECONDS = 600
MOST_BYTES = 400_000
LABELS = {
    "outcome": "denied",
    "reason": "budget_exceeded",
    "model": "llama-3.1-8b",
    "kind": "input",
    "basis": "metered",
    "store": "sql",
    "op": "book",
    "result": "hit",
    "instance": "10.0.0.1:9464",
}


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", FOLDER / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def samples(end: int) -> str:
    """Ten minutes of every metric that a panel asks for, as OpenMetrics has it."""
    names = {name for p in PANELS for t in p["targets"] for name in metrics_of(t["expr"])}
    lines = []
    for name in sorted(names):
        for le in ("0.1", "+Inf") if name.endswith("_bucket") else (None,):
            labels = LABELS if le is None else LABELS | {"le": le}
            told = ",".join(f'{label}="{value}"' for label, value in labels.items())
            # gauges of this kind are 0 or 1; all else rises in waves
            for at in range(end - SECONDS, end + 1, 15):
                rising = (at - end + SECONDS) * (2 + math.sin(at / 60))
                value = 1 if name.endswith("healthy") else max(rising, 1)
                lines.append(f"{name}{{{told}}} {value} {at}")
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, int]]:
    """A real Prometheus that knows all these, and when they end."""
    folder, end = tmp_path_factory.mktemp("prometheus"), int(time.time()) // 15 * 15
    (folder / "samples").write_text(samples(end))
    argv = (program("prometheus", "promtool"), "tsdb", "create-blocks-from", "openmetrics")
    subprocess.run(
        [*argv, folder / "samples", folder / "data"], check=True, capture_output=True, timeout=60
    )
    with scraping(folder, {}) as prometheus:
        yield prometheus, end


def test_the_picture_shows_this_dashboard(draw: ModuleType) -> None:
    """After a change: `tests/load/picture.py`, or draw.py beside a Prometheus of yours."""
    picture = (FOLDER / "tensorgate.png").read_bytes()
    assert draw.mark_of(picture) == draw.source(), "draw deploy/grafana/tensorgate.png anew"
    assert len(picture) < MOST_BYTES
    for page in ("README.md", "deploy/README.md"):
        text = (ROOT / page).read_text()
        assert "grafana/tensorgate.png)" in text, page
        assert "draw.py" in text, f"{page} does not say who drew it"


@pytest.mark.browser
def test_each_panel_is_drawn_from_a_real_prometheus(
    draw: ModuleType, filled: tuple[Prometheus, int], tmp_path: Path
) -> None:
    prometheus, end = filled
    picture = tmp_path / "picture.png"
    options = (
        f"--prometheus={prometheus.address}",
        f"--minutes={SECONDS / 60:g}",
        f"--until={end}",
        f"--output={picture}",
        f"--browser={chromium_path()}",
    )
    argv = (sys.executable, str(FOLDER / "draw.py"), *options)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert list(told) == [panel["title"] for panel in PANELS]
    assert "nothing" not in told.values()
    assert told["Spend an hour, by model"] == "llama-3.1-8b"
    assert told["p99 of operations on stores"] == "sql book"
    assert draw.mark_of(picture.read_bytes()) == draw.source()


@pytest.mark.browser
def test_what_is_drawn_is_seen(draw: ModuleType, filled: tuple[Prometheus, int]) -> None:
    """Of each panel: its place in the grid, its title, its legend, and its lines in their color."""
    prometheus, end = filled
    span = draw.Span(end - SECONDS, end, 15)
    drawn = draw.panels(DASHBOARD, draw.Prometheus(prometheus.address, span))
    with browser() as running:
        page = running.new_page(viewport={"width": draw.WIDTH, "height": 900})
        page.set_content(draw.page(DASHBOARD, drawn, span))
        page.wait_for_function("window.drawn === true")
        seen: list[dict[str, Any]] = page.evaluate(_LOOK)
    assert [each["title"] for each in seen] == [panel["title"] for panel in PANELS]
    for panel, each, theirs in zip(
        PANELS, seen, (d for d in drawn if d["type"] != "row"), strict=True
    ):
        at = panel["gridPos"]
        assert each["place"] == [at["y"] + 1, at["x"] + 1, at["h"], at["w"]], panel["title"]
        assert each["legend"] == [series["name"] for series in theirs["series"]]
        assert each["inked"] > 200, f"{panel['title']} is empty"


def test_a_dashboard_with_other_panels_is_not_drawn_in_part(draw: ModuleType) -> None:
    strange = {"panels": [{"type": "heatmap", "title": "x"}]}
    with pytest.raises(draw.DrawingError, match="heatmap"):
        draw.panels(strange, None)


def test_who_has_no_prometheus_is_told_so(draw: ModuleType, tmp_path: Path) -> None:
    argv = (sys.executable, str(FOLDER / "draw.py"), "--prometheus=http://127.0.0.1:9")
    done = subprocess.run(
        [*argv, f"--output={tmp_path / 'x.png'}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: No Prometheus answers at http://127.0.0.1:9")
    assert not (tmp_path / "x.png").exists()


_LOOK = """() => [...document.querySelectorAll(".panel")].map((box) => {
  const canvas = box.querySelector("canvas");
  const color = getComputedStyle(box.querySelector(".legend i")).backgroundColor;
  const [r, g, b] = color.match(/\\d+/g).map(Number);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let inked = 0;
  for (let at = 0; at < data.length; at += 4) {
    const off = Math.abs(data[at] - r) + Math.abs(data[at + 1] - g) + Math.abs(data[at + 2] - b);
    if (data[at + 3] > 0 && off < 40) inked += 1;
  }
  const style = box.style;
  return {
    title: box.querySelector("h2").textContent,
    legend: [...box.querySelectorAll(".legend > span")].map((each) => each.textContent),
    place: [style.gridRowStart, style.gridColumnStart, style.gridRowEnd, style.gridColumnEnd].map(
      (each) => Number(each.replace("span ", ""))),
    inked,
  };
})"""
