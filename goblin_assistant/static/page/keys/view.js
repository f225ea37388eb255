// API keys: create, rotate, revoke; what each may do, and what it has spent.

import { callJson } from "../api.js";
import { announce, h } from "../dom.js";
import { ask, tell } from "../shell/dialog.js";
import { showProblem } from "../shell/problem.js";
import { when } from "../shell/times.js";
import { spentThisMonth } from "./budget.js";
import { newKeyFields, specOf } from "./form.js";
import { secret } from "./secret.js";

const GRACES = [
  ["0", "at once"], ["3600", "in an hour"], ["86400", "in a day"], ["604800", "in a week"],
];

/** Show the view; see shell/rooms.js. */
export async function show({ room, signal }) {
  const list = h("div", { class: "stack" });
  const view = { list, signal };
  room.replaceChildren(h("div", { class: "paged" },
    h("div", { class: "head" },
      h("div", {},
        h("h1", {}, "API keys"),
        h("p", { class: "soft" },
          "For programs: they send a key instead of a password. A key is shown once.")),
      h("button", { class: "main", onclick: () => create(view) }, "New key")),
    list));
  await fill(view);
}

async function fill(view) {
  let keys, spent;
  try {
    [keys, spent] = await Promise.all([allKeys(), spentThisMonth()]);
  } catch (error) {
    showProblem(view.list, error, () => fill(view));
    return;
  }
  const focused = view.list.contains(document.activeElement);
  const good = keys.filter((key) => stateOf(key) === "good").reverse();
  const past = keys.filter((key) => stateOf(key) !== "good").reverse();
  view.list.replaceChildren(...[
    good.length > 0
      ? table(view, good, keys, spent)
      : h("p", { class: "card soft" }, "You have no key that works. Create one for a program."),
    past.length > 0
      ? h("details", {},
          h("summary", {}, `Revoked and expired keys (${past.length})`),
          table(view, past, keys, spent))
      : null,
  ].filter(Boolean));
  // The focused element is gone. Keep the focus here, not at the start of the page.
  if (focused) document.getElementById("room").focus();
}

async function allKeys() {
  const found = [];
  for (let after = 0; after !== null;) {
    const page = await callJson("GET", `/auth/keys?limit=200&after=${after}`);
    found.push(...page.keys);
    after = page.next_after;
  }
  return found;
}

function stateOf(key) {
  if (key.revoked_at) return "revoked";
  return key.expires_at && Date.parse(key.expires_at) <= Date.now() ? "expired" : "good";
}

function table(view, keys, all, spent) {
  return h("div", { class: "card scrolls" },
    h("table", { class: "list cards" },
      h("thead", {}, h("tr", {},
        ...["Key", "May use", "Limits", "Last used", "Ends", ""].map((title) =>
          h("th", { scope: "col" }, title || h("span", { class: "unseen" }, "Actions"))))),
      h("tbody", {}, ...keys.map((key) => row(view, key, all, spent)))));
}

function row(view, key, all, spent) {
  const state = stateOf(key);
  const cell = (label, ...content) => h("td", { "data-label": label }, h("div", {}, ...content));
  return h("tr", {},
    h("td", { class: "first" }, h("div", {},
      h("strong", {}, key.name), " ",
      key.replaced_by_id ? h("span", { class: "tag warn" }, "replaced") : null,
      h("p", { class: "soft small prefix" }, h("code", {}, `${key.prefix}…`)))),
    cell("May use", uses(key)),
    cell("Limits", limits(key, all, spent)),
    cell("Last used", when(key.last_used_at)),
    cell("Ends", ending(key, state)),
    h("td", { class: "last" }, state === "good" ? h("div", { class: "row end" },
      key.replaced_by_id ? null : h("button", {
        onclick: () => rotate(view, key), "aria-label": `Rotate ${key.name}`,
      }, "Rotate"),
      h("button", {
        class: "danger", onclick: () => revoke(view, key), "aria-label": `Revoke ${key.name}`,
      }, "Revoke")) : null));
}

function uses(key) {
  const models = key.allowed_models?.join(", ") ?? "every model";
  return [h("p", {}, key.scopes.join(", ")), h("p", { class: "soft small" }, models)];
}

function limits(key, all, spent) {
  const lines = [
    key.requests_per_minute && `${key.requests_per_minute} chats a minute`,
    key.tokens_per_minute && `${key.tokens_per_minute.toLocaleString()} tokens a minute`,
    key.max_concurrency && `${key.max_concurrency} at once`,
    key.monthly_budget_usd && `$${spent(key, all)} of $${key.monthly_budget_usd} this month`,
  ].filter(Boolean);
  return lines.length > 0
    ? lines.map((line) => h("p", {}, line))
    : h("p", { class: "soft" }, "none of its own");
}

function ending(key, state) {
  if (state === "revoked") return [h("span", { class: "tag bad" }, "revoked"), " ", when(key.revoked_at)];
  if (state === "expired") return [h("span", { class: "tag bad" }, "expired"), " ", when(key.expires_at)];
  return when(key.expires_at);
}

async function create(view) {
  const made = await ask({
    title: "New key",
    fields: newKeyFields(),
    button: "Create key",
    act: (data) => callJson("POST", "/auth/keys", specOf(data)),
  });
  if (made !== null) await shown(view, made, "Your new key");
}

async function rotate(view, key) {
  const made = await ask({
    title: `Rotate ${key.name}`,
    fields: [
      h("p", {}, "A new key with the same limits and the same budget takes its place."),
      h("label", {}, "The old key ends",
        h("select", { name: "grace" }, ...GRACES.map(([value, label]) =>
          h("option", { value, selected: value === "86400" }, label)))),
    ],
    button: "Rotate key",
    act: (data) => callJson("POST", `/auth/keys/${key.id}/rotate`, {
      grace_seconds: Number(data.get("grace")),
    }),
  });
  if (made !== null) await shown(view, made, "The key that takes its place");
}

async function shown(view, made, title) {
  await Promise.all([tell({ title, content: secret(made.key) }), fill(view)]);
}

async function revoke(view, key) {
  const done = await ask({
    title: `Revoke ${key.name}?`,
    fields: h("p", {},
      "Programs that use ", h("code", {}, `${key.prefix}…`),
      " are refused from their next request on. This cannot be undone."),
    button: "Revoke key",
    danger: true,
    act: async () => {
      await callJson("DELETE", `/auth/keys/${key.id}`);
      return true;
    },
  });
  if (done === null) return;
  announce(`${key.name} is revoked`);
  await fill(view);
}
