// What somebody has begun to write, by person and conversation, in this tab until it is closed.

import { left, session, user } from "../session.js";

const BEGIN = "goblin.draft.";

/** The draft of a conversation; `id` null is a new one. It stays this person's. */
export class Draft {
  constructor(id) {
    this.key = `${BEGIN}${user.id}.${id ?? "new"}`;
  }

  get text() { return sessionStorage.getItem(this.key) ?? ""; }

  set text(text) {
    if (text) sessionStorage.setItem(this.key, text);
    else sessionStorage.removeItem(this.key);
  }
}

// Whoever signs out leaves nothing behind. A session that ends by itself keeps the drafts.
session.addEventListener("change", () => {
  if (user !== null || !left) return;
  for (const key of Object.keys(sessionStorage)) {
    if (key.startsWith(BEGIN)) sessionStorage.removeItem(key);
  }
});
