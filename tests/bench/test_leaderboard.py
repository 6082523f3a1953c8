"""The leaderboard of objectives: equal budgets, choice on validation, paired differences, tables."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from attar.recipe.objectives import AnyObjectiveSpec

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "objectives"))

from cases import CASES  # noqa: E402
from figure import figure  # noqa: E402
from leaderboard import Judge, Searched, choose, compare  # noqa: E402
from rows import CONTROL, NO_ROW, REFERENCE, ROWS, Row, Setting, file_name, kinds, rows_of  # noqa: E402
from table import END, START, publish, splice, tables, verdicts  # noqa: E402

ROWS_OF_DATA, LABELS = 400, 5


# ---- Rows and cases ----


def test_every_row_has_the_same_number_of_settings_to_try() -> None:
    for case in [*CASES.values(), *(case.quick() for case in CASES.values())]:
        found = {row.name: row.settings(case.rates) for row in rows_of(case.name)}
        assert len({len(settings) for settings in found.values()}) == 1
        assert all(len(set(settings)) == len(settings) for settings in found.values())


def test_without_a_weight_the_rates_are_denser() -> None:
    control = ROWS[0]
    assert control.name == CONTROL
    rates = [setting.learning_rate for setting in control.settings((1.0, 4.0, 16.0))]
    assert rates == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


def test_seeds_of_the_search_are_not_those_of_the_test() -> None:
    assert all(not set(case.seeds) & set(case.search_seeds) for case in CASES.values())
    assert all(len(case.seeds) == 5 for case in CASES.values())


def test_rows_are_objectives_that_a_recipe_can_hold() -> None:
    for row, case, index in product(ROWS, CASES, range(2)):
        if case not in row.left_out:
            weight = row.weights and row.weights[index]
            specs = row.specs(weight, case)
            assert specs[-1].kind == "hard_labels"
            if len(specs) > 1:
                assert specs[-1].weight == pytest.approx(1 - (weight or 0.0))
    assert {CONTROL, REFERENCE} <= {row.name for row in ROWS}
    assert len({file_name(row.name) for row in ROWS}) == len(ROWS)
    assert set().union(*({*row.left_out, *row.scales} for row in ROWS)) <= set(CASES)


def test_every_objective_of_attar_has_a_row_or_a_reason() -> None:
    schema = TypeAdapter[Any](AnyObjectiveSpec).json_schema()
    known = set(schema["discriminator"]["mapping"])
    assert known - kinds() - set(NO_ROW) == set(), "add a line to ROWS, or a reason to NO_ROW"
    assert set(NO_ROW) <= known - kinds()


# ---- The choice ----


def searched(*validation: float, rate: float = 0.1) -> Searched:
    return Searched(Setting(rate, 0.5), validation)


def test_the_best_mean_on_validation_is_chosen() -> None:
    every = [searched(0.9, 0.5, rate=1.0), searched(0.8, 0.8, rate=2.0), searched(0.85, 0.7, rate=3.0)]
    assert choose(every).setting.learning_rate == 2.0


def test_of_equals_the_first_is_chosen() -> None:
    assert choose([searched(0.7, rate=1.0), searched(0.8, rate=2.0), searched(0.8, rate=3.0)]).setting[0] == 2.0


def test_a_training_that_failed_is_not_chosen() -> None:
    nan = math.nan
    assert choose([searched(nan, 0.99, rate=1.0), searched(0.1, 0.1, rate=2.0)]).setting[0] == 2.0
    assert choose([searched(nan, rate=1.0), searched(nan, rate=2.0)]).setting[0] == 1.0


# ---- The comparison ----


def logits_of(answers: np.ndarray) -> np.ndarray:
    return np.eye(LABELS, dtype=np.float32)[answers]


def wrong_at(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Logits that are right everywhere but at `rows`."""
    answers = labels.copy()
    answers[rows] = (answers[rows] + 1) % LABELS
    return logits_of(answers)


@pytest.fixture
def judge() -> Judge:
    labels = np.random.default_rng(0).integers(0, LABELS, ROWS_OF_DATA)
    return Judge("accuracy", "single_label", labels, wrong_at(labels, np.arange(20)))


def test_differences_are_means_over_seeds_of_the_same_rows(judge: Judge) -> None:
    rng = np.random.default_rng(1)
    control, better = [], []
    for wrong in (100, 60):  # seeds differ a lot, the rows hardly
        rows = rng.permutation(ROWS_OF_DATA)[:wrong]
        control.append(wrong_at(judge.labels, rows))
        better.append(wrong_at(judge.labels, rows[8:]))
    found = compare({CONTROL: control, REFERENCE: control, "better": better}, judge)
    assert found[CONTROL]["test"].value == pytest.approx(1 - 80 / ROWS_OF_DATA)
    over = found["better"]["over_control"]
    assert over.value == pytest.approx(8 / ROWS_OF_DATA)
    assert 0 < over.lo < over.value < over.hi
    assert over.hi - over.lo < 0.5 * (found["better"]["test"].hi - found["better"]["test"].lo)
    assert (over.n, over.seeds) == (ROWS_OF_DATA, 2)
    same = found[REFERENCE]["over_control"]
    assert (same.lo, same.value, same.hi) == (0.0, 0.0, 0.0)
    assert "over_control" not in found[CONTROL]
    assert "over_reference" not in found[REFERENCE]


def test_agreement_is_with_the_teacher_right_or_wrong(judge: Judge) -> None:
    found = compare({CONTROL: [judge.teacher], "truth": [logits_of(judge.labels)]}, judge)
    assert found[CONTROL]["agreement"].value == 1.0
    assert found["truth"]["agreement"].value == pytest.approx(1 - 20 / ROWS_OF_DATA)
    assert found["teacher"]["test"].value == pytest.approx(1 - 20 / ROWS_OF_DATA)
    assert found["truth"]["test"].value == 1.0


def test_noise_alone_is_not_told_from_the_control(judge: Judge) -> None:
    rng = np.random.default_rng(2)
    names = [CONTROL, *(f"row {i}" for i in range(40))]
    logits = {
        name: [wrong_at(judge.labels, rng.permutation(ROWS_OF_DATA)[: rng.integers(40, 60)]) for _ in range(5)]
        for name in names
    }
    found = compare(logits, judge)
    clear = [name for name in names[1:] if found[name]["over_control"].lo * found[name]["over_control"].hi > 0]
    assert len(clear) <= 6, clear


# ---- Tables and figure ----


def interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "lo": value - half, "hi": value + half}


def made_result() -> dict[str, Any]:
    def row(test: float, over: float | None) -> dict[str, Any]:
        compared = {} if over is None else {"over_control": interval(over, 0.01)}
        chosen = {"learning_rate": 0.002, "weight": None if over is None else 0.5}
        return {"test": interval(test, 0.02), "agreement": interval(0.9, 0.01), "chosen": chosen, **compared}

    case = {
        "title": "made: up",
        "metric": "accuracy",
        "rows_of_data": {"train": 1000, "test": 400},
        "teacher": {"params": 22_600_000, "test": interval(0.95, 0.01)},
        "student": {"params": 5000},
        "search": {"learning_rates": [0.001, 0.002], "seeds": [100], "settings_a_row": 4},
        "seeds": [0, 1],
        "steps": 10,
        "cpu_seconds_a_training": 1.5,
        "left_out": {"absent": "It needs a reason."},
        "failed": {"broken": "1 of 2 seeds: the loss is nan"},
        "rows": {CONTROL: row(0.80, None), "a": row(0.85, 0.05), "b": row(0.805, 0.005), "c": row(0.7, -0.1)},
        "conditions": {
            "machine": {"processor": "made up"}, "threads": 1, "packages": {"torch": "2", "transformers": "5"},
        },
    }  # fmt: skip
    return {"cases": {"made": case}}


def test_rows_are_told_apart_by_their_intervals() -> None:
    found = verdicts(made_result()["cases"]["made"]["rows"])
    assert found == {"better": ["a"], "unclear": ["b"], "worse": ["c"]}


def test_a_table_shows_the_best_first_and_what_did_not_help() -> None:
    text = tables(made_result())
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert names == ["trained on", "(the teacher)", "a", "b", CONTROL, "c"]
    assert "| **+5.0 (+4.0 to +6.0)** |" in text
    assert "| +0.5 (-0.5 to +1.5) |" in text
    assert "Clearly worse: c." in text
    assert "- absent: left out. It needs a reason." in text
    assert "- broken: failed. 1 of 2 seeds: the loss is nan" in text
    assert "4 settings a row on validation" in text


def test_the_block_is_put_between_its_markers() -> None:
    page = f"before\n{START}old\n{END}\nafter\n"
    assert splice(page, "new\n") == f"before\n{START}new\n{END}\nafter\n"
    assert splice(splice(page, "new\n"), "new\n") == splice(page, "new\n")
    with pytest.raises(ValueError, match="lacks"):
        splice("no markers", "new\n")


def test_the_figure_has_a_mark_a_row_that_was_compared() -> None:
    drawing = figure(made_result())
    assert drawing.count("<circle") == 3
    assert drawing.count('class="dot unclear"') == 1


def test_the_published_page_is_made_from_the_published_figures() -> None:
    file, page = ROOT / "benchmarks" / "objectives" / "results.json", ROOT / "benchmarks" / "README.md"
    if not file.is_file():
        pytest.skip("no figures are published yet: run benchmarks/objectives/run.py")
    text = page.read_text(encoding="utf-8")
    assert publish(text, json.loads(file.read_text(encoding="utf-8"))) == text


# ---- The whole path ----


@pytest.mark.slow
def test_a_quick_run_and_another_that_trains_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "objectives" / "run.py"), "--quick", "--place", str(tmp_path)]
    subprocess.run([*command, "--part", "2/2"], check=True, env=dict(os.environ), capture_output=True)
    half = set(tmp_path.glob("*/trainings/**/*.npz"))
    assert not (tmp_path / "results.json").exists()
    shown = subprocess.run(command, check=True, env=dict(os.environ), capture_output=True, text=True).stdout
    every = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/trainings/**/*.npz")}
    assert half < set(every)
    assert "### digits" in shown
    assert "### tiny" in shown
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["cases"]
    assert list(found["digits"]["rows"]) == [row.name for row in rows_of("digits")]
    assert not list(tmp_path.glob("*/checkpoints/*"))
    subprocess.run(command, check=True, env=dict(os.environ), capture_output=True)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/trainings/**/*.npz")} == every


def test_a_row_is_one_line_and_its_scale_leaves_the_labels_alone() -> None:
    objectives = [{"kind": "logit_mse", "weight": 0.5}, {"kind": "hard_labels", "weight": 0.5}]
    row = Row("mine", lambda _: objectives, scales={"digits": 0.01})
    assert [spec.weight for spec in row.specs(0.5, "digits")] == [0.005, 0.5]
    assert [spec.weight for spec in row.specs(0.5, "banking77")] == [0.5, 0.5]
    assert len(row.settings((0.1, 0.2))) == 4
