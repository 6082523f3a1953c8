// One run: a row goes to the student in this browser and to the teacher beside it.
import { Answers, type Shown } from "./answers";
import { fill, h } from "./element";
import { Input } from "./input";
import type { Pixels } from "./pixels";
import type { Loaded } from "./serve";
import { lacking, Student, threadsHere, type Device } from "./student";
import { address, told, type Page, type Row, type Said, type Sample, type Samples, type Student as Told } from "./told";

const PATIENCE = 250;
/** A worker that compiles the runtime while the page is told of its runs; the first student of one thread takes it. */
let warmed: Student | null = null;

export function warmUp(): void {
  if (lacking() !== null) return;
  warmed = new Student("wasm");
  warmed.warm(1).catch(() => undefined); // told when the student is loaded
}

/** A smaller model is answered sooner by one thread than shared among several. */
const WORTH_THREADS = 8e6;

export class Run {
  readonly element = h("div");
  private readonly answers: Answers;
  private input: Input | null = null;
  private student: Student | null = null;
  private told: Told;
  private loaded: Promise<Loaded> = new Promise(() => undefined);
  private threads: number;
  private device: Device = "wasm";
  private turn = 0;
  private last: [Row, Pixels | undefined, Sample | null] | null = null;

  constructor(
    private readonly page: Page,
    private readonly gpu: boolean,
  ) {
    this.answers = new Answers(page);
    this.told = page.students[0]!;
    this.threads = this.told.model.bytes >= WORTH_THREADS ? threadsHere() : 1;
    const refused = page.refused ?? lacking();
    fill(this.element, h("h1", {}, page.headline));
    if (refused !== null) {
      this.element.append(h("p", { class: "alarm", role: "alert" }, refused));
      return;
    }
    const input = new Input(this.told.reader, (...row) => void this.ask(...row));
    this.input = input;
    this.element.append(h("div", { class: "bench" }, input.element, this.answers.element, input.samples), this.settings());
    this.start();
    void told<Samples>(address(page.name, "samples.json")).then(
      (samples) => input.offer(samples),
      (error: Error) => input.offer({ rows: [], note: error.message }),
    );
  }

  end(): void {
    this.student?.end();
    this.turn++;
  }

  /** Load the chosen file in a fresh worker. */
  private start(): void {
    this.student?.end();
    const ready = this.device === "wasm" && this.threads === 1 ? warmed : null;
    if (ready !== null) warmed = null;
    this.student = ready ?? new Student(this.device);
    this.input?.paced(null);
    this.answers.say("The student is on its way …");
    const base = new URL(address(this.page.name, ""), document.baseURI).href;
    this.loaded = this.student.load(this.told, base, this.threads);
    this.loaded.then(
      (loaded) => {
        document.dispatchEvent(new CustomEvent("attar:loaded", { detail: loaded }));
        if (this.last === null) this.answers.say("The student is here.");
        else void this.ask(...this.last);
      },
      (error: Error) => this.answers.say(`The student cannot run: ${error.message}`, true),
    );
  }

  private async ask(row: Row, pixels: Pixels | undefined, sample: Sample | null): Promise<void> {
    const turn = ++this.turn;
    this.last = [row, pixels, sample];
    const shown: Shown = { student: null, timed: null, teacher: null, truth: sample?.truth ?? null };
    const [student, told_] = [this.student!, this.told];
    let loaded: Loaded;
    try {
      loaded = await this.loaded;
      if (turn !== this.turn || student !== this.student) return;
      shown.student = await student.ask(row, pixels);
    } catch (error) {
      if (turn === this.turn) this.answers.say(`The student cannot answer: ${(error as Error).message}`, true);
      return;
    }
    if (student === this.student) this.input?.paced(shown.student.milliseconds);
    if (turn !== this.turn) return;
    const show = () => this.answers.show(shown, told_, loaded, this.threads);
    show();
    document.dispatchEvent(new CustomEvent("attar:answer", { detail: { row, student: told_.name, ...shown.student } }));
    // Typing is waited for: the teacher is not asked for every letter, nor the student timed on it.
    if (sample === null) await new Promise((done) => setTimeout(done, PATIENCE));
    if (turn !== this.turn) return;
    shown.teacher = await this.teacher(row, sample);
    if (turn !== this.turn) return;
    show();
    shown.timed = (await student.time()).milliseconds;
    if (student === this.student) this.input?.paced(shown.timed);
    if (turn === this.turn) show();
  }

  /** The teacher's answer, or a sentence why there is none. */
  private async teacher(row: Row, sample: Sample | null): Promise<Said | string> {
    if (sample?.teacher != null) return sample.teacher;
    if (this.page.teacher.asked === "samples") return "The teacher is not on this host: its answers came along for the sample rows only.";
    try {
      return await told<Said>(address(this.page.name, "teacher"), row);
    } catch (error) {
      return `The teacher does not answer: ${(error as Error).message}`;
    }
  }

  private settings(): HTMLElement {
    const choice = (name: string, id: string, values: string[], chosen: string, set: (value: string) => void) => {
      const select: HTMLSelectElement = h(
        "select",
        { id, onchange: () => (set(select.value), this.start()) },
        values.map((value) => h("option", { value, selected: value === chosen }, value)),
      );
      return h("p", {}, h("label", { for: id }, name), select);
    };
    const threads = Array.from({ length: threadsHere() }, (_, at) => String(at + 1));
    return h(
      "details",
      { class: "settings" },
      h("summary", {}, "How the student runs"),
      choice("File", "file-choice", this.page.students.map((one) => one.name), this.told.name, (name) => {
        this.told = this.page.students.find((one) => one.name === name)!;
      }),
      choice("Threads", "threads", threads, String(this.threads), (count) => (this.threads = Number(count))),
      self.crossOriginIsolated ? null : h("p", { class: "note" }, "This host does not set the headers that threads need, so there is one."),
      this.gpu && "gpu" in navigator
        ? choice("Runtime", "device", ["WebAssembly", "WebGPU (27 MB more)"], "WebAssembly", (name) => {
            this.device = name.startsWith("WebGPU") ? "webgpu" : "wasm";
          })
        : null,
    );
  }
}
