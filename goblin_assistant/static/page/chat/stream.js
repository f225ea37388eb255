// A chat as the server streams it: events of OpenAI's format, and what its headers say.

import { ApiError, call, Unreachable } from "../api.js";

/**
 * Ask for an answer. `onText(text)`, `onReasoning(text)` as it comes. `details` gets what is known
 * of it: model, provider, attempts, tokens, cost, times, reason. Raises ApiError or Unreachable,
 * also when the stream says so or ends without its end.
 */
export async function ask(body, { signal, details, onText, onReasoning }) {
  const began = performance.now();
  const since = () => Math.round(performance.now() - began);
  const response = await call("POST", "/v1/chat/completions", {
    ...body, stream: true, stream_options: { include_usage: true },
  }, { signal });
  details.provider = response.headers.get("X-Goblin-Provider") ?? undefined;
  details.attempts = Number(response.headers.get("X-Goblin-Attempts")) || undefined;
  details.correlation_id = response.headers.get("X-Correlation-ID") ?? undefined;
  let ended = false;
  for await (const data of events(response.body, signal)) {
    if (data === "[DONE]") {
      ended = true;
      continue;
    }
    const event = JSON.parse(data);
    if (event.error) throw new ApiError(502, event, response.headers);
    details.model = event.model || details.model;
    const choice = event.choices?.[0];
    const text = choice?.delta?.content;
    const reasoning = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning;
    if ((text || reasoning) && details.first_token_ms === undefined) {
      details.first_token_ms = since();
    }
    if (reasoning) onReasoning(reasoning);
    if (text) onText(text);
    if (choice?.finish_reason) details.finish_reason = choice.finish_reason;
    if (event.usage) count(event.usage, details);
  }
  if (!ended) throw broken(response.headers);
  details.duration_ms = since();
}

function count(usage, details) {
  details.prompt_tokens = usage.prompt_tokens;
  details.completion_tokens = usage.completion_tokens;
  if (usage.cost_usd !== undefined && usage.cost_usd !== null) {
    details.cost_usd = String(usage.cost_usd);
  }
}

function broken(headers) {
  return new ApiError(0, { message: "the answer broke off", source: "connection" }, headers);
}

/** The `data` of each server-sent event. Raises Unreachable when the connection is lost. */
async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      throw signal.aborted ? error : new Unreachable();
    }
    if (piece.done) return;
    const lines = (rest + piece.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
}
