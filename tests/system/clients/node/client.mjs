// What OpenAI's client for Node sees of a platform, as one JSON object: `node client.mjs`, with BASE_URL and API_KEY.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0 });
const question = process.env.QUESTION;
const chat = { model: "chat", messages: [{ role: "user", content: question }], temperature: 0 };

async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, message: error.message };
  }
  return null;
}

async function streamed(options) {
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ ...chat, stream: true, ...options })) {
    chunks.push(chunk);
  }
  return {
    text: chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta.content ?? "")).join(""),
    chunks: chunks.length,
    usages: chunks.map((chunk) => chunk.usage).filter((usage) => usage),
    last: chunks.at(-1),
  };
}

async function abandoned() {
  const stream = await client.chat.completions.create({ ...chat, stream: true });
  for await (const chunk of stream) {
    return chunk.object;
  }
}

const { data: plain, response } = await client.chat.completions.create(chat).withResponse();
const models = [];
for await (const model of client.models.list()) {
  models.push(model.id);
}

console.log(
  JSON.stringify({
    plain,
    requestId: response.headers.get("x-request-id"),
    streamed: await streamed({}),
    measured: await streamed({ stream_options: { include_usage: true } }),
    abandoned: await abandoned(),
    response: (await client.responses.create({ model: "chat", input: question, temperature: 0 })).output_text,
    models: models.sort(),
    model: await client.models.retrieve("chat"),
    unknown: await refusal(() => client.chat.completions.create({ ...chat, model: "chatt" })),
    wrongKey: await refusal(() => new OpenAI({ baseURL: process.env.BASE_URL, apiKey: "hk_wrong" }).models.list()),
    invalid: await refusal(() => client.chat.completions.create({ ...chat, model: 3 })),
    classifier: await refusal(() => client.chat.completions.create({ ...chat, model: "digits" })),
  }),
);
