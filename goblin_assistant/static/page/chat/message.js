// One message: the text, what is known about an answer, and what one can do with it.

import { h, ICONS, icon } from "../dom.js";
import { copyButton } from "./copy.js";
import { failure, stop } from "./failure.js";
import { Growing, unturned } from "./markdown.js";

/** A person's message. `onResend(text)` is called when it was edited, `onAgain` to ask anew. */
export class Question {
  constructor(message, { onResend, onAgain }) {
    this.message = message;
    this.onResend = onResend;
    this.acts = h("div", { class: "acts" },
      copyButton("Copy the question", () => message.text, ""),
      act("Edit", ICONS.edit, () => this.edit()),
      act("Ask this again", ICONS.again, onAgain));
    this.said = h("div", { class: "said", dir: "auto" }, unturned(message.text));
    this.element = h("article", { class: "message question", "aria-label": "You" },
      message.attachments.length ? pictures(message.attachments) : null,
      message.text ? this.said : null, this.acts);
  }

  /** What is in the field of an edit that is open; null when none is. */
  draft() {
    const { field } = this;
    if (!field?.isConnected) return null;
    const { value: text, selectionStart: start, selectionEnd: end } = field;
    return { text, start, end, focused: field === document.activeElement };
  }

  /** Edit the text; `draft` goes on with an edit. */
  edit(draft = null) {
    const field = this.field = h("textarea", { "aria-label": "Edit the question", rows: 3 });
    field.value = draft?.text ?? this.message.text;
    const back = () => {
      form.remove();
      this.said.hidden = this.acts.hidden = false;
      this.acts.querySelector("button[title=Edit]").focus();
    };
    const send = () => { if (field.value.trim()) this.onResend(field.value.trim()); };
    const form = h("form", {
      class: "editing stack", onsubmit: (event) => { event.preventDefault(); send(); },
      onkeydown: (event) => {
        if (event.key === "Escape") { event.stopPropagation(); back(); }
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          send();
        }
      },
    }, field, h("div", { class: "row end" },
      h("button", { type: "button", onclick: back }, "Cancel"),
      h("button", { class: "main" }, "Send")));
    this.said.hidden = this.acts.hidden = true;
    this.element.append(form);
    if (draft === null || draft.focused) field.focus();
    if (draft !== null) field.setSelectionRange(draft.start, draft.end);
  }
}

function pictures(attachments) {
  return h("div", { class: "pictures" },
    attachments.map((src, at) => h("img", { src, alt: `Image ${at + 1} of this message` })));
}

/** An answer that may still grow. `onShown` is called whenever more of it is to be seen. */
export class Answer {
  constructor({ onAgain, onShown }) {
    this.onAgain = onAgain;
    this.thoughts = document.createTextNode("");
    this.fold = h("details", { class: "reasoning", hidden: true },
      h("summary", {}, "Reasoning"), h("div", { class: "thoughts", dir: "auto" }, this.thoughts));
    this.body = h("div", { class: "said" });
    this.foot = h("div", { class: "foot" }, h("p", { class: "busy soft" }, "…"));
    this.element = h("article", { class: "message answer", "aria-label": "Answer" },
      this.fold, this.body, this.foot);
    this.growing = new Growing(this.body, onShown);
  }

  text(more) { this.growing.add(more); }

  /** The text so far. */
  get said() { return this.kept?.text ?? this.growing.text; }

  reason(more) {
    this.fold.hidden = false;
    this.thoughts.appendData(unturned(more));
  }

  /** The end. `error`: its text; `failed`: what notice() needs besides. */
  finish(details, { error = "", stopped = false, ...failed } = {}) {
    this.growing.finish();
    this.details(details, error, stopped, failed);
  }

  /** A kept answer: plain text until somebody comes near it, see `Later`. */
  later(message) {
    this.kept = message;
    this.body.prepend(h("p", { class: "plain" }, unturned(message.text)));
    if (message.details.reasoning) this.reason(message.details.reasoning);
    this.details(message.details, message.details.error ?? "", message.details.error === "Stopped.",
      { correlationId: message.details.correlation_id });
  }

  /** Show a kept answer in full. */
  now() {
    if (!this.kept) return;
    const { text } = this.kept;
    this.kept = null;
    this.body.querySelector(".plain").remove();
    this.growing.add(text);
    this.growing.finish();
  }

  details(details, error, stopped, failed) {
    const acts = h("div", { class: "acts" },
      copyButton("Copy the answer", () => this.said, ""),
      act("Ask again", ICONS.again, this.onAgain),
      details.correlation_id && (!error || stopped)
        ? copyButton("Copy the correlation id", () => details.correlation_id, "id")
        : null);
    const notice = error && (stopped
      ? stop(failed) : failure(error, { ...failed, onRetry: this.onAgain }));
    this.foot.replaceChildren(...[notice].filter(Boolean),
      h("div", { class: "row foot-row" }, acts, h("p", { class: "facts" }, facts(details))));
  }

  /** Say that it could not be written. */
  notKept(error) {
    this.foot.append(
      h("p", { class: "notice bad not-kept", role: "alert" }, `Not kept: ${error.message}`));
  }
}

function act(label, path, onclick) {
  const properties = { class: "plain icon", type: "button", title: label, onclick };
  return h("button", { ...properties, "aria-label": label }, icon(path));
}

const number = new Intl.NumberFormat();

/** Dollars with as many digits as are needed to tell small sums apart. */
export function dollars(text) {
  const value = Number(text);
  if (value === 0) return "free";
  return `$${value < 0.01 ? Number(value.toPrecision(2)) : value.toFixed(value < 1 ? 3 : 2)}`;
}

const known = (value) => value !== undefined && value !== null;

function facts(details) {
  const { model, provider, attempts, cost_usd: cost } = details;
  const parts = [];
  if (model) parts.push(model);
  if (provider) parts.push(`by ${provider}${attempts > 1 ? ` in ${attempts} attempts` : ""}`);
  if (known(details.completion_tokens)) {
    parts.push(`${number.format(details.prompt_tokens)} + ${
      number.format(details.completion_tokens)} tokens`);
  }
  if (known(cost)) parts.push(dollars(cost));
  if (known(details.first_token_ms)) {
    parts.push(`first after ${(details.first_token_ms / 1000).toFixed(2)} s`);
  }
  if (details.finish_reason === "length") parts.push("cut at the longest length");
  return parts.join(" · ");
}

/** Shows kept answers in full when they come near the part of `scroll` that is seen. */
export class Later {
  constructor(scroll) {
    this.answers = new Map();
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.show(target);
      }
    }, { root: scroll, rootMargin: "1000px 0px" });
  }

  add(answer) {
    this.answers.set(answer.element, answer);
    this.observer.observe(answer.element);
  }

  show(element) {
    this.observer.unobserve(element);
    this.answers.get(element)?.now();
    this.answers.delete(element);
  }

  clear() {
    this.observer.disconnect();
    this.answers.clear();
  }
}
