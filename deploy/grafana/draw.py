"""A picture of the dashboard, drawn from its definition and a Prometheus' answers.

    .venv/bin/python deploy/grafana/draw.py --prometheus http://127.0.0.1:9090 --minutes 60

Each panel of tensorgate.json is asked for with its own expressions, as Grafana asks (a range query
of as many steps as the panel has room for, `$__rate_interval` by Grafana's rule), and drawn at its
own place of the grid, with its title, unit, legend, colors, stacking and thresholds. Chromium draws
it, with the Chart.js that the project's own dashboard has. It is not Grafana: what is not in this
project's panels (other kinds of panels, transformations, variables but the data source) is refused.

What a picture was drawn from stands in its metadata: `--check` compares.
"""

# ruff: noqa: INP001, T201 - a program in a folder of deployment files, not a package

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final

import httpx2 as httpx
from playwright.sync_api import sync_playwright

HERE: Final = Path(__file__).resolve().parent
DASHBOARD: Final = HERE / "tensorgate.json"
PICTURE: Final = HERE / "tensorgate.png"
CHART_JS: Final = HERE.parents[1] / "admin/web/static/vendor/chart.umd.min.js"
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
WIDTH: Final = 1600
STEPS: Final = 180  # of a panel's width; Grafana takes about a pixel and a half for each
KINDS: Final = frozenset({"row", "timeseries"})
_MARK: Final = "Dashboard"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_LABEL: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")

Json = dict[str, Any]


class DrawingError(Exception):
    """Why there is no picture; for a person."""


@dataclass(frozen=True)
class Span:
    """The time that is drawn, in seconds since 1970, and how far samples are apart."""

    start: int
    end: int
    scrape_seconds: int

    @property
    def step(self) -> int:
        """Between two points: a whole number of seconds, never below a scrape."""
        return max((self.end - self.start) // STEPS, self.scrape_seconds, 1)

    @property
    def rate_interval(self) -> str:
        """`$__rate_interval`, by Grafana's rule."""
        return f"{max(self.step + self.scrape_seconds, 4 * self.scrape_seconds)}s"


class Prometheus:
    """Range queries."""

    def __init__(self, url: str, span: Span) -> None:
        self._url = url.rstrip("/")
        self._span = span

    def series(self, expression: str) -> list[tuple[dict[str, str], list[float | None]]]:
        """Labels and one value for each step, None where there is none. Raises DrawingError."""
        span = self._span
        asked: dict[str, str | int] = {
            "query": expression.replace("$__rate_interval", span.rate_interval),
            "start": span.start,
            "end": span.end,
            "step": span.step,
        }
        try:
            answer = httpx.get(f"{self._url}/api/v1/query_range", params=asked, timeout=30)
            said: Json = answer.json()
        except (httpx.HTTPError, ValueError) as fault:
            raise DrawingError(f"No Prometheus answers at {self._url}: {fault}") from None
        if said.get("status") != "success":
            raise DrawingError(f"Prometheus does not take `{expression}`: {said.get('error')}")
        return [(each["metric"], self._aligned(each["values"])) for each in said["data"]["result"]]

    def _aligned(self, values: list[list[Any]]) -> list[float | None]:
        span = self._span
        found: list[float | None] = [None] * ((span.end - span.start) // span.step + 1)
        for at, value in values:
            number = float(value)
            if number == number and abs(number) != float("inf"):  # noqa: PLR0124  NaN is not itself
                found[(round(at) - span.start) // span.step] = number
        return found


def panels(dashboard: Json, prometheus: Prometheus) -> list[Json]:
    """What the page draws: each panel's place, words, looks and series."""
    strange = {panel["type"] for panel in dashboard["panels"]} - KINDS
    if strange:
        raise DrawingError(f"Panels of these kinds cannot be drawn: {', '.join(sorted(strange))}")
    return [_panel(panel, prometheus) for panel in dashboard["panels"]]


def _panel(panel: Json, prometheus: Prometheus) -> Json:
    drawn: Json = {"title": panel["title"], "type": panel["type"], "at": panel["gridPos"]}
    if panel["type"] == "row":
        return drawn
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    return drawn | {
        "unit": defaults["unit"],
        "stacked": custom["stacking"]["mode"] == "normal",
        "fill": custom["fillOpacity"],
        "line": custom["lineWidth"],
        "alarm": _alarm(defaults) if "thresholdsStyle" in custom else None,
        "series": list(_series(panel, prometheus)),
    }


def _series(panel: Json, prometheus: Prometheus) -> Iterator[Json]:
    colors = {
        override["matcher"]["options"]: change["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
        for change in override["properties"]
    }
    for target in panel["targets"]:
        for labels, values in sorted(prometheus.series(target["expr"]), key=str):
            name = legend(target["legendFormat"], labels)
            yield {"name": name, "color": colors.get(name), "values": values}


def legend(text: str, labels: Mapping[str, str]) -> str:
    """`{{store}} {{op}}` → what a series' labels say."""
    return _LABEL.sub(lambda found: labels.get(found[1], ""), text).strip()


def _alarm(defaults: Json) -> float | None:
    steps = [step["value"] for step in defaults["thresholds"]["steps"] if step["color"] == "red"]
    return steps[0] if steps else None


def page(dashboard: Json, drawn: list[Json], span: Span) -> str:
    """The HTML that draws itself, with nothing to fetch."""
    told = {
        "title": dashboard["title"],
        "start": span.start,
        "end": span.end,
        "step": span.step,
        "panels": drawn,
    }
    return Template((HERE / "drawing/page.html").read_text(encoding="utf-8")).substitute(
        style=(HERE / "drawing/page.css").read_text(encoding="utf-8"),
        chart=CHART_JS.read_text(encoding="utf-8"),
        script=(HERE / "drawing/page.js").read_text(encoding="utf-8"),
        told=json.dumps(told).replace("<", "\\u003c"),  # a label could end the script
    )


def shoot(html: str, browser: str, scale: float) -> bytes:
    """The page as PNG."""
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        try:
            tab = running.new_page(
                viewport={"width": WIDTH, "height": 900}, device_scale_factor=scale
            )
            faults: list[str] = []
            tab.on("pageerror", lambda fault: faults.append(str(fault)))
            tab.set_content(html)
            if not faults:
                tab.wait_for_function("window.drawn === true", timeout=30_000)
            if faults:
                raise DrawingError(f"The page could not be drawn: {faults[0]}")
            return tab.screenshot(full_page=True)
        finally:
            running.close()


def marked(png: bytes, text: str) -> bytes:
    """A PNG that says, right behind its head, what it was drawn from."""
    head = len(_PNG) + 25  # IHDR is the first chunk, and always as long
    data = f"{_MARK}\0{text}".encode("latin-1")
    chunk = b"tEXt" + data
    made = len(data).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return png[:head] + made + png[head:]


def mark_of(png: bytes) -> str | None:
    """What a picture says that it was drawn from, None where it says nothing."""
    at = len(_PNG)
    while at + 8 <= len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        data = png[at + 8 : at + 8 + size]
        if kind == b"tEXt" and data.startswith(f"{_MARK}\0".encode()):
            return data.partition(b"\0")[2].decode("latin-1")
        at += size + 12
    return None


def source() -> str:
    """What stands in a picture's metadata: the definition that it shows."""
    return f"sha256:{hashlib.sha256(DASHBOARD.read_bytes()).hexdigest()}"


def _browser(named: str | None) -> str:
    found = next((path for name in (named, *BROWSERS) if name and (path := shutil.which(name))), "")
    if not found:
        raise DrawingError(
            "No Chromium was found. Install one (on Debian: `apt-get install chromium`), or name "
            "its program with --browser."
        )
    return found


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="only: is the picture's source current?"
    )
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--minutes", type=float, default=60, help="how long it looks back")
    parser.add_argument(
        "--until", type=float, metavar="SECONDS", help="since 1970; now, if not said"
    )
    parser.add_argument("--scrape-seconds", type=int, default=15, metavar="N")
    parser.add_argument("--output", type=Path, default=PICTURE, metavar="FILE")
    parser.add_argument("--browser", metavar="PROGRAM")
    parser.add_argument("--scale", type=float, default=1.0, help="pixels of the picture for one")
    return parser.parse_args(given)


def main(given: list[str]) -> int:
    """Return the exit code."""
    options = _arguments(given)
    if options.check:
        if options.output.exists() and mark_of(options.output.read_bytes()) == source():
            return 0
        print(f"{options.output.name} shows another dashboard; draw it anew", file=sys.stderr)
        return 1
    try:
        end = int(options.until or time.time())
        span = Span(end - round(options.minutes * 60), end, options.scrape_seconds)
        dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
        drawn = panels(dashboard, Prometheus(options.prometheus, span))
        png = shoot(page(dashboard, drawn, span), _browser(options.browser), options.scale)
    except DrawingError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    options.output.write_bytes(marked(png, source()))
    for panel in drawn:
        if panel["type"] != "row":
            names = [each["name"] for each in panel["series"]]
            print(f"{panel['title']}: {', '.join(names) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
