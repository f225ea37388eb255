// The chat as a view: conversations at the side, the open one in the room.

import { style } from "../dom.js";
import { Sidebar } from "./sidebar.js";
import { leaveChat, showChat } from "./view.js";

/** Show the chat; see shell/rooms.js. `path` is the conversation's id, or empty for a new one. */
export async function show({ room, side, path, signal, openSide, closeSide }) {
  await style("chat");
  const sidebar = new Sidebar(closeSide);
  side.replaceChildren(sidebar.element);
  addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      openSide();
      sidebar.search.focus();
    }
  }, { signal });
  signal.addEventListener("abort", leaveChat);
  sidebar.follow(signal);
  const go = ([id]) => showChat(room, /^\d+$/.test(id ?? "") ? id : null);
  await Promise.all([sidebar.fill(), go(path)]);
  return go;
}
