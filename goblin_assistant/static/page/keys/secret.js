// Shows a new key, once.

import { announce, h, ICONS, icon } from "../dom.js";

/** The key with a button that copies it, and a first request. */
export function secret(key) {
  const field = h("input", {
    readonly: true, value: key, "aria-label": "Key", spellcheck: "false", autofocus: true,
    onfocus: () => field.select(),
  });
  const button = h("button", { type: "button", onclick: () => copy(field, button) },
    icon(ICONS.copy), "Copy");
  const request = `curl ${location.origin}/v1/chat/completions \\
  -H "Authorization: Bearer $KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"messages": [{"role": "user", "content": "Hello!"}]}'`;
  return [
    h("p", { class: "notice" }, "The key is shown only this once. Keep it somewhere safe."),
    h("div", { class: "secret" }, field, button),
    h("details", {}, h("summary", {}, "A first request"),
      h("pre", { class: "small scrolls", tabindex: "0" }, request)),
  ];
}

async function copy(field, button) {
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    // Without TLS there is no clipboard API: the key is selected, so that the user can copy it.
    announce("Selected: copy it with your keyboard");
    return;
  }
  button.lastChild.textContent = "Copied";
  announce("Copied");
}
