// An image to pixel values. The resizing is Pillow's, bit for bit: two passes over bytes with fixed-point weights, across
// first. (Pillow 13 begins downwards where an image is tall; its bytes then differ from these by one here and there.)
import type { Filter, ImageReader } from "./told";

export interface Pixels {
  width: number;
  height: number;
  /** RGBA bytes, row by row. */
  data: Uint8ClampedArray;
}

const BITS = 22;
const sinc = (x: number) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const FILTERS: Record<Exclude<Filter, "nearest">, [support: number, weight: (x: number) => number]> = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x: number): number {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/**
 * float32 [1, 3, H, W]: resized, scaled and normalised by the task's own arithmetic, (x - mean / f) / (std / f) in single
 * precision: an int8 student rounds its input, and many a pixel lies on the edge.
 */
export function values(image: Pixels, reader: ImageReader): Float32Array {
  const { width, height } = reader;
  const bytes = resize(rgb(image), image.width, image.height, width, height, reader.resample);
  const made = new Float32Array(3 * width * height);
  const f = Math.fround;
  const [factor, plain] = [f(reader.factor), reader.mean.every((m) => m === 0) && reader.std.every((s) => s === 1)];
  for (let c = 0; c < 3; c++) {
    const [mean, std] = [f(f(reader.mean[c]!) / factor), f(f(reader.std[c]!) / factor)];
    for (let at = 0; at < width * height; at++) {
      const byte = bytes[3 * at + c]!;
      made[c * width * height + at] = plain ? byte * factor : f(byte - mean) / std;
    }
  }
  return made;
}

function rgb(image: Pixels): Uint8Array {
  const made = new Uint8Array(3 * image.width * image.height);
  for (let at = 0; at < image.width * image.height; at++)
    for (let c = 0; c < 3; c++) made[3 * at + c] = image.data[4 * at + c]!;
  return made;
}

function resize(from: Uint8Array, width: number, height: number, w: number, h: number, filter: Filter): Uint8Array {
  const across = width === w ? from : pass(from, width, w, height, 3, 3 * width, 3 * w, filter);
  return height === h ? across : pass(across, height, h, w, 3 * w, 3, 3, filter);
}

/** Resize along one axis. `step`: from one pixel to the next along it; `line`, `made`: from one line to the next. */
function pass(
  from: Uint8Array, size: number, to: number, lines: number, step: number, line: number, made: number, filter: Filter,
): Uint8Array {
  const out = new Uint8Array(3 * to * lines);
  for (let x = 0; x < to; x++) {
    const [start, weights] = weightsOf(x, size, to, filter);
    for (let y = 0; y < lines; y++)
      for (let c = 0; c < 3; c++) {
        let sum = 1 << (BITS - 1);
        for (let k = 0; k < weights.length; k++) sum += from[y * line + (start + k) * step + c]! * weights[k]!;
        out[y * made + x * step + c] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** BITS)));
      }
  }
  return out;
}

function weightsOf(x: number, size: number, to: number, filter: Filter): [start: number, weights: number[]] {
  const scale = size / to;
  if (filter === "nearest") return [Math.floor((x + 0.5) * scale), [2 ** BITS]];
  const [reach, weight] = FILTERS[filter];
  const stretch = Math.max(1, scale);
  const [centre, support] = [(x + 0.5) * scale, reach * stretch];
  const start = Math.max(0, Math.trunc(centre - support + 0.5));
  const end = Math.min(size, Math.trunc(centre + support + 0.5));
  const raw = Array.from({ length: end - start }, (_, k) => weight((start + k - centre + 0.5) / stretch));
  const total = raw.reduce((sum, one) => sum + one, 0) || 1;
  return [start, raw.map((one) => Math.trunc((one / total) * 2 ** BITS + (one < 0 ? -0.5 : 0.5)))];
}
