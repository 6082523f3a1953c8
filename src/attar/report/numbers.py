"""Numbers as people read them: few digits, a unit, and a no-break space between the two."""

from __future__ import annotations

from collections.abc import Callable

from attar.facts import Interval, QuantizationFacts

Written = Callable[[float], str]
"""How a number is written."""

NBSP = "\u00a0"
DASH = "\u2013"
TIMES = "\u00d7"
MINUS = "\u2212"
NOT_MEASURED = "not measured"

_SHARES = {"accuracy", "macro_f1", "micro_f1", "agreement", "exact_match"}
_LOWER = {"perplexity"}
"""Metrics of which lower is better; their values have two decimals."""
_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "agreement": "agreement with the teacher",
}


def metric_name(metric: str) -> str:
    """The metric in words."""
    return _NAMES.get(metric, metric.replace("_", " "))


def quality(metric: str, value: float | None) -> str:
    """A metric's value: per cent for shares, three decimals for correlations, two for perplexity."""
    if value is None:
        return NOT_MEASURED
    return percent(value) if metric in _SHARES else decimals(value, _digits(metric))


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return metric in _LOWER


def better_by(metric: str, one: float, other: float) -> float:
    """How much better `one` is than `other`: positive where it is, whichever way the metric runs."""
    return other - one if metric in _LOWER else one - other


def difference(metric: str, value: float) -> str:
    """How much better a value of a metric is, signed: percentage points for shares; where lower is better a positive
    one is told as `lower`.
    """
    if metric in _LOWER:
        return f"{decimals(abs(value), _digits(metric))}{NBSP}{'lower' if value >= 0 else 'higher'}"
    scaled, digits, unit = (100 * value, 1, f"{NBSP}points") if metric in _SHARES else (value, 3, "")
    return f"{_signed(scaled, digits)}{unit}"


def than(metric: str) -> str:
    """What follows a difference: `+2.1 points over …`, but `1.39 higher than …`."""
    return "than" if metric in _LOWER else "over"


def difference_interval(metric: str, interval: Interval) -> str:
    """A signed difference with its bounds: `+2.1 points (+1.2 – +3.0)`, `1.39 higher (1.22 – 1.57)`."""
    return f"{difference(metric, interval.value)} ({difference_bounds(metric, interval)})"


def difference_bounds(metric: str, interval: Interval) -> str:
    """A difference's bounds without unit, signed: `+1.2 – +3.0`; where lower is better, as much `lower` or `higher` as
    `difference` says: `1.22 – 1.57`.
    """
    scale, digits = (100, 1) if metric in _SHARES else (1, _digits(metric))
    if metric in _LOWER:
        way = 1 if interval.value >= 0 else -1
        low, high = (decimals(bound, digits) for bound in sorted((way * interval.lo, way * interval.hi)))
    else:
        low, high = (_signed(scale * bound, digits) for bound in (interval.lo, interval.hi))
    return f"{low}{NBSP}{DASH}{NBSP}{high}"


def percent(value: float, digits: int = 1) -> str:
    """A share: `98.6 %`."""
    return f"{decimals(100 * value, digits)}{NBSP}%"


def bounds(metric: str, interval: Interval) -> str:
    """The interval's bounds without unit: `97.9 – 99.2`."""
    scale, digits = (100, 1) if metric in _SHARES else (1, _digits(metric))
    return f"{decimals(scale * interval.lo, digits)}{NBSP}{DASH}{NBSP}{decimals(scale * interval.hi, digits)}"


def share(interval: Interval) -> str:
    """A share with its bounds: `98.6 % (97.9 – 99.2)`."""
    return f"{percent(interval.value)} ({bounds('agreement', interval)})"


def confidence(interval: Interval) -> str:
    """What an interval rests on: `95 % interval, 3,080 rows, 3 seeds`."""
    seeds = f", {interval.seeds} seeds" if interval.seeds > 1 else ""
    return f"{percent(interval.confidence, 0)} interval, {count(interval.n)} rows{seeds}"


def count(value: float) -> str:
    """A whole number with thousands: `3,080`."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """A large count with three digits: `22.7 M`."""
    return _in_units(value, (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) or f"{value:.0f}"


def size(value: float) -> str:
    """Bytes in decimal units: `1.13 MB`."""
    return _in_units(value, (1e9, "GB"), (1e6, "MB"), (1e3, "KB")) or f"{value:.0f}{NBSP}bytes"


def times(ratio: float) -> str:
    """A factor: `82×`, `2.4×`."""
    return f"{ratio:.0f}{TIMES}" if ratio >= 9.95 else f"{ratio:.1f}{TIMES}"


def milliseconds(value: float) -> str:
    """A latency: `0.42 ms`."""
    return f"{_three(value)}{NBSP}ms"


def joules(value: float) -> str:
    """Energy: `0.42 J`, `1.20 MJ`."""
    return _in_units(value, (1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J")) or f"{_three(1e3 * value)}{NBSP}mJ"


def grams(value: float) -> str:
    """A mass: `0.42 g`, `1.20 kg`."""
    return _in_units(value, (1e3, "kg")) or f"{_three(value)}{NBSP}g"


def seconds(value: float) -> str:
    """A duration: `35.2 ms`, `0.4 s`, `2 min 5 s`, `1 h 12 min`."""
    if 0.0 < value < 0.0995:
        return milliseconds(1000 * value)
    if value < 59.95:
        return f"{value:.1f}{NBSP}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    minutes = round(value / 60)
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def p_value(value: float) -> str:
    """`p = 0.031`, or `p < 0.0001`."""
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def quantization(found: QuantizationFacts) -> str:
    """What was rounded in a quantization-aware training, and since when."""
    since = f"after {percent(found.start, 0)} of the steps" if found.start else "from the first step"
    inputs = "" if found.activations is None else f", and inputs of products by their range in a {found.activations}"
    return f"{found.precision} {since}, {count(found.numbers)} parameters{inputs}"


def decimals(value: float, digits: int) -> str:
    """A number with fixed decimals and a real minus sign; never "-0.0"."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def plain(text: str) -> str:
    """The same text for terminals and plain text: ordinary spaces, hyphens and apostrophes."""
    return text.replace(NBSP, " ").replace(MINUS, "-").replace("\u2019", "'")


def _digits(metric: str) -> int:
    return 2 if metric in _LOWER else 3


def _signed(value: float, digits: int) -> str:
    text = decimals(value, digits)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def raised(words: str) -> str:
    """With a capital first, and the rest as it is."""
    return f"{words[:1].upper()}{words[1:]}"


def _in_units(value: float, *units: tuple[float, str]) -> str | None:
    """In the largest unit that is no larger than the value; None where all are."""
    found = next(((size, unit) for size, unit in units if abs(value) >= size * 0.9995), None)
    return None if found is None else f"{_three(value / found[0])}{NBSP}{found[1]}"


def _three(value: float) -> str:
    """Three significant digits without an exponent."""
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.0995 else 3
    return decimals(value, digits)
