"""The records that stages pass on; together they are `run.json`, whose JSON Schema is generated from here.

A number carries its conditions: an `Interval` says how many rows it rests on, a `Measurement` its unit, repeats,
device, threads and method. What was not measured is `None`, and a neighbouring `note` says why.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

SCHEMA_VERSION = 1


class Facts(BaseModel):
    """Base of all records: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Facts):
    """A statistic with its bootstrap interval."""

    value: float
    lo: float
    hi: float
    n: int = Field(description="Rows that it rests on (per seed).")
    seeds: int = Field(default=1, description="Training seeds that it rests on.")
    confidence: float = 0.95
    method: str = Field(default="paired bootstrap over rows", description="How lo and hi were found.")


class Measurement(Facts):
    """A measured physical quantity: median of n repeats with its spread, and its conditions."""

    value: float
    unit: str
    n: int
    lo: float = Field(description="Smallest repeat.")
    hi: float = Field(description="Largest repeat.")
    p95: float | None = None
    device: str = "cpu"
    threads: int = 1
    dtype: str = "float32"
    method: str = Field(description="What was timed, with which runtime and which row.")


class ModelFacts(Facts):
    """Size and cost of one model."""

    name: str
    family: str = Field(description="Architecture family, as config.model_type.")
    params: int
    bytes: int = Field(description="fp32 safetensors weights.")
    flops: int | None = Field(default=None, description="Multiply-adds times two, of one row of median length.")
    latency: Measurement | None = None
    note: str | None = Field(default=None, description="Why something was not measured.")


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
    classes: list[ClassFacts] = []
    slices: list[ClassFacts] = []
    confusions: list[ConfusionFacts] = []
    examples: list[ExampleFacts] = []
    perplexity: dict[str, float] = Field(
        default={}, description="By model, of language models that are judged by what they write."
    )
    written: dict[str, WrittenFacts] = Field(default={}, description="By model, likewise.")
    notes: list[str] = []


class StepFacts(Facts):
    """How an exported decoder answers token by token, through its cache, against the checkpoint asked at once."""

    max_abs: float
    agreement: float
    kl: float
    n: int = Field(description="Tokens.")


class ContinuedFacts(Facts):
    """What an exported language model writes after prompts, its likeliest token each time, against the checkpoint."""

    prompts: int
    tokens: int
    same: float = Field(description="Share of the tokens that are the checkpoint's, place by place.")
    unchanged: int = Field(description="Prompts after which both write the same to the end.")
    first_difference: int | None = Field(description="Earliest place, from 0, where they differ; None: nowhere.")


class ParityFacts(Facts):
    """How an exported file answers against the checkpoint, on real rows."""

    max_abs: float
    agreement: float
    kl: float | None = None
    n: int
    bound_max_abs: float | None
    bound_agreement: float | None
    cached: StepFacts | None = Field(default=None, description="Of a decoder with a cache; the bounds hold here too.")
    written: ContinuedFacts | None = Field(default=None, description="Of language models.")
    bound_written: float | None = Field(default=None, description="Least share of tokens written as the checkpoint's.")


class ArtifactFacts(Facts):
    """One exported file, measured through its own runtime."""

    kind: str
    precision: str
    path: str = Field(description="Relative to the run's folder.")
    bytes: int = Field(description="Every file needed to run it; the tokenizer apart.")
    tokenizer_bytes: int = 0
    sha256: str = Field(description="Hash of the model file.")
    quality: float | None = Field(description="The metric on test, from the exported file.")
    quality_interval: Interval | None = None
    retention: Interval | None = None
    parity: ParityFacts
    latency_ms: float | None
    latency: Measurement | None = None
    inputs: list[str]
    outputs: list[str]
    runtime: str
    note: str | None = None


class RefusedFacts(Facts):
    """An export that was asked for and is not handed over."""

    kind: str
    precision: str
    seed: int
    failed: Literal["parity", "export"] = Field(description="`parity`: made, but it does not answer like the student.")
    reason: str


class StageFacts(Facts):
    """One stage of the run."""

    name: str
    seconds: float = Field(description="Wall seconds when it was computed (also where it is cached now).")
    cached: bool = Field(description="Done before, by the same things. Data is read again, and found to be the same.")
    key: str = Field(description="Hash of what shaped it.")


class BudgetFacts(Facts):
    """One line of the budget."""

    name: str
    limit: float
    value: float | None
    unit: str
    met: bool | None = Field(description="None: could not be measured; see note.")
    note: str | None = None


class StartFacts(Facts):
    """The model that a pretrained student starts from, and its terms."""

    name: str
    licence: str | None
    rule: str = Field(description="Row of the policy table, or `unknown`.")
    verdict: Literal["allow", "conditional", "ask", "block"]
    reason: str
    source: str = Field(description="Where the rule stands.")
    date: str = Field(description="When the rule was read.")


class PolicyFacts(Facts):
    """May this teacher be distilled, why, and what passes on to the student."""

    teacher: str
    licence: str | None
    rule: str = Field(description="Row of the policy table, or `unknown`.")
    verdict: Literal["allow", "conditional", "ask", "block"]
    decision: Literal["allow", "stop"]
    reason: str
    source: str = Field(description="Where the rule stands.")
    date: str = Field(description="When the rule was read.")
    decided_by: str | None = None
    start: StartFacts | None = Field(
        default=None, description="Of a pretrained student: what it starts from; its terms count beside the teacher's."
    )
    student_name_prefix: str | None = None
    student_licence: str | None = None
    distribute: bool = Field(
        default=True, description="False: the terms forbid handing the student on; `attar push` refuses."
    )
    notices: list[str] = []
    disclaimer: str = "A record of what was read, not legal advice."


class SourceFacts(Facts):
    """One input of the run and its identity."""

    role: Literal["teacher", "data", "transfer", "student"]
    name: str
    revision: str | None = None
    hash: str
    licence: str | None = None


class LineageFacts(Facts):
    """What shaped this run."""

    recipe_hash: str
    sources: list[SourceFacts]
    code: dict[str, str] = Field(description="attar's version and source hash.")
    packages: dict[str, str] = Field(description="Versions of the packages that matter.")
    machine: dict[str, str] = Field(description="System, processor, cores, memory; no host name.")
    created: str = Field(description="UTC, ISO 8601.")


class DataFacts(Facts):
    """What the data looked like."""

    rows: dict[str, int] = Field(description="By split, and `transfer`.")
    labels: list[str]
    labelled: bool
    overlap_removed: int = Field(description="Training rows that also stand in validation or test; removed.")
    duplicates: int = Field(default=0, description="Rows that stand more than once within train; kept.")
    truncated: int = Field(default=0, description="Rows longer than the limit; cut.")
    notes: list[str] = []


class BalanceFacts(Facts):
    """One objective, balanced before the first step."""

    norm: float = Field(description="Of its gradient with respect to the student's parameters, at weight 1.")
    factor: float = Field(description="Its weight was multiplied by this.")


class LayerMapFacts(Facts):
    """The layers that one objective compares, and how they were matched."""

    how: Literal["given", "last", "uniform", "cka"]
    pairs: list[tuple[int, int]] = Field(
        description="(student, teacher): hidden states from 0, the embeddings' output; attention layers from 1."
    )
    similarities: list[float] = Field(default=[], description="`cka`: linear CKA of each pair, before training.")
    rows: int | None = Field(default=None, description="`cka`: training rows on which layers were compared.")


class RolloutFacts(Facts):
    """Answers that were written while the student was trained."""

    texts: int
    length: float = Field(description="Mean tokens, the end among them.")
    at_limit: float = Field(description="Share of texts that were cut at the longest length allowed.")
    share_of_time: float = Field(description="Of the training steps' wall time, spent on writing.")


class TrainingFacts(Facts):
    """One training, student or control."""

    steps: int
    epochs: float
    rows_per_second: float = Field(description="Rows, or learned tokens, a second: see `counted`.")
    counted: Literal["rows", "tokens"] = "rows"
    packed: bool = Field(default=False, description="Whether a language model read its batches without their padding.")
    seconds: float
    curve: list[dict[str, float]] = Field(description="Logged points: step, loss, each term, validation metric.")
    best_step: int
    initial: dict[str, JsonValue] = Field(default={}, description="What was copied into the student at its birth.")
    layers: dict[str, LayerMapFacts] = Field(default={}, description="By term that compares layers.")
    balance: dict[str, BalanceFacts] = Field(
        default={}, description="By objective, where training.balance is on: what the probe found."
    )
    rollouts: RolloutFacts | None = Field(default=None, description="Where answers were written in the training.")
    processes: int = Field(default=1, description="That trained together.")
    parallel: Literal["ddp", "fsdp"] | None = Field(
        default=None, description="How several processes shared the training; null: there was one."
    )


class SeedFacts(Facts):
    """One seed of several."""

    seed: int
    path: str
    student: float | None
    control: float | None
    retention: float | None
    agreement: float | None
    validation: float | None
    artifacts: dict[str, float] = Field(default={}, description="Quality of each exported file, by kind and precision.")


class SignalsFacts(Facts):
    """How the teacher's signals reached the training, and what a store of them takes."""

    mode: Literal["live", "store", "stored"] = Field(
        description="Asked in every step; labelled once by this run; labelled before, elsewhere."
    )
    key: str = Field(description="Of the store: hash of all that shaped it; `live`: of the teacher.")
    rows: int | None = Field(default=None, description="In the store; of language models: sequences.")
    tokens: int | None = Field(default=None, description="Of language models: tokens that are told of.")
    bytes: int | None = Field(default=None, description="Of all its shards.")
    bytes_per_token: float | None = None
    spot_check: float | None = Field(
        default=None,
        description="`stored`: largest difference of rows that were asked again; of language models the share of a "
        "token's probability that stands elsewhere, mean of a sequence.",
    )


class RunFacts(Facts):
    """`run.json`: everything that is known of one run. Report, card, page and compare read only this."""

    schema_version: int = SCHEMA_VERSION
    name: str
    status: Literal["complete", "budget_missed"]
    recipe: dict[str, JsonValue]
    task: str
    data: DataFacts
    teacher: ModelFacts
    student: ModelFacts
    control: ModelFacts | None
    quality: QualityFacts
    retention: Interval | None
    kd_gain: Interval | None
    evaluation: EvaluationFacts
    training: dict[str, TrainingFacts] = Field(description="By student, control, control_random.")
    artifacts: list[ArtifactFacts]
    refused: list[RefusedFacts] = Field(default=[], description="Exports that are not handed over, and why.")
    files: dict[str, str] = Field(
        default={}, description="SHA-256 of the student's files, by their path in the run's folder; its card apart."
    )
    budget: list[BudgetFacts]
    policy: PolicyFacts
    lineage: LineageFacts
    stages: list[StageFacts]
    signals: SignalsFacts | None = Field(default=None, description="None: written by an attar that did not tell.")
    seeds: list[SeedFacts] = []
    warnings: list[str] = []
