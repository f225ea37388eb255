// A model's text to elements. This is the only place where text becomes HTML, and DOMPurify decides
// what of it remains: no images from elsewhere, no forms, no styles, no ids.

import DOMPurify from "../vendor/dompurify/purify.es.mjs";
import { Marked } from "../vendor/marked/marked.esm.js";

import { h } from "../dom.js";
import { paint } from "./code.js";
import { copyBy, silentCopyButton } from "./copy.js";

const KEPT = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "dd", "del", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5",
    "h6", "hr", "kbd", "li", "ol", "p", "pre", "s", "strong", "sub", "sup", "table", "tbody", "td",
    "th", "thead", "tr", "ul", "input",
  ],
  ALLOWED_ATTR: ["href", "class", "start", "align", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align", "type", "checked", "disabled"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
/** Text blocks that are longer stay plain: marks inside them would take too long to pair. */
const LONGEST = 20_000;
const plainWhenLong = Object.fromEntries(
  ["paragraph", "heading", "lheading", "table"].map((name) => [name, function plain(src) {
    const found = this.rules.block[name].exec(src)?.[0] ?? "";
    return found.length > LONGEST ? plainToken(found) : false;
  }]));
/** The lines of a list's item, up to an empty line or an item inside it: marked pairs marks in all. */
const ITEM_LINES = /^[^\n]+(?:\n(?! {0,3}(?:[*+-]|\d{1,9}[.)])[ \t])[^\n]+)*/;
plainWhenLong.text = function plain(src) {
  if (src.length <= LONGEST) return false;
  const found = ITEM_LINES.exec(src)?.[0] ?? "";
  if (found.length <= LONGEST) return false;
  // marked joins it to text before it, and then takes the last piece off its queue: this one.
  this.lexer.inline("");
  return plainToken(found);
};
/** Quotes inside quotes: nobody reads the fortieth, and marked takes minutes for thousands. */
const DEEP_QUOTE = /^(?: {0,3}> ?){40}/;
plainWhenLong.blockquote = function plain(src) {
  const found = this.rules.block.blockquote.exec(src)?.[0] ?? "";
  // A long one too: with lines that lack the mark, marked's time grows with the square.
  return found.length > LONGEST || (found && DEEP_QUOTE.test(src)) ? plainToken(found) : false;
};
// HTML in an answer is shown as the text that it is. An image would be fetched, and its address can
// carry a conversation away: its description stands for it.
const marked = new Marked({
  gfm: true,
  tokenizer: plainWhenLong,
  extensions: [{ name: "plain", renderer: ({ text }) => `<p>${escaped(text)}</p>` }],
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escaped(text)}</p>` : escaped(text)),
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

/** Text without the letters that turn its direction; they are shown as a sign instead. */
export function unturned(text) {
  return text.replace(TURNS, "\u2423");
}

/** A kind of its own: what follows a paragraph, marked may join to it. */
function plainToken(text) {
  return { type: "plain", raw: text, text };
}

function tokens(text) {
  try {
    return marked.lexer(unturned(text));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return [plainToken(unturned(text))]; // nested too deep for the stack
  }
}

/** Elements for tokens of Markdown that are whole blocks. */
function blocks(found) {
  let html;
  try {
    html = marked.parser(found);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    html = `<p>${escaped(found.map((token) => token.raw).join(""))}</p>`;
  }
  const fragment = DOMPurify.sanitize(html, KEPT);
  for (const link of fragment.querySelectorAll("a")) {
    if (link.hasAttribute("href")) link.title = link.href; // where it leads, whatever its text says
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const input of fragment.querySelectorAll("input")) {
    if (input.type !== "checkbox") input.remove();
    else input.disabled = true;
  }
  for (const block of fragment.querySelectorAll("p, li, td, th, h1, h2, h3, h4, h5, h6")) {
    block.dir = "auto";
  }
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre));
  return fragment;
}

function codeBlock(pre) {
  const code = pre.querySelector("code") ?? pre;
  const name = [...code.classList].find((one) => LANGUAGE.test(one))?.slice(9) ?? "";
  const shown = h("code", {}, paint(code.textContent, name));
  return h("div", { class: "code" },
    h("div", { class: "code-head" },
      h("span", {}, name || "text"), silentCopyButton("Copy code")),
    h("pre", { tabindex: "0", "aria-label": name ? `Code, ${name}` : "Code" }, shown));
}

const TWO_FRAMES_MS = 33;
const SHARE = 4;
/**
 * So many finished blocks are in one box. While the text grows, a full box out of sight is neither
 * laid out nor painted. Afterwards it is: a screen reader knows only of what is laid out.
 */
const TOGETHER = 20;

/**
 * A text that grows: finished blocks are made once and stay; only the tail is made again, once a
 * frame. A block is finished when another has begun behind it. `onShown` is called after each time.
 */
export class Growing {
  constructor(place, onShown = () => {}) {
    this.onShown = onShown;
    this.place = place;
    this.box = h("div", { class: "blocks" });
    this.tail = h("div", { class: "blocks" });
    place.replaceChildren(this.box, this.tail);
    place.addEventListener("click", copyCode);
    this.filled = []; // boxes that have become full since the last frame
    this.shown = "";
    this.rest = "";
    this.fresh = []; // what came since the last frame
    this.waiting = false;
    this.ended = false;
    this.pause = 0;
  }

  /** All of the text so far. */
  get text() { return this.shown + this.fresh.join(""); }

  /** Add text; it is shown with the next frame. */
  add(text) {
    this.fresh.push(text.replaceAll("\r", ""));
    if (this.waiting || this.ended) return;
    this.waiting = true;
    // A tail that takes long (a list of thousands of lines) is made less often.
    if (this.pause > TWO_FRAMES_MS) setTimeout(() => this.next(), this.pause);
    else this.next();
  }

  next() {
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.ended) return;
      const began = performance.now();
      this.show(false);
      this.onShown();
      this.pause = (performance.now() - began) * SHARE;
    });
  }

  /** Show everything, all blocks finished. */
  finish() {
    this.ended = true;
    this.show(true);
    this.tail.remove();
    for (const box of this.place.children) box.classList.remove("full");
    this.onShown();
  }

  show(all) {
    // Not before they have been drawn once: the browser keeps their height, and nothing jumps.
    for (const box of this.filled) box.classList.add("full");
    this.filled = [];
    // Pieces are joined once a frame: a string that is made piece by piece keeps each of them.
    const more = this.fresh.join("");
    this.fresh = [];
    this.shown += more;
    this.rest += more;
    const found = tokens(this.rest);
    // A list may go on after an empty line, so the last block is never finished.
    const last = all ? found.length : found.findLastIndex((token) => token.type !== "space");
    const finished = found.slice(0, Math.max(last, 0));
    if (finished.length > 0) {
      // A copy: a node that scripts have touched has an object in their memory as well.
      this.freeze(blocks(finished).cloneNode(true));
      this.rest = this.rest.slice(finished.reduce((sum, token) => sum + token.raw.length, 0));
    }
    change(this.tail, blocks(found.slice(finished.length)));
  }

  /** Put finished blocks behind the others. */
  freeze(fragment) {
    for (const block of [...fragment.childNodes]) {
      if (this.box.childElementCount >= TOGETHER) {
        this.filled.push(this.box);
        this.box = h("div", { class: "blocks" });
        this.place.insertBefore(this.box, this.tail);
      }
      this.box.append(block);
    }
  }
}

/** One listener for the code blocks of an answer. */
function copyCode(event) {
  const button = event.target.closest(".code-head button");
  if (button) copyBy(button, button.closest(".code").querySelector("code").textContent);
}

/** Give `place` the children of `fragment`; what is the same already stays untouched. */
function change(place, fragment) {
  const wanted = [...fragment.childNodes];
  let same = 0;
  while (same < wanted.length && place.childNodes[same]?.isEqualNode(wanted[same])) same += 1;
  const before = place.childNodes[same];
  if (before && isCode(before) && isCode(wanted[same])) {
    // The box stays, with what is scrolled or focused in it.
    before.querySelector("code").replaceChildren(...wanted[same].querySelector("code").childNodes);
    before.querySelector("span").replaceWith(wanted[same].querySelector("span"));
    same += 1;
  }
  while (place.childNodes.length > same) place.lastChild.remove();
  place.append(...wanted.slice(same));
}

function isCode(node) {
  return node?.classList?.contains("code") ?? false;
}
