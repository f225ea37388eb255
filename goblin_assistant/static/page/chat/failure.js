// What went wrong with an answer, in the server's words: who failed, and when to try again.

import { h } from "../dom.js";
import { copyButton } from "./copy.js";

const WHO = {
  provider: "The provider failed",
  limit: "A limit is reached",
  gateway: "This server failed",
  client: "The request was refused",
  connection: "The connection failed",
};

/** Who failed, and the server's words. */
export function failureText(error) {
  const who = WHO[error.source] ?? "It failed";
  const end = /[.?!]$/.test(error.message) ? "" : ".";
  return `${who}${error.provider ? ` (${error.provider})` : ""}: ${error.message}${end}`;
}

/** The notice under an answer that somebody has stopped. */
export function stop({ backLabel, onBack }) {
  return h("div", { class: "row stopped" },
    h("p", { class: "soft", role: "status" }, "Stopped."), bringBack(backLabel, onBack));
}

/**
 * The notice under an answer. `onRetry` is offered after `retryAfter` seconds, `onBack` where
 * another answer stood before.
 */
export function failure(text, { retryAfter = null, correlationId = "", onRetry, backLabel, onBack }) {
  const retry = h("button", { type: "button", onclick: onRetry }, "Try again");
  if (retryAfter !== null) countDown(retry, retryAfter);
  return h("div", { class: "notice bad" },
    h("p", { role: "alert" }, text),
    h("div", { class: "row" },
      retry,
      bringBack(backLabel, onBack),
      correlationId
        ? copyButton("Copy the correlation id", () => correlationId, `Copy id ${correlationId}`)
        : null));
}

function bringBack(label, onclick) {
  return onclick ? h("button", { type: "button", class: "bring-back", onclick }, label) : null;
}

function countDown(button, seconds) {
  const end = Date.now() + seconds * 1000;
  const show = () => {
    const left = Math.ceil((end - Date.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left <= 0) clearInterval(timer);
  };
  const timer = setInterval(show, 500);
  show();
}
