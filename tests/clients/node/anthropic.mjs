import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { failure, main, WEATHER } from "./main.mjs";

const asked = { max_tokens: 200, messages: [{ role: "user", content: "hello there" }] };

function weather(called) {
  return betaTool({
    name: "get_weather",
    description: "The weather of a city",
    inputSchema: WEATHER,
    run: (args) => {
      called.push(args);
      return "12 degrees";
    },
  });
}

await main({
  async answer({ client }, { model }) {
    const answer = await client.messages.create({ model, ...asked });
    const { input_tokens: input, output_tokens: output } = answer.usage;
    return { text: answer.content[0].text, input, output, id: answer._request_id };
  },
  async stream({ client }, { model }) {
    return { text: await client.messages.stream({ model, ...asked }).finalText() };
  },
  async tools({ client }, { model, stream }) {
    const called = [];
    const runner = client.beta.messages.toolRunner({
      model, ...asked, stream, tools: [weather(called)],
    });
    const last = await runner.runUntilDone();
    return { text: last.content[0].text, called };
  },
  error: ({ client }, { model, stream = false }) =>
    failure(() => client.messages.create({ model, ...asked, stream }, { maxRetries: 0 })),
  async retried({ client }, { model }) {
    const answer = await client.messages.create({ model, ...asked }, { maxRetries: 1 });
    return { text: answer.content[0].text };
  },
  broken: ({ client }, { model }) =>
    failure(() => client.messages.stream({ model, ...asked }).finalText()),
  async abort({ client }, { model }) {
    const stream = client.messages.stream({ model, ...asked });
    for await (const event of stream) {
      if (event.type !== "content_block_delta") continue;
      stream.abort();
      return { text: event.delta.text };
    }
  },
});
