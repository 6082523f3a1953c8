"""Images: folders of files, and every form of an image cell made one (`{bytes, path}`), checked by decoding it.

A cell may be encoded bytes, a path, a PIL image, or an array: [H, W], [H, W, 1|3|4] or [1|3|4, H, W] with whole numbers
0..255 or floats 0..1. Images are turned upright by their EXIF tag and read as RGB; grey ones get three equal channels.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from datasets import Image as ImageFeature
from PIL import Image, ImageOps, UnidentifiedImageError

from attar.data.raw import ArrowColumn, RawSplit
from attar.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_STORAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_CHANNELS = (1, 3, 4)


def read_image_folder(folder: Path, image: str, label: str, split_names: set[str]) -> dict[str, RawSplit] | None:
    """Splits of SPLIT/LABEL/FILE, or one split `train` of LABEL/FILE; without labels SPLIT/FILE or FILE.

    A folder of files directly below `folder` is a split where all such folders bear names of splits, else a label.
    None where there are no images.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        return None
    parts = [p.relative_to(folder).parts for p in files]
    depths = {len(p) for p in parts}
    if len(depths) != 1 or depths.pop() > 3:
        raise DataError(
            f"{folder}: images stand at different depths ({'/'.join(parts[0])} and {'/'.join(max(parts, key=len))}). "
            "Use SPLIT/LABEL/FILE or LABEL/FILE throughout."
        )
    depth = len(parts[0])
    by_split = depth == 3 or (depth == 2 and {p[0] for p in parts} <= split_names)
    labelled = depth - int(by_split) == 2
    splits: dict[str, dict[str, list[Any]]] = {}
    for path, part in zip(files, parts, strict=True):
        columns = splits.setdefault(part[0] if by_split else "train", {image: [], **({label: []} if labelled else {})})
        columns[image].append(path)
        if labelled:
            columns[label].append(part[-2])
    return {name: RawSplit(f"{folder}/{name}" if by_split else str(folder), data) for name, data in splits.items()}


def stored_images(raw: RawSplit, column: str, base: Path | None) -> ArrowColumn:
    """A column of images in the storage form of the `datasets` Image feature; `base` resolves relative paths."""
    arrow = raw.arrow(column)
    if arrow is not None and (pa.types.is_binary(arrow.type) or pa.types.is_large_binary(arrow.type)):
        feature = ImageFeature()
        return pa.chunked_array([feature.cast_storage(chunk) for chunk in arrow.chunks], type=_STORAGE)
    if arrow is not None and isinstance(raw.feature(column), ImageFeature):
        return arrow
    cells = [_cell(value, raw, row, base) for row, value in enumerate(raw.values(column))]
    return pa.chunked_array([pa.array(cells, type=_STORAGE)])


def _cell(value: object, raw: RawSplit, row: int, base: Path | None) -> dict[str, bytes | str | None]:
    match value:
        case {"bytes": _, "path": _}:
            return cast("dict[str, bytes | str | None]", value)
        case bytes():
            return {"bytes": value, "path": None}
        case str() | Path():
            path = Path(value) if base is None else base / value
            if not path.is_file():
                raise DataError(
                    f"{raw.place}, row {row}: there is no image file {path}. Correct the path or remove the row."
                )
            return {"bytes": None, "path": str(path)}
        case Image.Image():
            return {"bytes": as_png(value), "path": None}
        case np.ndarray() | list():
            return {"bytes": as_png(_from_array(value, f"{raw.place}, row {row}")), "path": None}
        case _:
            raise DataError(
                f"{raw.place}, row {row}: got {type(value).__name__} ({value!r:.60}), not an image. Give encoded "
                "bytes, a path, a PIL image or an array, or remove the row."
            )


def _from_array(value: object, place: str) -> Image.Image:
    try:
        array = np.asarray(value)
        numeric = array.dtype.kind in "uif"
    except ValueError:
        array, numeric = np.empty(0), False
    if not numeric or array.ndim not in (2, 3):
        raise DataError(f"{place}: an image array must be numbers [H, W] or [H, W, channels], got shape {array.shape}.")
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array)
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            raise DataError(f"{place}: pixel {where} is {array[where]}. Repair the image or remove the row.")
    top = 1.0 if array.dtype.kind == "f" else 255
    if array.size and (array.min() < 0 or array.max() > top):
        raise DataError(
            f"{place}: pixels run from {array.min()} to {array.max()}; allowed are whole numbers 0..255 or floats "
            "0..1. Rescale the image."
        )
    if array.ndim == 3 and array.shape[-1] not in _CHANNELS and array.shape[0] in _CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] not in _CHANNELS:
        raise DataError(f"{place}: got {array.shape[-1]} channels in shape {array.shape}; allowed are 1, 3 or 4.")
    pixels = np.rint(array * 255).astype(np.uint8) if array.dtype.kind == "f" else array.astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)


def as_png(image: Image.Image) -> bytes:
    """PNG bytes; lossless for 8-bit images."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def decoded(cells: ArrowColumn, place: Callable[[int], str]) -> Iterator[np.ndarray]:
    """RGB pixels uint8 [H, W, 3] of each stored image. Raises DataError that names the row and the file."""
    for row, cell in enumerate(cells):
        value = cast("dict[str, Any] | None", cell.as_py())
        if value is None or (value["bytes"] is None and value["path"] is None):
            raise DataError(f"{place(row)}: there is no image. Remove the row.")
        file = f" ({value['path']})" if value["path"] else ""
        try:
            source: Any = io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]
            with Image.open(source) as image:
                yield np.asarray(_upright_rgb(image))
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{place(row)}{file}: cannot read the image: {error}. Replace it or remove the row."
            ) from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    return to_rgb(upright)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with 8 bits; 16-bit grey is scaled down, not clipped."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def pixel_key(pixels: np.ndarray) -> str:
    """Hash of the decoded pixels: equal for the same picture as PNG and as BMP."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(pixels.tobytes())
    return digest.hexdigest()
