// Where conversations are kept: in the server's database, or, where the operator has switched that
// off, in this tab until it is closed. Both have the same functions.

import { callJson } from "../api.js";
import { meta } from "../dom.js";

const server = {
  list: async (search = "", before = null) => {
    const query = new URLSearchParams({ limit: "50" });
    if (search) query.set("search", search);
    if (before) query.set("before", before);
    const page = await callJson("GET", `/conversations?${query}`);
    return { rows: page.conversations, next: page.next_before };
  },
  create: (title, settings) => callJson("POST", "/conversations", { title, settings }),
  get: (id) => callJson("GET", `/conversations/${id}`),
  rename: (id, title) => callJson("PATCH", `/conversations/${id}`, { title }),
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
      messages,
    }),
};

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
  rename: async (id, title) => Object.assign(kept.get(Number(id)).row, { title }),
  remove: async (id) => { kept.delete(Number(id)); },
  messages: async (id) => kept.get(Number(id))?.messages ?? [],
  write: async (conversation, position, messages) => {
    const one = kept.get(conversation.id);
    one.messages.splice(position, Infinity, ...messages);
    Object.assign(one.row, { revision: one.row.revision + 1, messages: one.messages.length });
    return one.row;
  },
};

export const store = meta("conversations") === "off" ? tab : server;
