"""Parameters and arithmetic of a model from its configuration alone, for the families whose formula is known here.

Letters: V tokens, P positions, H width, I feed-forward width, L layers, C outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from attar.plan.cuts import DECODERS, decoder_shape
from attar.plan.transformers_source import config_fields

TEXT_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
IMAGE_FAMILIES = ("vit", "deit", "resnet")

_NAMES = {
    "layers": ("num_hidden_layers", "n_layers", "num_layers", "n_layer"),
    "hidden": ("hidden_size", "dim", "d_model", "n_embd"),
    "heads": ("num_attention_heads", "n_heads", "n_head"),
    "inner": ("intermediate_size", "hidden_dim"),
    "tokens": ("vocab_size",),
    "positions": ("max_position_embeddings",),
}


def read_field(config: dict[str, Any], name: str) -> int | None:
    """A size (`layers`, `hidden`, `heads`, `inner`, `tokens`, `positions`) under whatever name the family gives it."""
    full = {**(config_fields(str(config.get("model_type"))) or {}), **config}
    if name == "layers" and "depths" in full and full["depths"]:
        return len(cast("Sequence[int]", full["depths"]))
    if name == "hidden" and full.get("hidden_sizes"):
        return int(cast("Sequence[int]", full["hidden_sizes"])[-1])
    values = [config.get(key) for key in _NAMES[name]] + [full.get(key) for key in _NAMES[name]]
    return next((int(value) for value in values if isinstance(value, int)), None)


@dataclass(frozen=True)
class Count:
    """Sizes of a classifier: all of it is `body + per_token * V + per_output * C`."""

    body: int
    per_token: int
    per_output: int
    flops_per_row: int | None
    """Forward, multiply-adds times two; None for text, where it depends on the row's length."""
    flops_per_token: int = 0

    def params(self, tokens: int, outputs: int) -> int:
        """Parameters with `tokens` in the vocabulary (0 for images) and `outputs` logits."""
        return self.body + self.per_token * tokens + self.per_output * outputs

    def flops(self, row_tokens: float) -> float:
        """Forward arithmetic of a row of that many tokens."""
        return self.flops_per_row if self.flops_per_row is not None else self.flops_per_token * row_tokens


def count(config: dict[str, Any], image_size: int | None = None) -> Count | None:
    """Sizes of the family's classifier, or None where the family's formula is not known here.

    `image_size` is the side of the images in pixels, for the arithmetic of image models.
    """
    family = str(config.get("model_type"))
    full = {**(config_fields(family) or {}), **{k: v for k, v in config.items() if v is not None}}
    try:
        if family in TEXT_FAMILIES:
            return _text(full, family)
        if family in ("vit", "deit"):
            return _vit(full, family)
        return _resnet(full, image_size or 224) if family == "resnet" else None
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def count_language(config: dict[str, Any]) -> Count | None:
    """Sizes of a causal language model with its head, or None where the family's formula is not known here.

    It has no outputs beside its tokens: `per_output` is 0. `flops_per_token` has the head at the configuration's own
    vocabulary, and no arithmetic between tokens.
    """
    family = str(config.get("model_type"))
    full = {**(config_fields(family) or {}), **{k: v for k, v in config.items() if v is not None}}
    if family not in DECODERS:
        return None
    try:
        shape, tokens = decoder_shape(config), int(full["vocab_size"])
    except (KeyError, TypeError, ValueError):
        return None
    width, inner = shape.width, shape.intermediate
    queries, keys = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    biased = bool(full.get("attention_bias"))
    maps = 2 * width * (queries + keys) + 3 * width * inner
    biases = (queries + 2 * keys) * (biased or family == "qwen2") + width * biased
    biases += (2 * inner + width) * bool(full.get("mlp_bias"))
    norms = 2 * width + 2 * shape.head_size * (family == "qwen3")
    per_token = width * (1 if full.get("tie_word_embeddings") else 2)
    body = shape.layers * (maps + biases + norms) + width
    return Count(body, per_token, 0, None, 2 * (shape.layers * maps + width * tokens))


def _block(width: int, inner: int) -> int:
    """One transformer layer: four square maps, two feed-forward maps, two norms, with biases."""
    return 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width


def _text(config: dict[str, Any], family: str) -> Count:
    names = (
        ("n_layers", "dim", "hidden_dim")
        if family == "distilbert"
        else ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    layers, width, inner = (int(config[name]) for name in names)
    kinds = 0 if family == "distilbert" else int(config["type_vocab_size"])
    embeddings = (int(config["max_position_embeddings"]) + kinds + 2) * width
    blocks = layers * _block(width, inner)
    head = width * width + width
    return Count(embeddings + blocks + head, width, width + 1, None, 2 * blocks)


def _vit(config: dict[str, Any], family: str) -> Count:
    layers, width, inner = (int(config[n]) for n in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    patches = (_side(config["image_size"]) // _side(config["patch_size"])) ** 2
    extra = 2 if family == "deit" else 1
    pixels = int(config["num_channels"]) * _side(config["patch_size"]) ** 2
    embeddings = extra * width + (patches + extra) * width + pixels * width + width
    block = _block(width, inner) - (0 if config.get("qkv_bias", True) else 3 * width)
    flops = 2 * (
        layers * block * (patches + extra) + pixels * width * patches + 2 * layers * (patches + extra) ** 2 * width
    )
    return Count(embeddings + layers * block + 2 * width, 0, width + 1, flops)


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)


def _resnet(config: dict[str, Any], image_size: int) -> Count:
    sizes = [int(size) for size in config["hidden_sizes"]]
    side = -(-image_size // 2)
    params, flops = _conv(int(config["num_channels"]), int(config["embedding_size"]), 7, side)
    side = -(-side // 2)
    before = int(config["embedding_size"])
    for stage, (width, depth) in enumerate(zip(sizes, config["depths"], strict=True)):
        for block in range(int(depth)):
            stride = 2 if block == 0 and (stage > 0 or config["downsample_in_first_stage"]) else 1
            entry, side = side, -(-side // stride)
            if before != width or stride != 1:
                params, flops = _add((params, flops), _conv(before, width, 1, side))
            if config["layer_type"] == "basic":
                convs = [_conv(before, width, 3, side), _conv(width, width, 3, side)]
            else:
                low = width // 4
                first = side if config["downsample_in_bottleneck"] else entry
                convs = [_conv(before, low, 1, first), _conv(low, low, 3, side), _conv(low, width, 1, side)]
            params, flops = _add((params, flops), *convs)
            before = width
    return Count(params, 0, sizes[-1] + 1, flops)


def _conv(inputs: int, outputs: int, kernel: int, side: int) -> tuple[int, int]:
    """Parameters (with the norm's) and arithmetic of a convolution without bias; it puts out `side` x `side` pixels."""
    weights = inputs * outputs * kernel * kernel
    return weights + 2 * outputs, 2 * weights * side * side


def _add(*pairs: tuple[int, int]) -> tuple[int, int]:
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
