// Where a row comes from: a text, a pair of texts, a drawing, an image file, or one of the sample rows.
import { Drawing } from "./draw";
import { fill, h } from "./element";
import { pixelsOf, png } from "./images";
import type { Pixels } from "./pixels";
import type { ImageReader, Row, Sample, Samples, TextReader } from "./told";

/** Milliseconds that typing rests before the student is asked, until it is known how fast it is, and at most. */
const PAUSE = 120;
const LONGEST = 20_000;

export type Entered = (row: Row, pixels: Pixels | undefined, sample: Sample | null) => void;

export class Input {
  readonly element = h("section", { class: "input", "aria-labelledby": "input" });
  private readonly texts: HTMLTextAreaElement[] = [];
  private readonly seen = h("div", { class: "seen" });
  readonly samples = h("section", { class: "samples", "aria-label": "Rows of the test split" });
  private readonly wrong = h("p", { class: "alarm", role: "alert" });
  private drawing: Drawing | null = null;
  private timer = 0;
  private touched = false;
  private pause = PAUSE;

  constructor(
    private readonly reader: TextReader | ImageReader,
    private readonly entered: Entered,
  ) {
    const body = reader.kind === "text" ? this.text(reader) : this.image(reader);
    fill(this.element, body, this.wrong);
  }

  /** What an answer of this student took, or that another one comes: a fast one is asked at every letter. */
  paced(milliseconds: number | null): void {
    this.pause = milliseconds === null ? PAUSE : Math.min(this.pause, milliseconds);
  }

  /** The rows to try; the first one at once, unless the visitor has begun. */
  offer({ rows, note }: Samples): void {
    if (rows.length === 0) {
      fill(this.samples, note === null ? null : h("p", { class: "note" }, `No sample rows: ${note}.`));
      return;
    }
    const buttons = rows.map((sample, at) => {
      const shown =
        sample.row.image != null
          ? h("img", { src: sample.row.image, alt: "", class: "pixels" })
          : h("span", {}, [sample.row.text, sample.row.pair].filter((part) => part != null).join(" / "));
      const label = sample.row.image != null ? `Sample ${at + 1}${sample.truth === null ? "" : `: ${sample.truth}`}` : null;
      return h("button", { type: "button", "aria-label": label, onclick: () => void this.take(sample) }, shown);
    });
    const row = this.reader.kind === "image" ? "row" : "column";
    fill(this.samples, h("h3", {}, "Rows of the test split"), h("div", { class: `offers ${row}` }, buttons));
    if (!this.touched) void this.take(rows[0]!);
  }

  private text(reader: TextReader): Node[] {
    const names = reader.pair ? ["First text", "Second text"] : ["Your text"];
    return names.flatMap((name, at) => {
      const area = h("textarea", {
        id: `text-${at}`, rows: 3, maxlength: LONGEST, spellcheck: "false", oninput: () => this.typed(),
      });
      this.texts.push(area);
      const label = h("label", { for: `text-${at}` }, name);
      return [at === 0 ? h("h2", { id: "input" }, label) : h("h2", {}, label), area];
    });
  }

  private typed(): void {
    this.touched = true;
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      const [text, pair] = this.texts.map((area) => area.value);
      if (text!.trim() !== "" && pair?.trim() !== "") this.entered({ text, ...(pair === undefined ? {} : { pair }) }, undefined, null);
    }, this.pause);
  }

  private image(reader: ImageReader): Node[] {
    const file = h("input", {
      type: "file", id: "file", accept: "image/png,image/jpeg", onchange: () => void this.opened(file),
    });
    const open = h("label", { class: "button", for: "file" }, "Open an image");
    if (reader.draw === null) return [h("h2", { id: "input" }, "Your image"), h("div", { class: "tools" }, file, open), this.seen];
    const side = reader.draw;
    this.drawing = new Drawing(() => this.drawn(side));
    const clear = h("button", { type: "button", class: "button", onclick: () => this.wiped() }, "Clear");
    const help = "By mouse or finger; by keys, arrows move the pen, space puts it down and lifts it, Delete clears.";
    return [
      h("h2", { id: "input" }, "Draw a digit"),
      h("div", { class: "paper" }, this.drawing.canvas, this.seen),
      h("p", { class: "note", id: "draw-help" }, help),
      h("div", { class: "tools" }, clear, file, open),
    ];
  }

  private drawn(side: number): void {
    this.touched = true;
    if (this.drawing!.empty) this.wiped();
    else this.looked(this.drawing!.scan(side), null);
  }

  private wiped(): void {
    this.drawing?.clear();
    fill(this.seen);
  }

  private async opened(file: HTMLInputElement): Promise<void> {
    const [chosen] = file.files ?? [];
    if (chosen === undefined) return;
    this.touched = true;
    const place = URL.createObjectURL(chosen);
    try {
      const pixels = await pixelsOf(place);
      this.wiped();
      this.looked(pixels, null);
    } catch (error) {
      fill(this.wrong, (error as Error).message);
    } finally {
      URL.revokeObjectURL(place);
      file.value = "";
    }
  }

  private async take(sample: Sample): Promise<void> {
    if (this.reader.kind === "text") {
      clearTimeout(this.timer);
      [sample.row.text, sample.row.pair].forEach((part, at) => this.texts[at] && (this.texts[at]!.value = part ?? ""));
      this.entered(sample.row, undefined, sample);
      return;
    }
    const pixels = await pixelsOf(sample.row.image!);
    this.wiped();
    this.looked(pixels, sample);
  }

  private looked(pixels: Pixels, sample: Sample | null): void {
    fill(this.wrong);
    const image = png(pixels);
    fill(this.seen, h("img", { src: image, class: "pixels", alt: "What both models see" }), h("span", { class: "note" }, `${pixels.width} × ${pixels.height}, as both see it`));
    this.entered({ image }, pixels, sample);
  }
}
