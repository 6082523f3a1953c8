// Images in and out of the page: files and data: URLs to pixels, and back.
import { h } from "./element";
import type { Pixels } from "./pixels";

const LARGEST = 4_000_000;

/** The pixels of an image file, or of a data: URL. */
export async function pixelsOf(source: string): Promise<Pixels> {
  const image = new Image();
  image.src = source;
  await image.decode().catch(() => Promise.reject(new Error("This is not an image that the browser can read.")));
  if (image.naturalWidth * image.naturalHeight > LARGEST) throw new Error("This image has more than 4 million pixels. Choose a smaller one.");
  const { context } = canvasOf(image.naturalWidth, image.naturalHeight);
  context.drawImage(image, 0, 0);
  const { width, height, data } = context.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
  return { width, height, data };
}

/** A PNG as a data: URL, for the teacher: it sees the very same pixels. */
export function png(pixels: Pixels): string {
  const { canvas, context } = canvasOf(pixels.width, pixels.height);
  context.putImageData(new ImageData(new Uint8ClampedArray(pixels.data), pixels.width, pixels.height), 0, 0);
  return canvas.toDataURL("image/png");
}

function canvasOf(width: number, height: number): { canvas: HTMLCanvasElement; context: CanvasRenderingContext2D } {
  const canvas = h("canvas", { width, height });
  return { canvas, context: canvas.getContext("2d", { willReadFrequently: true })! };
}
