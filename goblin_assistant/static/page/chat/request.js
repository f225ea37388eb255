// What a chat sends, and what is said of how it ended.

import { failureText } from "./failure.js";

/** The request's body for `messages`, of which the last is the question. */
export function body(model, sees, settings, messages) {
  const { system_prompt: prompt, temperature, max_tokens: most } = settings;
  const told = messages
    .filter(({ text, attachments }) => text || attachments.length)
    .map((one) => sent(one, sees));
  return {
    model,
    messages: prompt ? [{ role: "system", content: prompt }, ...told] : told,
    ...(temperature !== null && temperature !== undefined && { temperature }),
    ...(most && { max_tokens: most }),
  };
}

function sent({ role, text, attachments }, sees) {
  if (!sees || attachments.length === 0) return { role, content: text };
  const images = attachments.map((url) => ({ type: "image_url", image_url: { url } }));
  return { role, content: [...(text ? [{ type: "text", text }] : []), ...images] };
}

/** Whether the question has not reached the server, or nobody was signed in. */
export function notSent(error) {
  return error.status === 401 || error.code === "unreachable";
}

/** How an answer ended, as `Answer.finish` takes it. */
export function ending(error, details) {
  if (error === null) return {};
  if (error.name === "AbortError") return { error: "Stopped.", stopped: true };
  if (error.correlationId) details.correlation_id = error.correlationId;
  return {
    error: failureText(error), retryAfter: error.retryAfter, correlationId: error.correlationId,
  };
}
