"""The records that stages pass on; together they are `run.json`, whose JSON Schema is generated from here.

A number carries its conditions: an `Interval` says how many rows it rests on, a `Measurement` its unit, repeats,
device, threads and method. What was not measured is `None`, and a neighbouring `note` says why.
"""

from attar.facts.base import Facts, Interval, Measurement
from attar.facts.bench import BENCH_VERSION, BatchFacts, BenchedFacts, BenchFacts
from attar.facts.energy import BreakEvenFacts, CarbonFacts, EnergyFacts, JoulesFacts, SpentFacts
from attar.facts.models import ArtifactFacts, BudgetFacts, ModelFacts, ParityFacts, RefusedFacts
from attar.facts.origin import DataFacts, LineageFacts, PolicyFacts, SourceFacts
from attar.facts.quality import (
    CalibrationFacts,
    ClassFacts,
    ConfusionFacts,
    EvaluationFacts,
    ExampleFacts,
    QualityFacts,
    WrittenFacts,
)
from attar.facts.run import SCHEMA_VERSION, RunFacts, SignalsFacts, StageFacts
from attar.facts.training import (
    BalanceFacts,
    ContinuedFacts,
    LayerMapFacts,
    QuantizationFacts,
    RolloutFacts,
    SeedFacts,
    StartFacts,
    StepFacts,
    TrainingFacts,
)

__all__ = [
    "BENCH_VERSION",
    "SCHEMA_VERSION",
    "ArtifactFacts",
    "BalanceFacts",
    "BatchFacts",
    "BenchFacts",
    "BenchedFacts",
    "BreakEvenFacts",
    "BudgetFacts",
    "CalibrationFacts",
    "CarbonFacts",
    "ClassFacts",
    "ConfusionFacts",
    "ContinuedFacts",
    "DataFacts",
    "EnergyFacts",
    "EvaluationFacts",
    "ExampleFacts",
    "Facts",
    "Interval",
    "JoulesFacts",
    "LayerMapFacts",
    "LineageFacts",
    "Measurement",
    "ModelFacts",
    "ParityFacts",
    "PolicyFacts",
    "QualityFacts",
    "QuantizationFacts",
    "RefusedFacts",
    "RolloutFacts",
    "RunFacts",
    "SeedFacts",
    "SignalsFacts",
    "SourceFacts",
    "SpentFacts",
    "StageFacts",
    "StartFacts",
    "StepFacts",
    "TrainingFacts",
    "WrittenFacts",
]
