"""scikit-learn's bundled digits as images: 1,797 scans of 8 x 8 pixels, 10 classes, with a test split that never
changes.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from attar.data.cutting import stratified_cut
from attar.data.raw import RawSplit

_TEST_FRACTION = 0.2
_SEED = 0
_LEVELS = 16


def read_digits(image: str, label: str) -> dict[str, RawSplit]:
    """Splits `train` and `test` with RGB images in column `image` and names "0" to "9" in column `label`."""
    bunch = cast("Any", load_digits())
    pixels = np.rint(np.asarray(bunch.images) * (255 / _LEVELS)).astype(np.uint8)
    digits = np.asarray(bunch.target, dtype=np.int64)
    kept, test = stratified_cut(digits, _TEST_FRACTION, _SEED)
    return {
        name: RawSplit(
            f'digits, split "{name}"',
            {
                image: [Image.fromarray(pixels[row]).convert("RGB") for row in rows],
                label: [str(digits[row]) for row in rows],
            },
        )
        for name, rows in (("train", kept), ("test", test))
    }
