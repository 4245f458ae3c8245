import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.GATEWAY_URL}/v1`, apiKey: process.env.GATEWAY_KEY, maxRetries: 0 });
const model = "gpt-5.6";
const messages = [{ role: "user", content: "hi" }];
const texts = [];

const chat = await client.chat.completions.create({ model, messages });
texts.push(chat.choices[0].message.content);

let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  streamed += chunk.choices[0].delta.content ?? ""; // fails on an event without a choice, as most programs do
}
texts.push(streamed);

const asking = { model, messages, stream: true, stream_options: { include_usage: true } };
let total;
for await (const chunk of await client.chat.completions.create(asking)) total = chunk.usage?.total_tokens;
texts.push(total);

texts.push(await client.chat.completions.stream({ model, messages }).finalContent());

const response = await client.responses.create({ model, input: "hi" });
texts.push(response.output_text);

let written = "";
for await (const event of await client.responses.create({ model, input: "hi", stream: true })) {
  if (event.type === "response.output_text.delta") written += event.delta;
}
texts.push(written);

console.log(JSON.stringify(texts));
