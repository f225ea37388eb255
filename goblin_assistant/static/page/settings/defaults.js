// The defaults of chats, on the page and with the user's API keys.

import { callJson } from "../api.js";
import { announce, h } from "../dom.js";
import { problem, showProblem } from "../shell/problem.js";

/** A card with the form. */
export function defaults() {
  const place = h("div", {});
  const fill = async () => {
    try {
      place.replaceChildren(form(await callJson("GET", "/settings/")));
    } catch (error) {
      showProblem(place, error, fill);
    }
  };
  return {
    element: h("section", { class: "card", "aria-label": "Defaults of your chats" },
      h("h2", {}, "Defaults of your chats"),
      h("p", { class: "soft small" }, "They apply where a chat sets nothing itself, and to chats with your API keys too."),
      place),
    fill,
  };
}

function form(settings) {
  const said = h("div", {});
  const button = h("button", { class: "main" }, "Save");
  const made = h("form", { class: "stack", onsubmit: (event) => save(event, made, button, said) },
    h("label", {}, "Model", models(settings)),
    h("div", { class: "pair" },
      h("label", {}, "Temperature, 0 to 2",
        h("input", { name: "temperature", type: "number", min: 0, max: 2, step: "any",
          value: settings.temperature, placeholder: "the model's own" })),
      h("label", {}, "Maximum tokens of an answer",
        h("input", { name: "max_tokens", type: "number", min: 1, step: 1,
          value: settings.max_tokens, placeholder: "the model's own" }))),
    h("label", {}, "System prompt",
      h("textarea", { name: "system_prompt", rows: 4, maxlength: 32_768,
        placeholder: "What every chat is told first" }, settings.system_prompt ?? "")),
    said,
    h("div", { class: "row" }, button));
  return made;
}

function models(settings) {
  const none = settings.default_model
    ? `The server's: ${settings.default_model}` : "None: each chat says it";
  const names = [
    ...settings.aliases,
    ...settings.providers.flatMap(({ name, models: ids }) =>
      ids.map((id) => (id === name ? id : `${name}/${id}`))),
  ];
  if (settings.model && !names.includes(settings.model)) names.unshift(settings.model);
  return h("select", { name: "model" },
    h("option", { value: "" }, none),
    ...[...new Set(names)].map((name) =>
      h("option", { value: name, selected: name === settings.model }, name)));
}

async function save(event, made, button, said) {
  event.preventDefault();
  const data = new FormData(made);
  const count = (name) => (data.get(name) === "" ? null : Number(data.get(name)));
  button.disabled = true;
  said.replaceChildren();
  try {
    await callJson("PUT", "/settings/", {
      model: data.get("model") || null,
      temperature: count("temperature"),
      max_tokens: count("max_tokens"),
      system_prompt: data.get("system_prompt") || null,
    });
    said.replaceChildren(h("p", { class: "notice" }, "Saved. It applies from your next chat on."));
    announce("Saved");
  } catch (error) {
    said.replaceChildren(problem(error));
  }
  button.disabled = false;
}
