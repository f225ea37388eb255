// OpenAI's package by its Responses API: the scenarios of openai.mjs in its terms.
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { failure, main, WEATHER } from "./main.mjs";

const input = "hello there";
const weather = {
  type: "function",
  name: "get_weather",
  description: "The weather of a city",
  parameters: WEATHER,
  strict: true,
};

async function text(stream) {
  let text = "";
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  return text;
}

async function answered(client, options, stream) {
  if (!stream) return client.responses.create(options);
  return client.responses.stream(options).finalResponse();
}

await main({
  async answer({ client }, { model }) {
    const answer = await client.responses.create({ model, input });
    const { input_tokens, output_tokens } = answer.usage;
    return {
      text: answer.output_text, input: input_tokens, output: output_tokens,
      id: answer._request_id,
    };
  },
  async stream({ client }, { model }) {
    const stream = client.responses.stream({ model, input });
    const said = await text(stream);
    const whole = await stream.finalResponse();
    if (whole.output_text !== said) throw new Error(`${whole.output_text} is not ${said}`);
    return { text: said };
  },
  async tools({ client }, { model, stream }) {
    const called = [];
    const turns = [{ role: "user", content: input }];
    for (;;) {
      const answer = await answered(client, { model, input: turns, tools: [weather] }, stream);
      const calls = answer.output.filter((item) => item.type === "function_call");
      if (calls.length === 0) return { text: answer.output_text, called };
      turns.push(...answer.output);
      for (const { call_id, arguments: given } of calls) {
        called.push(JSON.parse(given));
        turns.push({ type: "function_call_output", call_id, output: "12 degrees" });
      }
    }
  },
  async object({ client }, { model }) {
    const format = zodTextFormat(z.object({ city: z.string() }), "place");
    const answer = await client.responses.parse({ model, input, text: { format } });
    return { object: answer.output_parsed };
  },
  error: ({ client }, { model, stream = false }) =>
    failure(() =>
      client.withOptions({ maxRetries: 0 }).responses.create({ model, input, stream }),
    ),
  async retried({ client }, { model }) {
    const once = client.withOptions({ maxRetries: 1 });
    return { text: (await once.responses.create({ model, input })).output_text };
  },
  broken: ({ client }, { model }) =>
    failure(async () => text(await client.responses.create({ model, input, stream: true }))),
  async abort({ client }, { model }) {
    const stream = await client.responses.create({ model, input, stream: true });
    for await (const event of stream) {
      if (event.type !== "response.output_text.delta") continue;
      stream.controller.abort();
      return { text: event.delta };
    }
  },
});
