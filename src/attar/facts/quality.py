"""What held-out rows say: metrics with intervals, by class, calibration, written answers, examples."""

from __future__ import annotations

from pydantic import Field

from attar.facts.base import Facts, Interval


class ClassFacts(Facts):
    """Quality on one class or slice: recall for classes, the metric for slices."""

    name: str
    n: int
    teacher: float | None
    student: float
    control: float | None


class ConfusionFacts(Facts):
    """A pair of classes that the student confuses more often than the teacher does."""

    truth: str
    answer: str
    teacher: int
    student: int


class ExampleFacts(Facts):
    """A test row where teacher and student differ."""

    text: str | None = None
    image: str | None = Field(default=None, description="data: URL of a small PNG.")
    truth: str | None = None
    teacher: str
    student: str
    teacher_confidence: float | None = None
    student_confidence: float | None = None


class QualityFacts(Facts):
    """Quality on the test split, read once. Higher is better for every metric but perplexity."""

    metric: str
    n: int
    teacher: float | None
    student: float | None = Field(description="None where the data has no labels: then agreement is the metric.")
    control: float | None
    control_random: float | None = None
    intervals: dict[str, Interval] = Field(default={}, description="By teacher, student, control, control_random.")
    validation: dict[str, float] = Field(default={}, description="The same metric on validation, by model.")


class CalibrationFacts(Facts):
    """Expected calibration error (15 bins of equal mass, 0..1) on test, and the temperature fitted on validation."""

    ece: dict[str, float] = Field(description="By teacher, student, control, student_calibrated.")
    temperature: float = Field(description="The student's logits are divided by this.")
    bins: dict[str, list[tuple[float, float, int]]] = Field(
        {}, description="By model: mean confidence, accuracy and rows of each bin."
    )


class WrittenFacts(Facts):
    """What one model wrote as answers to the test prompts, its likeliest token each time."""

    mean_tokens: float = Field(description="Tokens of an answer, as the model's own tokenizer cuts them.")
    longest: int = Field(description="Answers that have not ended after so many tokens are cut; they are wrong.")
    cut: float = Field(description="Share of answers that were cut.")
    valid_json: float | None = Field(description="Share that is an object or a list; None where others are asked for.")
    f1: dict[str, float] = Field(
        default={}, description="By member of JSON answers: F1 of the values that it holds, each at its place."
    )


class EvaluationFacts(Facts):
    """What the evaluation stage found."""

    quality: QualityFacts
    retention: Interval | None
    kd_gain: Interval | None
    agreement: Interval | None = Field(
        description="Share of test rows (language models: tokens) where student and teacher give the same answer; None "
        "where their tokenizers cut every text otherwise."
    )
    kl_to_teacher: float | None = Field(default=None, description="Mean KL(teacher || student) on test, nats.")
    mcnemar_p: float | None = Field(default=None, description="Exact McNemar test, student against control.")
    calibration: CalibrationFacts | None
    classes: list[ClassFacts] = Field(default=[])
    slices: list[ClassFacts] = Field(default=[])
    confusions: list[ConfusionFacts] = Field(default=[])
    examples: list[ExampleFacts] = Field(default=[])
    perplexity: dict[str, float] = Field(
        default={}, description="By model, of language models that are judged by what they write."
    )
    written: dict[str, WrittenFacts] = Field(default={}, description="By model, likewise.")
    notes: list[str] = Field(default=[])
