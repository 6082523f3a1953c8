"""Levels on a log scale: how far they reach, how near they are, and what stays without bias."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.teachers.log_levels import DEEPEST, check_bits, depths_of, lowest, nearest, step_codes, steps_of, unbiased

quick = settings(max_examples=50, derandomize=True)
bits_ = st.integers(2, 8)
depth_ = st.one_of(st.floats(0, 60), st.sampled_from([0.0, 1e-9, DEEPEST, math.inf]))


@quick
@given(deepest=st.floats(0, 1e4), bits=bits_)
def test_the_grid_reaches_down_and_no_further_than_needed(deepest: float, bits: int) -> None:
    step = float(steps_of(step_codes(np.array([deepest]), bits))[0])
    reach = min(deepest, DEEPEST)
    assert lowest(bits) * step >= reach * (1 - 1e-6)
    assert lowest(bits) * step <= max(reach, lowest(bits) * 2.0**-12) * 2 ** (1 / 16) * (1 + 1e-6)


@quick
@given(depths=st.lists(depth_, min_size=1, max_size=9), bits=bits_)
def test_nearest_is_within_half_a_step(depths: list[float], bits: int) -> None:
    given_ = np.array(depths)
    code = step_codes(given_[given_ < math.inf].max(initial=0.0)[None], bits).repeat(len(given_))
    steps = steps_of(code)
    found = depths_of(nearest(given_, steps, bits), steps, bits)
    within = given_ <= DEEPEST
    assert (np.abs(found[within] - given_[within]) <= steps[within] * (0.5 + 1e-5)).all()
    assert np.isinf(found[np.isinf(given_)]).all()
    beyond = found[~within & (given_ < math.inf)]
    assert ((beyond >= DEEPEST * (1 - 1e-6)) & (beyond < math.inf)).all(), "the lowest level, and not a weight of 0"


@quick
@given(depth=depth_, reach=st.floats(0, 30), bits=bits_)
def test_by_chance_the_mean_is_the_weight(depth: float, reach: float, bits: int) -> None:
    """Over a fine comb of uniforms, which stands for all of them: also beyond the grid's end, where 0 is the other."""
    comb = (np.arange(4096) + 0.5) / 4096
    steps = steps_of(step_codes(np.array([reach]), bits)).repeat(len(comb))
    levels = unbiased(np.full(len(comb), depth), steps, bits, comb)
    assert np.ptp(levels) <= 1
    weight = math.exp(-depth)
    found = np.exp(-depths_of(levels, steps, bits).astype(np.float64))
    above = math.exp(-max(min(int(levels.min()), lowest(bits)) - 1, 0) * float(steps[0]))
    assert abs(found.mean() - weight) <= above / 4096 + 1e-6 * weight


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(ValueError, match="2 to 8"):
        check_bits(bits)
