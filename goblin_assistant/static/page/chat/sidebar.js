// The conversations at the side: a new one, the search, the list.

import { h, ICONS, icon } from "../dom.js";
import { changes, store } from "./store.js";

const SEARCH_AFTER_MS = 200;

export class Sidebar {
  /** `onMove` is called when somebody has chosen something. */
  constructor(onMove) {
    this.list = h("ul", { class: "conversations" });
    this.search = h("input", {
      type: "search", placeholder: "Search (Ctrl-K)", "aria-label": "Search conversations",
      "aria-keyshortcuts": "Control+K", maxlength: 200, oninput: () => this.typed(),
      onkeydown: (event) => this.key(event),
    });
    this.element = h("div", { class: "side-chats" },
      h("a", { class: "button main-link", href: "#/chat", onclick: onMove },
        icon(ICONS.add), "New chat"),
      this.search,
      h("nav", { "aria-label": "Conversations" }, this.list));
    this.list.addEventListener("click", (event) => { if (event.target.closest("a")) onMove(); });
    this.timer = 0;
    this.asked = 0;
  }

  /** Follow changes, of this tab and of others, until `signal` says so. */
  follow(signal) {
    changes.addEventListener("change", () => this.fill(), { signal });
    addEventListener("hashchange", () => this.mark(), { signal });
  }

  /** Show the list anew, or what the search finds. */
  async fill() {
    this.asked += 1;
    const asked = this.asked;
    let page;
    try {
      page = await store.list(this.search.value.trim());
    } catch (error) {
      if (asked === this.asked) this.list.replaceChildren(note(error.message));
      return;
    }
    if (asked !== this.asked) return; // another search has begun meanwhile
    this.list.replaceChildren();
    this.add(page);
    if (page.rows.length === 0) {
      this.list.append(note(this.search.value ? "Nothing found." : "No conversations yet."));
    }
  }

  add({ rows, next }) {
    this.list.append(...rows.map((row) => h("li", {},
      h("a", { href: `#/chat/${row.id}`, dir: "auto" }, row.title || "Untitled"))));
    this.mark();
    if (next === null) return;
    const more = h("li", {}, h("button", {
      class: "plain small", type: "button", onclick: () => this.older(more, next),
    }, "Older conversations"));
    this.list.append(more);
  }

  async older(more, next) {
    more.firstChild.disabled = true;
    const asked = this.asked;
    try {
      const page = await store.list(this.search.value.trim(), next);
      if (asked !== this.asked) return;
      more.remove();
      this.add(page);
    } catch (error) {
      more.replaceWith(note(error.message));
    }
  }

  mark() {
    for (const link of this.list.querySelectorAll("a")) {
      if (link.hash === location.hash) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  typed() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fill(), SEARCH_AFTER_MS);
  }

  key(event) {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.list.querySelector("a")?.focus();
    } else if (event.key === "Escape" && this.search.value) {
      event.stopPropagation();
      this.search.value = "";
      this.fill();
    }
  }
}

function note(text) {
  return h("li", { class: "soft small" }, text);
}
