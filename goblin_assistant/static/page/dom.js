// Elements are made here, node by node: no text is ever parsed as HTML, except in chat/markdown.js.

/**
 * An element: `h("button", { class: "main", onclick: send }, "Send")`.
 * A property that is a function is a listener; `true` is an attribute without value; `null`,
 * `undefined` and `false` leave it out. Children are nodes or text, in lists of any depth.
 */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(key, value);
    }
  }
  const absent = [null, undefined, false];
  element.append(...children.flat(Infinity).filter((child) => !absent.includes(child)));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A line icon of 24 by 24. It is only decoration: the button needs a label of its own. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  for (const [key, value] of Object.entries({
    d: path, fill: "none", stroke: "currentColor", "stroke-width": "1.8",
    "stroke-linecap": "round", "stroke-linejoin": "round",
  })) line.setAttribute(key, value);
  svg.append(line);
  return svg;
}

export const ICONS = {
  menu: "M4 6h16M4 12h16M4 18h16",
  add: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  settings: "M4 7h10M18 7h2M4 17h2M10 17h10M14 4v6M6 14v6",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM20 20l-4-4",
  close: "M6 6l12 12M18 6L6 18",
  chat: "M4 5h16v11H9l-5 4z",
  key: "M15 4a5 5 0 1 0 0 10 5 5 0 0 0 0-10zM11.5 12.5L4 20m3-3l2.5 2.5",
  chart: "M4 20h16M7 20v-8M12 20V5M17 20v-11",
  pulse: "M3 12h4l3-7 4 14 3-7h4",
  more: "M5 11.5v1M12 11.5v1M19 11.5v1M4.5 12h1M11.5 12h1M18.5 12h1",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01",
  down: "M12 4v12M6 11l6 6 6-6M5 20h14",
};

/** The content of `<meta name="goblin-...">`, in which the server describes this instance. */
export function meta(name) {
  return document.querySelector(`meta[name="goblin-${name}"]`)?.getAttribute("content") ?? "";
}

/** Say something to a screen reader. */
export function announce(text) {
  document.getElementById("announcements").textContent = text;
}

/** Load a view's stylesheet once; resolves when it applies. */
export function style(name) {
  const href = new URL(`style/${name}.css`, import.meta.url).pathname;
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  return new Promise((resolve) => {
    document.head.append(h("link", { rel: "stylesheet", href, onload: resolve, onerror: resolve }));
  });
}
