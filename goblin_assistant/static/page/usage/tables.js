// The same figures as in the plots, as tables.

import { h } from "../dom.js";
import { dollars, number } from "./figures.js";

const FIRST_ROWS = 30;
const TITLES = ["Requests", "Failed", "Tokens read", "Tokens written", "Cost"];

/** The sums of each group. */
export function byGroup({ groups }) {
  return h("section", { class: "card scrolls", tabindex: "0", "aria-label": "Together" },
    h("h2", {}, "Together"),
    table(["Name"], groups.map((group) => [
      [group.name],
      [group.requests, group.failed, group.read, group.written, group.cost],
    ])));
}

/** Each day, the last first. */
export function byDay(rows, name) {
  const all = rows.map((row) => [
    [row.day, name(row)],
    [row.requests, row.failed_requests, row.prompt_tokens, row.completion_tokens, row.cost_microusd],
  ]).sort((a, b) => (a[0][0] < b[0][0] ? 1 : a[0][0] > b[0][0] ? -1 : b[1][4] - a[1][4]));
  const place = h("div", {}, table(["Day", "Name"], all.slice(0, FIRST_ROWS)));
  const more = h("button", {
    onclick: () => {
      place.replaceChildren(table(["Day", "Name"], all));
      more.remove();
    },
  }, `Show all ${number(all.length)} rows`);
  return h("section", { class: "card scrolls", tabindex: "0", "aria-label": "Day by day" },
    h("h2", {}, "Day by day"),
    h("p", { class: "soft small" }, "Days are in UTC."),
    place, all.length > FIRST_ROWS ? more : null);
}

function table(names, rows) {
  const head = (title, kind) => h("th", { scope: "col", class: kind }, title);
  return h("table", { class: "list" },
    h("thead", {}, h("tr", {},
      ...names.map((title) => head(title, null)),
      ...TITLES.map((title) => head(title, "number")))),
    h("tbody", {}, ...rows.map(([texts, sums]) => h("tr", {},
      ...texts.map((text) => h("td", {}, text)),
      ...sums.map((value, at) =>
        h("td", { class: "number" }, at === sums.length - 1 ? dollars(value) : number(value)))))));
}
