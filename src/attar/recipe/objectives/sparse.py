"""Objectives on a few of the teacher's probabilities a row."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attar.recipe.base import Positive, Rate
from attar.recipe.objectives.base import TemperedSpec


class SparseSpec(TemperedSpec):
    """What objectives on few tokens share; the teacher's logits are tempered before they are cut."""


class SparseKLSpec(SparseSpec):
    """KL(teacher || student) over the teacher's likeliest outputs and one cell for all others."""

    kind: Literal["sparse_kl"]
    k: Positive = Field(default=64, description="Outputs listed a row; all of them is forward_kl.")


class SparseReverseKLSpec(SparseSpec):
    """KL(student || teacher) over the likeliest outputs of both sides and one cell for all others."""

    kind: Literal["sparse_reverse_kl"]
    k: Positive = Field(default=64, description="Outputs listed a row, for each side; all of them is reverse_kl.")


class SampledKLSpec(SparseSpec):
    """An unbiased estimate of KL(teacher || student) from outputs drawn anew in each step. 2025."""

    kind: Literal["sampled_kl"]
    samples: Positive = Field(default=64, description="Outputs drawn a row.")
    proposal_temperature: Rate = Field(
        default=1.0, description="They are drawn from the teacher at this temperature; above 1: rare ones more often."
    )


OnLists = SparseKLSpec | SparseReverseKLSpec | SampledKLSpec
"""Every `SparseSpec`."""
