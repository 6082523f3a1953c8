"""How soon the page of `attar serve` answers in Chromium, and what it downloads.

    ATTAR_MIRROR=../shared/data python benchmarks/page.py runs/b77 --out benchmarks/results/page-banking77.json

Each repeat is a browser of its own that has nothing cached; the server is warm, as it has listed the run before.
`first`: from the start of the navigation to the answer to the first sample row. `later`: from a text put into the box
to its answer, tokenizer included, over texts of the test split. Needs `make env EXTRAS=dev` and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from attar.data.load import load_data
from attar.recipe.load import load_recipe
from attar.server import Server

_LISTEN = """
document.addEventListener("attar:answer", (event) => (window.given ??= []).push([performance.now(), event.detail]));
document.addEventListener("attar:loaded", (event) => (window.loaded = event.detail));
"""
_TYPE = """(text) => new Promise((done) => {
  const box = document.querySelector("textarea");
  const start = performance.now();
  document.addEventListener("attar:answer", () => done(performance.now() - start), { once: true });
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
})"""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def visit(browser: Browser, address: str, texts: list[str]) -> dict[str, Any]:
    """Milliseconds of a first answer and of later ones, and bytes loaded."""
    page = browser.new_page()
    page.add_init_script(_LISTEN)
    page.goto(address, wait_until="commit")
    page.wait_for_function("() => window.loaded && (window.given ?? []).length > 0")
    first, loaded = page.evaluate("() => [window.given[0][0], window.loaded]")
    page.wait_for_timeout(1500)  # the teacher's first answer, and the timing of the student, are over
    later = [page.evaluate(_TYPE, text) for text in texts]
    page.close()
    return {"first": first, "later": later, "bytes": loaded}


def main() -> None:
    """Serve, visit, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run on texts, with an onnx export")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    path = next(found for name in _BROWSERS if (found := shutil.which(name)))
    texts = [str(text) for text in load_data(load_recipe(options.run / "recipe.yaml")).test["text"][: options.texts]]
    seen: list[dict[str, Any]] = []
    with Server(options.run, 0) as server, sync_playwright() as engine:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for repeat in range(options.repeats + 1):
            browser = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
            found = visit(browser, f"{server.url}#/{options.run.name}", texts)
            about = browser.version
            browser.close()
            if repeat:  # the first one reads files of the server and of the browser from the disk
                seen.append(found)
        server.shutdown()
    firsts, laters = [one["first"] for one in seen], [ms for one in seen for ms in one["later"]]
    result = {
        "first_ms": {"median": statistics.median(firsts), "worst": max(firsts), "n": len(firsts)},
        "later_ms": {
            "median": statistics.median(laters), "p95": statistics.quantiles(laters, n=20)[-1], "worst": max(laters),
            "n": len(laters),
        },
        "bytes": seen[0]["bytes"],
        "conditions": {
            "device": f"{platform.machine()}, {os.cpu_count()} cores", "load": os.getloadavg(),
            "browser": f"Chromium {about}, headless", "attar": version("attar"),
        },
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
