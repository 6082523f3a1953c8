"""What docs/ makes by itself: figures that are the code's and show what the page says, and the leaderboard in words."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from drawings import draw_fits, draw_pulls  # noqa: E402
from generate import FIGURES, PAGE, RESULTS, page  # noqa: E402
from measured import section, verdicts  # noqa: E402
from toys import FITTED, ODDS, PULLED, TEACHER, Fit, Pull, fit, pull, two_modes  # noqa: E402

NUMBER = re.compile(r"-?\d+\.?\d*")
LEFT = 0
"""Of `ODDS`: where the student is badly wrong."""


# The figures.


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit]:
    return {name: fit(function) for name, function in FITTED.items()}


@pytest.fixture(scope="module")
def pulls() -> dict[str, Pull]:
    return {name: pull(function) for name, function in PULLED.items()}


@pytest.mark.parametrize("name", ["one_bump_for_two.svg", "pull_on_a_row.svg"])
def test_figures_are_those_of_the_code(name: str, fits: dict[str, Fit], pulls: dict[str, Pull]) -> None:
    """To a fifth of a pixel: another processor may round otherwise."""
    drawn = draw_fits(two_modes().numpy(), fits) if name == "one_bump_for_two.svg" else draw_pulls(pulls)
    kept = (FIGURES / name).read_text(encoding="utf-8")
    assert NUMBER.sub("", kept) == NUMBER.sub("", drawn)
    numbers = [np.array([float(one) for one in NUMBER.findall(text)]) for text in (kept, drawn)]
    np.testing.assert_allclose(*numbers, rtol=0, atol=0.2)


def test_figures_are_told_and_bring_their_paper() -> None:
    files = sorted(FIGURES.iterdir())
    text = PAGE.read_text(encoding="utf-8")
    assert [f"figures/{file.name}" in text for file in files] == [True, True]
    for file in files:
        drawing = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        spaced = "{http://www.w3.org/2000/svg}"
        assert drawing.attrib["role"] == "img"
        assert [len(str(drawing.findtext(spaced + part))) > 20 for part in ("title", "desc")] == [True, True]
        assert drawing.findtext(f"{spaced}style", "").count(".paper { fill:") == 2  # light and dark
        assert "http" not in file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_who_covers_and_who_seeks(fits: dict[str, Fit]) -> None:
    found = {name.split(" ")[0]: one for name, one in fits.items()}
    larger = float(two_modes()[np.linspace(-5, 5, 101) < 0.5].sum())
    for name in ("forward_kl", "skew_kl"):
        assert found[name].left == pytest.approx(larger, abs=0.05)
        assert found[name].width > 1.5
    for name in ("jsd", "skew_reverse_kl", "reverse_kl"):
        assert found[name].left > 0.99
        assert found[name].width == pytest.approx(0.6, abs=0.01)  # the mode's own
    assert found["total_variation"].left > 0.95
    assert 0.7 < found["total_variation"].width < 1.2


def test_forward_kl_pulls_by_the_gap(pulls: dict[str, Pull]) -> None:
    q = 1 / (1 + np.exp(-ODDS))
    np.testing.assert_allclose(pulls["forward_kl"].first, TEACHER[0] - q, atol=1e-12)
    np.testing.assert_allclose(pulls["dkd (beta 1)"].first, TEACHER[0] - q, atol=1e-12)
    assert pulls["todi"].first[LEFT] == pytest.approx(pulls["forward_kl"].first[LEFT], abs=0.01)


def test_who_lets_go_of_a_row_that_is_badly_wrong(pulls: dict[str, Pull]) -> None:
    gone = "reverse_kl jsd alpha_beta skew_kl skew_reverse_kl total_variation taid".split()
    for name, one in pulls.items():
        if name.split(" ")[0] in gone:
            assert abs(one.first[LEFT]) < 0.1 < one.first.max()
    half = pulls["adaptive_kl"].first[LEFT] / pulls["forward_kl"].first[LEFT]
    assert half == pytest.approx(0.5, abs=0.02)
    assert pulls["reverse_kl"].second[LEFT] > 0.2 > 0 > pulls["forward_kl"].second[LEFT]


def test_what_else_the_page_reads_from_the_pulls(pulls: dict[str, Pull]) -> None:
    assert pulls["dkd (beta 1)"].second[-1] > 0.25
    assert pulls["forward_kl"].second[-1] < 0.08
    slope = np.diff(pulls["logit_mse / 2V"].first) / np.diff(ODDS)
    np.testing.assert_allclose(slope, slope[0])
    assert np.abs(pulls["jsd (beta 0.5)"].first).max() < 0.15
    assert pulls["todi"].first.max() > 1.0


# The leaderboard in words.


def between(lo: float, hi: float) -> dict[str, float]:
    return {"value": (lo + hi) / 2, "lo": lo, "hi": hi}


def case(metric: str, **rows: tuple[float | None, float | None]) -> dict[str, Any]:
    """Rows as (over the control, over the reference), each 0.01 to either side."""
    found: dict[str, Any] = {}
    for name, differences in rows.items():
        found[name] = {"test": between(0.8, 0.9), "perplexity": between(20.0, 22.0)}
        for key, value in zip(("over_control", "over_reference"), differences, strict=True):
            if value is not None:
                found[name][key] = between(value - 0.01, value + 0.01)
    teacher = {"test": between(0.9, 1.0), "perplexity": between(10.0, 12.0)}
    return {"title": f"{metric} case", "metric": metric, "rows": found, "teacher": teacher, "seeds": [0, 1], "steps": 9}


RESULT = {
    "cases": {
        "one": case(
            "accuracy",
            control=(None, -0.05), ref=(0.05, None), best=(0.07, 0.02), same=(0.005, -0.045), bad=(-0.1, -0.15),
        ),
        "two": case("perplexity", control=(None, -0.05), ref=(0.05, None), best=(0.045, -0.005), bad=(0.2, 0.1)),
    }
}  # fmt: skip


def test_rows_stand_where_their_interval_puts_them() -> None:
    found = verdicts(RESULT["cases"]["one"], "over_control")
    assert found == (["best", "ref"], ["same"], ["bad"])
    touching = case("accuracy", control=(None, 0.0), ref=(0.01, None), low=(-0.01, 0.0))
    assert verdicts(touching, "over_control") == ([], ["ref", "low"], [])  # an interval that ends at 0 holds it


def test_sentences_are_those_of_the_intervals() -> None:
    told = section(RESULT)
    for sentence in (
        "These are 14 intervals, each by itself: where nothing differed at all, about 1 of them would exclude 0 too.",
        "**accuracy case** (2 seeds, 9 steps a training; % accuracy: teacher 95.0, control 85.0, ref 85.0)",
        "- Better than control, by points of accuracy: best (+7.0), ref (+5.0).",
        "- Not to be told from control: same.",
        "- Worse than control: bad.",
        "- Better than ref: best. Worse: same, control, bad.",
        "**perplexity case** (2 seeds, 9 steps a training; perplexity: teacher 11.0, control 21.0, ref 21.0)",
        "- Better than control, by nats a token: bad (+0.200), ref (+0.050), best (+0.045).",
        "- Better than ref (by KL to the teacher): bad. Worse: control.",
        "- Better than control in every case that has the row: best, ref.",
        "- Better than ref in every case that has the row: none.",
        "- Better than ref in some case and worse in none: best.",
        "- Worse than ref in some case: same, control, bad.",
    ):
        assert sentence in told


def test_no_row_that_beats_the_reference_is_a_sentence() -> None:
    quiet = {"cases": {"one": case("accuracy", control=(None, -0.05), ref=(0.05, None), same=(0.05, 0.0))}}
    assert "- No row beat ref with an interval that excludes 0. Worse: control." in section(quiet)


def test_a_control_that_failed_is_compared_with_nothing() -> None:
    lost = {"cases": {"one": case("accuracy", ref=(None, None), same=(None, 0.05))}}
    told = section(lost)
    assert "% accuracy: teacher 95.0, ref 85.0)" in told
    assert "- Better than ref: same. Worse: none." in told
    assert "control" not in told


def test_the_page_says_what_was_measured_or_that_nothing_was() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
    assert ("Not measured yet." in text) != RESULTS.is_file()


def test_the_block_is_put_between_its_markers(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps(RESULT), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    made = page(text, results)
    assert section(RESULT) in made
    assert page(made) == text
    with pytest.raises(ValueError, match="lacks <!-- measured"):
        page("nothing")
