// The form for a new key, and the request that it makes.

import { h } from "../dom.js";
import { user } from "../session.js";

const DAYS = [["", "never"], ["7", "in a week"], ["30", "in 30 days"], ["90", "in 90 days"],
  ["365", "in a year"]];

/** The fields. A key has no limit of its own where the field is empty. */
export function newKeyFields() {
  const scopes = ["chat", "embeddings", ...(user.role === "admin" ? ["admin"] : [])];
  const count = (name, label) => h("label", {}, label,
    h("input", { name, type: "number", min: 1, step: 1, inputmode: "numeric", placeholder: "no limit of its own" }));
  return [
    h("label", {}, "Name",
      h("input", { name: "name", required: true, maxlength: 100, autocomplete: "off",
        placeholder: "What it is used for" })),
    h("fieldset", {}, h("legend", {}, "It may"),
      h("div", { class: "choices" }, ...scopes.map((scope) =>
        h("label", {}, h("input", {
          type: "checkbox", name: "scopes", value: scope, checked: scope !== "admin",
        }), scope)))),
    h("label", {}, "Models, one a line",
      h("textarea", { name: "models", rows: 2, spellcheck: "false",
        placeholder: "Every model. Or, for example: openai/*" })),
    h("div", { class: "pair" },
      count("requests_per_minute", "Chats a minute"),
      count("tokens_per_minute", "Tokens a minute"),
      count("max_concurrency", "Chats at once"),
      h("label", {}, "Budget a month, US dollars",
        h("input", { name: "monthly_budget_usd", inputmode: "decimal", autocomplete: "off",
          placeholder: "no budget" }))),
    h("label", {}, "Ends",
      h("select", { name: "days" },
        ...DAYS.map(([value, label]) => h("option", { value }, label)))),
  ];
}

/** The body of POST /auth/keys. The server reports what is wrong in it. */
export function specOf(data) {
  const text = (name) => data.get(name).trim();
  const spec = { name: text("name"), scopes: data.getAll("scopes") };
  const models = text("models").split(/\s*\n\s*/).filter(Boolean);
  if (models.length > 0) spec.allowed_models = models;
  for (const name of ["requests_per_minute", "tokens_per_minute", "max_concurrency"]) {
    if (text(name)) spec[name] = Number(text(name));
  }
  if (text("monthly_budget_usd")) spec.monthly_budget_usd = text("monthly_budget_usd");
  if (data.get("days")) spec.expires_in = Number(data.get("days")) * 86_400;
  return spec;
}
