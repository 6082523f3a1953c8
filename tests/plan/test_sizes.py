from __future__ import annotations

import pytest
import torch
import transformers

from attar.plan.sizes import count
from attar.plan.transformers_source import config_fields, model_types, training_fields

SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 100}
CONFIGS = [
    {"model_type": "bert", **SMALL, "vocab_size": 99},
    {"model_type": "roberta", **SMALL, "vocab_size": 99},
    {"model_type": "xlm-roberta", **SMALL, "vocab_size": 99},
    {"model_type": "camembert", **SMALL, "vocab_size": 99},
    {"model_type": "distilbert", "n_layers": 2, "dim": 64, "n_heads": 2, "vocab_size": 99},
    {"model_type": "vit", **SMALL, "image_size": 32, "patch_size": 8},
    {"model_type": "deit", **SMALL, "architectures": ["DeiTForImageClassification"]},
    {"model_type": "resnet", "depths": [1, 2], "hidden_sizes": [16, 32], "embedding_size": 8, "layer_type": "basic"},
    {"model_type": "resnet", "depths": [2, 1], "hidden_sizes": [16, 32], "embedding_size": 16},
]


@pytest.mark.parametrize("fields", CONFIGS, ids=lambda fields: str(fields["model_type"]))
def test_the_formula_counts_what_transformers_builds(fields: dict) -> None:
    config = transformers.AutoConfig.for_model(**fields, num_labels=5)
    kind = "ForSequenceClassification" if "vocab_size" in fields else "ForImageClassification"
    with torch.device("meta"):
        model = getattr(transformers, f"AutoModel{kind}").from_config(config)
    counted = count(fields)
    assert counted is not None
    assert counted.params(fields.get("vocab_size", 0), 5) == sum(p.numel() for p in model.parameters())


def test_an_unknown_family_is_not_guessed() -> None:
    assert count({"model_type": "mamba", "hidden_size": 8}) is None
    assert count({"model_type": "bert", "hidden_size": "wide"}) is None


def test_the_arithmetic_of_a_resnet_is_that_of_its_convolutions() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    fields = CONFIGS[-2]
    model = transformers.AutoModelForImageClassification.from_config(transformers.AutoConfig.for_model(**fields)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    counted = count(fields, image_size=32)
    assert counted is not None
    assert counted.flops(1) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_what_is_read_from_the_source_is_what_transformers_has() -> None:
    from dataclasses import fields

    assert set(training_fields() or {}) <= {field.name for field in fields(transformers.TrainingArguments)}
    assert {"bert", "resnet", "distilbert"} <= (model_types() or set())
    read = config_fields("distilbert")
    assert read is not None
    assert read["hidden_dim"] == 3072
    assert read["num_hidden_layers"] == 6
    assert config_fields("no-such-model") is None
