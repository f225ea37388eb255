// GET /health/all. It needs no credential. If the database is down, the report comes with 503.

import { ApiError, Unreachable } from "../api.js";

/** The report. Throws ApiError if the server sends none, or Unreachable. */
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
