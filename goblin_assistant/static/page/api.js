// Calls the server's API with the access token, which is kept only in this page's memory.

import { accessToken, renew } from "./session.js";

/** An error response. `source` is who failed: client, limit, gateway or provider. */
export class ApiError extends Error {
  constructor(status, body, headers) {
    // Native routes have the error's fields in the body, /v1 has them in `error`.
    const error = typeof body?.error === "object" ? (body.error ?? {}) : { ...body, code: body?.error };
    super(error.message ?? `The server answered ${status}`);
    this.status = status;
    this.code = error.code ?? "";
    this.source = error.source ?? "";
    this.provider = error.provider ?? "";
    this.correlationId = headers?.get("X-Correlation-ID") ?? error.correlation_id ?? "";
    const seconds = Number(headers?.get("Retry-After") ?? error.retry_after);
    this.retryAfter = seconds > 0 ? seconds : null;
  }
}

/** The server could not be reached. */
export class Unreachable extends Error {
  constructor() {
    super("The server cannot be reached. Check your connection.");
    this.status = 0;
    this.code = "unreachable";
    this.source = "connection";
    this.correlationId = "";
    this.retryAfter = null;
  }
}

/** A fetch whose failure is one of the two errors above. */
export async function fetched(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(response.status, body, response.headers);
}

const MOST_TRIES = 10;
const LONGEST_WAIT = 5;

/** The result of `ask()`. Repeats it while the server is too busy to begin (503, Retry-After). */
export async function patiently(ask) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await ask();
    } catch (error) {
      const seconds = error.status === 503 ? error.retryAfter : null;
      if (seconds === null || seconds > LONGEST_WAIT || tries === MOST_TRIES) throw error;
      await new Promise((done) => { setTimeout(done, seconds * 1000); });
    }
  }
}

/**
 * A call with the access token; resolves to the Response if it is ok. If the server refuses the
 * token, it is renewed and the call repeated once, because tokens can end early. `again: false`
 * switches that off.
 */
export async function call(method, path, body, { signal, headers = {}, again = true } = {}) {
  const ask = async () =>
    fetched(path, {
      method,
      signal,
      headers: {
        ...headers,
        Authorization: `Bearer ${await accessToken()}`,
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  try {
    return await ask();
  } catch (error) {
    if (error.status !== 401 || !again) throw error;
    await renew();
    return ask();
  }
}

/** Like `call`, but resolves to the parsed JSON; null for 204. */
export async function callJson(method, path, body, options) {
  const response = await call(method, path, body, options);
  return response.status === 204 ? null : response.json();
}
