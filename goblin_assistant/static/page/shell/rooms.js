// What stands around the views: conversations at the side, who is signed in, and the way out.

import { showChat } from "../chat/view.js";
import { Sidebar } from "../chat/sidebar.js";
import { h, ICONS, icon, style } from "../dom.js";
import { signOut, user } from "../session.js";

let current = null;

/** Show the rooms of the signed-in user in `place`. */
export async function showRooms(place) {
  current?.abort();
  current = new AbortController();
  const { signal } = current;
  await style("chat");
  const sidebar = new Sidebar(() => open(false));
  const side = h("aside", { id: "side", class: "side", "aria-label": "Conversations" },
    sidebar.element,
    h("div", { class: "who" },
      h("span", { class: "soft small" }, user.email),
      h("button", { class: "plain small", onclick: signOut }, "Sign out")));
  const room = h("main", { class: "room" });
  const menu = h("button", {
    class: "plain icon menu", "aria-label": "Conversations", "aria-controls": "side",
    "aria-expanded": "false",
    onclick: () => open(!side.classList.contains("open")),
  }, icon(ICONS.menu));
  const shade = h("div", { class: "shade", onclick: () => open(false) });
  const open = (yes) => {
    side.classList.toggle("open", yes);
    menu.setAttribute("aria-expanded", String(yes));
  };
  place.replaceChildren(h("div", { class: "rooms" }, side, shade, menu, room));
  const go = () => {
    const id = /^#\/chat\/(\d+)$/.exec(location.hash)?.[1] ?? null;
    return showChat(room, id);
  };
  addEventListener("hashchange", go, { signal });
  addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open(true);
      sidebar.search.focus();
    }
    if (event.key === "Escape" && side.classList.contains("open")) {
      open(false);
      menu.focus();
    }
  }, { signal });
  sidebar.follow(signal);
  await Promise.all([sidebar.fill(), go()]);
}
