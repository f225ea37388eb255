// Runs scenarios of one client and prints their results as JSON.
//
//   node openai.mjs '[["answer", {"model": "echo", "key": "..."}], ...]'
//
// The client is made by lines of docs/clients.md, which the test writes to config.mjs.

export async function main(scenarios) {
  const results = [];
  for (const [name, options] of JSON.parse(process.argv[2])) {
    process.env.GOBLIN_KEY = options.key;
    const config = await import(`./config.mjs?${results.length}`); // run again: the key differs
    results.push(await scenarios[name](config, options));
  }
  console.log(JSON.stringify(results));
}

// What a client makes of a failure. An answer instead of one is an error of the test.
export async function failure(call) {
  let answered;
  try {
    answered = await call();
  } catch (error) {
    const headers = new Headers(error.headers ?? error.responseHeaders ?? {});
    return {
      name: error.constructor.name,
      status: error.status ?? error.statusCode,
      code: error.code ?? error.error?.error?.code ?? null,
      type: error.type ?? null,
      message: error.message,
      retryAfter: headers.get("retry-after"),
      requestId: error.requestID ?? headers.get("x-request-id"),
    };
  }
  throw new Error(`no failure: ${JSON.stringify(answered)}`);
}

export const WEATHER = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
