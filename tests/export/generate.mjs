// Answers of transformers.js from a folder on this machine: node generate.mjs FOLDER DTYPE TASK OPTIONS TEXT...
import path from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [folder, dtype, task, options, ...texts] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder);
const ask = await pipeline(task, path.basename(folder), { dtype, device: "cpu" });
const said = [];
for (const text of texts) said.push(await ask(text, JSON.parse(options)));
console.log(JSON.stringify(said));
