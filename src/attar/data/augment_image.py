"""New images from old ones: small rotations, shifts and changes of size about the centre, mirroring, pixel noise.

The label survives. Beyond the border the nearest border pixel goes on. No new image is one it must avoid, or made
twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attar.data.images import pixel_key
from attar.errors import DataError
from attar.recipe.data import AugmentImageSpec

_TRIES = 8


@dataclass(frozen=True)
class NewImages:
    """Images made (uint8 [H, W, 3] each), the source row of each, and their `pixel_key`s."""

    images: list[np.ndarray]
    sources: np.ndarray
    keys: list[str]


def augment_images(
    image: Callable[[int], np.ndarray], count: int, spec: AugmentImageSpec, *, avoid: set[str]
) -> NewImages:
    """Make `spec.rows` images from `count` sources, or as many different ones as a bounded number of tries gives.

    `image(row)` gives a source's pixels, uint8 [H, W, 3]. `avoid`: `pixel_key`s that no new image may have.
    Deterministic in `spec.seed`. Raises DataError where every setting is zero.
    """
    if not any((spec.rotate, spec.shift, spec.scale, spec.flip, spec.noise)):
        raise DataError(
            "augment_image: rotate, shift, scale, flip and noise are all off, so nothing new can come out. Raise one."
        )
    rng = np.random.default_rng(spec.seed)
    seen = set(avoid)
    images: list[np.ndarray] = []
    sources: list[int] = []
    keys: list[str] = []
    for _ in range(spec.rows * _TRIES):
        if len(images) == spec.rows:
            break
        row = int(rng.integers(count))
        changed = _changed(image(row), spec, rng)
        key = pixel_key(changed)
        if key not in seen:
            seen.add(key)
            images.append(changed)
            sources.append(row)
            keys.append(key)
    return NewImages(images, np.array(sources, dtype=np.int64), keys)


def _changed(pixels: np.ndarray, spec: AugmentImageSpec, rng: np.random.Generator) -> np.ndarray:
    angle = math.radians(rng.uniform(-spec.rotate, spec.rotate))
    size = math.exp(rng.uniform(-1, 1) * math.log1p(spec.scale))
    down, right = rng.uniform(-spec.shift, spec.shift, 2) * pixels.shape[:2]
    if rng.random() < 0.5 and spec.flip:
        pixels = pixels[:, ::-1]
    moved = affine(pixels, angle, size, float(down), float(right))
    if spec.noise:
        moved = moved + rng.normal(0.0, 255 * spec.noise, moved.shape)
    return np.rint(np.clip(moved, 0, 255)).astype(np.uint8)


def affine(pixels: np.ndarray, angle: float, size: float, down: float, right: float) -> np.ndarray:
    """Turn by `angle` (radians), grow by `size` about the centre, then move by pixels; bilinear; float64 [H, W, 3]."""
    height, width = pixels.shape[:2]
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = np.mgrid[0:height, 0:width]
    y, x = y - middle_y - down, x - middle_x - right
    cos, sin = math.cos(angle) / size, math.sin(angle) / size
    from_y = np.clip(cos * y - sin * x + middle_y, 0, height - 1)
    from_x = np.clip(sin * y + cos * x + middle_x, 0, width - 1)
    top, left = np.floor(from_y).astype(np.int64), np.floor(from_x).astype(np.int64)
    bottom, far = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    part_y, part_x = (from_y - top)[..., None], (from_x - left)[..., None]
    upper = pixels[top, left] * (1 - part_x) + pixels[top, far] * part_x
    lower = pixels[bottom, left] * (1 - part_x) + pixels[bottom, far] * part_x
    return upper * (1 - part_y) + lower * part_y
