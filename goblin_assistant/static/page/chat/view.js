// The open conversation: its messages, and asking. One answer at a time.

import { announce, h } from "../dom.js";
import { left, session, user } from "../session.js";
import { problem } from "../shell/problem.js";
import { Composer } from "./composer.js";
import { Draft } from "./drafts.js";
import { Earlier } from "./earlier.js";
import { save } from "./export.js";
import { Header } from "./header.js";
import { Keeper } from "./keeper.js";
import { ModelPicker } from "./models.js";
import { body, ending, notSent } from "./request.js";
import { changes } from "./store.js";
import { ask } from "./stream.js";
import { Thread } from "./thread.js";

const SPOKEN = 1500;
let current = null;

/** Answers that a session which ended left unwritten, by person and conversation. */
const unwritten = new Map();
session.addEventListener("change", () => { if (user === null && left) unwritten.clear(); });

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
    this.person = user.id;
    this.id = null;
    this.leaving = new AbortController();
    this.keeper = new Keeper((conversation) => this.kept(conversation));
    this.settings = {};
    this.messages = [];
    this.earlier = null;
    this.asking = null;
    this.running = null;
    this.missed = false;
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
    this.thread = new Thread({
      send: (text, attachments, at) => this.send(text, attachments, at),
      again: (at) => this.again(at),
      lost: (text) => this.composer.restore(text, []),
    });
    this.listen();
    room.replaceChildren(this.header.element, this.thread.element, this.composer.element);
  }

  listen() {
    const { signal } = this.leaving;
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.stop();
    }, { signal });
    changes.addEventListener("change", ({ detail }) => {
      if (detail.by === this.keeper || String(detail.id) !== this.id) return;
      if (this.keeper.conversation === null) this.missed = true; // still being read
      else this.refresh();
    }, { signal });
  }

  get left() { return this.leaving.signal.aborted; }

  async open(id) {
    this.id = id;
    this.composer.begin(new Draft(id));
    this.composer.focus();
    this.opened = this.load(id);
    try {
      await this.opened;
    } catch (error) {
      this.thread.say(problem(error, () => showChat(this.room, id)));
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
    this.thread.say(h("p", { class: "hello" }, "What would you like to know?"));
  }

  /** Read a conversation and show it; its model. */
  async read(id) {
    this.messages = await this.keeper.read(id);
    if (this.left) return null;
    await this.writeLater(`${this.person}.${this.id}`);
    this.thread.show(this.messages);
    if (this.missed) await this.refresh();
    return this.keeper.conversation.settings.model;
  }

  /** Write what the end of a session has kept from being written. */
  async writeLater(key) {
    const messages = unwritten.get(key);
    if (!messages) return;
    try {
      this.messages = await this.keeper.append(messages);
      unwritten.delete(key);
    } catch (error) {
      this.composer.say(`Not kept: ${error.message}`);
    }
  }

  /** Another tab, or this one before it came back, has written here, or deleted it. */
  async refresh() {
    try {
      const idle = () => !this.asking && !this.left && this.keeper.written >= this.messages.length;
      const messages = await this.keeper.refresh(idle);
      this.missed = messages === null;
      if (this.missed) return; // something of this tab is on its way: afterwards
      this.messages = messages;
      this.earlier = null;
      this.thread.show(this.messages);
    } catch (error) {
      if (!this.left) this.composer.say(error.message);
    }
  }

  kept(conversation) {
    this.id = String(conversation.id);
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
    await this.running; // its last write would lead back here
    await this.keeper.remove();
    location.hash = "#/chat";
  }

  cut(at) {
    this.thread.cut(at, this.messages.length > 0);
    this.messages.length = Math.min(at, this.messages.length);
  }

  // -- asking -------------------------------------------------------------------------------------
  stop() { this.asking?.abort(); }

  leave() {
    this.leaving.abort();
    this.thread.later.clear();
    this.stop();
  }

  send(text, attachments, at) {
    if (this.asking) return;
    this.replace(at);
    const message = { role: "user", text, attachments, details: {} };
    this.messages.push(message);
    this.thread.question(message, at);
    this.thread.pinned = true;
    this.running = this.run(at);
  }

  /** Ask once more for the answer at this position. */
  again(at) {
    if (this.asking || this.messages[at - 1]?.role !== "user") return;
    this.replace(at);
    this.running = this.run(at - 1);
  }

  /** Take away what stands from here on. It stays in the store until the answer is whole. */
  replace(at) {
    this.earlier = Earlier.of(this.messages, at, this.keeper.written, this.earlier);
    this.thread.drop(".bring-back");
    this.cut(at);
  }

  /** Ask for the answer to the question at this position. */
  async run(at) {
    const answer = this.thread.answer(at + 1);
    this.thread.follow();
    const asking = this.asking = new AbortController();
    this.composer.setBusy(true);
    announce("Waiting for the answer");
    this.settings.model = this.picker.value;
    if (!this.earlier) this.keeper.keep(this.settings, at, this.messages);
    const details = { model: this.picker.value };
    let reasoning = "", failed = null;
    try {
      await ask(body(this.picker.value, this.picker.sees, this.settings, this.messages), {
        signal: asking.signal,
        details,
        onText: (more) => answer.text(more),
        onReasoning: (more) => { reasoning += more; answer.reason(more); },
      });
    } catch (error) {
      failed = error;
    }
    this.asking = null;
    this.composer.setBusy(false);
    const said = answer.said;
    if (failed && !said && !reasoning && await this.nothingCame(at, failed, details)) return;
    const end = ending(failed, details);
    answer.finish(details, { ...end, ...(failed && this.wayBack()) });
    this.thread.follow();
    announce(end.error || said.slice(0, SPOKEN) || "The answer is empty");
    const more = { ...(end.error && { error: end.error }), ...(reasoning && { reasoning }) };
    this.messages.push(
      { role: "assistant", text: said, attachments: [], details: { ...details, ...more } });
    await this.keepAttempt(at + 1, answer, failed, end.stopped);
  }

  /** An answer has failed before its first word: whether what was there before is shown again. */
  async nothingCame(at, error, details) {
    if (notSent(error)) {
      await this.takeBack(at, error);
      return true;
    }
    if (!this.earlier?.ofAnswer) return false;
    if (!this.left) this.composer.say(ending(error, details).error);
    await this.bringBack();
    return true;
  }

  /** What `Answer.finish` needs to offer what stood there before. */
  wayBack() {
    return this.earlier && { backLabel: this.earlier.label, onBack: () => this.bringBack(true) };
  }

  /** Show what stood there before somebody asked anew, and have it in the store. */
  async bringBack(chosen = false) {
    const { earlier } = this;
    if (this.asking || !earlier) return;
    this.earlier = null;
    this.messages = [...this.messages.slice(0, earlier.from), ...earlier.messages];
    if (!earlier.replaced) this.keeper.written = earlier.written;
    if (this.left) return;
    this.thread.show(this.messages);
    if (chosen) {
      this.composer.focus();
      announce("It is back");
    }
    if (earlier.replaced) await this.keepFrom(earlier.from);
    else if (this.missed) await this.refresh();
  }

  /** The server was not reached: the message is not lost, and not sent. */
  async takeBack(at, error) {
    const { text, attachments } = this.messages[at];
    if (this.earlier?.ofAnswer) this.composer.say(error.message);
    else {
      this.composer.restore(text, attachments);
      this.composer.say(`${error.message} Your message is back in the field.`);
    }
    if (this.earlier) {
      await this.bringBack();
      return;
    }
    this.cut(at);
    if (this.messages.length === 0) this.greet();
    await this.keeper.settled();
  }

  /** Keep the answer at this position, unless something better than it is in the store. */
  async keepAttempt(at, answer, failed, stopped) {
    const { earlier } = this;
    if (failed && earlier && (!stopped || this.left)) {
      // The next write begins where this attempt does.
      this.keeper.written = Math.min(earlier.from, this.keeper.written);
      return;
    }
    if (failed === null) this.earlier = null;
    if (earlier) earlier.replaced = true; // before the write: it may be brought back meanwhile
    await this.keepFrom(earlier?.from ?? at, answer);
  }

  /** Write what stands from this position on. */
  async keepFrom(at, answer = null) {
    const all = [...this.messages];
    let failed = await this.keeper.keep(this.settings, at, all);
    if (failed?.status === 409) {
      // Another tab was first: what was said here comes after it.
      this.earlier = null;
      this.composer.setBusy(true);
      try {
        this.messages = await this.keeper.append(all.slice(Math.min(at, this.keeper.written)));
        if (!this.left) this.thread.show(this.messages);
        failed = null;
      } catch (error) {
        failed = error;
      }
      this.composer.setBusy(false);
    }
    if (failed === null) {
      if (answer) answer.element.dataset.kept = "";
      this.thread.drop(".not-kept");
    } else if (failed.status === 401 && !left && this.keeper.id) {
      unwritten.set(`${this.person}.${this.keeper.id}`, all.slice(this.keeper.written));
    } else if (answer) answer.notKept(failed);
    else this.composer.say(`Not kept: ${failed.message}`);
    if (this.missed && failed === null) await this.refresh();
  }
}
