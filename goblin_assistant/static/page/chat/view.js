// The chat: messages, the field to write in, the model. One answer at a time.

import { callJson } from "../api.js";
import { announce, h, ICONS, icon } from "../dom.js";
import { Answer, question } from "./message.js";
import { changed, store } from "./store.js";
import { ask } from "./stream.js";

const DRAFT = "goblin.draft";
const MODEL = "goblin.model";
let leave = null;

/** Show a conversation in `room`, a new one without `id`. */
export async function showChat(room, id) {
  leave?.();
  const chat = new Chat(room);
  leave = () => chat.stop();
  await chat.open(id);
}

/** Another view is opened: an answer on its way is stopped. */
export function leaveChat() {
  leave?.();
  leave = null;
}

class Chat {
  constructor(room) {
    this.room = room;
    this.conversation = null;
    this.messages = [];
    this.asking = null;
    this.list = h("div", { class: "messages" });
    this.field = h("textarea", {
      rows: 1, placeholder: "Ask something", "aria-label": "Message",
      oninput: () => this.typed(), onkeydown: (event) => this.key(event),
    });
    this.model = h("select", { "aria-label": "Model", class: "model",
      onchange: () => localStorage.setItem(MODEL, this.model.value) });
    this.button = h("button", { class: "main icon send", onclick: () => this.sendOrStop() });
    this.waiting(false);
    this.scroll = h("div", { class: "scroll", tabindex: "-1" }, this.list);
    room.replaceChildren(
      h("h1", { class: "unseen" }, "Chat"),
      this.scroll,
      h("form", { class: "composer", onsubmit: (event) => this.submitted(event) },
        this.field, h("div", { class: "row between" }, this.model, this.button)));
  }

  async open(id) {
    this.field.value = sessionStorage.getItem(DRAFT) ?? "";
    this.grow();
    try {
      await this.models();
      if (id !== null) {
        this.conversation = await store.get(id);
        this.messages = await store.messages(id);
        for (const [at, one] of this.messages.entries()) this.show(one, at);
        this.scroll.scrollTop = this.scroll.scrollHeight;
      } else {
        this.list.replaceChildren(h("p", { class: "hello" }, "What would you like to know?"));
      }
    } catch (error) {
      this.list.replaceChildren(h("p", { class: "notice bad", role: "alert" }, error.message));
    }
    this.field.focus();
  }

  async models() {
    const [{ data }, settings] = await Promise.all([
      callJson("GET", "/v1/models"), callJson("GET", "/settings/"),
    ]);
    const wanted = localStorage.getItem(MODEL) ?? settings.model ?? settings.default_model;
    this.model.replaceChildren(...data.map(({ id }) => h("option", { value: id }, id)));
    const match = data.find(({ id }) => id === wanted || id.endsWith(`/${wanted}`)) ?? data[0];
    if (match) this.model.value = match.id;
  }

  show(message, at) {
    if (message.role === "user") {
      this.list.append(question(message.text, () => this.edit(at)));
      return null;
    }
    const answer = new Answer(() => this.again(at));
    this.list.append(answer.element);
    if (message.details.reasoning) answer.reason(message.details.reasoning);
    if (message.text) answer.text(message.text);
    if (message.details) answer.finish(message.details, message.details.error);
    return answer;
  }

  submitted(event) {
    event.preventDefault();
    this.sendOrStop();
  }

  key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!this.asking) this.sendOrStop();
    }
    if (event.key === "Escape") this.stop();
  }

  typed() {
    sessionStorage.setItem(DRAFT, this.field.value);
    this.grow();
  }

  grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight + 2, innerHeight * 0.4)}px`;
  }

  sendOrStop() {
    if (this.asking) return this.stop();
    const text = this.field.value.trim();
    if (!text) return undefined;
    this.field.value = "";
    this.typed();
    return this.send(text, this.messages.length);
  }

  stop() { this.asking?.abort(); }

  edit(at) {
    if (this.asking) return;
    this.field.value = this.messages[at].text;
    this.cut(at);
    this.typed();
    this.field.focus();
  }

  again(at) {
    if (this.asking || this.messages[at - 1]?.role !== "user") return;
    const { text } = this.messages[at - 1];
    this.cut(at - 1);
    this.send(text, at - 1);
  }

  cut(at) {
    this.messages.length = at;
    while (this.list.children.length > at) this.list.lastChild.remove();
  }

  waiting(yes) {
    this.button.replaceChildren(icon(yes ? ICONS.stop : ICONS.send));
    this.button.setAttribute("aria-label", yes ? "Stop" : "Send");
  }

  async send(text, at) {
    if (at === 0) this.list.replaceChildren();
    this.messages.push({ role: "user", text, attachments: [], details: {} });
    this.show(this.messages.at(-1), at);
    const answer = new Answer(() => this.again(at + 1));
    this.list.append(answer.element);
    this.follow();
    this.asking = new AbortController();
    this.waiting(true);
    let said = "", reasoning = "", error = "", details = { model: this.model.value };
    try {
      details = await ask(
        { model: this.model.value, messages: this.messages.map(sent) },
        {
          signal: this.asking.signal,
          onText: (more) => { said += more; answer.text(more); this.follow(); },
          onReasoning: (more) => { reasoning += more; answer.reason(more); },
        });
    } catch (caught) {
      error = caught.name === "AbortError" ? "Stopped." : sentence(caught);
      if (caught.correlationId) details.correlation_id = caught.correlationId;
    }
    this.asking = null;
    this.waiting(false);
    answer.finish(details, error);
    this.follow();
    announce(error || "The answer is complete");
    const kept = { ...details };
    if (error) kept.error = error;
    if (reasoning) kept.reasoning = reasoning;
    this.messages.push({ role: "assistant", text: said, attachments: [], details: kept });
    await this.keep(at, answer);
  }

  async keep(at, answer) {
    try {
      if (this.conversation === null) {
        const title = this.messages[0].text.split("\n")[0].slice(0, 80);
        this.conversation = await store.create(title, { model: this.model.value });
        // The reader may be elsewhere by now.
        if (/^#\/chat\/?$/.test(location.hash)) {
          history.replaceState(null, "", `#/chat/${this.conversation.id}`);
        }
      }
      this.conversation = await store.write(this.conversation, at, this.messages.slice(at));
      changed(this.conversation.id);
    } catch (error) {
      const said = `Not kept: ${error.message}`;
      answer.foot.append(h("p", { class: "notice bad", role: "alert" }, said));
    }
  }

  follow() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll;
    if (scrollHeight - scrollTop - clientHeight < 160) this.scroll.scrollTop = scrollHeight;
  }
}

function sent({ role, text }) {
  return { role, content: text };
}

const WHO = {
  provider: "The provider failed", limit: "A limit was reached", gateway: "This server failed",
  client: "The request was refused", connection: "No connection",
};

function sentence(error) {
  const who = WHO[error.source] ?? "It failed";
  const wait = error.retryAfter ? ` Try again in ${Math.ceil(error.retryAfter)} s.` : "";
  return `${who}${error.provider ? ` (${error.provider})` : ""}: ${error.message}.${wait}`;
}
