// A model's text to elements. This is the only place where text becomes HTML, and DOMPurify decides
// what of it remains: no images from elsewhere, no forms, no styles, no ids.

import DOMPurify from "../vendor/dompurify/purify.es.mjs";
import { Marked } from "../vendor/marked/marked.esm.js";

import { h, ICONS, icon } from "../dom.js";
import { paint } from "./code.js";

const KEPT = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "dd", "del", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5",
    "h6", "hr", "kbd", "li", "ol", "p", "pre", "s", "strong", "sub", "sup", "table", "tbody", "td",
    "th", "thead", "tr", "ul", "input",
  ],
  ALLOWED_ATTR: ["href", "class", "start", "align", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
// HTML in an answer is shown as the text that it is. An image would be fetched, and its address can
// carry a conversation away: its description stands for it.
const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => escaped(text),
    image: ({ text }) => escaped(text ? `[image: ${text}]` : "[image]"),
  },
});
const SIGNS = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

function escaped(text) {
  return text.replace(/[&<>"']/g, (sign) => SIGNS[sign]);
}

const LANGUAGE = /^language-[\w+#.-]{1,40}$/;
// Letters that turn the direction of a line around: a name or a command would read as another.
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

/** Elements for a piece of Markdown that is whole blocks. */
export function blocks(tokens) {
  const html = marked.parser(tokens);
  const fragment = DOMPurify.sanitize(html, KEPT);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const input of fragment.querySelectorAll("input")) {
    if (input.type !== "checkbox") input.remove();
    else input.disabled = true;
  }
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre));
  return fragment;
}

/** The tokens of Markdown text. */
export function tokens(text) {
  return marked.lexer(text.replace(TURNS, "\u2423"));
}

function codeBlock(pre) {
  const code = pre.querySelector("code") ?? pre;
  const name = [...code.classList].find((one) => LANGUAGE.test(one))?.slice(9) ?? "";
  const text = code.textContent;
  const shown = h("code", {}, paint(text, name));
  const copy = h("button", { class: "plain small", type: "button", "aria-label": "Copy code" },
    icon(ICONS.copy), h("span", {}, "Copy"));
  copy.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(text);
    copy.lastChild.textContent = "Copied";
    setTimeout(() => { copy.lastChild.textContent = "Copy"; }, 2000);
  });
  return h("div", { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, name || "text"), copy),
    h("pre", { tabindex: "0" }, shown));
}

/**
 * A text that grows: finished blocks are made once and stay; only the tail is made again. A block
 * is finished when another has begun behind it.
 */
export class Growing {
  constructor(place) {
    this.place = place;
    this.done = h("div", { class: "blocks" });
    this.tail = h("div", { class: "blocks tail" });
    place.replaceChildren(this.done, this.tail);
    this.text = "";
    this.frozen = 0;
    this.waiting = false;
  }

  /** Add text; it is shown with the next frame. */
  add(text) {
    this.text += text;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.show();
    });
  }

  /** Show everything, all blocks finished. */
  finish() {
    this.show(true);
    this.tail.remove();
  }

  show(all = false) {
    const found = tokens(this.text.slice(this.frozen));
    // A list may go on after an empty line, so its last item is not finished with the next block.
    const last = all ? found.length : found.findLastIndex((token) => token.type !== "space");
    const finished = found.slice(0, Math.max(last, 0));
    if (finished.length > 0) {
      finished.links = found.links;
      this.done.append(blocks(finished));
      this.frozen += finished.reduce((length, token) => length + token.raw.length, 0);
    }
    const rest = found.slice(finished.length);
    rest.links = found.links;
    this.tail.replaceChildren(blocks(rest));
  }
}
