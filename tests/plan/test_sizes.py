from __future__ import annotations

import pytest
import torch
import transformers

from attar.plan.sizes import count, count_language
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


DECODER = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99}
DECODERS = [
    {"model_type": "llama", **DECODER},
    {"model_type": "llama", **DECODER, "attention_bias": True, "mlp_bias": True, "head_dim": 8},
    {"model_type": "llama", **SMALL, "vocab_size": 99, "tie_word_embeddings": True},
    {"model_type": "mistral", **DECODER, "head_dim": 8},
    {"model_type": "qwen2", **DECODER, "tie_word_embeddings": True},
    {"model_type": "qwen3", **DECODER},
    {"model_type": "qwen3", **DECODER, "attention_bias": True, "head_dim": 16},
    {"model_type": "smollm3", **DECODER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    {"model_type": "smollm3", **DECODER, "pad_token_id": None, "tie_word_embeddings": False, "mlp_bias": True},
]


@pytest.mark.parametrize("fields", DECODERS, ids=lambda fields: str(fields["model_type"]))
def test_the_formula_of_a_language_model_counts_what_transformers_builds(fields: dict) -> None:
    config = transformers.AutoConfig.for_model(**fields)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    counted = count_language(fields)
    assert counted is not None
    assert counted.params(99, 0) == sum(p.numel() for p in model.parameters())
    maps = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert counted.flops(1) == 2 * maps


def test_an_unknown_family_is_not_guessed() -> None:
    assert count_language({"model_type": "bert", **SMALL}) is None
    assert count_language({"model_type": "llama", "hidden_size": "wide"}) is None
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
