// Usage: cost, tokens and requests a day, by model, key or user, as plots, tables and CSV.
// The URL holds the choice: #/usage/30/model, and /all for all users.

import { callJson } from "../api.js";
import { h, ICONS, icon, style } from "../dom.js";
import { user } from "../session.js";
import { problem, showProblem } from "../shell/problem.js";
import { download } from "./csv.js";
import { dollars, grouped, nameOf, number } from "./figures.js";
import { byDay, byGroup } from "./tables.js";

const DAYS = [["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["365", "a year"]];
const MOST_PAGES = 20;

/** Show the view; see shell/rooms.js. */
export async function show({ room, path, signal }) {
  const [plots] = await Promise.all([import("./plots.js"), style("usage"), plotsStyle()]);
  const choice = (label, options, place) => h("label", {}, label,
    h("select", { onchange: (event) => choose(place, event.target.value) },
      ...options.map(([value, text]) => h("option", { value }, text))));
  const groups = [["model", "model"], ["key", "API key"],
    ...(user.role === "admin" ? [["user", "user"]] : [])];
  const selects = [choice("The last", DAYS, 0), choice("By", groups, 1)];
  if (user.role === "admin") selects.push(choice("Of", [["own", "me"], ["all", "everybody"]], 2));
  const said = h("div", {});
  const csv = h("button", { onclick: () => save(csv, said, current) }, icon(ICONS.down), "CSV");
  const body = h("div", {});
  let current = chosen(path);
  room.replaceChildren(h("div", { class: "paged" },
    h("div", { class: "head" }, h("h1", {}, "Usage"),
      h("div", { class: "row controls" }, ...selects, csv)),
    said, body));
  const go = async (next) => {
    current = chosen(next);
    for (const [at, one] of selects.entries()) one.querySelector("select").value = current[at];
    said.replaceChildren();
    await fill(body, current, plots, signal, () => current);
  };
  await go(path);
  return go;
}

function plotsStyle() {
  return style("../vendor/uplot/uPlot.min");
}

function chosen([days, by, of]) {
  const admin = user.role === "admin";
  const group = by === "key" || (by === "user" && admin) ? by : "model";
  return [
    DAYS.some(([value]) => value === days) ? days : "30",
    group,
    admin && (of === "all" || group === "user") ? "all" : "own",
  ];
}

function choose(place, value) {
  const now = chosen(location.hash.split("/").slice(2));
  now[place] = value;
  if (place === 2 && value === "own" && now[1] === "user") now[1] = "model";
  location.hash = `#/usage/${now.join("/")}`;
}

/** What to ask for: as the address says. */
function queryOf([days, by, of]) {
  const from = new Date(Date.now() - (Number(days) - 1) * 86_400_000).toISOString().slice(0, 10);
  const query = new URLSearchParams({ from, group_by: `day,${by}`, limit: "1000" });
  if (of === "all") query.set("scope", "all");
  return query;
}

async function fill(body, choice, plots, signal, now) {
  body.setAttribute("aria-busy", "true");
  try {
    const { rows, totals, from, whole } = await read(queryOf(choice));
    if (signal.aborted || now() !== choice) return;
    const found = grouped(rows, choice[1], from, Number(choice[0]));
    body.replaceChildren(
      sums(totals),
      ...(totals.requests === 0
        ? [h("p", { class: "card soft" }, "No usage in these days.")]
        : [
          whole ? null : h("p", { class: "notice" }, "Only the first rows are shown: the CSV has all."),
          plots.draw(found, signal),
          byGroup(found),
          byDay(rows, (row) => nameOf(row, choice[1])),
        ].filter(Boolean)));
  } catch (error) {
    if (!signal.aborted && now() === choice) {
      showProblem(body, error, () => fill(body, choice, plots, signal, now));
    }
  } finally {
    body.removeAttribute("aria-busy");
  }
}

async function read(query) {
  const rows = [];
  for (let page = 0; ; page += 1) {
    const answer = await callJson("GET", `/usage?${query}`);
    rows.push(...answer.rows);
    if (answer.next_cursor === null || page + 1 === MOST_PAGES) {
      return { ...answer, rows, whole: answer.next_cursor === null };
    }
    query.set("cursor", answer.next_cursor);
  }
}

function sums(totals) {
  const one = (title, value, more) => h("div", { class: "sum" },
    h("dt", {}, title), h("dd", {}, value, more ? h("span", { class: "soft small" }, more) : null));
  return h("dl", { class: "sums" },
    one("Cost", dollars(totals.cost_microusd),
      totals.unpriced_requests > 0 ? `and ${number(totals.unpriced_requests)} of unknown price` : ""),
    one("Requests", number(totals.requests),
      totals.failed_requests > 0 ? `${number(totals.failed_requests)} failed` : ""),
    one("Tokens read", number(totals.prompt_tokens),
      totals.cached_tokens > 0 ? `${number(totals.cached_tokens)} cached` : ""),
    one("Tokens written", number(totals.completion_tokens),
      totals.reasoning_tokens > 0 ? `${number(totals.reasoning_tokens)} reasoning` : ""));
}

async function save(button, said, choice) {
  button.disabled = true;
  said.replaceChildren();
  try {
    await download(queryOf(choice));
  } catch (error) {
    said.replaceChildren(problem(error));
  }
  button.disabled = false;
}
