// Above a conversation: its title, its settings, and what one can do with it.

import { h, ICONS, icon } from "../dom.js";
import { ask } from "../shell/dialog.js";
import { unturned } from "./markdown.js";

export class Header {
  /** `on`: settings(values), rename(title), save(form), remove(). They may raise. */
  constructor(on) {
    this.on = on;
    this.values = {};
    this.title = h("h1", { dir: "auto" }, "New chat");
    const item = (text, act) => h("button", {
      class: "plain", type: "button", onclick: () => { this.menu.open = false; act(); },
    }, text);
    this.menu = h("details", {
      class: "more", onkeydown: (event) => this.key(event),
      onfocusout: (event) => { if (!this.menu.contains(event.relatedTarget)) this.menu.open = false; },
    }, h("summary", { class: "button icon", "aria-label": "This conversation", title: "More" },
      icon(ICONS.more)),
    h("div", { class: "card" },
      item("Rename", () => this.rename()),
      item("Export as Markdown", () => on.save("markdown")),
      item("Export as JSON", () => on.save("json")),
      item("Delete", () => this.remove())));
    this.element = h("header", { class: "chat-head" }, this.title,
      h("button", {
        class: "plain icon", type: "button", "aria-label": "Settings of this chat",
        title: "Settings of this chat", onclick: () => this.settings(),
      }, icon(ICONS.settings)),
      this.menu);
    this.show(null);
  }

  /** Show a conversation; null is one that is not kept yet. */
  show(conversation) {
    this.title.textContent = unturned(conversation?.title ?? "") || "New chat";
    this.menu.hidden = conversation === null;
  }

  key(event) {
    if (event.key !== "Escape" || !this.menu.open) return;
    event.stopPropagation();
    this.menu.open = false;
    this.menu.firstChild.focus();
  }

  rename() {
    const field = h("input", { name: "title", required: true, maxlength: 200 });
    field.value = this.title.textContent;
    ask({
      title: "Rename the conversation", button: "Rename",
      fields: h("label", {}, "Title", field),
      act: (data) => this.on.rename(data.get("title").trim() || "Untitled"),
    });
  }

  remove() {
    ask({
      title: "Delete the conversation?", button: "Delete", danger: true,
      fields: h("p", {}, "Its messages are deleted for good."),
      act: () => this.on.remove(),
    });
  }

  settings() {
    const { system_prompt: prompt, temperature, max_tokens: most } = this.values;
    const system = h("textarea", { name: "system_prompt", rows: 5, maxlength: 20000 });
    system.value = prompt ?? "";
    ask({
      title: "Settings of this chat", button: "Save",
      fields: [
        h("p", { class: "soft small" }, "What is left empty is as in your settings."),
        h("label", {}, "System prompt", system),
        h("div", { class: "pair" },
          h("label", {}, "Temperature", h("input", {
            name: "temperature", type: "number", min: 0, max: 2, step: "any",
            value: temperature,
          })),
          h("label", {}, "Maximum tokens of an answer", h("input", {
            name: "max_tokens", type: "number", min: 1, step: 1, value: most,
          }))),
      ],
      act: (data) => this.on.settings({
        system_prompt: data.get("system_prompt").trim() || null,
        temperature: numberOf(data.get("temperature")),
        max_tokens: numberOf(data.get("max_tokens")),
      }),
    });
  }
}

function numberOf(text) {
  return text.trim() === "" ? null : Number(text);
}
