// Settings: the defaults of the user's chats, the password, the sessions.

import { h } from "../dom.js";
import { user } from "../session.js";
import { defaults } from "./defaults.js";
import { password } from "./password.js";
import { sessions } from "./sessions.js";

/** Show the view; see shell/rooms.js. */
export async function show({ room }) {
  const list = sessions();
  const parts = [defaults(), password(list.fill), list];
  room.replaceChildren(h("div", { class: "paged" },
    h("div", { class: "head" }, h("div", {},
      h("h1", {}, "Settings"),
      h("p", { class: "soft" }, about()))),
    ...parts.map((part) => part.element)));
  await Promise.all(parts.map((part) => part.fill()));
}

function about() {
  const limits = [
    user.requests_per_minute && `${user.requests_per_minute} chats a minute`,
    user.tokens_per_minute && `${user.tokens_per_minute.toLocaleString()} tokens a minute`,
  ].filter(Boolean);
  const own = limits.length > 0 ? ` Your own limits: ${limits.join(", ")}.` : "";
  return `${user.email}${user.role === "admin" ? ", an admin" : ""}.${own}`;
}
