// Keeps one conversation in the store while it goes on, one write after the other.

import { changed, store } from "./store.js";

const TITLE = 80;
const MOST_TRIES = 5;

/** So many of `messages` have reached the store, and nothing else: only the reply was lost. */
function arrived(found, messages) {
  const same = (one, at) => one.role === messages[at]?.role && one.text === messages[at].text
    && one.details.correlation_id === messages[at].details.correlation_id;
  return found.every(same) ? found.length : 0;
}

export class Keeper {
  /** `onKept(conversation)` is called when it was created, read or changed. */
  constructor(onKept) {
    this.onKept = onKept;
    this.conversation = null;
    this.last = Promise.resolve(null);
    this.writing = 0;
    /** So many of the first messages are in the store as this tab shows them. */
    this.written = 0;
  }

  get id() { return this.conversation?.id ?? null; }

  /** Its messages. */
  async read(id) {
    const conversation = await store.get(id);
    const messages = await store.messages(id);
    // Not before its messages are here: a write would replace them by what this tab knows, nothing.
    this.written = messages.length;
    this.adopt(conversation);
    return messages;
  }

  /**
   * Write `messages`, the whole conversation, from `position` on, and what could not be written
   * before. Resolves with the error, or null.
   */
  keep(settings, position, messages) {
    const all = [...messages];
    this.writing += 1;
    this.last = this.last.then(async () => {
      this.written = Math.min(position, this.written);
      await this.write(settings, this.written, all.slice(this.written));
      this.written = all.length;
    })
      .then(() => null, (error) => error)
      .finally(() => { this.writing -= 1; });
    return this.last;
  }

  /** After all writes so far. */
  settled() { return this.last; }

  /** Read again what another tab has written. All messages, or null when it is not `idle()`. */
  async refresh(idle) {
    const { id } = this;
    const conversation = await store.get(id);
    const messages = await store.messages(id);
    if (!idle() || this.writing > 0 || this.id !== id) return null;
    this.written = messages.length;
    this.adopt(conversation);
    return messages;
  }

  /**
   * Append `messages`, all that are not written, to what another tab or device has written. All
   * messages then.
   */
  async append(messages) {
    const { conversation, written } = this;
    this.writing += 1;
    try {
      for (let tries = 1; ; tries += 1) {
        const before = await this.read(this.id);
        const fresh = messages.slice(arrived(before.slice(written), messages));
        try {
          if (fresh.length > 0) await this.write(null, before.length, fresh);
          this.written = before.length + fresh.length;
          return [...before, ...fresh];
        } catch (error) {
          if (error.status !== 409 || tries === MOST_TRIES) throw error;
        }
      }
    } catch (error) {
      // This tab does not show what it has read: the next write must come here again.
      Object.assign(this, { conversation, written });
      throw error;
    } finally {
      this.writing -= 1;
    }
  }

  async change(values) {
    await this.last;
    await this.alter(values);
    changed(this.id, this);
  }

  async remove() {
    await this.last;
    const { id } = this;
    await store.remove(id);
    changed(id, this);
  }

  async write(settings, position, messages) {
    if (this.conversation === null) {
      const text = [...messages[0].text.split("\n")[0]].slice(0, TITLE).join("");
      this.adopt(await store.create(text || "Image", settings));
    }
    if (settings && settings.model !== this.conversation.settings.model) {
      await this.alter({ settings });
    }
    this.adopt(await store.write(this.conversation, position, messages));
    changed(this.id, this);
  }

  /** Change the conversation itself. Of its messages this tab knows no more than before. */
  async alter(values) {
    const altered = await store.change(this.id, values);
    this.adopt({ ...altered, revision: this.conversation.revision });
  }

  adopt(conversation) {
    this.conversation = conversation;
    this.onKept(conversation);
  }
}
