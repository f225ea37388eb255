// What somebody has begun to write, by person and conversation, in this tab until it is closed.

import { left, session, user } from "../session.js";

const BEGIN = "goblin.draft.";

/** The draft of a conversation; `id` null is a new one. It stays this person's. */
export class Draft {
  constructor(id) {
    this.key = `${BEGIN}${user.id}.${id ?? "new"}`;
  }

  get text() { return tried(() => sessionStorage.getItem(this.key)) ?? ""; }

  set text(text) {
    tried(() => {
      if (text) sessionStorage.setItem(this.key, text);
      else sessionStorage.removeItem(this.key);
    });
  }
}

// Whoever signs out leaves nothing behind. A session that ends by itself keeps the drafts.
session.addEventListener("change", () => {
  if (user !== null || !left) return;
  tried(() => {
    for (const key of Object.keys(sessionStorage)) {
      if (key.startsWith(BEGIN)) sessionStorage.removeItem(key);
    }
  });
});

/** A browser may refuse its storage, and the storage may be full: then drafts are not kept. */
function tried(work) {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    return null;
  }
}
