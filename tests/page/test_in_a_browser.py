"""The page in a real browser: it types, draws and opens images, and its numbers are those of onnxruntime."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from run_parts import make

import attar
from attar.errors import AttarError
from attar.export.exporter import single_rows
from attar.export.runtimes.onnx import OnnxRunner
from attar.page.built import GPU, built_page
from attar.page.hosted import export_page
from attar.page.rows import Asked
from attar.page.teacher import RunTeacher
from attar.recipe.load import load_recipe
from attar.report.load import load_run
from attar.server import Server
from attar.tasks import make_task
from report.test_browser import browser as chromium

pytestmark = pytest.mark.slow
CLOSE = 1e-3
SECONDS = 60
LISTEN = """
document.addEventListener("attar:answer", (event) => (window.given ??= []).push(event.detail));
document.addEventListener("attar:loaded", (event) => (window.loaded = event.detail));
"""
DIGITS = {
    "name": "digits",
    "task": {"kind": "image_classification", "image_size": 16},
    "teacher": {
        "kind": "local", "fit": "full", "licence": "apache-2.0",
        "config": {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16],
                   "depths": [1, 1], "downsample_in_first_stage": False},
        "fitting": {"epochs": 2, "batch_size": 64, "learning_rate": 0.003},
    },
    "data": {"source": "digits", "licence": "cc-by-4.0"},
    "student": {"kind": "from_config", "config": {
        "model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1],
        "downsample_in_first_stage": False}},
    "objectives": [{"kind": "forward_kl"}],
    "training": {"epochs": 2, "batch_size": 64, "learning_rate": 0.005, "control": False},
    "export": [{"kind": "onnx", "precision": "fp32"}, {"kind": "onnx", "precision": "int8"}],
    "report": {"bootstrap": 100, "latency": False},
}  # fmt: skip
TEXTS = ["my card is lost", "Was I CHARGED a fee?! 3 times", "für naïve 日本 ☕", "x" * 300, "money sent late " * 40]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs: `tiny` reads texts, `digits` digits."""
    root = tmp_path_factory.mktemp("page")
    exports = [{"kind": "onnx", "precision": p} for p in ("fp32", "int8")] + [{"kind": "web", "precision": "int8"}]
    for exported in exports:
        exported["min_agreement"] = 0.0  # type: ignore[assignment]  # a tiny student is taught too little for bounds
    attar.distill(make(root, export=exports), root / "runs" / "tiny")
    (root / "digits.yaml").write_text(json.dumps(DIGITS))
    attar.distill(root / "digits.yaml", root / "runs" / "digits")
    return root / "runs"


@pytest.fixture(scope="module")
def site(runs: Path) -> Iterator[str]:
    """The address of the served page."""
    try:
        built_page()
    except AttarError as error:
        pytest.skip(f"SKIPPED, the page was NOT opened: {error}")
    with Server(runs, 0) as server, _running(server):
        yield server.url


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="opening the page needs: make env EXTRAS=dev")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A visitor with one page open: what is asked for, what is logged, what the student answers."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.asked: list[str] = []
        self.logged: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.logged.append(message.text))
        page.on("pageerror", lambda error: self.logged.append(str(error)))
        page.add_init_script(LISTEN)
        page.set_default_timeout(1000 * SECONDS)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_function("() => window.loaded")
        # The first sample row is tried by itself; what follows is the visitor's.
        self.page.wait_for_selector(".samples button")
        self.page.wait_for_function("() => (window.given ?? []).length > 0")

    def answer(self, act: Callable[[], object]) -> dict[str, Any]:
        """The student's next answer once `act` is done."""
        before = self.page.evaluate("() => window.given.length")
        act()
        self.page.wait_for_function(f"() => window.given.length > {before}")
        found: dict[str, Any] = self.page.evaluate("() => window.given.at(-1)")
        return found

    def choose(self, file: str) -> None:
        self.page.get_by_text("How the student runs").click()
        self.answer(lambda: self.page.get_by_label("File").select_option(file))
        self.page.get_by_text("How the student runs").click()


@pytest.fixture
def visit(chrome: Any) -> Iterator[Callable[..., Visitor]]:
    contexts = []

    def open_(address: str, **options: Any) -> Visitor:
        contexts.append(chrome.new_context(**options))
        visitor = Visitor(contexts[-1].new_page())
        visitor.open(address)
        return visitor

    yield open_
    for context in contexts:
        context.close()


def expected(run: Path, name: str, row: dict[str, Any]) -> np.ndarray:
    """Logits of the same row by the task's own processor and onnxruntime."""
    task = make_task(load_recipe(run / "recipe.yaml").task, tuple(load_run(run).data.labels))
    folder = run / "export" / name
    processor = task.load_processor(folder)
    rows = {"text": [row["text"]]} if "text" in row else {"image": [_image(row["image"])]}
    encoded = task.encode(Dataset.from_dict(rows), processor)
    return OnnxRunner(folder).logits(single_rows(task, encoded, processor))[0]


@pytest.mark.parametrize("file", ["onnx-fp32", "onnx-int8", "web-int8"])
def test_what_is_typed_is_answered_as_by_onnxruntime(
    site: str, runs: Path, visit: Callable[..., Visitor], file: str
) -> None:
    visitor = visit(f"{site}#/tiny")
    visitor.choose(file)
    box = visitor.page.get_by_role("textbox", name="Your text")
    for text in TEXTS:
        found = visitor.answer(functools.partial(box.fill, text))
        assert found["student"] == file
        assert found["row"] == {"text": text}
        np.testing.assert_allclose(found["logits"], expected(runs / "tiny", file, found["row"]), atol=CLOSE)
    assert visitor.logged == []


def test_a_text_longer_than_the_context_is_cut_and_told(site: str, visit: Callable[..., Visitor]) -> None:
    visitor = visit(f"{site}#/tiny")
    box = visitor.page.get_by_role("textbox", name="Your text")
    found = visitor.answer(lambda: box.fill("money " * 100))
    assert found["tokens"] == {"whole": 100, "read": 30}
    assert "Only 30 of the text’s 100 tokens were read" in visitor.page.locator(".cut").inner_text()


@pytest.mark.parametrize("file", ["onnx-fp32", "onnx-int8"])
def test_what_is_drawn_is_answered_as_by_onnxruntime(
    site: str, runs: Path, visit: Callable[..., Visitor], file: str
) -> None:
    visitor = visit(f"{site}#/digits")
    visitor.choose(file)
    canvas = visitor.page.get_by_role("application", name="Draw a digit")
    for strokes in ([[(0.5, 0.1), (0.5, 0.9)]], [[(0.2, 0.2), (0.8, 0.2), (0.4, 0.9)]]):
        visitor.page.get_by_role("button", name="Clear").click()
        found = visitor.answer(functools.partial(_draw, visitor.page, canvas, strokes))
        shown = np.asarray(_image(found["row"]["image"]))
        assert shown.shape == (8, 8, 3)
        assert shown.max() >= 160, "nearly as bright as the digits of the data"
        np.testing.assert_allclose(found["logits"], expected(runs / "digits", file, found["row"]), atol=CLOSE)
    assert visitor.logged == []


def test_a_digit_is_drawn_by_keys_alone(site: str, runs: Path, visit: Callable[..., Visitor]) -> None:
    visitor = visit(f"{site}#/digits")
    visitor.page.get_by_role("application", name="Draw a digit").focus()
    keys = visitor.page.keyboard

    def draw() -> None:
        keys.press("Space")
        for _ in range(16):
            keys.press("ArrowDown")
        keys.press("Space")

    found = visitor.answer(draw)
    grey = np.asarray(_image(found["row"]["image"]).convert("L"))
    assert (grey.sum(0) > 0).sum() <= 2, "an upright line"
    assert (grey.sum(1) > 0).all(), "as high as the scan"
    np.testing.assert_allclose(found["logits"], expected(runs / "digits", found["student"], found["row"]), atol=CLOSE)


def test_an_image_of_any_size_is_resized_as_the_processor_does(
    site: str, runs: Path, visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit(f"{site}#/digits")
    visitor.choose("onnx-fp32")
    # Wide: Pillow 13 takes the two passes over a tall image in another order, which moves a byte here and there.
    pixels = np.random.default_rng(0).integers(0, 256, (23, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    found = visitor.answer(lambda: visitor.page.locator("#file").set_input_files(tmp_path / "noise.png"))
    assert np.array_equal(np.asarray(_image(found["row"]["image"])), pixels)
    np.testing.assert_allclose(found["logits"], expected(runs / "digits", "onnx-fp32", found["row"]), atol=CLOSE)


def test_the_teacher_stands_beside_the_student_and_both_are_told(
    site: str, runs: Path, visit: Callable[..., Visitor]
) -> None:
    visitor = visit(f"{site}#/tiny")
    visitor.answer(lambda: visitor.page.get_by_role("textbox", name="Your text").fill(TEXTS[0]))
    visitor.page.wait_for_selector(".fill.teacher")
    said = RunTeacher(runs / "tiny").answer(Asked(text=TEXTS[0]))
    shown = visitor.page.locator(".bars tbody tr td:nth-child(3) .number").all_inner_texts()
    assert [float(re.sub(r"[^\d.]", "", one)) for one in shown] == pytest.approx(
        [100 * value for value in said.values], abs=0.051
    )
    visitor.page.wait_for_function("() => document.querySelector('[role=status]').textContent.includes('say')")
    costs = visitor.page.locator(".costs").inner_text()
    assert "estimated" in costs.lower()
    assert re.search(r"\d – \d", costs.replace("\u00a0", " ")), "energy is an interval"
    assert "watts a busy core" in visitor.page.locator(".answers .note").inner_text()


def test_no_request_leaves_the_machine_and_the_gpu_is_not_fetched_unasked(
    site: str, visit: Callable[..., Visitor]
) -> None:
    for run in ("tiny", "digits"):
        visitor = visit(f"{site}#/{run}")
        asked = [url for url in visitor.asked if not url.startswith(("data:", "blob:"))]
        assert len(asked) >= 6
        assert all(url.startswith(site) for url in asked), asked
        assert not any(GPU in url or "gpu" in url for url in asked)
        loaded = visitor.page.evaluate("() => window.loaded")
        assert loaded["student"] < 2e6
        assert 1e6 < loaded["runtime"] < 16e6
        assert visitor.page.evaluate("() => crossOriginIsolated")
        assert visitor.logged == []


def test_threads_work_where_the_page_is_isolated(site: str, runs: Path, visit: Callable[..., Visitor]) -> None:
    visitor = visit(f"{site}#/tiny")
    if visitor.page.evaluate("() => navigator.hardwareConcurrency") < 2:
        pytest.skip("this machine has one core")
    visitor.page.get_by_text("How the student runs").click()
    found = visitor.answer(lambda: visitor.page.get_by_label("Threads").select_option("2"))
    np.testing.assert_allclose(found["logits"], expected(runs / "tiny", found["student"], found["row"]), atol=CLOSE)
    assert visitor.logged == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("place", ["#/", "#/tiny", "#/digits", "#/tiny/report"])
def test_it_fits_and_is_coloured(site: str, chrome: Any, place: str, width: int, dark: bool) -> None:
    scheme = "dark" if dark else "light"
    context = chrome.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(site + place)
    page.wait_for_selector("#main > *")
    if place in ("#/tiny", "#/digits"):
        page.wait_for_selector(".bars .fill.teacher", timeout=1000 * SECONDS)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        colours = shot.convert("RGB").getcolors(1 << 20) or []
    context.close()
    assert max(colours)[1] == ((23, 20, 19) if dark else (252, 251, 249))
    assert len(colours) > 20


def test_everything_is_named_and_reached_by_keys(site: str, visit: Callable[..., Visitor]) -> None:
    visitor = visit(f"{site}#/tiny")
    page = visitor.page
    for element in page.locator("a, button, input, textarea, select, summary, canvas, iframe").all():
        named = element.evaluate(
            "e => e.ariaLabel || e.title || e.textContent.trim() || [...(e.labels ?? [])].map(l => l.innerText).join()"
        )
        assert named, element.evaluate("e => e.outerHTML")
    page.locator("body").press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the page"
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.tagName"))
    assert {"A", "TEXTAREA", "BUTTON", "SUMMARY"} <= reached
    assert page.evaluate("() => document.querySelectorAll('h1').length") == 1


def test_a_browser_without_simd_is_told(site: str, chrome: Any) -> None:
    page = chrome.new_page()
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(f"{site}#/tiny")
    alarm = page.get_by_role("alert")
    alarm.wait_for()
    assert "no SIMD" in alarm.inner_text()
    page.close()


def test_a_file_changed_on_its_way_is_not_run(site: str, chrome: Any) -> None:
    page = chrome.new_page()
    page.route("**/*.onnx", lambda route: route.fulfill(body=b"another model"))
    page.goto(f"{site}#/tiny")
    alarm = page.locator(".verdict .alarm")
    alarm.wait_for(timeout=1000 * SECONDS)
    assert "is not the file that was measured" in alarm.inner_text()
    page.close()


def test_a_copy_on_any_host_runs_on_one_thread_with_the_teacher_on_sample_rows(
    site: str, runs: Path, visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    copy = export_page(runs / "tiny", tmp_path / "copy")
    assert not list(copy.rglob(f"*{GPU}*"))
    handler = functools.partial(_Quiet, directory=str(copy))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, _running(server):
        visitor = visit(f"http://127.0.0.1:{server.server_address[1]}/")
        page = visitor.page
        assert not page.evaluate("() => crossOriginIsolated")
        page.wait_for_selector(".fill.teacher")
        found = visitor.answer(lambda: page.get_by_role("textbox", name="Your text").fill(TEXTS[1]))
        np.testing.assert_allclose(found["logits"], expected(runs / "tiny", found["student"], found["row"]), atol=CLOSE)
        page.wait_for_selector(".missing")
        assert "for the sample rows only" in page.locator(".missing").inner_text()
        assert "1 thread" in page.locator(".costs").inner_text()
        assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in visitor.asked)
        assert visitor.logged == []
    assert export_page(runs / "tiny", copy) == copy, "a copy is made anew over an old one"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(AttarError, match="nothing was written"):
        export_page(runs / "tiny", tmp_path / "other")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def _running(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield
    server.shutdown()
    thread.join()


def _draw(page: Any, canvas: Any, strokes: list[list[tuple[float, float]]]) -> None:
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=8)
        page.mouse.up()


def _image(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
