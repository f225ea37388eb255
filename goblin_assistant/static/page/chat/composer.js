// The field to write in, with images, the model and the button that sends or stops.

import { announce, h, ICONS, icon } from "../dom.js";
import { dataOf, imagesOf, MOST_IMAGES } from "./images.js";

export class Composer {
  /** `picker` chooses the model; `onSend(text, images)`, `onStop()`. */
  constructor({ picker, onSend, onStop }) {
    this.picker = picker;
    this.onSend = onSend;
    this.onStop = onStop;
    this.draft = null;
    this.images = [];
    this.busy = false;
    this.reading = 0;
    this.field = h("textarea", {
      rows: 1, placeholder: "Ask something", "aria-label": "Message", dir: "auto",
      oninput: () => this.typed(), onkeydown: (event) => this.key(event),
      onpaste: (event) => this.dropped(event, event.clipboardData),
    });
    this.thumbs = h("div", { class: "thumbs" });
    this.said = h("div", { class: "composer-said", role: "alert" });
    this.file = h("input", {
      type: "file", accept: "image/*", multiple: true, hidden: true,
      onchange: () => { this.add(imagesOf(this.file)); this.file.value = ""; },
    });
    this.attach = h("button", {
      class: "plain icon", type: "button", "aria-label": "Add images", title: "Add images",
      onclick: () => this.file.click(),
    }, icon(ICONS.picture));
    this.button = h("button", { class: "main icon send" });
    this.setBusy(false);
    this.element = h("form", {
      class: "composer",
      onsubmit: (event) => { event.preventDefault(); this.pressed(); },
      ondragover: (event) => { if (event.dataTransfer?.types.includes("Files")) event.preventDefault(); },
      ondrop: (event) => this.dropped(event, event.dataTransfer),
    }, this.said, this.thumbs, this.field,
    h("div", { class: "row composer-row" },
      this.file, this.attach, picker.element, h("span", { class: "spring" }), this.button));
    this.modelChanged();
  }

  /** Begin with what was written before. */
  begin(draft) {
    this.draft = draft;
    this.field.value = draft.text;
    this.grow();
  }

  /** The draft belongs to another conversation now: a new one has been kept. */
  move(draft) {
    if (draft.key === this.draft.key) return;
    this.draft.text = "";
    this.draft = draft;
    this.typed();
  }

  /** Put a message back that could not be sent. What was written since stays too. */
  restore(text, images) {
    this.field.value = [text, this.field.value].filter(Boolean).join("\n");
    this.images = [...images, ...this.images].slice(0, MOST_IMAGES);
    this.typed();
    this.showImages();
  }

  /** A sentence above the field. */
  say(text) { this.said.replaceChildren(...(text ? [h("p", {}, text)] : [])); }

  /** Focus, but on a phone, where that opens the keyboard. */
  focus() { if (matchMedia("(pointer: fine)").matches) this.field.focus(); }

  modelChanged() { this.attach.hidden = !this.picker.sees; }

  setBusy(yes) {
    this.busy = yes;
    this.button.replaceChildren(icon(yes ? ICONS.stop : ICONS.send));
    this.button.setAttribute("aria-label", yes ? "Stop" : "Send");
    this.button.title = yes ? "Stop (Esc)" : "Send (Enter)";
  }

  typed() {
    if (this.draft) this.draft.text = this.field.value;
    this.grow();
  }

  grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight + 2, innerHeight * 0.4)}px`;
  }

  key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.busy) this.pressed();
  }

  pressed() {
    if (this.busy) {
      this.onStop();
      return;
    }
    const text = this.field.value.trim();
    if (this.reading > 0 || !(text || this.images.length)) return;
    const { images } = this;
    this.images = [];
    this.field.value = "";
    this.say("");
    this.typed();
    this.showImages();
    this.onSend(text, images);
  }

  dropped(event, transfer) {
    const files = imagesOf(transfer);
    if (files.length === 0) return;
    event.preventDefault();
    this.add(files);
  }

  async add(files) {
    if (!this.picker.sees) {
      this.say("This model takes no images. Choose another model for them.");
      return;
    }
    this.say("");
    this.reading += 1;
    for (const file of files) {
      try {
        if (this.images.length >= MOST_IMAGES) throw new Error(`At most ${MOST_IMAGES} images.`);
        this.images.push(await dataOf(file));
        announce("Image added");
      } catch (error) {
        this.say(error.message);
      }
    }
    this.reading -= 1;
    this.showImages();
  }

  showImages() {
    this.thumbs.replaceChildren(...this.images.map((src, at) => h("span", { class: "thumb" },
      h("img", { src, alt: `Image ${at + 1}` }),
      h("button", {
        type: "button", class: "icon", "aria-label": `Remove image ${at + 1}`,
        onclick: () => {
          this.images.splice(at, 1);
          this.showImages();
          this.field.focus();
        },
      }, icon(ICONS.close)))));
  }
}
