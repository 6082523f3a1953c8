"""Objectives of embedding and ranking models."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from attar.objectives.embedding import batch_similarity_distribution, margin_mse, similarity_distribution
from attar.objectives.feature import cosine_distance, mse_distance
from attar.objectives.response import forward_kl
from objectives.laws.batch import BatchEntry
from objectives.laws.entry import Entry
from objectives.laws.feature import FEATURE

OWN_TEMPERATURES = {**FEATURE, "temperature_power": "cosines know no scale: its temperatures are its own"}
UNEQUAL = {"divergence": "unequal temperatures ask for another sharpness than the teacher's"}
RESCALED = {"temperature_power": "a temperature only rescales it, by 1 / T^2, so its square would make it do nothing"}


def queue(width: int, seed: int) -> Tensor:
    return torch.randn(9, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def of_queue(student: Tensor, teacher: Tensor, *, temperature: float = 0.1, teacher_temperature: float = 0.1) -> Tensor:
    entries = queue(student.shape[1], 1).to(student)
    return similarity_distribution(
        student,
        teacher,
        student_queue=entries,
        teacher_queue=entries,
        student_temperature=temperature,
        teacher_temperature=teacher_temperature,
    )


def of_padded_lists(student: Tensor, teacher: Tensor) -> Tensor:
    return forward_kl(*(functional.pad(side, (0, 2), value=-torch.inf) for side in (student, teacher)))


def of_padded_margins(student: Tensor, teacher: Tensor) -> Tensor:
    return margin_mse(*(functional.pad(side, (0, 2), value=-torch.inf) for side in (student, teacher)))


EMBEDDINGS = [
    Entry("embedding", "embedding cosine", cosine_distance, FEATURE),
    Entry("embedding", "embedding mse", mse_distance, FEATURE),
    Entry("similarity_distribution", "similarity_distribution", of_queue, OWN_TEMPERATURES),
    Entry(
        "similarity_distribution",
        "similarity_distribution as in SEED",
        partial(of_queue, temperature=0.2, teacher_temperature=0.05),
        OWN_TEMPERATURES | UNEQUAL,
    ),
    Entry("margin_mse", "margin_mse", margin_mse, RESCALED),
    Entry("margin_mse", "margin_mse of padded lists", of_padded_margins, RESCALED),
    Entry("listwise_kl", "listwise_kl of padded lists", of_padded_lists),
]

EMBEDDING_BATCHES = [
    BatchEntry(
        "similarity_distribution",
        f"batch_similarity_distribution of width {width}",
        batch_similarity_distribution,
        {"duplication": "a row's copy is one more row to resemble"},
        invariances=("student_scale", "teacher_scale"),
        teacher_width=width,
    )
    for width in (7, 4)
]
