"""How the browser reads a row: the tokenizer's files and limit, or an image's way from pixels to numbers.

Read from the files beside a model, without torch or transformers, so that `attar serve` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from attar.errors import AttarError
from attar.facts import Facts
from attar.recipe import Recipe
from attar.recipe.task import ImageClassificationSpec, TextClassificationSpec

TOKENIZER, TOKENIZER_CONFIG, CONFIG = "tokenizer.json", "tokenizer_config.json", "config.json"
PROCESSOR = "preprocessor_config.json"
_DIGITS = 8
"""Pixels a side of scikit-learn's digits: what a drawing becomes."""
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""PIL's numbers of its filters."""
_KNOWN = {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb", "do_center_crop"}


class TextReader(Facts):
    """A text or a pair of texts, to token ids."""

    kind: Literal["text"] = "text"
    files: tuple[str, ...] = (TOKENIZER, TOKENIZER_CONFIG)
    limit: int = Field(description="Tokens, those that the tokenizer adds included; longer texts are cut.")
    side: Literal["left", "right"] = Field(description="Where a text that is too long is cut.")
    pair: bool


class ImageReader(Facts):
    """An image, to pixel values: resized, scaled, normalised."""

    kind: Literal["image"] = "image"
    files: tuple[str, ...] = ()
    width: int
    height: int
    resample: str = Field(description="PIL's filter.")
    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    draw: int | None = Field(description="Pixels a side of a drawing, where one may be drawn.")


Reader = TextReader | ImageReader


def reader_of(recipe: Recipe, folder: Path) -> Reader:
    """How rows reach the model in `folder`. Raises AttarError where the page cannot do what the processor does."""
    match recipe.task:
        case TextClassificationSpec() as task:
            return _text(task, folder)
        case ImageClassificationSpec():
            return _image(recipe, folder)
        case other:
            raise AttarError(
                f"task.kind {other.kind}: the page runs classifiers. Ask the student with `attar predict`."
            )


def _text(task: TextClassificationSpec, folder: Path) -> TextReader:
    if not (folder / TOKENIZER).is_file():
        raise AttarError(f"{folder / TOKENIZER}: is not there, and the page reads no other form of tokenizer.")
    settings, config = _json(folder / TOKENIZER_CONFIG), _json(folder / CONFIG)
    limits = [task.max_length, int(settings.get("model_max_length") or task.max_length)]
    positions = int(config.get("max_position_embeddings") or 0)
    if positions > 0:
        # RoBERTa's positions start behind the padding id.
        roberta = "roberta" in str(config.get("model_type"))
        limits.append(positions - (int(config.get("pad_token_id") or 0) + 1 if roberta else 0))
    side = "left" if settings.get("truncation_side") == "left" else "right"
    return TextReader(limit=min(limits), side=side, pair=task.text_pair is not None)


def _image(recipe: Recipe, folder: Path) -> ImageReader:
    file = folder / PROCESSOR
    if not file.is_file():
        raise AttarError(f"{file}: is not there, so the page does not know how images become numbers.")
    settings = _json(file)
    steps = {name for name, value in settings.items() if name.startswith("do_") and value}
    size = cast("dict[str, int]", settings.get("size") or {})
    unknown = sorted(steps - _KNOWN) + (["do_center_crop"] if "do_center_crop" in steps else [])
    if unknown or "do_resize" not in steps or not {"height", "width"} <= size.keys():
        what = ", ".join(unknown) or f"size {size}"
        raise AttarError(
            f"{file}: the page resizes to a fixed height and width, scales and normalises; this asks for more ({what})."
        )
    normal = "do_normalize" in steps
    return ImageReader(
        width=size["width"],
        height=size["height"],
        resample=_FILTERS[int(settings.get("resample") or 0)],
        factor=float(settings.get("rescale_factor") or 1 / 255) if "do_rescale" in steps else 1.0,
        mean=_three(settings["image_mean"]) if normal else (0.0, 0.0, 0.0),
        std=_three(settings["image_std"]) if normal else (1.0, 1.0, 1.0),
        draw=_DIGITS if recipe.data.source == "digits" else None,
    )


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is not there. Raises AttarError where it is something else."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise AttarError(f"{file}: is not JSON ({error}). Export again.") from None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
