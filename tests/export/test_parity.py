"""The bounds of parity, each by itself."""

from __future__ import annotations

import numpy as np
import pytest

from attar.errors import ParityError
from attar.export.parity import check_parity
from attar.recipe.outcome import OnnxSpec

LOGITS = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
FP32, INT8 = OnnxSpec(kind="onnx", precision="fp32"), OnnxSpec(kind="onnx", precision="int8")


def test_equal_logits_pass_with_their_numbers() -> None:
    facts = check_parity(LOGITS, LOGITS, "single_label", FP32)
    assert (facts.max_abs, facts.agreement, facts.kl, facts.n) == (0, 1, 0, 200)
    assert (facts.bound_max_abs, facts.bound_agreement) == (1e-3, 0.999)


def test_fp32_bounds_the_logits_and_int8_the_answers() -> None:
    moved = LOGITS + np.float32(0.01)
    with pytest.raises(ParityError, match=r"differ by up to 0.01, allowed are 0.001 \(max_abs\)"):
        check_parity(LOGITS, moved, "single_label", FP32)
    assert check_parity(LOGITS, moved, "single_label", INT8).max_abs == pytest.approx(0.01, abs=1e-6)


def test_bounds_of_the_recipe_win() -> None:
    spec = OnnxSpec(kind="onnx", precision="int8", max_abs=0.1, min_agreement=1.0)
    with pytest.raises(ParityError, match=r"max_abs\); agreement is 0.9900, at least 1 is asked"):
        check_parity(LOGITS, np.concatenate([LOGITS[:198], -LOGITS[198:]]), "single_label", spec)


def test_nan_never_passes() -> None:
    broken = LOGITS.copy()
    broken[3] = np.nan
    with pytest.raises(ParityError, match="NaN"):
        check_parity(LOGITS, broken, "single_label", OnnxSpec(kind="onnx", max_abs=1e9, min_agreement=0.0))


def test_numbers_agree_by_correlation() -> None:
    numbers = LOGITS[:, :1]
    facts = check_parity(numbers, numbers * 1.01, "regression", INT8)
    assert facts.agreement == pytest.approx(1)
    assert facts.kl is None
    with pytest.raises(ParityError, match="agreement"):
        check_parity(numbers, -numbers, "regression", INT8)
