// Copying to the clipboard.

import { announce, h, ICONS, icon } from "../dom.js";

const SAID_MS = 2000;

/** Copy text. Without TLS a browser has no clipboard for pages; then the old way. */
async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = h("textarea", { class: "unseen" });
  field.value = text;
  const before = document.activeElement;
  document.body.append(field);
  field.select();
  const worked = document.execCommand("copy");
  field.remove();
  before?.focus();
  if (!worked) throw new Error("the browser did not copy");
}

/** A button that copies what `text()` returns. `shown` is its visible text. */
export function copyButton(label, text, shown = "Copy") {
  const said = h("span", {}, shown);
  const button = h("button", {
    class: "plain small", type: "button", "aria-label": label, title: label,
    onclick: async () => {
      let result = "Copied";
      try {
        await copy(text());
      } catch {
        result = "Not copied";
      }
      said.textContent = result;
      announce(result);
      setTimeout(() => { said.textContent = shown; }, SAID_MS);
    },
  }, icon(ICONS.copy), said);
  return button;
}
