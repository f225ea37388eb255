// The choice of a model, with its price and context window.

import { callJson } from "../api.js";
import { h } from "../dom.js";

const LAST = "goblin.model";

export class ModelPicker {
  /** `onChange` is called when another model is chosen. */
  constructor(onChange) {
    this.models = new Map();
    this.onChange = onChange;
    this.element = h("select", {
      "aria-label": "Model", class: "model",
      onchange: () => {
        localStorage.setItem(LAST, this.value);
        onChange();
      },
    });
  }

  get value() { return this.element.value; }

  /** Whether the chosen model takes images. */
  get sees() { return this.models.get(this.value)?.capabilities?.includes("vision") ?? false; }

  /** Ask the server for the models; `wanted` is chosen if it is there. */
  async load(wanted) {
    const [{ data }, settings] = await Promise.all([
      callJson("GET", "/v1/models"), callJson("GET", "/settings/"),
    ]);
    const usable = data.filter((one) => one.capabilities?.includes("chat") ?? true);
    this.models = new Map(usable.map((one) => [one.id, one]));
    const groups = Map.groupBy(usable, (one) => one.owned_by);
    this.element.replaceChildren(...[...groups].map(([owner, models]) => h("optgroup",
      { label: owner }, models.map((one) => h("option", { value: one.id }, describe(one))))));
    const wishes = [wanted, localStorage.getItem(LAST), settings.model, settings.default_model];
    this.choose(wishes.map((wish) => this.find(wish)).find(Boolean) ?? usable[0]?.id);
  }

  /** Choose a model, if there is such a one. */
  choose(id) {
    if (id && this.find(id)) this.element.value = this.find(id);
    this.onChange();
  }

  find(name) {
    if (!name) return null;
    if (this.models.has(name)) return name;
    return [...this.models.keys()].find((id) => id.endsWith(`/${name}`)) ?? null;
  }
}

function describe({ id, owned_by: owner, context_window: context, price_per_million: price }) {
  const parts = [id.startsWith(`${owner}/`) ? id.slice(owner.length + 1) : id];
  if (price) {
    const free = Number(price.input) === 0 && Number(price.output) === 0;
    parts.push(free ? "free" : `$${price.input} in, $${price.output} out per million`);
  }
  if (context) parts.push(`${short(context)} context`);
  return parts.join(" · ");
}

function short(tokens) {
  if (tokens >= 1_000_000) return `${Number((tokens / 1_000_000).toFixed(1))}M`;
  return tokens >= 1000 ? `${Math.round(tokens / 1000)}k` : String(tokens);
}
