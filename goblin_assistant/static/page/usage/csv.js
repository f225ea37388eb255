// The usage as the server's CSV, all pages as one file.

import { call } from "../api.js";
import { h } from "../dom.js";

/** Save what `query` asks for. Raises ApiError. */
export async function download(query) {
  query.set("format", "csv");
  const parts = [];
  for (let path = `/usage?${query}`; path !== null;) {
    const response = await call("GET", path);
    const text = await response.text();
    // Each page repeats the line of titles.
    parts.push(parts.length === 0 ? text : text.slice(text.indexOf("\n") + 1));
    path = /<([^>]+)>; rel="next"/.exec(response.headers.get("Link") ?? "")?.[1] ?? null;
  }
  const href = URL.createObjectURL(new Blob(parts, { type: "text/csv" }));
  h("a", { href, download: `usage-${query.get("from")}.csv` }).click();
  // The browser needs the URL until it has started to read it.
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}
