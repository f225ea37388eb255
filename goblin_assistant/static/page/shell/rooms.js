// What stands around the views: conversations at the side, who is signed in, and the way out.

import { showChat } from "../chat/view.js";
import { store } from "../chat/store.js";
import { h, ICONS, icon, style } from "../dom.js";
import { signOut, user } from "../session.js";

let current = null;

/** Show the rooms of the signed-in user in `place`. */
export async function showRooms(place) {
  await style("chat");
  const list = h("ul", { class: "conversations" });
  const search = h("input", {
    type: "search", placeholder: "Search (Ctrl-K)", "aria-label": "Search conversations",
  });
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => fill(list, search.value.trim()), 200);
  });
  const side = h("aside", { id: "side", class: "side", "aria-label": "Conversations" },
    h("div", { class: "row" },
      h("a", { class: "button main-link", href: "#/chat" }, icon(ICONS.add), "New chat")),
    search,
    h("nav", { "aria-label": "Conversations" }, list),
    h("div", { class: "who" },
      h("span", { class: "soft small" }, user.email),
      h("button", { class: "plain small", onclick: signOut }, "Sign out")));
  const room = h("main", { class: "room" });
  const menu = h("button", {
    class: "plain icon menu", "aria-label": "Conversations", "aria-controls": "side",
    "aria-expanded": "false",
    onclick: () => open(!side.classList.contains("open")),
  }, icon(ICONS.menu));
  const open = (yes) => {
    side.classList.toggle("open", yes);
    menu.setAttribute("aria-expanded", String(yes));
  };
  side.addEventListener("click", (event) => { if (event.target.closest("a")) open(false); });
  place.replaceChildren(h("div", { class: "rooms" }, side, menu, room));
  const go = () => {
    const id = /^#\/chat\/(\d+)$/.exec(location.hash)?.[1] ?? null;
    return showChat(room, id, () => fill(list));
  };
  if (current) current.abort();
  current = new AbortController();
  addEventListener("hashchange", go, { signal: current.signal });
  addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open(true);
      search.focus();
    }
  }, { signal: current.signal });
  await Promise.all([fill(list), go()]);
}

async function fill(list, search = "") {
  let rows;
  try {
    ({ rows } = await store.list(search));
  } catch (error) {
    list.replaceChildren(h("li", { class: "soft small" }, error.message));
    return;
  }
  list.replaceChildren(...rows.map((row) => h("li", {},
    h("a", {
      href: `#/chat/${row.id}`,
      "aria-current": location.hash === `#/chat/${row.id}` ? "page" : null,
    }, row.title || "Untitled"))));
  if (rows.length === 0) {
    const none = search ? "Nothing found." : "No conversations yet.";
    list.append(h("li", { class: "soft small" }, none));
  }
}
