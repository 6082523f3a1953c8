"""Does an exported file answer like the checkpoint? If not, it is not handed over."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.answers import agreement, mean_kl
from attar.errors import ParityError
from attar.facts import ParityFacts
from attar.recipe.outcome import ClassifierSpec, OnnxSpec, WebSpec
from attar.tasks.base import Problem

Array = NDArray[Any]

MAX_ABS: dict[str, float | None] = {"fp32": 1e-3, "int8": None}
"""Default bound on the largest difference of a logit. int8 has none: how far logits may move before answers change
depends on the model, so its bound is on answers."""
MIN_AGREEMENT = {"fp32": 0.999, "int8": 0.97}
"""Default bound on the share of equal answers (regression: on the correlation)."""


def check_parity(checkpoint: Array, exported: Array, problem: Problem, spec: ClassifierSpec) -> ParityFacts:
    """Compare logits [N, C] of both on the same rows. Raises ParityError where a bound is missed, with what was found.

    Bounds are the spec's, else those by precision above.
    """
    finite = bool(np.isfinite(exported).all())
    facts = ParityFacts(
        max_abs=float(np.abs(checkpoint - exported).max()) if finite else float("inf"),
        agreement=agreement(checkpoint, exported, problem) if finite else 0.0,
        kl=None if problem == "regression" or not finite else mean_kl(checkpoint, exported, problem),
        n=len(checkpoint),
        bound_max_abs=MAX_ABS[spec.precision] if spec.max_abs is None else spec.max_abs,
        bound_agreement=MIN_AGREEMENT[spec.precision] if spec.min_agreement is None else spec.min_agreement,
    )
    problems: list[str] = [] if finite else ["some logits are NaN or infinite"]
    if facts.bound_max_abs is not None and facts.max_abs > facts.bound_max_abs:
        problems.append(f"logits differ by up to {facts.max_abs:.3g}, allowed are {facts.bound_max_abs:g} (max_abs)")
    if facts.bound_agreement is not None and facts.agreement < facts.bound_agreement:
        problems.append(
            f"agreement is {facts.agreement:.4f}, at least {facts.bound_agreement:g} is asked (min_agreement)"
        )
    if problems:
        raise ParityError(
            f"export {spec.kind} {spec.precision}: the file does not answer like the checkpoint on {facts.n} rows: "
            f"{'; '.join(problems)}. It is not handed over. "
            f"{_other(spec)}, or set a bound that you can live with."
        )
    return facts


def _other(spec: ClassifierSpec) -> str:
    if spec.precision == "int8":
        return "Use `precision: fp32`"
    return "Try another `opset`" if isinstance(spec, OnnxSpec | WebSpec) else "Use `kind: onnx`"
