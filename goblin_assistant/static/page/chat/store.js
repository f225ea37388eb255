// Where conversations are kept: in the server's database, or, where the operator has switched that
// off, in this tab until it is closed. Both have the same functions.

import { callJson } from "../api.js";
import { meta } from "../dom.js";
import { left, session, user } from "../session.js";

const server = {
  list: async (search = "", before = null) => {
    const query = new URLSearchParams({ limit: "50" });
    if (search) query.set("search", search);
    if (before) query.set("before", before);
    const page = await callJson("GET", `/conversations?${query}`);
    return { rows: page.conversations, next: page.next_before };
  },
  create: (title, settings) =>
    callJson("POST", "/conversations", { title: whole(title), settings }),
  get: (id) => callJson("GET", `/conversations/${id}`),
  change: (id, values) => callJson("PATCH", `/conversations/${id}`, values),
  remove: (id) => callJson("DELETE", `/conversations/${id}`),
  messages: async (id) => {
    const found = [];
    for (let start = 0; start !== null;) {
      const page = await callJson("GET", `/conversations/${id}/messages?start=${start}`);
      found.push(...page.messages);
      start = page.next_start;
    }
    return found;
  },
  write: (conversation, position, messages) =>
    callJson("PUT", `/conversations/${conversation.id}/messages/${position}`, {
      revision: conversation.revision,
      messages: messages.map(storable),
    }),
};

/** A message as the server takes it: without what the server has added itself. */
function storable({ role, text, attachments, details }) {
  const all = Object.entries(details).map(
    ([name, value]) => [name, typeof value === "string" ? whole(value) : value]);
  return { role, text: whole(text), attachments, details: Object.fromEntries(all) };
}

/** Text without NUL and halves of letters, which the database does not take. */
function whole(text) {
  return text.replaceAll("\0", "\ufffd").toWellFormed();
}

const kept = new Map();
let last = 0;

const tab = {
  list: async (search = "") => {
    const rows = [...kept.values()].map((one) => one.row).reverse();
    const wanted = search.toLowerCase();
    return { rows: rows.filter((row) => row.title.toLowerCase().includes(wanted)), next: null };
  },
  create: async (title, settings) => {
    last += 1;
    const row = { id: last, title, settings, revision: 0, messages: 0 };
    kept.set(last, { row, messages: [] });
    return row;
  },
  get: async (id) => {
    const found = kept.get(Number(id));
    if (!found) throw new Error("There is no such conversation");
    return found.row;
  },
  change: async (id, values) => Object.assign(kept.get(Number(id)).row, values),
  remove: async (id) => { kept.delete(Number(id)); },
  messages: async (id) => [...(kept.get(Number(id))?.messages ?? [])],
  write: async (conversation, position, messages) => {
    const one = kept.get(conversation.id);
    one.messages.splice(position, Infinity, ...messages);
    Object.assign(one.row, { revision: one.row.revision + 1, messages: one.messages.length });
    return one.row;
  },
};

// They are one person's: the next one who signs in here must not find them.
let owner = user?.id ?? null;
session.addEventListener("change", () => {
  if (user === null ? left : user.id !== owner) kept.clear();
  owner = user?.id ?? owner;
});

export const store = meta("conversations") === "off" ? tab : server;

/**
 * Fires `change`, with `detail.id`, when a conversation has changed: `detail.by` is the keeper that
 * has changed it, null in another tab.
 */
export const changes = new EventTarget();

const otherTabs = new BroadcastChannel("goblin-conversations");
otherTabs.onmessage = ({ data }) => tell(data.id, null);

/** Say that `by`, a keeper, has changed a conversation, in this tab and to the others. */
export function changed(id, by) {
  tell(id, by);
  if (store === server) otherTabs.postMessage({ id });
}

function tell(id, by) {
  changes.dispatchEvent(new CustomEvent("change", { detail: { id, by } }));
}
