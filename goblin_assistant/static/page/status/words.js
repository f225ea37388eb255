// The texts for the states that the server reports.

export const OVERALL = {
  healthy: ["healthy", "Everything works."],
  degraded: ["degraded", "Something does not work, as marked below. Chats that do not need it go on."],
  unhealthy: ["unhealthy", "The database does not answer: most things do not work now."],
  unknown: ["unknown", "This server has just started and is still looking."],
};

export const SERVICE = {
  healthy: ["works", "It answers."],
  unhealthy: ["does not work", "The last check failed:"],
  unknown: ["not known yet", "It was not looked at yet."],
  disabled: ["not set up", "It is not set up here."],
};

export const ABOUT = {
  database: "Accounts, keys, usage and conversations",
  redis: "Limits of all instances together",
  chroma: "Search in documents",
  sandbox: "Runs code",
  echo: "Built in: repeats what it is told",
};

const CIRCUIT = {
  closed: "Chats go to it.",
  half_open: "It failed again and again. A single chat now tries whether it is back.",
  open: "It failed again and again, so no chat goes to it for a while. Where there is another "
    + "provider, that one answers.",
};

/** What a circuit breaker's state means. */
export function circuit(state) {
  return CIRCUIT[state] ?? state;
}
