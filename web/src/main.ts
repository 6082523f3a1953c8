// The page: #/ lists the runs, #/NAME runs a student, #/NAME/report shows its report.
import "./style.css";
import { fill, h } from "./element";
import { list } from "./list";
import { Run, warmUp } from "./run";
import { address, told, type Page, type Runs } from "./told";

const page = document.querySelector("#page")!;
const runs = told<Runs>("runs.json");
let shown: Run | null = null;

async function go(): Promise<void> {
  shown?.end();
  shown = null;
  const [, name = "", what = ""] = location.hash.split("/").map(decodeURIComponent);
  const asked = name === "" ? null : told<Page>(address(name, "page.json"));
  asked?.catch(() => undefined); // told below, if this run is shown
  try {
    const found = await runs;
    const only = found.runs.length === 1 ? found.runs[0]!.name : "";
    const chosen = name || only;
    document.title = chosen === "" ? "attar" : `${chosen} – attar`;
    if (chosen === "") frame("", "", found, list(found.runs));
    else if (what === "report") frame(chosen, what, found, report(chosen));
    else {
      const refused = found.runs.find((one) => one.name === chosen)?.problem;
      if (refused != null) throw new Error(refused);
      shown = new Run(await (asked ?? told<Page>(address(chosen, "page.json"))), found.gpu);
      frame(chosen, what, found, shown.element);
    }
  } catch (error) {
    frame(name, what, null, h("p", { class: "alarm", role: "alert" }, (error as Error).message));
  }
}

function frame(name: string, what: string, found: Runs | null, body: HTMLElement): void {
  const home = `#/${encodeURIComponent(name)}`;
  const link = (text: string, href: string, here: boolean) => h("a", { href, "aria-current": here ? "page" : null }, text);
  const several = found === null || found.runs.length > 1;
  fill(
    page,
    h(
      "header",
      {},
      h("p", { class: "eyebrow" }, h("a", { href: "#/" }, "attar"), name === "" ? null : h("span", {}, name)),
      h(
        "nav",
        { "aria-label": "Page" },
        several ? link("Runs", "#/", name === "") : null,
        name === "" ? null : [link("Try it", home, what !== "report"), link("Report", `${home}/report`, what === "report")],
      ),
    ),
    h("main", { id: "main", tabindex: -1, class: what === "report" ? "wide" : null }, body),
    h("footer", {}, "What is typed or drawn here goes to the student in this browser and to the teacher beside it, and nowhere else. ", h("a", { href: "notices.txt" }, "Licences")),
  );
}

function report(name: string): HTMLElement {
  const place = address(name, "report.html");
  return h("div", { class: "report" }, h("p", { class: "links" }, h("a", { href: place, target: "_blank" }, "Open the report alone")), h("iframe", { src: place, title: `Report of ${name}` }));
}

window.addEventListener("hashchange", () => void go());
if (!location.hash.endsWith("/report")) warmUp();
void go();
