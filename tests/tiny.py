"""Models small enough for tests: a tokenizer made from the texts at hand, a BERT, a ResNet and a ViT of a few
kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tiny_tokenizer(texts: Iterable[str], max_length: int = 64) -> BertTokenizerFast:
    """A lower-casing WordPiece tokenizer that knows every word and every character of `texts`."""
    splitter = BertPreTokenizer()
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
    letters = sorted({letter for word in words for letter in word})
    tokens = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words])
    return BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=max_length)


def tiny_bert(
    tokenizer: BertTokenizerFast,
    labels: Sequence[str],
    hidden: int = 32,
    layers: int = 2,
    *,
    problem: str = "single_label",
    seed: int = 0,
) -> BertForSequenceClassification:
    """A BERT classifier in eval mode, randomly initialised from `seed`; dropout is off."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **_head(labels),
        problem_type=problem if problem == "regression" else f"{problem}_classification",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(config).eval()


def tiny_image_model(
    labels: Sequence[str],
    kind: str = "resnet",
    *,
    image_size: int = 8,
    hidden: int = 16,
    layers: int = 2,
    seed: int = 0,
) -> PreTrainedModel:
    """A ResNet (`kind="resnet"`) or a ViT (`kind="vit"`) for RGB images of `image_size` pixels, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "resnet":
            config = ResNetConfig(
                embedding_size=hidden // 2,
                hidden_sizes=[hidden] * layers,
                depths=[1] * layers,
                layer_type="basic",
                **_head(labels),
            )
            return ResNetForImageClassification(config).eval()
        return ViTForImageClassification(
            ViTConfig(
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=2,
                intermediate_size=2 * hidden,
                image_size=image_size,
                patch_size=4,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                **_head(labels),
            )
        ).eval()


def tiny_image_processor(image_size: int = 8) -> ViTImageProcessorPil:
    """The Transformers image processor that goes with `tiny_image_model`."""
    return ViTImageProcessorPil(
        size={"height": image_size, "width": image_size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def tiny_images(labels: Sequence[int], image_size: int = 8, seed: int = 0) -> list[Image.Image]:
    """One noisy RGB image a label; its brightness tells the label."""
    rng = np.random.default_rng(seed)
    top = max(labels, default=0) + 1
    return [
        Image.fromarray(
            np.clip(rng.normal(255 * (k + 0.5) / top, 20, (image_size, image_size, 3)), 0, 255).astype(np.uint8)
        )
        for k in labels
    ]


def save(model: PreTrainedModel, processor: object, folder: Path) -> Path:
    """Write a normal Transformers folder: config, safetensors, tokenizer or image processor."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def _head(labels: Sequence[str]) -> dict[str, object]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }
