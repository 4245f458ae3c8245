import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({ apiKey: process.env.GATEWAY_KEY, httpOptions: { baseUrl: process.env.GATEWAY_URL } });
const asked = { model: "gemini-3", contents: "hi" };
const texts = [];

const answer = await client.models.generateContent(asked);
texts.push(answer.text);

let streamed = "";
for await (const chunk of await client.models.generateContentStream(asked)) streamed += chunk.text ?? "";
texts.push(streamed);

console.log(JSON.stringify(texts));
