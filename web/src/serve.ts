// The student, in a worker: fetches its files, holds them to their hashes, reads rows and runs the model.
import type * as Ort from "onnxruntime-web";
import { values, type Pixels } from "./pixels";
import { TextReading } from "./text";
import type { PageFile, Row, Student } from "./told";

declare const __RUNTIME__: string;

export type Question =
  | { id: number; load: Student; base: string; threads: number }
  | { id: number; ask: { row: Row; pixels?: Pixels } }
  | { id: number; time: true }
  | { id: number; warm: number };

export interface Loaded {
  milliseconds: number;
  /** Bytes of the student's own files, and of the runtime. */
  student: number;
  runtime: number;
}

export interface Answer {
  logits: number[];
  milliseconds: number;
  tokens?: { whole: number; read: number };
}

export interface Timed {
  milliseconds: number;
}

export type Reply = { id: number; found: Loaded | Answer | Timed } | { id: number; error: string };

const REPEATS = 5;
/** A model of one Identity: making a session of it compiles the runtime, while the page still asks for the student. */
const NOTHING = "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0=";

/** Answer the page's questions with this runtime. `files`: the runtime's own, below its folder. */
export function serve(ort: typeof Ort, provider: "wasm" | "webgpu", files: string): void {
  let student: Student;
  let session: Ort.InferenceSession;
  let reading: TextReading | null = null;
  let last: Record<string, Ort.Tensor> = {};

  const runtime = new URL(__RUNTIME__ + files, import.meta.url).href;
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = { mjs: `${runtime}.mjs`, wasm: `${runtime}.wasm` };

  /** Compile the runtime for so many threads. */
  async function warm(threads: number): Promise<Timed> {
    const started = performance.now();
    ort.env.wasm.numThreads = threads;
    await ort.InferenceSession.create(Uint8Array.from(atob(NOTHING), (letter) => letter.charCodeAt(0)));
    return { milliseconds: performance.now() - started };
  }

  async function load(wanted: Student, base: string, threads: number): Promise<Loaded> {
    const started = performance.now();
    ort.env.wasm.numThreads = threads;
    student = wanted;
    const [model, ...beside] = await Promise.all([wanted.model, ...Object.values(wanted.files)].map((f) => file(f, base)));
    session = await ort.InferenceSession.create(model!, { executionProviders: [provider] });
    if (wanted.reader.kind === "text") {
      const parsed = beside.map((bytes) => JSON.parse(new TextDecoder().decode(bytes)) as object);
      const named = Object.fromEntries(Object.keys(wanted.files).map((name, at) => [name, parsed[at]!]));
      reading = new TextReading(wanted.reader, named["tokenizer.json"]!, named["tokenizer_config.json"] ?? {});
    }
    const fetched = performance.getEntriesByType("resource") as PerformanceResourceTiming[];
    return {
      milliseconds: performance.now() - started,
      student: [model!, ...beside].reduce((sum, bytes) => sum + bytes.length, 0),
      runtime: fetched.filter((e) => e.name.startsWith(runtime)).reduce((sum, e) => sum + e.encodedBodySize, 0),
    };
  }

  async function ask(row: Row, pixels?: Pixels): Promise<Answer> {
    const feeds: Record<string, Ort.Tensor> = {};
    let tokens: Answer["tokens"];
    if (student.reader.kind === "image") {
      if (pixels === undefined) throw new Error("there is no image to read");
      const { width, height } = student.reader;
      feeds["pixel_values"] = new ort.Tensor("float32", values(pixels, student.reader), [1, 3, height, width]);
    } else {
      const found = reading!.read(row);
      tokens = { whole: found.whole, read: found.read };
      for (const [name, ids] of Object.entries(found.inputs))
        feeds[name] = new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    }
    for (const name of Object.keys(feeds)) if (!session.inputNames.includes(name)) delete feeds[name];
    const started = performance.now();
    const { logits } = await session.run(feeds, ["logits"]);
    const found = Array.from((await logits!.getData()) as Float32Array);
    last = feeds;
    return { logits: found, milliseconds: performance.now() - started, tokens };
  }

  /** Milliseconds of the last row again, the median of several: a first run also compiles. */
  async function time(): Promise<Timed> {
    const taken: number[] = [];
    for (let at = 0; at < REPEATS; at++) {
      const started = performance.now();
      await (await session.run(last, ["logits"]))["logits"]!.getData();
      taken.push(performance.now() - started);
    }
    return { milliseconds: taken.sort((a, b) => a - b)[REPEATS >> 1]! };
  }

  function work(question: Question): Promise<Loaded | Answer | Timed> {
    if ("load" in question) return load(question.load, question.base, question.threads);
    if ("warm" in question) return warm(question.warm);
    return "ask" in question ? ask(question.ask.row, question.ask.pixels) : time();
  }

  // One question at a time: a session runs one row at a time.
  let before = Promise.resolve();
  self.onmessage = ({ data }: MessageEvent<Question>) => {
    before = before.then(async () => {
      try {
        self.postMessage({ id: data.id, found: await work(data) } satisfies Reply);
      } catch (error) {
        self.postMessage({ id: data.id, error: error instanceof Error ? error.message : String(error) } satisfies Reply);
      }
    });
  };
}

/** The bytes of a file, which are those that were measured. */
async function file(wanted: PageFile, base: string): Promise<Uint8Array> {
  const answer = await fetch(new URL(wanted.path.split("/").map(encodeURIComponent).join("/"), base));
  if (!answer.ok) {
    const told = (await answer.json().catch(() => ({}))) as { error?: string };
    throw new Error(told.error ?? `${wanted.path}: the server answers ${answer.status}`);
  }
  const bytes = new Uint8Array(await answer.arrayBuffer());
  // Browsers hash only on https and on this machine.
  if (self.crypto.subtle !== undefined) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== wanted.sha256) throw new Error(`${wanted.path}: is not the file that was measured (its hash differs); it is not run`);
  }
  return bytes;
}
