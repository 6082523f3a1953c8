// The list of runs, each with its headline.
import { h } from "./element";
import type { Listed } from "./told";

export function list(runs: Listed[]): HTMLElement {
  return h("div", {}, h("h1", {}, "Runs"), h("ul", { class: "runs" }, runs.map(entry)));
}

function entry(run: Listed): HTMLElement {
  const home = `#/${encodeURIComponent(run.name)}`;
  if (run.problem !== null) return h("li", {}, h("h2", {}, run.name), h("p", { class: "alarm" }, run.problem));
  return h(
    "li",
    {},
    h("h2", {}, h("a", { href: home }, run.headline)),
    h("p", { class: "note" }, [run.name, run.task, run.created].join(" · ")),
    h(
      "dl",
      {},
      run.kept === null ? null : h("div", {}, h("dt", {}, "Kept"), h("dd", {}, run.kept)),
      h("div", {}, h("dt", {}, "Teacher"), h("dd", {}, run.teacher)),
      h("div", {}, h("dt", {}, "Student"), h("dd", {}, run.student)),
    ),
    h("p", { class: "links" }, h("a", { href: home }, "Try it"), h("a", { href: `${home}/report` }, "Report")),
  );
}
