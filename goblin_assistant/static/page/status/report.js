// GET /health/all. It needs no credential; a server whose database is away answers 503 with it.

import { ApiError, Unreachable } from "../api.js";

/** The report. Raises ApiError where the server does not give one, and Unreachable. */
export async function report(signal) {
  let response;
  try {
    response = await fetch("/health/all", { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
  const body = await response.json().catch(() => null);
  if (body?.services === undefined) throw new ApiError(response.status, body, response.headers);
  return body;
}
