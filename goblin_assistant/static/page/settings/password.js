// Changes the password. That ends all sessions and starts a new one for this browser.

import { callJson, patiently } from "../api.js";
import { announce, h } from "../dom.js";
import { adopt, renew, user } from "../session.js";
import { problem } from "../shell/problem.js";

/** A card with the form. `changed` is called after a change. */
export function password(changed) {
  const said = h("div", {});
  const button = h("button", { class: "main" }, "Change the password");
  const field = (name, label, properties) => h("label", {}, label,
    h("input", { type: "password", name, required: true, maxlength: 1024, ...properties }));
  const form = h("form", { class: "stack", onsubmit: (event) => send(event, form, button, said, changed) },
    // For password managers: whose password this is.
    h("input", { type: "hidden", name: "username", autocomplete: "username", value: user.email }),
    h("div", { class: "pair" },
      field("current_password", "Current password", { autocomplete: "current-password" }),
      field("new_password", "New password", { autocomplete: "new-password", minlength: 8 })),
    h("label", { class: "choice" },
      h("input", { type: "checkbox", name: "revoke_keys" }), "Revoke all my API keys too"),
    said,
    h("div", { class: "row" }, button));
  return {
    element: h("section", { class: "card", "aria-label": "Password" },
      h("h2", {}, "Password"),
      h("p", { class: "soft small" }, "A new one signs you out everywhere else."),
      form),
    fill: async () => {},
  };
}

async function send(event, form, button, said, changed) {
  event.preventDefault();
  const data = new FormData(form);
  button.disabled = true;
  said.replaceChildren();
  try {
    await renew(); // first, so that the password is sent once: each wrong one counts
    const answer = await patiently(() => callJson("POST", "/auth/password", {
      current_password: data.get("current_password"),
      new_password: data.get("new_password"),
      revoke_keys: data.get("revoke_keys") !== null,
    }, { again: false }));
    await adopt(answer.refresh_token);
    form.reset();
    const keys = answer.api_keys === 1 ? "1 API key goes" : `${answer.api_keys} API keys go`;
    const text = answer.api_keys > 0
      ? `The password is changed. ${keys} on working.` : "The password is changed.";
    said.replaceChildren(h("p", { class: "notice" }, text));
    announce(text);
    await changed();
  } catch (error) {
    said.replaceChildren(problem(error));
  }
  button.disabled = false;
}
