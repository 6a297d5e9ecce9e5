// Draws what window.told holds: see draw.py. Looks are Grafana's as near as Chart.js comes.
"use strict";

const NAMED = {
  green: "#73BF69", orange: "#FF9830", blue: "#5794F2", red: "#F2495C", yellow: "#FADE2A", purple: "#B877D9",
};
const PALETTE = [
  "#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#96D98D", "#FFB357", "#C0D8FF",
  "#FF7383", "#8F3BB8", "#37872D", "#E0B400", "#1F60C4", "#FA6400", "#C4162A", "#A352CC", "#19730E", "#CC9D00",
];
const GRID = "rgba(204, 204, 220, 0.07)";
const INK = "#9a9ca8";
const EVERY = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];

// -- units, by Grafana's names

function short(value, digits) {
  const steps = [[1e9, " Bil"], [1e6, " Mil"], [1e3, " K"]];
  const [size, suffix] = steps.find(([least]) => Math.abs(value) >= least) || [1, ""];
  return trimmed(value / size, digits) + suffix;
}

function trimmed(value, digits) {
  return String(Number(value.toFixed(digits)));
}

function seconds(value, digits) {
  if (value === 0) return "0 s";
  const steps = [[60, 60, " min"], [1, 1, " s"], [1e-3, 1e-3, " ms"], [0, 1e-6, " µs"]];
  const [, size, suffix] = steps.find(([least]) => Math.abs(value) >= least * 0.9999);
  return trimmed(value / size, digits) + suffix;
}

const UNITS = {
  reqps: (value, digits) => `${short(value, digits)} req/s`,
  ops: (value, digits) => `${short(value, digits)} ops/s`,
  percentunit: (value, digits) => `${trimmed(value * 100, digits)}%`,
  s: seconds,
  currencyUSD: (value, digits) => `$${short(value, digits)}`,
  short,
  bool_yes_no: (value) => (value === 0 ? "No" : value === 1 ? "Yes" : ""),
};

// as many digits as two marks of the axis need to differ
function marks(unit) {
  return (value, index, all) => {
    for (let digits = 0; digits < 6; digits += 1) {
      const said = all.map((mark) => UNITS[unit](mark.value, digits));
      const exact = all.every((mark) => Math.abs(Number(mark.value.toPrecision(3)) - mark.value) < 1e-9);
      if (new Set(said).size === said.length && (digits > 0 || even(all, unit)) && exact) return said[index];
      if (new Set(said).size === said.length && digits > 2) return said[index];
    }
    return UNITS[unit](value, 3);
  };
}

function even(all, unit) {
  return all.every((mark) => UNITS[unit](mark.value, 0) === UNITS[unit](mark.value, 4));
}

// -- the page

function element(name, type, parent, text) {
  const made = document.createElement(type);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function clock(at) {
  return new Date(at * 1000).toISOString().slice(11, 16);
}

function color(series, index) {
  return NAMED[series.color] || PALETTE[index % PALETTE.length];
}

function dataset(panel, series, index) {
  const { start, step } = window.told;
  const hue = color(series, index);
  const share = Math.round(panel.fill * 2.55).toString(16).padStart(2, "0");
  return {
    label: series.name,
    data: series.values.map((value, at) => ({ x: start + at * step, y: value })),
    borderColor: hue,
    backgroundColor: hue + share,
    borderWidth: panel.line * 1.4,
    pointRadius: 0,
    fill: panel.stacked && index > 0 ? "-1" : "origin",
    spanGaps: false,
  };
}

// a red line from which on somebody is to look, where it is in sight
const alarm = {
  id: "alarm",
  afterDatasetsDraw(chart, _, options) {
    const { ctx, chartArea: area, scales } = chart;
    if (options.at === null || options.at > scales.y.max) return;
    const y = scales.y.getPixelForValue(options.at);
    ctx.save();
    ctx.strokeStyle = "rgba(242, 73, 92, 0.8)";
    ctx.lineWidth = 1.5;
    ctx.beginPath();
    ctx.moveTo(area.left, y);
    ctx.lineTo(area.right, y);
    ctx.stroke();
    ctx.restore();
  },
};

function scales(panel, width) {
  const { start, end } = window.told;
  const room = Math.max(3, Math.floor(width / 75));
  const apart = EVERY.find((each) => (end - start) / each <= room) || EVERY.at(-1);
  const first = Math.ceil(start / apart) * apart;
  const times = [];
  for (let at = first; at <= end; at += apart) times.push({ value: at });
  const answer = panel.unit === "bool_yes_no";
  const flat = panel.series.every((each) => each.values.every((value) => !value));
  return {
    x: {
      type: "linear",
      min: start,
      max: end,
      afterBuildTicks: (axis) => { axis.ticks = times; },
      ticks: { callback: clock, color: INK, maxRotation: 0, autoSkip: false, font: { size: 11 } },
      grid: { color: GRID, drawTicks: false },
      border: { display: false },
    },
    y: {
      min: 0,
      max: answer ? 1.2 : undefined,
      afterBuildTicks: (axis) => { if (answer) axis.ticks = [{ value: 0 }, { value: 1 }]; },
      suggestedMax: flat ? 1 : undefined,
      grace: "5%",
      stacked: panel.stacked,
      ticks: {
        callback: marks(panel.unit), color: INK, maxTicksLimit: 6, font: { size: 11 },
      },
      grid: { color: GRID, drawTicks: false },
      border: { display: false },
    },
  };
}

function draw(panel, grid) {
  const { x, y, w, h } = panel.at;
  const box = element(panel.type === "row" ? "row" : "panel", "section", grid);
  box.style.gridArea = `${y + 1} / ${x + 1} / span ${h} / span ${w}`;
  if (panel.type === "row") {
    box.textContent = panel.title;
    return;
  }
  element("", "h2", box, panel.title);
  if (panel.series.length === 0) {
    element("none", "div", box, "No data");
    return;
  }
  const plot = element("plot", "div", box);
  const legend = element("legend", "div", box);
  panel.series.forEach((series, index) => {
    const entry = element("", "span", legend);
    element("", "i", entry).style.background = color(series, index);
    entry.append(series.name);
  });
  new Chart(element("", "canvas", plot), {
    type: "line",
    data: { datasets: panel.series.map((series, index) => dataset(panel, series, index)) },
    plugins: [alarm],
    options: {
      animation: false,
      parsing: false,
      normalized: true,
      maintainAspectRatio: false,
      scales: scales(panel, box.clientWidth),
      plugins: { legend: { display: false }, tooltip: { enabled: false }, alarm: { at: panel.alarm } },
    },
  });
}

const { told } = window;
document.getElementById("title").textContent = told.title;
const day = new Date(told.start * 1000).toISOString().slice(0, 10);
document.getElementById("range").textContent = `${day} ${clock(told.start)} to ${clock(told.end)} UTC`;
Chart.defaults.font.family = 'Inter, "DejaVu Sans", sans-serif';
told.panels.forEach((panel) => draw(panel, document.getElementById("grid")));
requestAnimationFrame(() => { window.drawn = true; });
