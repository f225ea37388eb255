// The frame around the views: navigation, the user's name, and signing out.

import { h, ICONS, icon, style } from "../dom.js";
import { signOut, user } from "../session.js";
import { problem, showProblem } from "./problem.js";

/**
 * The views. A view's module is loaded when it is first opened; its
 * `show({ room, side, path, signal })` fills `room`, and `side` if it needs more than the
 * navigation. `path` is the part of the URL after the view's name. `signal` is aborted when the
 * user leaves the view. If `show` returns a function, it is called with each new path while the
 * view is open.
 */
const VIEWS = {
  chat: { label: "Chat", icon: ICONS.chat, load: () => import("../chat/room.js") },
  keys: { label: "API keys", icon: ICONS.key, load: () => import("../keys/view.js") },
  usage: { label: "Usage", icon: ICONS.chart, load: () => import("../usage/view.js") },
  status: { label: "Status", icon: ICONS.pulse, load: () => import("../status/view.js") },
  settings: { label: "Settings", icon: ICONS.settings, load: () => import("../settings/view.js") },
};
const FIRST = "chat";
const PHONE = matchMedia("(max-width: 46rem)");

class NotLoaded extends Error {
  constructor() { super("This view could not be loaded. Check your connection."); }
}

let frame = null;

/** Show the rooms of the signed-in user in `place`. */
export async function showRooms(place) {
  await style("shell");
  frame?.close();
  if (user === null) return; // signed out meanwhile
  frame = new Frame(place);
  await frame.go();
}

/** Close the views, and stop all their work. */
export function leaveRooms() {
  frame?.close();
  frame = null;
}

class Frame {
  constructor(place) {
    this.closing = new AbortController();
    this.leaving = new AbortController();
    this.view = null;
    this.moved = null;
    this.links = new Map(Object.entries(VIEWS).map(([name, view]) => [
      name, h("a", { href: `#/${name}` }, icon(view.icon), view.label)]));
    this.slot = h("div", { class: "side-own" });
    this.said = h("div", {});
    this.title = h("span", { class: "bar-title" });
    this.menu = h("button", {
      class: "plain icon", "aria-label": "Menu", "aria-controls": "side",
      "aria-expanded": "false", onclick: () => this.open(true),
    }, icon(ICONS.menu));
    this.side = h("aside", { id: "side", class: "side", "aria-label": "Views" },
      h("nav", { class: "views", "aria-label": "Views" }, ...this.links.values()),
      this.slot,
      this.said,
      h("div", { class: "who" },
        h("span", { class: "soft small", title: user.email }, user.email),
        h("button", { class: "plain small", onclick: () => this.signOut() }, "Sign out")));
    this.room = h("main", { class: "room", id: "room", tabindex: "-1" });
    const skip = h("button", { class: "skip", onclick: () => this.room.focus() },
      "Skip to the content");
    const shade = h("div", { class: "shade", onclick: () => this.open(false) });
    place.replaceChildren(h("div", { class: "rooms" }, skip,
      h("header", { class: "bar" }, this.menu, this.title), this.side, shade, this.room));
    this.listen();
    this.open(false);
  }

  listen() {
    const { signal } = this.closing;
    addEventListener("hashchange", () => this.go(), { signal });
    PHONE.addEventListener("change", () => this.open(false), { signal });
    this.side.addEventListener("click", (event) => {
      if (event.target.closest("a")) this.open(false);
    });
    this.side.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && PHONE.matches) this.open(false);
    });
  }

  /** On a phone the sidebar is hidden behind the menu button, and cannot get the focus. */
  open(yes) {
    const was = this.side.classList.contains("open");
    this.side.classList.toggle("open", yes && PHONE.matches);
    this.side.inert = PHONE.matches && !yes;
    this.room.inert = PHONE.matches && yes;
    this.menu.setAttribute("aria-expanded", String(yes && PHONE.matches));
    if (!PHONE.matches) return;
    if (yes) this.side.querySelector("a, button, input").focus();
    else if (was) this.menu.focus();
  }

  async signOut() {
    this.said.replaceChildren();
    try {
      await signOut();
    } catch (error) {
      this.said.replaceChildren(problem(error)); // the next user must not find the session open
    }
  }

  close() {
    this.closing.abort();
    this.leaving.abort();
  }

  /** Show what the address says. */
  async go() {
    const [name, ...path] = location.hash.replace(/^#\/?/, "").split("/");
    if (!Object.hasOwn(VIEWS, name)) {
      history.replaceState(null, "", `#/${FIRST}`);
      return this.go();
    }
    if (this.view === name && this.moved) return this.moved(path);
    const first = this.view === null;
    await this.enter(name, path);
    if (!first && !this.room.contains(document.activeElement)) this.greet();
    return undefined;
  }

  async enter(name, path) {
    this.leaving.abort();
    this.leaving = new AbortController();
    const { signal } = this.leaving;
    this.view = name;
    this.moved = null;
    this.title.textContent = VIEWS[name].label;
    document.title = `${VIEWS[name].label} · Goblin Assistant`;
    for (const [one, link] of this.links) {
      if (one === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.room.setAttribute("aria-busy", "true");
    // Each view gets its own elements: a slow view that was left cannot write into the next one.
    const room = h("div", { class: `view ${name}` });
    const side = h("div", { class: "side-view" });
    this.room.replaceChildren(room);
    this.slot.replaceChildren(side);
    try {
      const { show } = await VIEWS[name].load().catch(() => { throw new NotLoaded(); });
      if (signal.aborted) return;
      const moved = await show({
        room, side, path, signal, openSide: () => this.open(true), closeSide: () => this.open(false),
      });
      if (!signal.aborted) this.moved = moved ?? null;
    } catch (error) {
      if (signal.aborted) return;
      // Browsers may remember that a module could not be loaded.
      const again = error instanceof NotLoaded ? () => location.reload() : () => this.enter(name, path);
      showProblem(room, error, again);
    } finally {
      if (!signal.aborted) this.room.removeAttribute("aria-busy");
    }
  }

  /** Move the focus to the heading of the new view, for the keyboard and screen readers. */
  greet() {
    const heading = this.room.querySelector("h1") ?? this.room;
    heading.setAttribute("tabindex", "-1");
    heading.focus();
  }
}
