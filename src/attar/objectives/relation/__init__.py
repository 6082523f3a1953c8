"""Objectives on how the rows of a batch lie to one another: one value a batch, of the local batch alone.

Widths need not agree, so all but `crd` do without anything learned. Each is a scalar; what has no relation (one row) is
0.
"""

from attar.objectives.relation.cka import cka, cka_similarity
from attar.objectives.relation.crd import ContrastiveHeads, crd
from attar.objectives.relation.rkd import rkd_angle, rkd_distance
from attar.objectives.relation.similarity import similarity_preserving

__all__ = [
    "ContrastiveHeads",
    "cka",
    "cka_similarity",
    "crd",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
]
