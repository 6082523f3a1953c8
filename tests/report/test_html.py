"""The report: complete, honest where something is missing, small, and inert whatever the data says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from attar.errors import StorageError
from attar.facts import BalanceFacts, ClassFacts, ConfusionFacts, ExampleFacts, RunFacts, TrainingFacts
from attar.report.headline import headline, kept, sentence
from attar.report.html import render, write_report
from report.made import PIXEL, made_run, unlabelled_run

VOID = {"meta", "img", "br", "wbr", "line", "rect", "circle", "path", "polyline"}
HOSTILE = (
    "</td></style><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x' javascript:alert(3) \x00\ud800"
)


class Page(HTMLParser):
    """Elements, attributes, text; fails on tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag not in ("a", "bdi", "code", "strong"):
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["title"], ["desc"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())

    def ids(self) -> list[str]:
        return [a["id"] or "" for _, a in self.elements if "id" in a]


def changed(run: RunFacts, **evaluation: object) -> RunFacts:
    return run.model_copy(update={"evaluation": run.evaluation.model_copy(update=evaluation)})


def test_the_headline_stands_first_with_its_figures() -> None:
    page = Page(render(made_run()))
    assert sentence(made_run()).replace("\u00a0", " ") == "82× smaller, keeping 98.9 % of the teacher’s accuracy."
    body = page.text
    assert body.index("82× smaller, keeping 98.9 %") < body.index("The models side by side")
    for part in ("98.3 – 99.4", "91.0 MB → 1.11 MB as ONNX int8", "21×", "4.71 ms → 0.22 ms", "+2.1 pts"):
        assert part in body


def test_every_part_of_the_run_is_there() -> None:
    page = Page(render(made_run()))
    assert set(page.ids()) >= {
        "models", "gain", "budget", "seeds", "losses", "examples", "training", "calibration", "exports", "policy",
        "conditions", "lineage", "stages", "recipe",
    }  # fmt: skip
    for part in (
        "93.2 %", "92.4 – 93.9", "+2.1 points", "✓ met", "p < 0.0001", "pending_transfer", "93 % sure",
        "temperature 1.24", "3.3 % to 1.3 %", "web chat", "apache-2.0", "not legal advice", "a41f0c93d2b7e658",
        "transformers 5.23.0",
        "2026-11-24 11:02:44 UTC", "done before", "token_dropout: 0.1", "interleaved", "1 thread", "bound ≥ 98.0 %",
        "paired bootstrap over seeds, then rows", "not timed", "PCA of 384 to 128", "removed from train",
        "student 1 with 2 (0.91), 2 with 6 (0.88) of the teacher", "linear CKA (in brackets) on 256 training rows",
    ):  # fmt: skip
        assert part in page.text, part


def test_contents_and_labels_lead_somewhere() -> None:
    page = Page(render(made_run()))
    ids = page.ids()
    assert len(ids) == len(set(ids))
    links = [a["href"] for name, a in page.elements if name == "a"]
    assert all(link and link[1:] in ids for link in links)


def test_tables_and_figures_speak_to_screen_readers() -> None:
    page = Page(render(made_run()))
    headers = [a for name, a in page.elements if name == "th"]
    assert headers
    assert all(a.get("scope") in ("row", "col") for a in headers)
    assert sum(name == "caption" for name, _ in page.elements) == sum(name == "table" for name, _ in page.elements)
    drawings = [a for name, a in page.elements if name == "svg"]
    assert all(a.get("aria-hidden") == "true" or (a.get("role") == "img" and a.get("aria-label")) for a in drawings)
    assert all(a.get("alt") for name, a in page.elements if name == "img")
    assert [name for name, _ in page.elements].count("h1") == 1
    assert page.elements[0] == ("html", {"lang": "en"})


@pytest.mark.parametrize("run", [made_run(), unlabelled_run()], ids=["labelled", "unlabelled"])
def test_nothing_is_asked_of_the_network_and_nothing_runs(run: RunFacts) -> None:
    html = render(run)
    page = Page(html)
    policy = next(a["content"] or "" for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert re.search(r"style-src 'sha256-[\w+/=]{44}'", policy)
    assert "unsafe" not in policy
    assert not any(name in ("script", "iframe", "object", "embed", "link", "base", "form") for name, _ in page.elements)
    for name, attributes in page.elements:
        assert not any(key.startswith("on") or key == "style" for key in attributes)
        assert (attributes.get("href") or "#").startswith("#")
        assert name != "img" or (attributes["src"] or "").startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?://|//[a-z]", html.partition("<body>")[0])


def hostile_run() -> RunFacts:
    run = made_run(
        name="x",
        warnings=[HOSTILE],
        recipe={**made_run().recipe, "description": HOSTILE, "report": {"title": HOSTILE}, HOSTILE[:40]: [HOSTILE]},
        policy=made_run().policy.model_copy(update={"reason": HOSTILE, "teacher": HOSTILE, "notices": [HOSTILE]}),
    )
    return changed(
        run,
        classes=[ClassFacts(name=HOSTILE, n=4, teacher=0.9, student=0.5, control=None)],
        slices=[ClassFacts(name=HOSTILE, n=4, teacher=None, student=0.5, control=None)],
        confusions=[ConfusionFacts(truth=HOSTILE, answer=HOSTILE, teacher=0, student=2)],
        examples=[
            ExampleFacts(text=HOSTILE, truth=HOSTILE, teacher=HOSTILE, student=HOSTILE),
            ExampleFacts(image='data:image/svg+xml,<svg onload="alert(1)">', teacher="a", student="b"),
            ExampleFacts(image="https://example.com/x.png", teacher="a", student="b"),
            ExampleFacts(image=PIXEL, teacher="a", student="b"),
        ],
        notes=[HOSTILE],
    )


def test_hostile_text_stays_text() -> None:
    html = render(hostile_run())
    page = Page(html)
    assert not any(name == "script" for name, _ in page.elements)
    images = [a for name, a in page.elements if name == "img"]
    assert [a["src"] for a in images] == [PIXEL]
    assert not any(key.startswith("on") for _, a in page.elements for key in a)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "\x00" not in html
    html.encode("utf-8")


def test_examples_are_left_out_where_the_recipe_says_so() -> None:
    run = made_run()
    private = run.model_copy(update={"recipe": {**run.recipe, "report": {"examples": False}}})
    assert "examples" not in Page(render(private)).ids()
    assert "How long until a top up" not in render(private)


def test_data_without_labels_says_what_that_means() -> None:
    page = Page(render(unlabelled_run()))
    assert "giving the teacher’s answer to 96.1 % of rows" in page.text
    assert "This data has no labels" in page.text
    assert "There is no control" in page.text
    assert not {"gain", "calibration", "losses", "seeds"} & set(page.ids())


def test_what_was_not_measured_says_so() -> None:
    run = made_run()
    bare = made_run(
        teacher=run.teacher.model_copy(update={"latency": None, "flops": None, "note": "no second process started"}),
        artifacts=[], control=None, kd_gain=None, budget=[], stages=[], seeds=[],
    )  # fmt: skip
    text = Page(render(bare)).text
    assert "not measured" in text
    assert "no second process started" in text
    assert "latency was not measured" in text
    assert "no control was trained" in text
    assert "Energy not measured" in text
    assert "28× smaller" in text


def test_warnings_and_missed_budgets_come_before_the_numbers() -> None:
    run = made_run()
    lines = [
        run.budget[0].model_copy(update={"met": False}),
        run.budget[1].model_copy(update={"met": None, "value": None}),
    ]
    page = Page(render(made_run(status="budget_missed", warnings=["The teacher is weak."], budget=lines)))
    assert page.text.index("2 warnings") < page.text.index("The models side by side")
    assert "Budget missed: Parameters, at most" in page.text
    assert "✗ missed" in page.text
    assert "? not measured" in page.text


def test_one_seed_reports_the_file_that_ships() -> None:
    run = made_run(seeds=[])
    found = kept(run)
    assert found is not None
    assert found.by.replace("\u00a0", " ") == "ONNX int8 file"
    assert found.interval == run.artifacts[1].retention
    bare = made_run(seeds=[], retention=None, artifacts=[])
    assert "with accuracy of 93.2" in sentence(bare)
    render(bare)


def test_means_and_files_are_told_apart() -> None:
    said = "means over 3 seeds; the files are those of the seed that was best on validation"
    assert said in Page(render(made_run())).text
    assert "means over" not in Page(render(made_run(seeds=[]))).text


def test_an_image_model_has_no_tokenizer_and_a_built_teacher_no_name() -> None:
    run = made_run()
    assert "tokenizer" in Page(render(run)).text

    built = run.teacher.model_copy(update={"name": "config"})
    text = Page(render(made_run(task="image_classification", teacher=built))).text
    assert "image processor" in text
    assert "(config)" not in text


def test_a_slower_or_larger_student_is_called_so() -> None:
    run = made_run()
    slow = [a.model_copy(update={"latency": run.teacher.latency}) for a in run.artifacts]
    latency = run.teacher.latency
    assert latency is not None
    slow[1] = slow[1].model_copy(update={"latency": latency.model_copy(update={"value": 10.0})})
    text = Page(render(made_run(artifacts=slow))).text
    assert "Slower 2.1×" in text
    assert "2.1× slower" in "\n".join(headline(made_run(artifacts=slow)))
    large = [a.model_copy(update={"bytes": 2 * run.teacher.bytes}) for a in run.artifacts]
    assert sentence(made_run(artifacts=large)).startswith("2.0× larger, keeping")
    assert "Larger 2.0×" in Page(render(made_run(artifacts=large))).text


def test_a_losing_student_is_not_praised() -> None:
    run = made_run()
    assert run.kd_gain is not None
    worse = run.kd_gain.model_copy(update={"value": -0.02, "lo": -0.03, "hi": -0.01})
    text = Page(render(made_run(kd_gain=worse))).text
    assert "below zero" in text
    unsure = run.kd_gain.model_copy(update={"lo": -0.001})
    assert "not distinct from zero" in Page(render(made_run(kd_gain=unsure))).text


def test_the_terminal_gets_the_headline_in_plain_text() -> None:
    lines = headline(made_run())
    assert lines[0] == "82× smaller, keeping 98.9 % of the teacher's accuracy."
    text = "\n".join(lines)
    assert "\u00a0" not in text
    for part in ("91.0 MB -> 1.11 MB (ONNX int8)", "98.9 % (98.3 – 99.4)", "3 seeds", "control 91.1 %", "21× faster"):
        assert part in text
    undecided = made_run().budget[1].model_copy(update={"met": None, "value": None})
    assert "max_bytes: not decided" in headline(made_run(budget=[undecided]))[-1]


def big_run() -> RunFacts:
    """Everything at its largest: a thousand classes, 200 long or illustrated examples, a long curve."""
    classes = [
        ClassFacts(name=f"class_{i:04}_" + "n" * 30, n=50, teacher=0.9, student=0.8, control=0.7) for i in range(1000)
    ]
    image = "data:image/png;base64," + "A" * 9000
    rows = [
        ExampleFacts(text="word " * 100_000, image=image, truth="a", teacher="a", student="b", teacher_confidence=0.5)
        for _ in range(200)
    ]
    curve = [{"step": float(i), "loss": 1 / (i + 1), "validation": 0.5, "term_x": float("nan")} for i in range(20_000)]
    training = TrainingFacts(steps=20_000, epochs=3, rows_per_second=1, seconds=1, curve=curve, best_step=1)
    run = made_run(training={"student": training, "control": training}, warnings=["w" * 200] * 20)
    return changed(run, classes=classes, examples=rows, slices=classes[:100])


def test_the_report_stays_below_500_kilobytes() -> None:
    assert len(render(made_run()).encode()) < 120_000
    html = render(big_run())
    assert len(html.encode()) < 500_000
    assert "image left out to keep the report small" in html


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_flat_and_broken_values_still_draw(value: float) -> None:
    run = made_run()
    curve = [{"step": float(i), "loss": value, "validation": value} for i in range(3)]
    training = {"student": run.training["student"].model_copy(update={"curve": curve})}
    flat = run.quality.model_copy(update={"teacher": 0.5, "student": 0.5, "control": 0.5, "intervals": {}})
    Page(render(made_run(training=training, quality=flat)))
    Page(render(made_run(training={"student": training["student"].model_copy(update={"curve": []})})))


def test_what_moved_and_what_was_balanced_is_told() -> None:
    student = made_run().training["student"]
    curve = [{"step": float(i), "loss": 1.0, "weight_forward_kl": 0.1 * i, "progress_taid": 0.4} for i in range(3)]
    balance = {"forward_kl": BalanceFacts(norm=0.0123, factor=2.5), "hidden": BalanceFacts(norm=10, factor=0.002)}
    html = render(made_run(training={"student": student.model_copy(update={"curve": curve, "balance": balance})}))
    for title in ("Weight of forward_kl", "Progress of taid"):
        assert title in html
    assert "Gradients balanced" in html
    assert "forward_kl: norm 0.0123, weight \u00d7 2.5; hidden: norm 10, weight \u00d7 0.002" in html
    assert "Gradients balanced" not in render(made_run())


def test_correlations_are_not_per_cent() -> None:
    run = made_run()
    quality = run.quality.model_copy(update={"metric": "spearman"})
    text = Page(render(changed(made_run(quality=quality, seeds=[]), classes=[]))).text
    assert "Spearman correlation" in text
    assert "0.932" in text
    assert "93.2 %" not in text


def test_writing_is_atomic_and_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(made_run(), path)
    first = path.read_bytes()
    write_report(made_run(), path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises((StorageError, OSError)):
        write_report(made_run(), tmp_path / "file" / "report.html")


def test_a_run_without_examples_or_budget_has_no_empty_sections() -> None:
    run = changed(made_run(budget=[], seeds=[]), examples=[], classes=[], slices=[], confusions=[], calibration=None)
    ids = set(Page(render(run)).ids())
    assert not {"examples", "budget", "seeds", "losses", "calibration"} & ids
