"""Numbers for people."""

from __future__ import annotations

import pytest

from attar.facts import Interval
from attar.report import numbers as say


def spaced(text: str) -> str:
    return text.replace(say.NBSP, " ")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (say.percent(0.98649), "98.6 %"),
        (say.percent(1.0, 0), "100 %"),
        (say.quality("accuracy", 0.5), "50.0 %"),
        (say.quality("spearman", 0.87654), "0.877"),
        (say.quality("accuracy", None), "not measured"),
        (say.difference("accuracy", 0.0212), "+2.1 points"),
        (say.difference("accuracy", -0.0212), "−2.1 points"),
        (say.difference("accuracy", -0.00001), "0.0 points"),
        (say.difference("spearman", -0.02), "−0.020"),
        (say.count(22742861), "22,742,861"),
        (say.compact(22742861), "22.7 M"),
        (say.compact(808653), "809 k"),
        (say.compact(999_960), "1.00 M"),
        (say.compact(12), "12"),
        (say.size(90_971_444), "91.0 MB"),
        (say.size(999_900), "1.00 MB"),
        (say.size(240_000), "240 KB"),
        (say.size(17), "17 bytes"),
        (say.times(82.09), "82×"),
        (say.times(9.96), "10×"),
        (say.times(0.53), "0.5×"),
        (say.milliseconds(0.2214), "0.22 ms"),
        (say.milliseconds(0.0421), "0.042 ms"),
        (say.milliseconds(4.713), "4.71 ms"),
        (say.milliseconds(471.3), "471 ms"),
        (say.seconds(0.42), "0.4 s"),
        (say.seconds(59.99), "1 min 0 s"),
        (say.seconds(125), "2 min 5 s"),
        (say.seconds(3599.9), "1 h 0 min"),
        (say.seconds(4321), "1 h 12 min"),
        (say.p_value(0.0312), "p = 0.031"),
        (say.p_value(1e-9), "p < 0.0001"),
    ],
)
def test_numbers(shown: str, expected: str) -> None:
    assert spaced(shown) == expected


def test_intervals() -> None:
    kept = Interval(value=0.986, lo=0.979, hi=0.992, n=3080, seeds=3)
    assert spaced(say.share(kept)) == "98.6 % (97.9 – 99.2)"
    assert spaced(say.confidence(kept)) == "95 % interval, 3,080 rows, 3 seeds"
    gain = Interval(value=0.003, lo=-0.002, hi=0.01, n=10)
    assert spaced(say.difference_interval("accuracy", gain)) == "+0.3 points (−0.2 – +1.0)"
    assert spaced(say.confidence(gain)) == "95 % interval, 10 rows"


@pytest.mark.parametrize(
    ("value", "lo", "hi", "told"),
    [
        (0.42, 0.3, 0.55, "0.42 lower (0.30 – 0.55)"),
        (-1.39, -1.57, -1.22, "1.39 higher (1.22 – 1.57)"),
        (-0.1, -0.25, 0.05, "0.10 higher (−0.05 – 0.25)"),
    ],
)
def test_bounds_run_the_way_that_is_told_where_lower_is_better(value: float, lo: float, hi: float, told: str) -> None:
    gain = Interval(value=value, lo=lo, hi=hi, n=10)
    assert spaced(say.difference_interval("perplexity", gain)) == told


def test_plain_text_has_no_typographic_spaces() -> None:
    assert say.plain(f"the teacher’s {say.MINUS}1{say.NBSP}%") == "the teacher's -1 %"
