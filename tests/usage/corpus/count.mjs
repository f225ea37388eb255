// Counts the requests beside this file with OpenAI's tokenizer o200k_base, and writes counts.json.
//
//   npm install gpt-tokenizer@4.0.0 --no-save && node count.mjs
//
// A request is laid out as chat templates of open models do: each message has four tokens around
// it, the beginning of the answer three. Tools and calls are JSON.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { countTokens } from "gpt-tokenizer/encoding/o200k_base";

const here = new URL(".", import.meta.url);
const count = (text) => countTokens(text, { disallowedSpecial: new Set() });

const told = (content) =>
  typeof content === "string" ? content : content.map((block) => block.text).join("");

function messagesOf(body) {
  const messages = [];
  if (body.system) messages.push(told(body.system));
  if (body.tools) {
    const tools = body.tools.map(({ name, description, input_schema: parameters }) =>
      JSON.stringify({ type: "function", function: { name, description, parameters } }),
    );
    messages.push(tools.join("\n"));
  }
  for (const { content } of body.messages) {
    if (typeof content === "string") {
      messages.push(content);
      continue;
    }
    const results = content.filter((block) => block.type === "tool_result");
    messages.push(...results.map((block) => told(block.content)));
    const rest = content.filter((block) => block.type !== "tool_result");
    if (rest.length) {
      messages.push(
        rest
          .map((block) =>
            block.type === "tool_use"
              ? JSON.stringify({ name: block.name, arguments: block.input })
              : block.text,
          )
          .join("\n"),
      );
    }
  }
  return messages;
}

const counts = {};
for (const file of readdirSync(here).sort()) {
  if (!file.endsWith(".json") || file === "counts.json") continue;
  const body = JSON.parse(readFileSync(new URL(file, here), "utf8"));
  counts[file.replace(".json", "")] = messagesOf(body).reduce(
    (sum, text) => sum + 4 + count(text),
    3,
  );
}
writeFileSync(new URL("counts.json", here), JSON.stringify(counts, null, 1) + "\n");
