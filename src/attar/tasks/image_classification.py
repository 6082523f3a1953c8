"""Image classification, one label an image.

The image processor of Transformers resizes (and crops) once, in `encode`; what is left, scaling and normalisation, is
done on the batch with the processor's own numbers, and `encode` checks on one image that this gives the processor's
result.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageOps
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessorPil

from attar.errors import DataError, TeacherError
from attar.hashing import hash_bytes
from attar.recipe.task import ImageClassificationSpec
from attar.tasks.base import Encoded, Problem, Processor
from attar.tasks.heads import METRICS, build_with_head, head_fields, label_array, load_with_head
from attar.tasks.padding import routed
from attar.tasks.timm_models import PREFIX, needs_timm, plain_processor, timm_model, timm_processor

_CHUNK = 64
_TOLERANCE = 1e-4
_IN_MEMORY = 2 << 30
_SHOWN_PIXELS = 96
_PROCESSOR_FILE = "preprocessor_config.json"


class _Cell(TypedDict):
    """An image as `datasets` stores it: encoded bytes, or else a file."""

    bytes: bytes | None
    path: str | None


class ImageClassification:
    """The task with its label names; see `attar.tasks.base.Task`. The processor is a Transformers image processor."""

    pipeline = "image-classification"
    problem: Problem = "single_label"

    def __init__(self, spec: ImageClassificationSpec, labels: tuple[str, ...]) -> None:
        self.spec = spec
        self.labels = labels
        self.metric: str = METRICS["single_label"] if spec.metric == "auto" else spec.metric

    def new_processor(self) -> Processor:
        """An image processor with the recipe's `image_size`, `mean` and `std`."""
        side = self.spec.image_size
        return ViTImageProcessorPil(
            size={"height": side, "width": side}, image_mean=list(self.spec.mean), image_std=list(self.spec.std)
        )

    def load_processor(
        self, folder: str | Path, *, trust_remote_code: bool = False, revision: str | None = None
    ) -> Processor:
        """The image processor of a model (resizing by PIL, whether torchvision is there or not); where a folder has
        none, the recipe's own. Raises TeacherError.
        """
        if str(folder).startswith(PREFIX):
            return timm_processor(str(folder).removeprefix(PREFIX))
        local = Path(folder)
        if local.is_dir() and not (local / _PROCESSOR_FILE).is_file() and not needs_timm(local):
            return self.new_processor()
        try:
            processor = cast(
                "Any",
                AutoImageProcessor.from_pretrained(
                    str(folder), trust_remote_code=trust_remote_code, revision=revision or "main", backend="pil"
                ),
            )
        except Exception as error:  # Transformers and the Hub client raise many unrelated types
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TeacherError(
                f"{folder}: no image processor can be loaded: {cause}. Check the name or the folder."
            ) from error
        return plain_processor(processor)

    def load_model(
        self,
        folder: str | Path,
        *,
        trust_remote_code: bool = False,
        revision: str | None = None,
        new_head: bool = False,
    ) -> nn.Module:
        """An image classifier in eval mode, float32; `new_head` gives it a fresh head for this task's labels."""
        fields = head_fields(self.labels, self.problem) if new_head else None
        if str(folder).startswith(PREFIX):
            return timm_model(str(folder).removeprefix(PREFIX), fields)
        return load_with_head(
            AutoModelForImageClassification, folder, fields, trust_remote_code=trust_remote_code, revision=revision
        )

    def build_model(self, config: dict[str, Any]) -> nn.Module:
        """An untrained image classifier for this task's labels, in eval mode."""
        return build_with_head(AutoModelForImageClassification, config, head_fields(self.labels, self.problem))

    def encode(self, rows: Dataset, processor: Processor) -> Encoded:
        """Resized pixels, uint8 [N, 3, H, W]; above 2 GB they lie in a temporary file. Raises TeacherError where the
        processor does not give one size, or does more than resize, crop, scale and normalise; DataError where an image
        cannot be read.
        """
        pixels: np.ndarray | None = None
        for start, images in _images(rows):
            resized = _resized(images, processor)
            if pixels is None:
                self._check(images[0], resized[:1], processor)
                pixels = _room((len(rows), *resized.shape[1:]))
            if resized.shape[1:] != pixels.shape[1:]:
                raise TeacherError(_several_sizes(processor))
            pixels[start : start + len(images)] = resized
        if pixels is None:
            pixels = np.zeros((0, 3, 0, 0), dtype=np.uint8)
        return Encoded(
            inputs={"pixel_values": pixels},
            lengths=np.ones(len(rows), dtype=np.int64),
            labels=label_array(rows, self.problem, len(self.labels)),
        )

    def batch(self, encoded: Encoded, rows: Sequence[int] | np.ndarray, processor: Processor) -> dict[str, Tensor]:
        """`pixel_values`, float32 [N, 3, H, W], scaled and normalised as the processor does it."""
        pixels, chosen = cast("np.ndarray", encoded.inputs["pixel_values"]), np.asarray(rows, dtype=np.int64)
        return {"pixel_values": _scaled(pixels[chosen], processor), **routed(encoded, chosen)}

    def content_keys(self, rows: Dataset) -> list[str]:
        """Hash of size and RGB pixels, before resizing."""
        return [
            hash_bytes(repr(image.size).encode(), image.tobytes()) for _, images in _images(rows) for image in images
        ]

    def example(self, row: dict[str, Any]) -> dict[str, str]:
        """A data URL of a PNG of at most 96 pixels a side."""
        image = _rgb(row["image"])
        image.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS))
        stream = io.BytesIO()
        image.save(stream, format="PNG")
        return {"image": f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"}

    def _check(self, image: Image.Image, resized: np.ndarray, processor: Processor) -> None:
        whole = np.asarray(processor(images=[image], return_tensors="pt")["pixel_values"])
        ours = _scaled(resized, processor).numpy()
        if whole.shape != ours.shape or float(np.abs(whole - ours).max()) > _TOLERANCE:
            raise TeacherError(
                f"{type(processor).__name__}: does more than resize, crop, scale and normalise, so its images cannot "
                "be prepared once and reused. Use a model whose processor does no more."
            )


def _images(rows: Dataset) -> Iterator[tuple[int, list[Image.Image]]]:
    """Number of the first row and the RGB images of each chunk. Raises DataError that names an unreadable one."""
    stored = rows.select_columns(["image"]).with_format(None).cast_column("image", ImageFeature(decode=False))
    for start in range(0, len(rows), _CHUNK):
        cells = cast("dict[str, list[_Cell]]", stored[start : start + _CHUNK])["image"]
        yield start, [_decoded(cell, start + number) for number, cell in enumerate(cells)]


def _decoded(cell: _Cell, row: int) -> Image.Image:
    """An image turned upright by its EXIF tag, as RGB."""
    try:
        with Image.open(str(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"])) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        where = cell["path"] or f"row {row}"
        raise DataError(f"{where}: cannot read the image: {error}. Replace it or leave it out.") from error


def _rgb(image: Image.Image) -> Image.Image:
    """RGB with 8 bits: grey images get three equal channels, 16-bit grey is scaled down, transparency is dropped."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _resized(images: list[Image.Image], processor: Processor) -> np.ndarray:
    try:
        made = processor(images=images, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    except ValueError as error:
        if len({image.size for image in images}) == 1:
            raise
        raise TeacherError(_several_sizes(processor)) from error
    pixels = np.asarray(made)
    if pixels.dtype != np.uint8:
        raise TeacherError(
            f"{type(processor).__name__}: resized images come out as {pixels.dtype}, not as bytes. Use a processor "
            "that scales after resizing."
        )
    return pixels


def _several_sizes(processor: Processor) -> str:
    return (
        f"{type(processor).__name__}: images of different sizes stay different (size {processor.size}). Set height and "
        "width in its preprocessor_config.json, or crop."
    )


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """Space for pixels: memory, or an unnamed temporary file where they are many."""
    if int(np.prod(shape, dtype=np.int64)) <= _IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _scaled(pixels: np.ndarray, processor: Processor) -> Tensor:
    """The processor's rescaling and normalisation, fused as Transformers fuses them: (x - mean / f) / (std / f)."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32)
    factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
    if not processor.do_normalize:
        return values * factor
    mean = torch.tensor(processor.image_mean, dtype=torch.float32).view(1, -1, 1, 1) / factor
    std = torch.tensor(processor.image_std, dtype=torch.float32).view(1, -1, 1, 1) / factor
    return values.sub_(mean).div_(std)
