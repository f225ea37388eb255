// The messages of the open conversation as they are shown, and where one has scrolled to.

import { h } from "../dom.js";
import { Answer, Later, Question } from "./message.js";

const AT_ONCE = 12;
const NEAR_END = 80;
const AT_END = 2;

export class Thread {
  /** `on`: send(text, attachments, at), again(at), lost(text) with an edit that has no place. */
  constructor(on) {
    this.on = on;
    this.questions = []; // by position, where a question stands
    this.pinned = true;
    this.before = 0; // where it was scrolled to
    this.list = h("div", { class: "messages" });
    this.element = h("div", {
      class: "scroll", tabindex: "0", role: "region", "aria-label": "Chat",
      onscroll: () => this.scrolled(),
    }, this.list);
    this.later = new Later(this.element);
  }

  /** Show something else instead of messages. */
  say(...nodes) { this.list.replaceChildren(...nodes); }

  /** Show `messages`, and nothing else. */
  show(messages) {
    const { pinned } = this;
    const { scrollTop } = this.element;
    const open = this.questions.map((question) => question.draft());
    this.later.clear();
    this.say();
    this.questions = [];
    const first = messages.length - AT_ONCE;
    for (const [at, message] of messages.entries()) {
      if (message.role === "user") this.question(message, at);
      else {
        const answer = this.answer(at);
        answer.later(message);
        answer.element.dataset.kept = "";
        if (at < first) this.later.add(answer);
        else answer.now();
      }
    }
    this.reopen(open);
    this.element.scrollTop = pinned ? this.element.scrollHeight : scrollTop;
    this.pinned = pinned;
  }

  /** What somebody edits goes on, whatever was shown anew around it. */
  reopen(drafts) {
    drafts.forEach((draft, at) => {
      if (draft === null) return;
      if (this.questions[at]) this.questions[at].edit(draft);
      else this.on.lost(draft.text);
    });
  }

  /** Show a question at its position. */
  question(message, at) {
    const question = this.questions[at] = new Question(message, {
      onResend: (text) => this.on.send(text, message.attachments, at),
      onAgain: () => this.on.again(at + 1),
    });
    this.list.append(question.element);
  }

  /** Show an answer that may grow at its position. */
  answer(at) {
    const answer = new Answer({ onAgain: () => this.on.again(at), onShown: () => this.follow() });
    this.list.append(answer.element);
    return answer;
  }

  /** Leave the messages before this position; `any`: whether there were messages at all. */
  cut(at, any) {
    if (!any) this.say();
    this.questions.length = Math.min(at, this.questions.length);
    while (this.list.children.length > at) this.list.lastChild.remove();
  }

  /** Take away what is offered only once: `.bring-back`, `.not-kept`. */
  drop(selector) {
    for (const one of this.list.querySelectorAll(selector)) one.remove();
  }

  /** Whoever scrolls up, even by a little, reads: an answer that grows must not pull them back. */
  scrolled() {
    const { scrollTop } = this.element;
    this.pinned = this.toEnd() < (scrollTop < this.before ? AT_END : NEAR_END);
    this.before = scrollTop;
  }

  toEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    return scrollHeight - scrollTop - clientHeight;
  }

  follow() { if (this.pinned) this.element.scrollTop = this.element.scrollHeight; }
}
