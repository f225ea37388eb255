import { failure, main, WEATHER } from "./main.mjs";

const messages = [{ role: "user", content: "hello there" }];

function weather(called) {
  return {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather of a city",
      parameters: WEATHER,
      parse: JSON.parse,
      function: (args) => {
        called.push(args);
        return "12 degrees";
      },
    },
  };
}

async function text(stream) {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  return text;
}

await main({
  async answer({ client }, { model }) {
    const answer = await client.chat.completions.create({ model, messages });
    const { prompt_tokens: input, completion_tokens: output } = answer.usage;
    return { text: answer.choices[0].message.content, input, output, id: answer._request_id };
  },
  async stream({ client }, { model }) {
    return { text: await text(await client.chat.completions.create({ model, messages, stream: true })) };
  },
  async tools({ client }, { model, stream }) {
    const called = [];
    const runner = client.chat.completions.runTools({
      model, messages, stream, tools: [weather(called)],
    });
    return { text: await runner.finalContent(), called };
  },
  error: ({ client }, { model, stream = false }) =>
    failure(() =>
      client.withOptions({ maxRetries: 0 }).chat.completions.create({ model, messages, stream }),
    ),
  async retried({ client }, { model }) {
    const once = client.withOptions({ maxRetries: 1 });
    const answer = await once.chat.completions.create({ model, messages });
    return { text: answer.choices[0].message.content };
  },
  broken: ({ client }, { model }) =>
    failure(async () => text(await client.chat.completions.create({ model, messages, stream: true }))),
  async abort({ client }, { model }) {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const chunk of stream) {
      const text = chunk.choices[0]?.delta.content;
      if (!text) continue;
      stream.controller.abort();
      return { text };
    }
  },
});
