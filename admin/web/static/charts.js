// Draws each chart from the table beneath it, in the colours of the page (app.css: --c0 …).
(() => {
  "use strict";

  const NANO = 1e9;
  const drawn = [];
  const small = matchMedia("(max-width: 720px)");
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const usd = (value, places) =>
    value.toLocaleString("en-US", { style: "currency", currency: "USD", minimumFractionDigits: places, maximumFractionDigits: places });
  const usdOf = (nano) => {
    const value = nano / NANO;
    return usd(value, value === 0 || value >= 1 ? 2 : 4);
  };
  const usdTick = (nano) => {
    const value = nano / NANO;
    if (value === 0) return "$0";
    if (value >= 1000) return "$" + value.toLocaleString("en-US", { notation: "compact" });
    return "$" + Number(value.toPrecision(2));
  };
  const time = (us) => (us < 1e6 ? `${Math.round(us / 1000)} ms` : `${Number((us / 1e6).toFixed(1))} s`);
  const calls = (value) => value.toLocaleString("en-US");
  const compact = (value) => value.toLocaleString("en-US", { notation: "compact" });
  const UNITS = { usd: [usdOf, usdTick], us: [time, time], calls: [calls, compact] };

  // `light-dark()` is resolved only where a colour is used, not in the custom property itself.
  const probe = document.createElement("span");
  probe.hidden = true;
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  const dayWords = (text) =>
    new Date(`${text}T00:00:00Z`).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

  const read = (table) => {
    const heads = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent.trim());
    const rows = [...table.tBodies[0].rows];
    return {
      days: rows.map((row) => row.cells[0].textContent.trim()),
      series: heads.map((name, at) => ({
        name,
        values: rows.map((row) => {
          const value = row.cells[at + 1].dataset.value;
          return value === undefined ? null : Number(value);
        }),
      })),
    };
  };

  const dataset = (kind, each, at) => {
    const ink = colour(`--c${Math.min(at, 6)}`);
    if (kind === "stacked")
      return { label: each.name, data: each.values, backgroundColor: ink, borderRadius: 2, maxBarThickness: 36, categoryPercentage: 0.82, barPercentage: 1 };
    const ahead = kind === "burn" && at === 1;
    return {
      label: each.name,
      data: each.values,
      borderColor: ahead ? colour("--c6") : ink,
      backgroundColor: ahead ? colour("--c6") : ink,
      borderDash: ahead ? [5, 5] : [],
      borderWidth: 2,
      pointRadius: each.values.filter((value) => value !== null).length === 1 ? 3 : 0,
      clip: 6, // a budget that is untouched is drawn along the very top
      pointHitRadius: 12,
      pointHoverRadius: 4,
      tension: kind === "lines" ? 0.25 : 0,
      spanGaps: true,
    };
  };

  const draw = (place) => {
    const { days, series } = read(document.getElementById(place.dataset.table));
    const kind = place.dataset.chart;
    const [words, tick] = UNITS[place.dataset.unit];
    const muted = colour("--muted");
    const line = colour("--line");
    return new Chart(place.querySelector("canvas"), {
      type: kind === "stacked" ? "bar" : "line",
      data: { labels: days, datasets: series.map((each, at) => dataset(kind, each, at)) },
      options: {
        responsive: true,
        maintainAspectRatio: false,
        animation: still.matches ? false : { duration: 250 },
        interaction: { mode: "index", intersect: false },
        scales: {
          x: {
            stacked: kind === "stacked",
            grid: { display: false },
            border: { color: line },
            ticks: {
              color: muted, maxRotation: 0, autoSkip: true, autoSkipPadding: 18, maxTicksLimit: small.matches ? 5 : 12,
              callback(at) { return dayWords(this.getLabelForValue(at)); },
            },
          },
          y: {
            stacked: kind === "stacked",
            beginAtZero: true,
            max: place.dataset.most === undefined ? undefined : Number(place.dataset.most),
            border: { display: false },
            grid: { color: line },
            ticks: { color: muted, maxTicksLimit: 5, precision: place.dataset.unit === "calls" ? 0 : undefined, callback: tick },
          },
        },
        plugins: {
          legend: { display: false },
          tooltip: {
            backgroundColor: colour("--surface"), titleColor: colour("--text"), bodyColor: colour("--text"),
            borderColor: colour("--line-strong"), borderWidth: 1, padding: 10, boxPadding: 4, usePointStyle: true,
            filter: (item) => item.raw !== null && (kind !== "stacked" || item.raw > 0),
            callbacks: { title: (items) => (items.length ? dayWords(items[0].label) : ""), label: (item) => ` ${item.dataset.label}: ${words(item.raw)}` },
          },
        },
      },
    });
  };

  const drawAll = () => {
    while (drawn.length) drawn.pop().destroy();
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    for (const place of document.querySelectorAll("[data-chart]")) {
      place.hidden = false;
      drawn.push(draw(place));
    }
  };

  document.addEventListener("themechange", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
})();
