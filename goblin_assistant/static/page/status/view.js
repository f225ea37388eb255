// Status: services, circuit breakers and chat slots of the instance that answers, in plain words.

import { announce, h, ICONS, icon } from "../dom.js";
import { problem } from "../shell/problem.js";
import { when } from "../shell/times.js";
import { report } from "./report.js";
import { ABOUT, circuit, OVERALL, SERVICE } from "./words.js";

const SECONDS = 10;
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

/** Show the view; see shell/rooms.js. It asks every SECONDS while it can be seen. */
export async function show({ room, signal }) {
  const state = { signal, timer: 0, last: null, asking: false };
  state.stamp = h("p", { class: "soft small" });
  state.body = h("div", { class: "stack" });
  const refresh = h("button", { onclick: () => look(state) }, icon(ICONS.again), "Refresh");
  room.replaceChildren(h("div", { class: "paged" },
    h("div", { class: "head" },
      h("div", {}, h("h1", {}, "Status"), state.stamp), refresh),
    state.body));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) look(state);
  }, { signal });
  signal.addEventListener("abort", () => clearTimeout(state.timer));
  await look(state);
}

async function look(state) {
  if (state.asking || state.signal.aborted) return;
  state.asking = true;
  clearTimeout(state.timer);
  let wait = SECONDS;
  try {
    const found = await report(state.signal);
    draw(state, found);
  } catch (error) {
    if (state.signal.aborted) return;
    wait = Math.max(SECONDS, error.retryAfter ?? 0);
    state.body.replaceChildren(
      h("p", {}, "The state of this server cannot be shown here. It says why:"),
      problem(error, () => look(state)));
    state.last = null;
  } finally {
    state.asking = false;
  }
  if (!state.signal.aborted && !document.hidden) {
    state.timer = setTimeout(() => look(state), wait * 1000);
  }
}

function draw(state, found) {
  const [word, sentence] = OVERALL[found.status];
  if (state.last !== null && state.last !== found.status) announce(sentence);
  state.last = found.status;
  state.stamp.textContent = `As of ${CLOCK.format(new Date())}; asked again every ${SECONDS} seconds.`;
  const all = Object.entries(found.services);
  const of = (kind) => all.filter(([, one]) => one.kind === kind && one.status !== "disabled");
  const off = all.filter(([, one]) => one.status === "disabled").map(([name]) => name);
  state.body.replaceChildren(
    h("p", { class: `overall card ${word}` }, tag(word, word), " ", sentence),
    slots(found.chat_slots),
    section("Providers", of("provider")),
    section("What this server depends on", of("dependency"),
      off.length > 0 ? `Not set up: ${off.join(", ")}.` : ""));
}

function tag(word, text) {
  const kind = { healthy: "good", unhealthy: "bad", degraded: "warn" }[word] ?? "";
  return h("span", { class: `tag ${kind}` }, text);
}

function slots({ limit, in_use: used, waiting }) {
  const free = limit - used;
  const sentence = waiting > 0
    ? `All ${limit} chat slots are taken, and ${waiting} ${waiting === 1 ? "chat waits" : "chats wait"}.`
    : free === 0
      ? `All ${limit} chat slots are taken. The next one waits.`
      : `${used} of ${limit} chat slots are taken.`;
  return h("section", { class: "card", "aria-label": "Chats" },
    h("h2", {}, "Chats"),
    h("meter", { min: 0, max: limit, value: used, high: limit * 0.9, "aria-label": "Chat slots taken" }),
    h("p", {}, sentence));
}

function section(title, services, more = "") {
  return h("section", { class: "card scrolls", "aria-label": title },
    h("h2", {}, title),
    h("table", { class: "list cards" },
      h("thead", {}, h("tr", {},
        ...["Name", "State", "What it means", "Checked"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, ...services.map(([name, service]) => row(name, service)))),
    more ? h("p", { class: "soft small" }, more) : null);
}

function row(name, service) {
  const [word, meaning] = SERVICE[service.status];
  return h("tr", {},
    h("td", { class: "first" }, h("div", {}, h("strong", {}, name),
      ABOUT[name] ? h("p", { class: "soft small" }, ABOUT[name]) : null)),
    h("td", { "data-label": "State" }, h("div", {}, tag(service.status, word))),
    h("td", { class: "first" }, h("div", {},
      h("p", {}, service.error ? `${meaning} ${service.error}.` : meaning),
      service.circuit ? h("p", { class: service.circuit === "closed" ? "soft small" : "" },
        circuit(service.circuit)) : null,
      service.last_change && service.status !== "unknown"
        ? h("p", { class: "soft small" }, "Changed ", when(service.last_change)) : null)),
    h("td", { "data-label": "Checked" }, h("div", {}, when(service.last_check, "not yet"))));
}
