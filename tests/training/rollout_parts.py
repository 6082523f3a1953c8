"""A tiny language task whose answers are written anew, for the tests of rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM

from attar.facts import TrainingFacts
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import ReverseKLSpec
from attar.recipe.rollouts import RolloutsSpec
from attar.recipe.task import CausalLMSpec
from attar.recipe.training import TrainingSpec
from attar.signals import look_inside
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences
from attar.training.rows import LiveTeacher, TrainingRows
from attar.training.train import make_trainer, train
from attar.training.trainer import DistilTrainer
from tiny_language import TEXTS, tiny_bpe, tiny_llama

TOKENIZER = tiny_bpe()
TASK = CausalLM(CausalLMSpec(kind="causal_lm", prompt="prompt", max_length=40))
ROWS = Dataset.from_dict({"prompt": [text[: 5 + at % 7] for at, text in enumerate(TEXTS[:24])],
                          "text": [text[5 + at % 7 :] for at, text in enumerate(TEXTS[:24])]})  # fmt: skip
ENCODED = TASK.encode(ROWS, TOKENIZER)
REVERSE = ReverseKLSpec(kind="reverse_kl")
SETTINGS: dict[str, Any] = {"batch_size": 8, "learning_rate": 0.01, "max_steps": 6, "device": "cpu", "evaluations": 1}


def rollouts(**changes: Any) -> RolloutsSpec:
    return RolloutsSpec(**{"fraction": 1.0, "max_new_tokens": 6, "cold_start": 0.0, **changes})


def student(*, seed: int = 1) -> LlamaForCausalLM:
    return tiny_llama(TOKENIZER, hidden=16, layers=2, seed=seed)


def terms_of(*specs: Any) -> Terms:
    batch = TASK.batch(ENCODED, [0], TOKENIZER)
    inside = [look_inside(model, batch) for model in (student(), tiny_llama(TOKENIZER))]
    return Terms(list(specs or (REVERSE,)), problem="single_label", student=inside[0], teacher=inside[1], seed=0)


def rows_of(terms: Terms, encoded: Sequences = ENCODED) -> TrainingRows:
    live = LiveTeacher(tiny_llama(TOKENIZER), encoded, TOKENIZER, terms.wanted_teacher)
    return TrainingRows(encoded, TOKENIZER, live=live if terms.needs_teacher else None)


def trainer_of(
    where: Path, *specs: Any, model: LlamaForCausalLM | None = None, rows: TrainingRows | None = None,
    written: RolloutsSpec | None = None, task: CausalLM = TASK, **changes: Any,
) -> DistilTrainer:  # fmt: skip
    terms = terms_of(*specs)
    return make_trainer(
        model or student(), terms, task, rows or rows_of(terms), TrainingSpec(**SETTINGS | changes), where, key="k",
        rollouts=written,
    )  # fmt: skip


def trained(
    where: Path, *specs: Any, model: LlamaForCausalLM | None = None, rows: TrainingRows | None = None,
    written: RolloutsSpec | None = None, log: Path | None = None, **changes: Any,
) -> tuple[dict[str, torch.Tensor], TrainingFacts]:  # fmt: skip
    terms, model = terms_of(*specs), model or student()
    facts = train(
        model, terms, TASK, rows or rows_of(terms), TrainingSpec(**SETTINGS | changes), where, key="k",
        rollouts=written, log=log,
    )  # fmt: skip
    return dict(model.state_dict()), facts


def first_step(trainer: DistilTrainer) -> list[dict[str, Any]]:
    """The micro-batches of the first step, with counts."""
    found = iter(trainer.get_train_dataloader())
    samples, _ = trainer.get_batch_samples(found, trainer.args.gradient_accumulation_steps, torch.device("cpu"))
    return samples
