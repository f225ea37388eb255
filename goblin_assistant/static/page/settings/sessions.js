// Where the user is signed in: the list, the end of one, the end of all.

import { callJson } from "../api.js";
import { announce, h } from "../dom.js";
import { renew, sessionId, signOut } from "../session.js";
import { ask } from "../shell/dialog.js";
import { problem, showProblem } from "../shell/problem.js";
import { when } from "../shell/times.js";

/** A card with the list. */
export function sessions() {
  const list = h("div", {});
  const fill = async () => {
    try {
      const found = await callJson("GET", "/auth/sessions");
      list.replaceChildren(table(found, fill, list));
    } catch (error) {
      showProblem(list, error, fill);
    }
  };
  const element = h("section", { class: "card", "aria-label": "Sessions" },
    h("div", { class: "head" },
      h("div", {},
        h("h2", {}, "Sessions"),
        h("p", { class: "soft small" }, "Where you are signed in, here and elsewhere.")),
      h("button", { class: "danger", onclick: endAll }, "End all sessions")),
    list);
  return { element, fill };
}

function table({ sessions: rows, total }, fill, list) {
  const more = total > rows.length ? `The last ${rows.length} of ${total}.` : null;
  return h("div", { class: "scrolls" },
    h("table", { class: "list cards" },
      h("thead", {}, h("tr", {},
        ...["Session", "Began", "Last renewed", "Ends, if not renewed", ""].map((title) =>
          h("th", { scope: "col" }, title || h("span", { class: "unseen" }, "Actions"))))),
      h("tbody", {}, ...rows.map((one) => row(one, fill, list)))),
    more ? h("p", { class: "soft small" }, more) : null);
}

function row(one, fill, list) {
  const here = one.id === sessionId;
  const name = here ? "This browser" : `Session ${one.id.slice(0, 6)}`;
  const cell = (label, value) => h("td", { "data-label": label }, h("div", {}, value));
  return h("tr", {},
    h("td", { class: "first" }, h("div", {}, here ? h("strong", {}, name) : name)),
    cell("Began", when(one.started_at)),
    cell("Last renewed", when(one.renewed_at)),
    cell("Ends", when(one.expires_at)),
    h("td", { class: "last" }, h("button", {
      "aria-label": here ? "End this session" : `End session ${one.id.slice(0, 6)}`,
      onclick: (event) => end(one, event.target, fill, list),
    }, "End")));
}

async function end(one, button, fill, list) {
  button.disabled = true;
  try {
    if (one.id === sessionId) {
      await signOut();
      return;
    }
    await callJson("DELETE", `/auth/sessions/${one.id}`).catch((error) => {
      if (error.status !== 404) throw error; // it has ended already
    });
    await renew(); // ending one session ends all access tokens
  } catch (error) {
    list.append(problem(error));
    button.disabled = false;
    return;
  }
  announce("The session has ended");
  await fill();
  document.getElementById("room").focus();
}

async function endAll() {
  const done = await ask({
    title: "End all sessions?",
    fields: h("p", {}, "You are signed out here and everywhere else. Your API keys go on working."),
    button: "End all sessions",
    danger: true,
    act: async () => {
      await callJson("POST", "/auth/logout", {});
      return true;
    },
  });
  if (!done) return;
  await signOut({ ended: true });
  announce("All sessions have ended");
}
