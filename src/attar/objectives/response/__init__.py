"""Objectives on dense logits: how far the student's answer is from the teacher's, one value a row.

Each is a pure function of logits: no temperature, no mask, no mean. `reduction.py` owns those, for every objective
alike.
"""

from attar.objectives.response.distance import alpha_beta, logit_mse, total_variation
from attar.objectives.response.kl import adaptive_kl, forward_kl, reverse_kl, todi
from attar.objectives.response.mixture import jsd, skew_kl, skew_reverse_kl

__all__ = [
    "adaptive_kl",
    "alpha_beta",
    "forward_kl",
    "jsd",
    "logit_mse",
    "reverse_kl",
    "skew_kl",
    "skew_reverse_kl",
    "todi",
    "total_variation",
]
