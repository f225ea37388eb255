// The entry point: renews the session from the cookie, then shows the sign-in form or the views.

import "./policy.js";

import { showDoor } from "./account/door.js";
import { h } from "./dom.js";
import { left, renew, session, user } from "./session.js";
import { leaveRooms, showRooms } from "./shell/rooms.js";

const place = document.getElementById("page");
const ENDED = "Your session has ended. What you were writing is kept.";
let wasIn = false;

async function show() {
  if (user !== null) {
    wasIn = true;
    await showRooms(place);
  } else {
    leaveRooms();
    await showDoor(place, wasIn && !left ? ENDED : "");
  }
}

async function start() {
  try {
    await renew();
  } catch (error) {
    if (error.status !== 401) {
      place.replaceChildren(
        h("main", { class: "waiting" },
          h("p", { role: "alert" }, error.message),
          h("button", { onclick: () => location.reload() }, "Try again")));
      return;
    }
  }
  session.addEventListener("change", show);
  await show();
}

start();
