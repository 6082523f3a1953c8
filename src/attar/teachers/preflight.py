"""Is this teacher worth distilling? Its quality on validation, its label order, its image normalisation."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from attar.recipe.nearest import listed
from attar.tasks.base import Encoded, Processor, Task
from attar.teachers.quality import against_chance, has_label, quality

_SAME_COLOUR = 1e-3
_SAMPLED = 256
_FAR = 2.5
"""Channel means beyond this many standard deviations are far; spreads above it, or below 1 over its square."""
_SWAPS_SHOWN = 4


def preflight(logits: np.ndarray, validation: Encoded, processor: Processor, task: Task) -> list[str]:
    """Warnings about a teacher, worst first; empty: none. `logits` [N, C]: its answers to `validation`."""
    return [*judge_answers(logits, validation.labels, task), *judge_normalisation(processor, task, validation)]


def judge_answers(logits: np.ndarray, labels: np.ndarray, task: Task) -> list[str]:
    """Warnings about logits [N, C] against labels: barely better than a constant answer, or labels in another order."""
    chance = against_chance(logits, labels, task.problem)
    if chance is None:
        return []
    warnings: list[str] = []
    if chance.barely_better:
        score = quality(task.metric, logits, labels, task.problem)
        beside = (
            f"its rank correlation is {chance.right:.3f}"
            if task.problem == "regression"
            else f"it is right on {chance.right:.1%}, the best constant answer on {chance.baseline:.1%}"
        )
        warnings.append(
            f"THE TEACHER IS BARELY BETTER THAN CHANCE on validation: {beside} of {chance.n} rows (p = {chance.p:.2g}; "
            f"{task.metric} {score:.3f}). A student learns no more than its teacher knows: check the labels' names and "
            "order, the text column, or use `teacher.fit: probe` or `full`."
        )
    return warnings + (_other_order(logits, labels, task) if task.problem == "single_label" else [])


def judge_normalisation(processor: Processor, task: Task, images: Encoded) -> list[str]:
    """Warnings about images: the recipe states another normalisation than the teacher's, or the data is far from it.

    A teacher's processor brings the mean and spread of the images that it was trained on to about 0 and 1.
    """
    spec, warnings = task.spec, list[str]()
    if spec.kind != "image_classification" or not getattr(processor, "do_normalize", False):
        return []
    mean, std = np.asarray(processor.image_mean, dtype=float), np.asarray(processor.image_std, dtype=float)
    stated = bool({"mean", "std"} & spec.model_fields_set)
    if stated and not np.allclose([*mean, *std], [*spec.mean, *spec.std], atol=_SAME_COLOUR):
        warnings.append(
            f"THE TEACHER'S IMAGE NORMALISATION (mean {_short(mean)}, std {_short(std)}) IS NOT THE TASK'S (mean "
            f"{_short(spec.mean)}, std {_short(spec.std)}). The teacher's is used; set `task.mean` and `task.std` to "
            "it."
        )
    if len(images) == 0:
        return warnings
    some = np.linspace(0, len(images) - 1, min(_SAMPLED, len(images))).astype(np.int64)
    pixels = task.batch(images, some, processor)["pixel_values"].transpose(0, 1).flatten(1)
    centre, spread = pixels.mean(1), pixels.std(1)
    if bool((centre.abs() > _FAR).any()) or bool((spread > _FAR).any()) or bool((spread < 1 / _FAR**2).any()):
        warnings.append(
            "THE DATA IS FAR FROM THE TEACHER'S IMAGE NORMALISATION: normalised, its channels have mean "
            f"{_short(centre)} "
            f"and std {_short(spread)}, where about 0 and 1 is expected. Check that the images are 8-bit RGB, and the "
            "processor's mean and std."
        )
    return warnings


def _other_order(logits: np.ndarray, labels: np.ndarray, task: Task) -> list[str]:
    """Does another order of the teacher's outputs fit the labels much better than the one in use?"""
    known = has_label(labels, task.problem)
    counts = np.zeros((len(task.labels), len(task.labels)), dtype=np.int64)
    np.add.at(counts, (logits[known].argmax(1), labels[known]), 1)
    answers, truths = linear_sum_assignment(counts, maximize=True)
    n, right, best = counts.sum(), np.trace(counts), counts[answers, truths].sum()
    if best - right < 0.2 * n or best < 1.5 * right:
        return []
    swaps = [
        f'"{task.labels[a]}" fits "{task.labels[t]}"'
        for a, t in zip(answers, truths, strict=True)
        if a != t and counts[a, t]
    ]
    return [
        f"THE TEACHER'S LABELS SEEM TO BE IN ANOTHER ORDER: it is right on {right / n:.1%} of validation, but would "
        "be right "
        f"on {best / n:.1%} if its answers were renamed: {listed(swaps, _SWAPS_SHOWN)}. Give `teacher.label_map`."
    ]


def _short(values: object) -> str:
    return "/".join(f"{value:.3g}" for value in np.ravel(np.asarray(values)))
