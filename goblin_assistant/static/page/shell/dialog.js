// Dialogs: the browser's own, which keep the focus inside and close by Escape.

import { h } from "../dom.js";
import { problem } from "./problem.js";

let last = 0;

/**
 * Ask in a dialog. `act` is called with the form's data when it is sent; what it raises is shown,
 * and the dialog stays open. Resolves with what `act` returned, or with null when it was closed.
 */
export function ask({ title, fields, button, danger = false, act }) {
  last += 1;
  const id = `dialog-title-${last}`;
  return new Promise((resolve) => {
    let answer = null;
    const said = h("div", {});
    const send = h("button", { class: danger ? "main danger" : "main" }, button);
    const form = h("form", { class: "stack" },
      h("h2", { id }, title),
      ...[fields].flat(),
      said,
      h("div", { class: "row end" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), send));
    const dialog = h("dialog", { "aria-labelledby": id }, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      send.disabled = true;
      said.replaceChildren();
      try {
        answer = await act(new FormData(form));
        dialog.close();
      } catch (error) {
        said.replaceChildren(problem(error));
        send.disabled = false;
      }
    });
    show(dialog, () => resolve(answer));
  });
}

/** Show `content` in a dialog until it is closed. */
export function tell({ title, content, button = "Done" }) {
  last += 1;
  const id = `dialog-title-${last}`;
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": id },
      h("div", { class: "stack" },
        h("h2", { id }, title),
        ...[content].flat(),
        h("div", { class: "row end" },
          h("button", { class: "main", type: "button", onclick: () => dialog.close() }, button))));
    show(dialog, () => resolve(null));
  });
}

function show(dialog, closed) {
  const before = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    // The browser does this too, but not if the focused element was rebuilt meanwhile.
    (before?.isConnected ? before : document.getElementById("room"))?.focus();
    closed();
  });
  document.body.append(dialog);
  dialog.showModal();
}
