// Drawing a digit: strokes by mouse, finger, pen or keys, made into the small scan that the student was taught on.
import { h } from "./element";
import type { Pixels } from "./pixels";

interface Point {
  x: number;
  y: number;
}

const SIDE = 280;
const STEP = SIDE / 28;
const PEN = 20;
/** The scan's own bitmap is this many times finer, and its pen this wide there; counting makes the grey levels. */
const FINE = 4;
const WIDTH = 5.5;
const LEVELS = 16;

export class Drawing {
  readonly canvas = h("canvas", {
    width: SIDE,
    height: SIDE,
    tabindex: 0,
    role: "application",
    "aria-label": "Draw a digit",
    "aria-describedby": "draw-help",
  });
  private strokes: Point[][] = [];
  private cursor: Point = { x: SIDE / 2, y: SIDE / 4 };
  private down = false;
  private keys = false;

  constructor(private readonly changed: () => void) {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.strokes.push([this.place(event)]);
      this.keys = false;
      this.paint();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      this.strokes.at(-1)?.push(this.place(event));
      this.paint();
    });
    canvas.addEventListener("pointerup", () => this.changed());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.paint());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    this.paint();
  }

  get empty(): boolean {
    return this.strokes.length === 0;
  }

  clear(): void {
    this.strokes = [];
    this.down = false;
    this.paint();
  }

  /** The digit as a scan of `side` pixels: centred, as high as the scan, 17 levels of grey, white on black. */
  scan(side: number): Pixels {
    const fine = side * FINE;
    const context = h("canvas", { width: fine, height: fine }).getContext("2d", { willReadFrequently: true })!;
    const points = this.strokes.flat();
    const [left, right] = [Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x))];
    const [top, bottom] = [Math.min(...points.map((p) => p.y)), Math.max(...points.map((p) => p.y))];
    const scale = (fine - WIDTH) / Math.max(bottom - top, right - left, PEN);
    const to = (p: Point): [number, number] => [
      fine / 2 + (p.x - (left + right) / 2) * scale,
      fine / 2 + (p.y - (top + bottom) / 2) * scale,
    ];
    trace(context, this.strokes, to, WIDTH, "#fff");
    const drawn = context.getImageData(0, 0, fine, fine).data;
    const data = new Uint8ClampedArray(4 * side * side);
    for (let y = 0; y < side; y++)
      for (let x = 0; x < side; x++) {
        let ink = 0;
        for (let at = 0; at < FINE * FINE; at++) {
          const place = (y * FINE + Math.floor(at / FINE)) * fine + x * FINE + (at % FINE);
          if (drawn[4 * place + 3]! >= 128) ink++;
        }
        const grey = Math.round((ink * 255) / LEVELS);
        data.set([grey, grey, grey, 255], 4 * (y * side + x));
      }
    return { width: side, height: side, data };
  }

  private place(event: PointerEvent): Point {
    const box = this.canvas.getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * SIDE, y: ((event.clientY - box.top) / box.height) * SIDE };
  }

  /** Arrows move the pen, space puts it down or lifts it, Delete clears. */
  private key(event: KeyboardEvent): void {
    const moves: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (move !== undefined) {
      const inside = (value: number) => Math.min(SIDE - PEN / 2, Math.max(PEN / 2, value));
      this.cursor = { x: inside(this.cursor.x + move[0] * STEP), y: inside(this.cursor.y + move[1] * STEP) };
      if (this.down) this.strokes.at(-1)?.push(this.cursor);
    } else if (event.key === " " || event.key === "Enter") {
      this.down = !this.down;
      if (this.down) this.strokes.push([this.cursor]);
      else this.changed();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
      this.changed();
    } else return;
    event.preventDefault();
    this.keys = true;
    this.paint();
  }

  private paint(): void {
    const context = this.canvas.getContext("2d")!;
    const style = getComputedStyle(document.documentElement);
    context.clearRect(0, 0, SIDE, SIDE);
    trace(context, this.strokes, (p) => [p.x, p.y], PEN, style.getPropertyValue("--ink"));
    if (this.keys && document.activeElement === this.canvas) {
      context.beginPath();
      context.arc(this.cursor.x, this.cursor.y, PEN / 2, 0, 2 * Math.PI);
      context.lineWidth = 3;
      context.strokeStyle = style.getPropertyValue("--accent");
      context.stroke();
    }
  }
}

function trace(
  context: CanvasRenderingContext2D, strokes: Point[][], to: (point: Point) => [number, number], width: number, colour: string,
): void {
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = colour;
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...to(stroke[0]!));
    for (const point of stroke) context.lineTo(...to(point));
    context.stroke();
  }
}
