// Times in the reader's language and time zone.

import { h } from "../dom.js";

const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const AGO = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60]];

/** "5 minutes ago", "in 3 days"; a month away and more, the day itself. */
export function relative(iso, now = Date.now()) {
  const seconds = (Date.parse(iso) - now) / 1000;
  if (Math.abs(seconds) >= 30 * 86_400) return DAY.format(new Date(iso));
  for (const [unit, size] of UNITS) {
    if (Math.abs(seconds) >= size) return AGO.format(Math.trunc(seconds / size), unit);
  }
  return seconds <= 0 ? "just now" : "in less than a minute";
}

/** A time element: relative, with the exact time as its title. `otherwise` where there is none. */
export function when(iso, otherwise = "never") {
  if (!iso) return otherwise;
  return h("time", { datetime: iso, title: EXACT.format(new Date(iso)) }, relative(iso));
}
