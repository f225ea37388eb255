// Signing in and creating an account.

import { announce, h, meta, style } from "../dom.js";
import { register, signIn } from "../session.js";
import { sentence } from "../shell/problem.js";

/** Show the form in `place`. `note` explains why the user must sign in again. */
export async function showDoor(place, note = "") {
  await style("account");
  const open = meta("registration") === "open";
  place.replaceChildren(form(false, open, note, place));
  place.querySelector("input").focus();
}

function form(creating, open, note, place) {
  const email = h("input", {
    type: "email", name: "email", required: true, autocomplete: "username", maxlength: 320,
  });
  const password = h("input", {
    type: "password", name: "password", required: true, maxlength: 1024,
    minlength: creating ? 8 : 1, autocomplete: creating ? "new-password" : "current-password",
  });
  const said = h("div", { role: "alert" }, note ? h("p", { class: "notice" }, note) : null);
  const button = h("button", { class: "main" }, creating ? "Create account" : "Sign in");
  const send = async (event) => {
    event.preventDefault();
    button.disabled = true;
    said.replaceChildren();
    try {
      await (creating ? register : signIn)(email.value.trim(), password.value);
      announce("Signed in");
    } catch (error) {
      said.replaceChildren(h("p", { class: "notice bad" }, sentence(error)));
      button.disabled = false;
      password.focus();
    }
  };
  const turn = () => {
    const other = form(!creating, open, "", place);
    place.replaceChildren(other);
    other.querySelector("input").focus();
  };
  return h("main", { class: "door" },
    h("div", { class: "door-inner" },
      h("div", { class: "door-head" },
        h("img", { src: new URL("../style/goblin.svg", import.meta.url).pathname, alt: "" }),
        h("h1", {}, "Goblin Assistant"),
        h("p", { class: "soft" }, creating ? "Create an account" : "Sign in to chat")),
      h("form", { class: "card stack", onsubmit: send },
        said,
        h("label", {}, "E-mail", email),
        h("label", {}, "Password", password),
        creating ? h("p", { class: "soft small" }, "At least 8 characters.") : null,
        button),
      open
        ? h("p", { class: "door-foot" },
            creating ? "Already have an account? " : "New here? ",
            h("button", { class: "link", onclick: turn },
              creating ? "Sign in" : "Create an account"))
        : h("p", { class: "door-foot soft small" }, "Accounts are created by the operator.")));
}
