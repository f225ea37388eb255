// A chat as the server streams it: events of OpenAI's format, and what its headers say.

import { ApiError, call } from "../api.js";

/**
 * Ask for an answer. `onText(text)`, `onReasoning(text)` as it comes. Resolves to what is known of
 * it at the end: model, provider, attempts, tokens, times, reason. Raises ApiError, also when the
 * stream says so or ends without its end.
 */
export async function ask(body, { signal, onText, onReasoning }) {
  const began = performance.now();
  const response = await call("POST", "/v1/chat/completions", {
    ...body, stream: true, stream_options: { include_usage: true },
  }, { signal });
  const details = {
    provider: response.headers.get("X-Goblin-Provider") ?? undefined,
    attempts: Number(response.headers.get("X-Goblin-Attempts")) || undefined,
    correlation_id: response.headers.get("X-Correlation-ID") ?? undefined,
  };
  let ended = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      ended = true;
      continue;
    }
    const event = JSON.parse(data);
    if (event.error) throw withId(new ApiError(502, event, response.headers), details);
    details.model = event.model || details.model;
    const choice = event.choices?.[0];
    const text = choice?.delta?.content;
    const reasoning = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning;
    if ((text || reasoning) && details.first_token_ms === undefined) {
      details.first_token_ms = Math.round(performance.now() - began);
    }
    if (reasoning) onReasoning(reasoning);
    if (text) onText(text);
    if (choice?.finish_reason) details.finish_reason = choice.finish_reason;
    if (event.usage) {
      details.prompt_tokens = event.usage.prompt_tokens;
      details.completion_tokens = event.usage.completion_tokens;
    }
  }
  if (!ended) throw withId(new ApiError(0, { message: "The answer broke off" }), details);
  details.duration_ms = Math.round(performance.now() - began);
  return details;
}

function withId(error, details) {
  error.correlationId = details.correlation_id ?? "";
  return error;
}

/** The `data` of each server-sent event. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
  }
}
