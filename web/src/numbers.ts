// Numbers as people read them, and what logits say: the same rules as in the report.
import type { Problem } from "./told";

const SPACE = "\u00a0";

/** Three significant digits without an exponent. */
export function three(value: number): string {
  const digits = value >= 99.95 ? 0 : value >= 9.995 ? 1 : value >= 0.0995 ? 2 : 3;
  return value.toFixed(digits);
}

export function percent(value: number): string {
  return `${(100 * value).toFixed(1)}${SPACE}%`;
}

export function milliseconds(value: number): string {
  return `${three(value)}${SPACE}ms`;
}

/** Bytes in decimal units. */
export function size(bytes: number): string {
  for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "KB"]] as const)
    if (bytes >= unit * 0.9995) return `${three(bytes / unit)}${SPACE}${name}`;
  return `${bytes}${SPACE}bytes`;
}

/** An interval of joules: `2.1 – 31 mJ`. */
export function joules(low: number, high: number): string {
  const [unit, name] = high >= 1 ? [1, "J"] : high >= 1e-3 ? [1e-3, "mJ"] : [1e-6, "µJ"];
  return `${two(low / unit)}${SPACE}–${SPACE}${two(high / unit)}${SPACE}${name}`;
}

function two(value: number): string {
  return value >= 9.95 ? value.toFixed(0) : value >= 0.995 ? value.toFixed(1) : value.toFixed(2);
}

/** A probability a label; for regression the number itself. */
export function said(logits: number[], problem: Problem, temperature: number): number[] {
  if (problem === "regression") return logits;
  const z = logits.map((logit) => logit / temperature);
  if (problem === "multi_label") return z.map((one) => 1 / (1 + Math.exp(-one)));
  const top = Math.max(...z);
  const raised = z.map((one) => Math.exp(one - top));
  const total = raised.reduce((sum, one) => sum + one, 0);
  return raised.map((one) => one / total);
}

/** The answer in words: the likeliest label, all labels above a half, or the number. */
export function answer(values: number[], labels: string[], problem: Problem): string {
  if (problem === "regression") return values[0]!.toFixed(3);
  if (problem === "single_label") return labels[best(values)]!;
  const chosen = labels.filter((_, at) => values[at]! > 0.5);
  return chosen.length === 0 ? "no label" : chosen.join(", ");
}

export function best(values: number[]): number {
  return values.indexOf(Math.max(...values));
}
