// Shows an error: the server's message, and the correlation id for finding it in the log.

import { h } from "../dom.js";

/** The server's words as a sentence. */
export function sentence(error) {
  const text = error.message || String(error);
  const end = /[.?!]$/.test(text) ? "" : ".";
  const wait = error.retryAfter ? ` Try again in ${Math.ceil(error.retryAfter)} seconds.` : "";
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${end}${wait}`;
}

/** A notice about `error`; with `again`, a button that tries once more. */
export function problem(error, again = null) {
  return h("div", { class: "notice bad", role: "alert" },
    h("p", {}, sentence(error)),
    error.correlationId
      ? h("p", { class: "small" }, "Correlation id: ", h("code", {}, error.correlationId))
      : null,
    again ? h("button", { type: "button", onclick: again }, "Try again") : null);
}

/** The notice instead of what is in `place`. */
export function showProblem(place, error, again = null) {
  place.replaceChildren(problem(error, again));
}
