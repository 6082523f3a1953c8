// What the server (or a static copy) tells the page: runs.json, page.json, samples.json. Made by src/attar/page/.

export interface Listed {
  name: string;
  title: string;
  headline: string;
  kept: string | null;
  teacher: string;
  student: string;
  task: string;
  created: string;
  problem: string | null;
}

export interface Runs {
  runs: Listed[];
  gpu: boolean;
}

export interface PageFile {
  path: string;
  bytes: number;
  sha256: string;
}

export interface TextReader {
  kind: "text";
  limit: number;
  side: "left" | "right";
  pair: boolean;
}

export type Filter = "nearest" | "lanczos" | "bilinear" | "bicubic" | "box" | "hamming";

export interface ImageReader {
  kind: "image";
  width: number;
  height: number;
  resample: Filter;
  factor: number;
  mean: [number, number, number];
  std: [number, number, number];
  draw: number | null;
}

export interface Student {
  name: string;
  model: PageFile;
  files: Record<string, PageFile>;
  inputs: string[];
  temperature: number;
  reader: TextReader | ImageReader;
}

export type Problem = "single_label" | "multi_label" | "regression";

export interface Page {
  name: string;
  title: string;
  headline: string;
  problem: Problem;
  labels: string[];
  students: Student[];
  refused: string | null;
  teacher: { name: string; bytes: number; asked: "live" | "samples" };
  watts: [number, number];
  watts_note: string;
}

/** A row as the teacher is asked for it. */
export interface Row {
  text?: string | null;
  pair?: string | null;
  image?: string | null;
}

export interface Said {
  values: number[];
  milliseconds: number;
  cpu_seconds: number;
}

export interface Sample {
  row: Row;
  truth: string | null;
  teacher: Said | null;
}

export interface Samples {
  rows: Sample[];
  note: string | null;
}

/** The address of a run's file. */
export function address(run: string, path: string): string {
  return `runs/${encodeURIComponent(run)}/${path.split("/").map(encodeURIComponent).join("/")}`;
}

/** JSON of an address; its error, or the server's own sentence, as an Error. */
export async function told<T>(where: string, body?: Row): Promise<T> {
  const posted = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(where, body === undefined ? { cache: "no-store" } : posted);
  const found = (await answer.json().catch(() => ({ error: `${where}: ${answer.status}` }))) as T & { error?: string };
  if (!answer.ok) throw new Error(found.error ?? `${where}: ${answer.status}`);
  return found;
}
