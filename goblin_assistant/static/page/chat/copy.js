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
  const button = silentCopyButton(label, shown);
  button.addEventListener("click", () => copyBy(button, text()));
  return button;
}

/** The same without a listener: an answer may have a thousand, and one listener serves them all. */
export function silentCopyButton(label, shown = "Copy") {
  return h("button", {
    class: "plain small", type: "button", "aria-label": label, title: label,
  }, icon(ICONS.copy), h("span", {}, shown));
}

/** Copy text, and say on the button that was pressed whether it worked. */
export async function copyBy(button, text) {
  const said = button.querySelector("span");
  button.dataset.shown ??= said.textContent;
  let result = "Copied";
  try {
    await copy(text);
  } catch {
    result = "Not copied";
  }
  said.textContent = result;
  announce(result);
  setTimeout(() => { said.textContent = button.dataset.shown; }, SAID_MS);
}
