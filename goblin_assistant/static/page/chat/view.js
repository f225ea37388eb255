// The open conversation: its messages, and asking. One answer at a time.

import { announce, h } from "../dom.js";
import { problem } from "../shell/problem.js";
import { Composer } from "./composer.js";
import { Draft } from "./drafts.js";
import { save } from "./export.js";
import { failureText } from "./failure.js";
import { Header } from "./header.js";
import { Keeper } from "./keeper.js";
import { Answer, Later, Question } from "./message.js";
import { ModelPicker } from "./models.js";
import { changes } from "./store.js";
import { ask } from "./stream.js";

const AT_ONCE = 12;
const NEAR_END = 80;
const SPOKEN = 1500;
let current = null;

/** Show a conversation in `room`, a new one without `id`. */
export async function showChat(room, id) {
  leaveChat();
  current = new Chat(room);
  await current.open(id);
}

/** Leave the open conversation: an answer that is still coming is stopped. */
export function leaveChat() {
  current?.leave();
  current = null;
}

class Chat {
  constructor(room) {
    this.room = room;
    this.leaving = new AbortController();
    this.keeper = new Keeper((conversation) => this.kept(conversation));
    this.settings = {};
    this.messages = [];
    this.asking = null;
    this.missed = false;
    this.pinned = true;
    this.picker = new ModelPicker(() => this.composer?.modelChanged());
    this.composer = new Composer({
      picker: this.picker,
      onSend: (text, attachments) => this.sendOpened(text, attachments),
      onStop: () => this.stop(),
    });
    this.header = new Header({
      settings: (values) => this.configure(values),
      rename: (title) => this.keeper.change({ title }),
      save: (form) => save(this.keeper.conversation, this.messages, form),
      remove: () => this.remove(),
    });
    this.list = h("div", { class: "messages" });
    this.scroll = h("div", {
      class: "scroll", tabindex: "0", role: "region", "aria-label": "Chat",
      onscroll: () => { this.pinned = this.toEnd() < NEAR_END; },
    }, this.list);
    this.later = new Later(this.scroll);
    this.listen();
    room.replaceChildren(this.header.element, this.scroll, this.composer.element);
  }

  listen() {
    const { signal } = this.leaving;
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.stop();
    }, { signal });
    changes.addEventListener("change", ({ detail }) => {
      if (!detail.here && detail.id === this.keeper.id) this.refresh();
    }, { signal });
  }

  get left() { return this.leaving.signal.aborted; }

  async open(id) {
    this.composer.begin(new Draft(id));
    this.composer.focus();
    this.opened = this.load(id);
    try {
      await this.opened;
    } catch (error) {
      this.list.replaceChildren(problem(error, () => showChat(this.room, id)));
    }
  }

  async load(id) {
    const wanted = id === null ? null : this.read(id);
    // Both at once; the models need not wait for the conversation.
    const [, model] = await Promise.all([this.picker.load(null), wanted]);
    if (model) this.picker.choose(model);
    if (id === null) this.greet();
  }

  /** Send, once it is known what stands before: the position follows from it. */
  async sendOpened(text, attachments) {
    this.composer.setBusy(true);
    const failed = await this.opened.then(() => null, (error) => error);
    this.composer.setBusy(false);
    if (!failed && !this.left && !this.asking) {
      this.send(text, attachments, this.messages.length);
      return;
    }
    this.composer.restore(text, attachments);
    if (failed) this.composer.say("The chat is not open yet. Try again above.");
  }

  greet() {
    this.list.replaceChildren(h("p", { class: "hello" }, "What would you like to know?"));
  }

  /** Read a conversation and show it; its model. */
  async read(id) {
    this.messages = await this.keeper.read(id);
    if (this.left) return null;
    this.showAll();
    return this.keeper.conversation.settings.model;
  }

  /** Another tab has written to this conversation, or deleted it. */
  async refresh() {
    try {
      const messages = await this.keeper.refresh(() => !this.asking && !this.left);
      this.missed = messages === null;
      if (this.missed) return; // something of this tab is on its way: afterwards
      this.messages = messages;
      this.showAll();
    } catch (error) {
      if (!this.left) this.composer.say(error.message);
    }
  }

  kept(conversation) {
    this.settings = this.header.values = { ...conversation.settings };
    if (this.left) return;
    this.header.show(conversation);
    const address = `#/chat/${conversation.id}`;
    if (location.hash !== address) history.replaceState(null, "", address);
    this.composer.move(new Draft(conversation.id));
  }

  async configure(values) {
    Object.assign(this.settings, values);
    this.header.values = this.settings;
    if (this.keeper.conversation) await this.keeper.change({ settings: this.settings });
  }

  async remove() {
    this.stop();
    await this.keeper.remove();
    location.hash = "#/chat";
  }

  // -- what is shown ------------------------------------------------------------------------------
  showAll() {
    this.later.clear();
    this.list.replaceChildren();
    const first = this.messages.length - AT_ONCE;
    for (const [at, message] of this.messages.entries()) {
      if (message.role === "user") this.showQuestion(message, at);
      else {
        const answer = this.newAnswer(at);
        answer.later(message);
        answer.element.dataset.kept = "";
        if (at < first) this.later.add(answer);
        else answer.now();
      }
    }
    this.scroll.scrollTop = this.scroll.scrollHeight;
    this.pinned = true;
  }

  showQuestion(message, at) {
    const question = new Question(message, {
      onResend: (text) => this.send(text, message.attachments, at),
      onAgain: () => this.again(at + 1),
    });
    this.list.append(question.element);
  }

  newAnswer(at) {
    const answer = new Answer({ onAgain: () => this.again(at), onShown: () => this.follow() });
    this.list.append(answer.element);
    return answer;
  }

  cut(at) {
    if (this.messages.length === 0) this.list.replaceChildren();
    this.messages.length = Math.min(at, this.messages.length);
    while (this.list.children.length > at) this.list.lastChild.remove();
  }

  toEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll;
    return scrollHeight - scrollTop - clientHeight;
  }

  follow() { if (this.pinned) this.scroll.scrollTop = this.scroll.scrollHeight; }

  // -- asking -------------------------------------------------------------------------------------
  stop() { this.asking?.abort(); }

  leave() {
    this.leaving.abort();
    this.later.clear();
    this.stop();
  }

  send(text, attachments, at) {
    if (this.asking) return;
    this.cut(at);
    const message = { role: "user", text, attachments, details: {} };
    this.messages.push(message);
    this.showQuestion(message, at);
    this.pinned = true;
    this.run(at);
  }

  /** Ask once more for the answer at this position. */
  again(at) {
    if (this.asking || this.messages[at - 1]?.role !== "user") return;
    const before = this.messages.slice(at);
    this.cut(at);
    this.run(at - 1, before);
  }

  /** Ask for the answer to the question at this position; `before` is what has stood there. */
  async run(at, before = []) {
    const answer = this.newAnswer(at + 1);
    this.follow();
    const asking = this.asking = new AbortController();
    this.composer.setBusy(true);
    announce("Waiting for the answer");
    this.settings.model = this.picker.value;
    // The answer that is asked for anew stays in the store until there is another.
    if (before.length === 0) this.keeper.keep(this.settings, at, this.messages);
    const details = { model: this.picker.value };
    let said = "", reasoning = "", failed = null;
    try {
      await ask(this.body(), {
        signal: asking.signal,
        details,
        onText: (more) => { said += more; answer.text(more); },
        onReasoning: (more) => { reasoning += more; answer.reason(more); },
      });
    } catch (error) {
      failed = error;
    }
    this.asking = null;
    this.composer.setBusy(false);
    if (failed && !said && !reasoning && before.some(({ text }) => text)) {
      this.messages.push(...before);
      if (this.left) return;
      this.showAll();
      this.composer.say(ending(failed, details).error);
      if (this.missed) await this.refresh();
      return;
    }
    if (failed && !said && !reasoning && notSent(failed)) {
      await this.takeBack(at, failed);
      return;
    }
    const end = ending(failed, details);
    answer.finish(details, end);
    this.follow();
    announce(end.error || said.slice(0, SPOKEN) || "The answer is empty");
    const more = { ...(end.error && { error: end.error }), ...(reasoning && { reasoning }) };
    this.messages.push(
      { role: "assistant", text: said, attachments: [], details: { ...details, ...more } });
    await this.keepAnswer(at, answer);
  }

  /** The request's body, from the messages up to the question. */
  body() {
    const { system_prompt: prompt, temperature, max_tokens: most } = this.settings;
    const messages = this.messages
      .filter(({ text, attachments }) => text || attachments.length)
      .map((one) => sent(one, this.picker.sees));
    return {
      model: this.picker.value,
      messages: prompt ? [{ role: "system", content: prompt }, ...messages] : messages,
      ...(temperature !== null && temperature !== undefined && { temperature }),
      ...(most && { max_tokens: most }),
    };
  }

  /** The server was not reached: the message is not lost, and not sent. */
  async takeBack(at, error) {
    const { text, attachments } = this.messages[at];
    this.composer.restore(text, attachments);
    this.composer.say(`${error.message} Your message is back in the field.`);
    this.cut(at);
    if (this.messages.length === 0) this.greet();
    await this.keeper.settled();
  }

  async keepAnswer(at, answer) {
    const all = [...this.messages];
    let failed = await this.keeper.keep(this.settings, at + 1, all);
    if (failed?.status === 409) {
      // Another tab was first: what was said here comes after it.
      this.composer.setBusy(true);
      try {
        this.messages = await this.keeper.append(all.slice(Math.min(at, this.keeper.written)));
        if (!this.left) this.showAll();
        failed = null;
      } catch (error) {
        failed = error;
      }
      this.composer.setBusy(false);
    }
    if (failed === null) {
      answer.element.dataset.kept = "";
      for (const notice of this.list.querySelectorAll(".not-kept")) notice.remove();
    } else {
      answer.foot.append(
        h("p", { class: "notice bad not-kept", role: "alert" }, `Not kept: ${failed.message}`));
    }
    if (this.missed && failed === null) await this.refresh();
  }
}

function notSent(error) {
  return error.status === 401 || error.code === "unreachable";
}

function ending(error, details) {
  if (error === null) return {};
  if (error.name === "AbortError") return { error: "Stopped.", stopped: true };
  if (error.correlationId) details.correlation_id = error.correlationId;
  return {
    error: failureText(error), retryAfter: error.retryAfter, correlationId: error.correlationId,
  };
}

function sent({ role, text, attachments }, sees) {
  if (!sees || attachments.length === 0) return { role, content: text };
  const images = attachments.map((url) => ({ type: "image_url", image_url: { url } }));
  return { role, content: [...(text ? [{ type: "text", text }] : []), ...images] };
}
