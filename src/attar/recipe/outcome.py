"""`budget`, `export`, `policy` and `report`: what must come out, and under which terms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from attar.recipe.base import Fraction, Positive, Rate, Spec
from attar.recipe.energy import EnergySpec

Limit = (
    Annotated[int, Field(ge=1)]
    | Annotated[
        str,
        Field(pattern=r"^\d+(\.\d+)?\s?%$", examples=['"4%" (a share of the teacher\'s)']),
        AfterValidator(lambda share: f"{float(share.rstrip(' %')):g}%"),
    ]
)


class BudgetSpec(Spec):
    """Limits, checked before work where possible and at the end. A missed one gives exit code 3."""

    max_params: Limit | None = Field(
        default=None, description='Student\'s parameters, as a number or a share of the teacher ("4%").'
    )
    max_bytes: Limit | None = Field(
        default=None, description="Bytes of the smallest exported file, or a share of the teacher's."
    )
    max_latency_ms: Rate | None = Field(
        default=None, description="Batch-1 latency of the fastest exported file, one thread."
    )
    min_retention: Fraction | None = Field(
        default=None, description="Test metric of the student over the teacher's, at least."
    )


_WRITTEN = "Language models: least share of written tokens that are the checkpoint's; absent: by precision."


class OnnxSpec(Spec):
    """ONNX through onnxruntime."""

    kind: Literal["onnx"]
    precision: Literal["fp32", "fp16", "int8", "int4"] = Field(
        default="fp32",
        description="int8 quantizes embeddings too (int4 leaves them 8 bits); fp16 and int4 are for language models.",
    )
    max_abs: Rate | None = Field(
        default=None, description="Parity bound on logits against the checkpoint; absent: by precision."
    )
    min_agreement: Fraction | None = Field(
        default=None, description="Least share of equal answers (tokens, for language models); absent: by precision."
    )
    min_written: Fraction | None = Field(default=None, description=_WRITTEN)
    calibration_rows: Positive = Field(default=256, description="Training rows used to calibrate static quantization.")
    opset: Positive = Field(default=20, description="ONNX opset.")


class GGUFSpec(Spec):
    """GGUF, for llama.cpp and what is built on it: language models of the LLaMA family."""

    kind: Literal["gguf"]
    precision: Literal["f16", "q8_0", "q4_0"] = Field(
        default="q8_0",
        description="q8_0 and q4_0 have one scale for 32 numbers, embeddings too (which keep 8 bits in q4_0).",
    )
    min_agreement: Fraction | None = Field(
        default=None, description="Least share of tokens with the same likeliest one; absent: by precision."
    )
    min_written: Fraction | None = Field(default=None, description=_WRITTEN)


class WebSpec(Spec):
    """ONNX in the layout of transformers.js, for the browser: classifiers of texts and images."""

    kind: Literal["web"]
    precision: Literal["fp32", "int8"] = Field(default="int8", description="As of `onnx`; int8 is a quarter to fetch.")
    max_abs: Rate | None = Field(default=None, description="As of `onnx`.")
    min_agreement: Fraction | None = Field(default=None, description="As of `onnx`.")
    calibration_rows: Positive = Field(default=256, description="As of `onnx`.")
    opset: Positive = Field(default=20, description="ONNX opset.")


class _EdgeSpec(Spec):
    """What the runtimes of devices share: classifiers of texts and images alone."""

    max_abs: Rate | None = Field(default=None, description="As of `onnx`.")
    min_agreement: Fraction | None = Field(default=None, description="As of `onnx`.")


class OpenVINOSpec(_EdgeSpec):
    """OpenVINO's own format (.xml and .bin), for Intel's processors; int8 by NNCF."""

    kind: Literal["openvino"]
    precision: Literal["fp32", "int8"] = Field(default="fp32", description="int8 is calibrated on training rows.")
    calibration_rows: Positive = Field(default=256, description="As of `onnx`.")


class LiteRTSpec(_EdgeSpec):
    """LiteRT (.tflite), for Android and small devices. One row at a time, every text at one length."""

    kind: Literal["litert"]
    precision: Literal["fp32", "int8"] = Field(default="fp32", description="int8 scales activations at run time.")
    length: Positive | None = Field(
        default=None, description="Tokens that each text is padded to, and has at most; absent: the task's max_length."
    )


class ExecuTorchSpec(_EdgeSpec):
    """ExecuTorch (.pte) through XNNPACK, for Android and iOS. One row at a time, every text at one length."""

    kind: Literal["executorch"]
    precision: Literal["fp32", "int8"] = Field(default="fp32", description="int8 is for convolutional nets.")
    calibration_rows: Positive = Field(default=256, description="As of `onnx`.")
    length: Positive | None = Field(default=None, description="As of `litert`.")


class CoreMLSpec(_EdgeSpec):
    """Core ML (.mlpackage), experimental: students of images, compared with the checkpoint on macOS alone."""

    kind: Literal["coreml"]
    precision: Literal["fp32"] = Field(default="fp32", description="Nothing smaller yet.")


EdgeSpec = OpenVINOSpec | LiteRTSpec | ExecuTorchSpec | CoreMLSpec
ClassifierSpec = OnnxSpec | WebSpec | EdgeSpec
"""Exports that a classifier can have."""
ExportSpec = Annotated[OnnxSpec | GGUFSpec | WebSpec | EdgeSpec, Field(discriminator="kind")]


class PolicySpec(Spec):
    """May this teacher be distilled? What you record here is printed in run.json and on the model card."""

    decision: Literal["allow", "by_table"] = Field(
        default="by_table", description="`allow` overrides the table, with a reason."
    )
    reason: str | None = Field(
        default=None, description="Why you may distil this teacher (contract, permission, own model)."
    )
    decided_by: str | None = Field(default=None, description="Who decided.")
    teacher: str | None = Field(
        default=None, description="Row of the policy table, where the model's name does not tell."
    )
    student_licence: str | None = Field(
        default=None, description="SPDX id for the student; absent: what the teacher's terms give."
    )


class ReportSpec(Spec):
    """What the report shows."""

    examples: bool = Field(
        default=True, description="Show rows where teacher and student differ; switch off for private data."
    )
    max_examples: Annotated[int, Field(ge=0, le=200)] = Field(default=24, description="At most this many rows.")
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = Field(
        default=2000, description="Bootstrap resamples of an interval."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(default=0.95, description="Level of the intervals.")
    latency: bool = Field(
        default=True, description="Measure latency and energy of the models, which takes some quiet seconds."
    )
    energy: EnergySpec = Field(default=EnergySpec(), description="How energy is told.")
    title: str | None = Field(default=None, description="Title of the report; absent: the run's name.")
