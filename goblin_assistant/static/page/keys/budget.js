// What keys have spent this month. A key and its successors share one budget.

import { callJson } from "../api.js";

/** Resolves to a function `(key, all keys) => dollars spent`, as text. */
export async function spentThisMonth() {
  const from = `${new Date().toISOString().slice(0, 7)}-01`;
  const costs = new Map();
  for (let cursor = null; ;) {
    const query = new URLSearchParams({ from, group_by: "key", limit: "1000" });
    if (cursor) query.set("cursor", cursor);
    const page = await callJson("GET", `/usage?${query}`);
    for (const row of page.rows) costs.set(row.key_id, row.cost_microusd);
    cursor = page.next_cursor;
    if (cursor === null) break;
  }
  return (key, all) => {
    const next = new Map(all.map((one) => [one.id, one.replaced_by_id]));
    const last = (id) => {
      let at = id;
      while (next.get(at)) at = next.get(at);
      return at;
    };
    const chain = all.filter((one) => last(one.id) === last(key.id));
    const total = chain.reduce((sum, one) => sum + (costs.get(one.id) ?? 0), 0);
    return (total / 1e6).toFixed(2);
  };
}
