// What stands around the views: who is signed in, and the way out.

import { h } from "../dom.js";
import { signOut, user } from "../session.js";

/** Show the rooms of the signed-in user in `place`. */
export async function showRooms(place) {
  place.replaceChildren(
    h("main", { class: "waiting" },
      h("h1", {}, "Goblin Assistant"),
      h("p", {}, `Signed in as ${user.email}`),
      h("button", { onclick: signOut }, "Sign out")));
}
