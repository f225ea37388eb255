// Adds up the rows of GET /usage for the plots and tables. Days are in UTC.

const MOST_GROUPS = 6;
const OTHERS = "others";
const NUMBER = new Intl.NumberFormat();

export const number = (value) => NUMBER.format(value);

/** Micro-dollars as dollars: cents, and four digits below one dollar. */
export function dollars(microusd) {
  const value = microusd / 1e6;
  const digits = value !== 0 && Math.abs(value) < 1 ? 4 : 2;
  return `$${value.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

/** The name of a row's group. */
export function nameOf(row, by) {
  if (by === "key") return row.key_id === null ? "without a key" : (row.key_name ?? `key ${row.key_id}`);
  if (by === "user") return row.user_email ?? (row.user_id === null ? "deleted" : `user ${row.user_id}`);
  if (!row.provider || row.model?.startsWith(`${row.provider}/`)) return row.model || "none";
  return row.provider === row.model ? row.model : `${row.provider}/${row.model}`;
}

const FIELDS = {
  cost: (row) => row.cost_microusd,
  tokens: (row) => row.prompt_tokens + row.completion_tokens,
  requests: (row) => row.requests,
};

/**
 * `days` (seconds since 1970), and `groups`, largest first: each with its name, its totals, and
 * cost, tokens and requests of each day. `drawn` has the largest ones and one group of the rest.
 */
export function grouped(rows, by, from, count) {
  const first = Date.parse(`${from.slice(0, 10)}T00:00:00Z`) / 1000;
  const days = Array.from({ length: count }, (_, at) => first + at * 86_400);
  const all = new Map();
  for (const row of rows) {
    const name = nameOf(row, by);
    if (!all.has(name)) all.set(name, empty(name, days.length));
    add(all.get(name), row, Math.round((Date.parse(row.day) / 1000 - first) / 86_400));
  }
  const sorted = [...all.values()].sort((a, b) => b.cost - a.cost || b.requests - a.requests);
  return { days, groups: sorted, drawn: few(sorted, days.length) };
}

function empty(name, count) {
  const zeros = () => new Array(count).fill(0);
  return {
    name, cost: 0, requests: 0, failed: 0, read: 0, written: 0,
    a_day: { cost: zeros(), tokens: zeros(), requests: zeros() },
  };
}

function add(group, row, at) {
  group.cost += row.cost_microusd;
  group.requests += row.requests;
  group.failed += row.failed_requests;
  group.read += row.prompt_tokens;
  group.written += row.completion_tokens;
  for (const [name, of] of Object.entries(FIELDS)) group.a_day[name][at] += of(row);
}

function few(groups, count) {
  if (groups.length <= MOST_GROUPS + 1) return groups;
  const rest = empty(OTHERS, count);
  for (const group of groups.slice(MOST_GROUPS)) {
    for (const [name, values] of Object.entries(group.a_day)) {
      for (const [at, value] of values.entries()) rest.a_day[name][at] += value;
    }
  }
  return [...groups.slice(0, MOST_GROUPS), rest];
}
