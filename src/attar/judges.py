"""How the models of a run are judged on held-out rows: by what they answer, or by how well they tell each token.

A judge asks models once and keeps an array a model, whose first dimension is the rows; nobody else looks inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
from datasets import Dataset
from torch import nn

from attar.answers import agreement
from attar.evaluation.calibration import fit_temperature
from attar.evaluation.evaluate import evaluate
from attar.evaluation.language import evaluate_language, perplexity
from attar.evaluation.metrics import score
from attar.evaluation.predict import predict_logits
from attar.evaluation.tokens import Reader, ask_about_rows
from attar.facts import EvaluationFacts
from attar.ground import Ground
from attar.heads import head_width
from attar.known import Known
from attar.tasks.base import Encoded, Processor
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences
from attar.tasks.vocabularies import shared_outputs

Part = Literal["validation", "test"]
PARTS: tuple[Part, ...] = ("validation", "test")
Answers = Mapping[str, np.ndarray]
"""By model: `teacher`, `student`, controls."""


class Loaded(NamedTuple):
    """A model with its processor."""

    model: nn.Module
    processor: Processor


class Told(NamedTuple):
    """What the models of one seed said."""

    validation: Answers
    test: Answers
    temperature: float


class Judge(Protocol):
    """Asks models about held-out rows and says what their answers are worth."""

    def quality(self, model: nn.Module, processor: Processor) -> float:
        """Of a student in training, on validation, higher is better; on the run's device."""
        ...

    def ask(self, part: Part, models: Mapping[str, Loaded]) -> dict[str, np.ndarray]:
        """What the models, and the teacher, say of one part."""
        ...

    def temperature(self, validation: Answers) -> float:
        """That fits the student's confidence; 1 where there is none to fit."""
        ...

    def worth(self, validation: Answers) -> float:
        """By which the best of several seeds is chosen; higher is better."""
        ...

    def evaluate(self, seeds: Sequence[Told]) -> EvaluationFacts:
        """Everything about quality, over seeds."""
        ...


class LabelJudge:
    """Of classification and regression: answers are logits [N, C]. Without labels agreement with the teacher counts."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.task = ground, ground.task
        self._rows = _Rows(ground)

    def quality(self, model: nn.Module, processor: Processor) -> float:
        """The metric, or without labels agreement with the teacher."""
        encoded = self._rows.encoded("validation", processor)
        return self._worth(predict_logits(model, self.task, encoded, processor, device=self.ground.device))

    def ask(self, part: Part, models: Mapping[str, Loaded]) -> dict[str, np.ndarray]:
        """Logits; the teacher's from the store."""
        found = {
            name: predict_logits(one.model, self.task, self._rows.encoded(part, one.processor), one.processor)
            for name, one in models.items()
        }
        return {"teacher": self._teacher(part), **found}

    def temperature(self, validation: Answers) -> float:
        """Fitted on the labels; 1 for numbers and without labels."""
        if not self.ground.splits.labelled or self.task.problem == "regression":
            return 1.0
        return fit_temperature(validation["student"], self._labels("validation"), self.task.problem)

    def worth(self, validation: Answers) -> float:
        """The metric, or without labels agreement with the teacher."""
        return self._worth(validation["student"])

    def evaluate(self, seeds: Sequence[Told]) -> EvaluationFacts:
        """By labels, and by the teacher's answers."""
        return evaluate(
            self.task, by_model([one.test for one in seeds]), self._labels("test"), self._rows.of("test"),
            validation_logits=by_model([one.validation for one in seeds]),
            validation_labels=self._labels("validation"),
            temperature=[one.temperature for one in seeds], report=self.ground.recipe.report,
        )  # fmt: skip

    def _worth(self, logits: np.ndarray) -> float:
        if self.ground.splits.labelled:
            return score(self.task.metric, logits, self._labels("validation"), self.task.problem)
        return agreement(logits, self._teacher("validation"), self.task.problem)

    def _labels(self, part: Part) -> np.ndarray:
        return self._rows.encoded(part, self.ground.processor).labels

    def _teacher(self, part: Part) -> np.ndarray:
        return self.ground.teacher_logits(self._rows.of(part))


class LanguageJudge:
    """Of language models: answers are sums over each row's tokens, as `ask_about_rows` gives them."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.task = ground, cast("CausalLM", ground.task)
        self._rows = _Rows(ground)

    def quality(self, model: nn.Module, processor: Processor) -> float:
        """The negative of perplexity on validation, of which higher is better."""
        found = self._asked("validation", {"student": Loaded(model, processor)}, self.ground.device)
        return -perplexity(found["student"])

    def ask(self, part: Part, models: Mapping[str, Loaded]) -> dict[str, np.ndarray]:
        """Sums over tokens."""
        return self._asked(part, models, self.ground.device)

    def temperature(self, validation: Answers) -> float:
        """Not fitted."""
        return 1.0

    def worth(self, validation: Answers) -> float:
        """The negative of perplexity."""
        return -perplexity(validation["student"])

    def evaluate(self, seeds: Sequence[Told]) -> EvaluationFacts:
        """By perplexity, and by distance from the teacher."""
        test, validation = (by_model([getattr(one, part) for one in seeds]) for part in ("test", "validation"))
        return evaluate_language(self.task, test, validation, self._rows.of("test"), self.ground.recipe.report)

    def _asked(self, part: Part, models: Mapping[str, Loaded], device: str) -> dict[str, np.ndarray]:
        ground = self.ground
        assert ground.teacher is not None, "a language model's teacher is a model"
        readers = {
            name: Reader(
                one.model, self._sequences(part, one.processor), one.processor,
                shared_by(ground, one.model, one.processor), alike=not ground.reads_otherwise(one.processor),
            )
            for name, one in models.items()
        }  # fmt: skip
        theirs = ground.taught(self._sequences(part, ground.processor), self._rows.of(part))
        own = Reader(ground.teacher.speaker, theirs, ground.processor)
        return ask_about_rows(readers, own, self.task, len(self._rows.of(part)), device=device)

    def _sequences(self, part: Part, processor: Processor) -> Sequences:
        return cast("Sequences", self._rows.encoded(part, processor))


class _Rows:
    """The held-out rows, cut into tokens once a processor."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._known: dict[tuple[Part, int], tuple[Processor, Encoded]] = {}
        """By part and the processor's id; the processor is held, so that its id is not given away again."""

    def of(self, part: Part) -> Dataset:
        """The rows of a part."""
        return self._ground.splits.validation if part == "validation" else self._ground.splits.test

    def encoded(self, part: Part, processor: Processor) -> Encoded:
        """The same as a model reads them."""
        place = (part, id(processor))
        if place not in self._known:
            self._known[place] = (processor, self._ground.task.encode(self.of(part), processor))
        return self._known[place][1]


def shared_by(ground: Ground, model: nn.Module, processor: Processor) -> Known | None:
    """Which of the teacher's outputs a student has; None: all, in the same order, or none can be told apart as the
    student has another tokenizer. Raises PlanError.
    """
    if not isinstance(ground.task, CausalLM) or ground.teacher is None or ground.reads_otherwise(processor):
        return None
    widths = {"student_width": head_width(model), "teacher_width": ground.teacher.outputs}
    return shared_outputs(processor, ground.processor, **widths)


def by_model(seeds: Sequence[Answers]) -> dict[str, Any]:
    """A list of seeds' answers by model; the teacher's, who has one answer, once."""
    names = list(seeds[0])
    return {name: [seeds[0][name]] if name == "teacher" else [one[name] for one in seeds] for name in names}
