import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";

const url = process.env.GATEWAY_URL;
const apiKey = process.env.GATEWAY_KEY;
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey });
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey });
const google = createGoogleGenerativeAI({ baseURL: `${url}/v1beta`, apiKey });
const models = [openai.chat("gpt-5.6"), openai.responses("gpt-5.6"), anthropic("claude-5"), google("gemini-3")];
const texts = [];

for (const model of models) {
  const asked = { model, prompt: "hi", maxRetries: 0 };
  texts.push((await generateText(asked)).text, await streamText(asked).text);
}

console.log(JSON.stringify(texts));
