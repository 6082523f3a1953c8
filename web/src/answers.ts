// The two answers side by side: a sentence, a bar a label, and what each answer took.
import { fill, h } from "./element";
import { answer, best, joules, milliseconds, percent, said, size } from "./numbers";
import type { Answer, Loaded } from "./serve";
import type { Page, Said, Student } from "./told";

const ROWS = 6;
const ALL = 10;
const QUIET = 700;

/** What the teacher says of the current row: its answer, a sentence why there is none, or nothing yet. */
export type Teacher = Said | string | null;

export interface Shown {
  student: Answer | null;
  /** Milliseconds of the student, once it has answered several times. */
  timed: number | null;
  teacher: Teacher;
  truth: string | null;
}

export class Answers {
  readonly element = h("section", { class: "answers", "aria-labelledby": "answers" });
  private readonly verdict = h("p", { class: "verdict" });
  private readonly notes = h("div", { class: "notes" });
  private readonly bars = h("tbody");
  private readonly costs = h("tbody");
  private readonly live = h("p", { class: "unseen", role: "status", "aria-live": "polite" });
  private timer = 0;

  constructor(private readonly page: Page) {
    const heads = (first: string) =>
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, first), h("th", { scope: "col", class: "student" }, "Student"), h("th", { scope: "col" }, "Teacher")));
    const caption = (text: string) => h("caption", { class: "unseen" }, text);
    fill(
      this.element,
      h("h2", { id: "answers" }, "Two answers"),
      h("div", { class: "said" }, this.verdict, this.notes),
      page.problem === "regression" ? null : h("table", { class: "bars" }, caption("Probability of each label"), heads("Label"), this.bars),
      h("table", { class: "costs" }, caption("What one answer takes"), heads("One answer"), this.costs),
      h("p", { class: "note" }, page.watts_note),
      this.live,
    );
  }

  /** A sentence in the place of the answers: loading, or why there are none. */
  say(text: string, alarm = false): void {
    fill(this.verdict, h("span", { class: alarm ? "alarm" : "waiting" }, text));
    this.tell(text);
  }

  show(shown: Shown, student: Student, loaded: Loaded, threads: number): void {
    const { page } = this;
    const own = shown.student && said(shown.student.logits, page.problem, student.temperature);
    const theirs = shown.teacher !== null && typeof shown.teacher !== "string" ? shown.teacher.values : null;
    if (own !== null) {
      const text = this.sentence(own, theirs);
      fill(this.verdict, text.map((part, at) => (at % 2 ? h("strong", {}, part) : part)));
      if (theirs !== null || typeof shown.teacher === "string") this.tell(text.join(""));
    }
    const tokens = shown.student?.tokens;
    fill(
      this.notes,
      shown.truth === null ? null : h("p", {}, `The data says ${shown.truth}.`),
      tokens !== undefined && tokens.read < tokens.whole
        ? h("p", { class: "cut" }, `Only ${tokens.read} of the text’s ${tokens.whole} tokens were read: the student’s context ends there.`)
        : null,
      typeof shown.teacher === "string" ? h("p", { class: "missing" }, shown.teacher) : null,
    );
    fill(this.bars, this.order(own, theirs).map((label) => this.bar(label, own, theirs)));
    this.fillCosts(shown, student, loaded, threads);
  }

  /** Odd parts are answers. */
  private sentence(own: number[], theirs: number[] | null): string[] {
    const { labels, problem } = this.page;
    const mine = answer(own, labels, problem);
    if (theirs === null) return ["The student says ", mine, "."];
    const other = answer(theirs, labels, problem);
    return mine === other ? ["Both say ", mine, "."] : ["The student says ", mine, ", the teacher ", other, "."];
  }

  /** Few labels stand in their own order; of many the student's likeliest, and the teacher's first. */
  private order(own: number[] | null, theirs: number[] | null): number[] {
    const all = this.page.labels.map((_, at) => at);
    const values = own ?? theirs;
    if (all.length <= ALL || values === null) return all.slice(0, ALL);
    const top = all.sort((a, b) => values[b]! - values[a]!).slice(0, ROWS);
    if (theirs !== null && !top.includes(best(theirs))) top[ROWS - 1] = best(theirs);
    return top;
  }

  private bar(label: number, own: number[] | null, theirs: number[] | null): HTMLElement {
    const cell = (values: number[] | null, who: string) => {
      if (values === null) return h("td", { class: "empty" }, "–");
      const fillUp = h("span", { class: `fill ${who}` });
      fillUp.style.width = `${100 * values[label]!}%`;
      return h("td", {}, h("span", { class: "track", "aria-hidden": true }, fillUp), h("span", { class: "number" }, percent(values[label]!)));
    };
    const first = own !== null && this.page.problem === "single_label" && best(own) === label;
    return h("tr", { class: first ? "first" : null }, h("th", { scope: "row" }, broken(this.page.labels[label]!)), cell(own, "student"), cell(theirs, "teacher"));
  }

  private fillCosts(shown: Shown, student: Student, loaded: Loaded, threads: number): void {
    const { page } = this;
    const teacher = shown.teacher !== null && typeof shown.teacher !== "string" ? shown.teacher : null;
    const own = shown.timed;
    const [low, high] = page.watts;
    const row = (name: string, one: string | null, other: string | null) =>
      h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, one ?? "–"), h("td", {}, other ?? "–"));
    fill(
      this.costs,
      row("Time, median", own === null ? null : milliseconds(own), teacher && milliseconds(teacher.milliseconds)),
      row(
        "Energy, estimated",
        // A worker's wall time is the processor's on one thread, and at most that of all threads on several.
        own === null ? null : joules((low * own) / 1000, (high * threads * own) / 1000),
        teacher && joules(low * teacher.cpu_seconds, high * teacher.cpu_seconds),
      ),
      row("Size", size(student.model.bytes), size(page.teacher.bytes)),
      row("Downloaded", `${size(loaded.student)}, once the runtime’s ${size(loaded.runtime)}`, "nothing"),
      row("Where", `this browser, ${threads} thread${threads > 1 ? "s" : ""}`, page.teacher.asked === "live" ? "this machine, by attar" : "where the page was made"),
    );
  }

  /** For screen readers, when the answer has stood for a moment. */
  private tell(text: string): void {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => (this.live.textContent = text), QUIET);
  }
}

/** A label that may break behind its underscores. */
function broken(label: string): (string | HTMLElement)[] {
  return label.split(/(?<=_)/).flatMap((part, at) => (at === 0 ? [part] : [h("wbr"), part]));
}
