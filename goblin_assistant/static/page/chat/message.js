// One message: the text, what is known about an answer, and what one can do with it.

import { h, ICONS, icon } from "../dom.js";
import { Growing } from "./markdown.js";

/** A person's message; `onEdit` is called with it. */
export function question(text, onEdit) {
  return h("article", { class: "message question", "aria-label": "You" },
    h("div", { class: "said" }, text),
    h("div", { class: "acts" }, act("Edit", ICONS.edit, onEdit)));
}

/** An answer that may still grow. */
export class Answer {
  constructor(onAgain) {
    this.reasoning = "";
    this.thoughts = h("pre", { class: "thoughts" });
    this.fold = h("details", { class: "reasoning", hidden: true },
      h("summary", {}, "Reasoning"), this.thoughts);
    this.body = h("div", { class: "said" });
    this.foot = h("div", { class: "foot" });
    this.element = h("article", { class: "message answer", "aria-label": "Answer" },
      this.fold, this.body, this.foot);
    this.growing = new Growing(this.body);
    this.onAgain = onAgain;
  }

  text(more) { this.growing.add(more); }

  reason(more) {
    this.reasoning += more;
    this.fold.hidden = false;
    this.thoughts.textContent = this.reasoning;
  }

  /** The end: with `error` for one that failed or was stopped. */
  finish(details, error = "") {
    this.growing.finish();
    this.foot.replaceChildren(
      ...(error ? [h("p", { class: "notice bad", role: "alert" }, error)] : []),
      h("div", { class: "acts" },
        act("Copy", ICONS.copy, () => navigator.clipboard?.writeText(this.growing.text)),
        act("Ask again", ICONS.again, this.onAgain)),
      h("p", { class: "facts" }, facts(details)));
  }
}

function act(label, path, onclick) {
  const properties = { class: "plain icon", type: "button", title: label, onclick };
  return h("button", { ...properties, "aria-label": label }, icon(path));
}

function facts(details) {
  const parts = [];
  if (details.model) parts.push(details.model);
  if (details.provider) parts.push(`by ${details.provider}`);
  if (details.attempts > 1) parts.push(`${details.attempts} attempts`);
  if (details.completion_tokens !== undefined && details.completion_tokens !== null) {
    parts.push(`${details.prompt_tokens} + ${details.completion_tokens} tokens`);
  }
  if (details.first_token_ms !== undefined && details.first_token_ms !== null) {
    parts.push(`${(details.first_token_ms / 1000).toFixed(2)} s to the first`);
  }
  if (details.correlation_id) parts.push(`id ${details.correlation_id}`);
  return parts.join(" · ");
}
