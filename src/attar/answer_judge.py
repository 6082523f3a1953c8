"""How language models are judged that are to answer prompts: by what they write, against what the data answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from attar.evaluation.exact_match import evaluate_written, watched_match
from attar.evaluation.written import right_answers, write_answers
from attar.facts import EvaluationFacts
from attar.ground import Ground
from attar.judges import Answers, LanguageJudge, Loaded, Part, Told, by_model
from attar.tasks.base import Processor
from attar.teacher_writes import write_as_taught

SAID = ".said"
"""Behind a model's name: what it wrote, as `write_answers` records it."""


class AnswerJudge(LanguageJudge):
    """Of `metric: exact_match`: beside the sums over tokens, answers are what models write after the prompts.

    The teacher writes once, for all seeds.
    """

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._taught: dict[Part, np.ndarray] = {}

    def quality(self, model: nn.Module, processor: Processor) -> float:
        """Exact match on some rows of validation."""
        return watched_match(model, processor, self.task, self.ground.splits.validation, device=self.ground.device)

    def ask(self, part: Part, models: Mapping[str, Loaded]) -> dict[str, np.ndarray]:
        """Sums over tokens by model, and what each wrote by model and `SAID`."""
        ground = self.ground
        rows = ground.splits.validation if part == "validation" else ground.splits.test
        if part not in self._taught:
            self._taught[part] = write_as_taught(ground, self.task, rows)
        written = {f"teacher{SAID}": self._taught[part]}
        for name, one in models.items():
            written[f"{name}{SAID}"] = write_answers(*one, self.task, rows, device=ground.device)
        return {**super().ask(part, models), **written}

    def worth(self, validation: Answers) -> float:
        """Exact match."""
        return float(right_answers(self.ground.splits.validation, validation[f"student{SAID}"]).mean())

    def evaluate(self, seeds: Sequence[Told]) -> EvaluationFacts:
        """By exact match, and by all that is known token by token."""
        tables = [Told(_tables(one.validation), _tables(one.test), one.temperature) for one in seeds]
        by_token = super().evaluate(tables)
        test, validation = ([_written(getattr(one, part)) for one in seeds] for part in ("test", "validation"))
        return evaluate_written(
            self.task, by_token, by_model(test), by_model(validation), self.ground.splits.test,
            self.ground.splits.validation, self.ground.recipe.report,
        )  # fmt: skip


def _tables(said: Answers) -> Answers:
    return {name: array for name, array in said.items() if not name.endswith(SAID)}


def _written(said: Answers) -> Answers:
    return {name.removesuffix(SAID): array for name, array in said.items() if name.endswith(SAID)}
