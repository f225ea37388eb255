// A conversation as a file.

import { h } from "../dom.js";

/** Save a conversation as "markdown" or "json". */
export function save(conversation, messages, form) {
  const text = form === "json" ? asJson(conversation, messages) : asMarkdown(conversation, messages);
  const type = form === "json" ? "application/json" : "text/markdown";
  const url = URL.createObjectURL(new Blob([text], { type }));
  const name = `${conversation.title.replace(/[^\p{L}\p{N} _-]/gu, "").trim().slice(0, 60)
    || "conversation"}.${form === "json" ? "json" : "md"}`;
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function asJson({ title, settings, created_at: created }, messages) {
  const kept = messages.map(({ role, text, attachments, details }) => (
    { role, text, attachments, details }));
  return `${JSON.stringify({ title, created_at: created, settings, messages: kept }, null, 2)}\n`;
}

function asMarkdown({ title, settings }, messages) {
  const parts = [`# ${title || "Conversation"}`];
  if (settings?.system_prompt) parts.push(`## System prompt\n\n${settings.system_prompt}`);
  for (const { role, text, attachments, details } of messages) {
    const who = role === "user" ? "You" : (details?.model ?? "Answer");
    const images = attachments.map((src, at) => `![image ${at + 1}](${src})`);
    parts.push([`## ${who}`, ...images, text, details?.error && `> ${details.error}`]
      .filter(Boolean).join("\n\n"));
  }
  return `${parts.join("\n\n")}\n`;
}
