"""The headline: how much smaller, how much kept, how much faster, what the teacher added. One source for all readers.

Size and speed are those of the file to ship, the smallest exported one. With one seed the quality kept is that file's
too; with several it is the mean over seeds, since files of one seed say little of the method.
"""

from __future__ import annotations

from dataclasses import dataclass

from attar.facts import ArtifactFacts, Interval, RunFacts
from attar.report.joules import energy_line
from attar.report.numbers import (
    NBSP,
    confidence,
    difference_interval,
    lower_is_better,
    metric_name,
    milliseconds,
    percent,
    plain,
    quality,
    share,
    size,
    than,
    times,
)


@dataclass(frozen=True)
class Kept:
    """How much of the teacher the student keeps."""

    interval: Interval
    of: str
    """What of: a metric in words, or "answers" where the data has no labels."""
    by: str
    """Who keeps it: the exported file, or the student (over seeds)."""


_NAMES = {
    "onnx": "ONNX",
    "web": "Web",
    "gguf": "GGUF",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "executorch": "ExecuTorch",
    "coreml": "Core ML",
}


def shipped(run: RunFacts) -> ArtifactFacts | None:
    """The file to ship: the smallest one."""
    return min(run.artifacts, key=lambda a: a.bytes, default=None)


def artifact_name(artifact: ArtifactFacts) -> str:
    """`ONNX int8`."""
    return f"{_NAMES.get(artifact.kind, artifact.kind)}{NBSP}{artifact.precision}"


def smaller(run: RunFacts) -> float:
    """Bytes of the teacher over bytes of the file to ship (or of the student's weights)."""
    file = shipped(run)
    return run.teacher.bytes / max(1, file.bytes if file else run.student.bytes)


def faster(run: RunFacts) -> float | None:
    """Latency of the teacher over that of the file to ship (or of the student); None where one was not measured."""
    file = shipped(run)
    own = file.latency if file else run.student.latency
    if own is None or run.teacher.latency is None or own.value <= 0:
        return None
    return run.teacher.latency.value / own.value


def kept(run: RunFacts) -> Kept | None:
    """What the student keeps; without labels its agreement with the teacher. None where retention is not defined."""
    if run.quality.student is None:
        agreement = run.evaluation.agreement
        return None if agreement is None else Kept(agreement, "answers", "student")
    file = shipped(run)
    if len(run.seeds) <= 1 and file is not None and file.retention is not None:
        return Kept(file.retention, metric_name(run.quality.metric), f"{artifact_name(file)} file")
    if run.retention is None:
        return None
    seeds = run.retention.seeds
    by = f"student, mean of {seeds} seeds" if seeds > 1 else "student"
    return Kept(run.retention, metric_name(run.quality.metric), by)


def sentence(run: RunFacts) -> str:
    """The headline in one sentence."""
    ratio = smaller(run)
    factor = f"{times(ratio)} smaller" if ratio >= 1 else f"{times(1 / ratio)} larger"
    found = kept(run)
    if found is None:
        return (
            f"{factor}, with {metric_name(run.quality.metric)} of {quality(run.quality.metric, run.quality.student)}."
        )
    if lower_is_better(run.quality.metric):
        own, theirs = (quality(run.quality.metric, value) for value in (run.quality.student, run.quality.teacher))
        return f"{factor}, with a {metric_name(run.quality.metric)} of {own} where the teacher has {theirs}."
    if found.of == "answers":
        return f"{factor}, giving the teacher\u2019s answer to {percent(found.interval.value)} of rows."
    return f"{factor}, keeping {percent(found.interval.value)} of the teacher\u2019s {found.of}."


def headline(run: RunFacts) -> list[str]:
    """The headline for a terminal: a sentence, then a line for each claim with its interval and conditions."""
    file = shipped(run)
    own = f"{size(file.bytes)} ({artifact_name(file)})" if file else f"{size(run.student.bytes)} (weights)"
    lines = [sentence(run), f"  size      {size(run.teacher.bytes)} -> {own}"]
    if (found := kept(run)) is not None:
        what = f"{found.by}: the teacher's over its own" if lower_is_better(run.quality.metric) else found.by
        lines.append(f"  kept      {share(found.interval)}, {confidence(found.interval)} ({what})")
    metric = run.quality.metric
    if run.quality.student is not None:
        names = ("teacher", "student", "control")
        values = [(name, getattr(run.quality, name)) for name in names]
        shown = ", ".join(f"{name} {quality(metric, value)}" for name, value in values if value is not None)
        lines.append(f"  {metric_name(metric):<9} {shown}")
    if run.kd_gain is not None:
        lines.append(
            f"  gain      {difference_interval(metric, run.kd_gain)} {than(metric)} the same student without teacher"
        )
    ratio, latency = faster(run), (file.latency if file else run.student.latency)
    if ratio is not None and latency is not None and run.teacher.latency is not None:
        change = f"{milliseconds(run.teacher.latency.value)} -> {milliseconds(latency.value)} a row"
        speed = f"{times(ratio)} faster" if ratio >= 1 else f"{times(1 / ratio)} slower"
        lines.append(f"  speed     {speed}: {change} ({latency.device}, {latency.threads} thread(s))")
    if (energy := energy_line(run)) is not None:
        lines.append(f"  energy    {energy}")
    undecided = [line for line in run.budget if line.met is None]
    lines += [f"  budget    {one.name}: not decided, its value was not measured" for one in undecided]
    return [plain(line) for line in lines]
