import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.GATEWAY_URL, apiKey: process.env.GATEWAY_KEY, maxRetries: 0 });
const asked = { model: "claude-5", max_tokens: 100, messages: [{ role: "user", content: "hi" }] };
const texts = [];

const message = await client.messages.create(asked);
texts.push(message.content[0].text);

let streamed = "";
for await (const event of await client.messages.create({ ...asked, stream: true })) {
  if (event.type === "content_block_delta") streamed += event.delta.text;
}
texts.push(streamed);

texts.push(await client.messages.stream(asked).finalText());

console.log(JSON.stringify(texts));
