// The page's side of the worker.
import type { Pixels } from "./pixels";
import type { Answer, Loaded, Question, Reply, Timed } from "./serve";
import type { Row, Student as Told } from "./told";

export type Device = "wasm" | "webgpu";

// A function with one v128 instruction: valid where WebAssembly has SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

/** Why no student can run in this browser; null where one can. */
export function lacking(): string | null {
  if (typeof WebAssembly === "undefined") return "This browser has no WebAssembly, so the student cannot run here.";
  if (!WebAssembly.validate(new Uint8Array(SIMD)))
    return "This browser’s WebAssembly has no SIMD, so the student cannot run here. Firefox 89, Chrome 91 and Safari 16.4 have it, and all later ones.";
  return null;
}

/** Threads that the runtime may use here: one unless the page is isolated, which the server’s headers decide. */
export function threadsHere(): number {
  return self.crossOriginIsolated ? Math.max(1, Math.min(4, navigator.hardwareConcurrency)) : 1;
}

export class Student {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, { done: (found: never) => void; failed: (error: Error) => void }>();
  private next = 0;

  constructor(device: Device) {
    this.worker =
      device === "webgpu"
        ? new Worker(new URL("./worker-gpu.ts", import.meta.url), { type: "module" })
        : new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      const waiting = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if ("error" in data) waiting?.failed(new Error(data.error));
      else waiting?.done(data.found as never);
    };
    this.worker.onerror = (event) => {
      for (const one of this.waiting.values()) one.failed(new Error(event.message || "the worker could not be started"));
      this.waiting.clear();
    };
  }

  load(told: Told, base: string, threads: number): Promise<Loaded> {
    return this.question((id) => ({ id, load: told, base, threads }));
  }

  /** Compile the runtime for so many threads, before it is known which student comes. */
  warm(threads: number): Promise<Timed> {
    return this.question((id) => ({ id, warm: threads }));
  }

  ask(row: Row, pixels?: Pixels): Promise<Answer> {
    return this.question((id) => ({ id, ask: { row, pixels } }));
  }

  /** The last row again, several times. */
  time(): Promise<Timed> {
    return this.question((id) => ({ id, time: true }));
  }

  end(): void {
    this.worker.terminate();
  }

  private question<T>(made: (id: number) => Question): Promise<T> {
    const id = this.next++;
    return new Promise<T>((done, failed) => {
      this.waiting.set(id, { done, failed });
      this.worker.postMessage(made(id));
    });
  }
}
