// What stood in a conversation before somebody asked anew. It can be brought back until the new
// answer is whole, or the next question is asked.

export class Earlier {
  /** `messages` stood from position `from` on. The store has `written` messages as they were. */
  constructor(from, messages, written) {
    this.from = from;
    this.messages = messages;
    this.written = written;
    /** Whether the store has the new attempt instead, or is about to. */
    this.replaced = false;
  }

  /** What to remember when `messages` are cut at `at`; `before` is remembered so far. */
  static of(messages, at, written, before) {
    if (at >= messages.length) return null;
    if (before === null) return new Earlier(at, messages.slice(at), written);
    if (at >= before.from) return before; // one more attempt: what stood there first counts
    const made = new Earlier(
      at, [...messages.slice(at, before.from), ...before.messages], before.written);
    made.replaced = before.replaced;
    return made;
  }

  /** Whether an answer was asked for anew, not an edited question. */
  get ofAnswer() { return this.messages[0].role === "assistant"; }

  get label() {
    return this.messages.length === 1 ? "Bring back the earlier answer" : "Bring back what was there";
  }
}
