"""Objectives on written text; the teacher's likeliest token stands in for the one that it wrote."""

from __future__ import annotations

from attar.objectives.supervised import cross_entropy
from objectives.laws.entry import NO_TEMPERATURE, Entry
from objectives.laws.supervised import of_answers

SEQUENCES = [
    Entry(
        "sequence_nll",
        "sequence_nll",
        of_answers(cross_entropy),
        {
            "divergence": "a certain student is at 0, the teacher itself at the surprise of what it wrote",
            "temperature_power": NO_TEMPERATURE,
        },
    ),
]
