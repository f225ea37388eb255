// Three plots by uPlot: stacked bars, a bar for each day.

import { h } from "../dom.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { dollars, number } from "./figures.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = {
  light: ["#2a6b45", "#c2772b", "#3d6fb5", "#8d5aa8", "#b0413e", "#4e8a8a", "#8a8b7e"],
  dark: ["#7fc79b", "#e3a06f", "#8bbcf0", "#c9a0dc", "#f2998f", "#8fd0cf", "#8b8f82"],
};
const COMPACT = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const MONEY = new Intl.NumberFormat(undefined, {
  notation: "compact", minimumFractionDigits: 2, maximumFractionDigits: 2,
});
const PLOTS = [
  ["cost", "Cost a day", dollars, (value) => `$${MONEY.format(value / 1e6)}`],
  ["tokens", "Tokens a day", number, (value) => COMPACT.format(value)],
  ["requests", "Requests a day", number, (value) => COMPACT.format(value)],
];
const HEIGHT = 150;

/** A card with the plots of `found` (figures.js). They follow the width and the colour scheme. */
export function draw({ days, drawn }, signal) {
  const legend = h("ul", { class: "legend" }, ...drawn.map((group) =>
    h("li", {}, h("span", { class: "swatch" }), group.name)));
  const figures = PLOTS.map(([name, title, said]) => {
    const place = h("div", { class: "plot", role: "img", "aria-label": inWords(name, title, said, days, drawn) });
    return h("figure", {}, h("figcaption", {}, title), place);
  });
  const card = h("section", { class: "card plots", "aria-label": "Plots" }, legend, ...figures);
  let made = [];
  const all = () => {
    for (const one of made) one.destroy();
    const colours = COLOURS[DARK.matches ? "dark" : "light"];
    for (const [at, swatch] of legend.querySelectorAll(".swatch").entries()) {
      swatch.style.backgroundColor = colours[at];
    }
    made = PLOTS.map(([name, , , axis], at) =>
      plot(figures[at].lastChild, days, drawn.map((group) => group.a_day[name]), colours, axis));
  };
  const sizes = new ResizeObserver(() => {
    const width = figures[0].clientWidth;
    if (width === 0) return;
    if (made.length === 0) all();
    for (const one of made) if (one.width !== width) one.setSize({ width, height: HEIGHT });
  });
  sizes.observe(card);
  DARK.addEventListener("change", all, { signal });
  signal.addEventListener("abort", () => {
    sizes.disconnect();
    for (const one of made) one.destroy();
  });
  return card;
}

function inWords(name, title, said, days, drawn) {
  const sums = days.map((_, at) => drawn.reduce((sum, group) => sum + group.a_day[name][at], 0));
  const most = Math.max(...sums);
  const day = new Date(days[sums.indexOf(most)] * 1000).toISOString().slice(0, 10);
  return `${title}: at most ${said(most)}, on ${day}. The tables below have each day.`;
}

function plot(place, days, values, colours, axisText) {
  const ink = getComputedStyle(place).getPropertyValue("--soft");
  const line = getComputedStyle(place).getPropertyValue("--line");
  const font = "12px system-ui, sans-serif";
  const bars = uPlot.paths.bars({ size: [0.7, 40], align: 0 });
  // The full height of the stack is drawn first, then the lower bars over it.
  const stacked = [];
  for (const own of values) {
    const below = stacked.at(-1);
    stacked.push(own.map((value, at) => value + (below ? below[at] : 0)));
  }
  const series = stacked.map((_, at) => ({
    fill: colours[at], stroke: colours[at], width: 0, paths: bars, points: { show: false },
  }));
  const options = {
    width: place.clientWidth || 600,
    height: HEIGHT,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { range: () => [days[0] - 43_200, days.at(-1) + 43_200] },
      y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] },
    },
    axes: [
      {
        stroke: ink, font, size: 28, grid: { show: false }, ticks: { show: false },
        values: daysOfAxis,
      },
      {
        stroke: ink, font, size: 60, space: 32, grid: { stroke: line, width: 1 }, ticks: { show: false },
        values: (_, marks) => marks.map(axisText),
      },
    ],
    series: [{}, ...series.toReversed()],
  };
  return new uPlot(options, [days, ...stacked.toReversed()], place);
}

function daysOfAxis(_, marks) {
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", timeZone: "UTC" });
  return marks.map((seconds) => (seconds % 86_400 === 0 ? day.format(new Date(seconds * 1000)) : ""));
}
