"""Objectives on dense logits: how far the student's answer is from the teacher's, one value a row (`dist`: a batch).

Each is a pure function of logits: no temperature, no mask, no mean. `reduction/` owns those, for every objective
alike.
"""

from attar.objectives.response.dist import dist
from attar.objectives.response.distance import alpha_beta, logit_mse, total_variation
from attar.objectives.response.kl import adaptive_kl, forward_kl, reverse_kl, todi
from attar.objectives.response.labelled import dkd, ofa
from attar.objectives.response.mixture import contrastive_skew, jsd, skew_kl, skew_reverse_kl
from attar.objectives.response.sampled import sampled_token
from attar.objectives.response.taid import taid

__all__ = [
    "adaptive_kl",
    "alpha_beta",
    "contrastive_skew",
    "dist",
    "dkd",
    "forward_kl",
    "jsd",
    "logit_mse",
    "ofa",
    "reverse_kl",
    "sampled_token",
    "skew_kl",
    "skew_reverse_kl",
    "taid",
    "todi",
    "total_variation",
]
