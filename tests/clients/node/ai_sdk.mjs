// Vercel's AI SDK. `model` of config.mjs makes a model from its name, by one of its providers.
import { generateObject, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { failure, main, WEATHER } from "./main.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const prompt = "hello there";

function tools(called) {
  return {
    get_weather: tool({
      description: "The weather of a city",
      inputSchema: jsonSchema(WEATHER),
      execute: (args) => {
        called.push(args);
        return "12 degrees";
      },
    }),
  };
}

async function streamed(options) {
  const { fullStream } = streamText({ onError: () => {}, ...options });
  let text = "";
  for await (const part of fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
  }
  return text;
}

await main({
  async answer({ model: of }, { model }) {
    const { text, usage, response } = await generateText({ model: of(model), prompt });
    return {
      text, input: usage.inputTokens, output: usage.outputTokens,
      id: response.headers["x-request-id"],
    };
  },
  async stream({ model: of }, { model }) {
    return { text: await streamed({ model: of(model), prompt }) };
  },
  async tools({ model: of }, { model, stream }) {
    const called = [];
    const options = { model: of(model), prompt, tools: tools(called), stopWhen: isStepCount(5) };
    return { text: stream ? await streamed(options) : (await generateText(options)).text, called };
  },
  async object({ model: of }, { model }) {
    const { object } = await generateObject({
      model: of(model), prompt, schema: jsonSchema(WEATHER),
    });
    return { object };
  },
  error: ({ model: of }, { model, stream = false }) => {
    const options = { model: of(model), prompt, maxRetries: 0 };
    return failure(() => (stream ? streamed(options) : generateText(options)));
  },
  async retried({ model: of }, { model }) {
    return { text: (await generateText({ model: of(model), prompt, maxRetries: 1 })).text };
  },
  broken: ({ model: of }, { model }) =>
    failure(() => streamed({ model: of(model), prompt, maxRetries: 0 })),
  async abort({ model: of }, { model }) {
    const controller = new AbortController();
    const { fullStream } = streamText({
      model: of(model), prompt, abortSignal: controller.signal, onError: () => {},
    });
    for await (const part of fullStream) {
      if (part.type !== "text-delta") continue;
      controller.abort();
      return { text: part.text };
    }
  },
});
