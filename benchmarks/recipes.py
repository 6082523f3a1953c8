"""Quality, size and time of a whole recipe over several seeds, taken from its run.json.

    ATTAR_MIRROR=../shared/data python benchmarks/recipes.py recipes/banking77.yaml --seeds 3 --run runs/b77 \
        --out benchmarks/results/banking77.json

Runs the recipe (a finished run is only read) and writes the figures with their conditions as JSON, and a table to
standard output.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import attar
from attar.facts import RunFacts


def figures(facts: RunFacts) -> dict[str, Any]:
    """What the table shows, with its conditions."""
    kept = {"retention": facts.retention, "kd_gain": facts.kd_gain, "agreement": facts.evaluation.agreement}
    return {
        "recipe": facts.name,
        "metric": facts.quality.metric,
        "n": facts.quality.n,
        "quality": {name: value.model_dump() for name, value in facts.quality.intervals.items()},
        **{name: None if value is None else value.model_dump() for name, value in kept.items()},
        "params": {"teacher": facts.teacher.params, "student": facts.student.params},
        "params_share": facts.student.params / facts.teacher.params,
        "bytes": {"teacher": facts.teacher.bytes, **{f"{a.kind}-{a.precision}": a.bytes for a in facts.artifacts}},
        "bytes_share": {f"{a.kind}-{a.precision}": a.bytes / facts.teacher.bytes for a in facts.artifacts},
        "latency_ms": {
            "teacher (torch)": _milliseconds(facts.teacher.latency),
            "student (torch)": _milliseconds(facts.student.latency),
            **{f"{a.kind}-{a.precision}": a.latency_ms for a in facts.artifacts},
        },
        "seeds": [seed.model_dump() for seed in facts.seeds],
        "seconds": {stage.name: round(stage.seconds, 1) for stage in facts.stages},
        "conditions": {**facts.lineage.machine, **facts.lineage.packages, "attar": facts.lineage.code},
    }


def _milliseconds(measured: Any) -> float | None:
    return None if measured is None else measured.value


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| | value | 95 % interval |", "|---|---|---|"]
    for name, one in {**found["quality"], "retention": found["retention"], "KD gain": found["kd_gain"]}.items():
        if one is not None:
            lines.append(f"| {name} | {one['value']:.4f} | {one['lo']:.4f} to {one['hi']:.4f} |")
    lines.append(f"| parameters, student / teacher | {found['params_share']:.2%} | |")
    lines += [f"| bytes of {name} / teacher | {share:.2%} | |" for name, share in found["bytes_share"].items()]
    return "\n".join(lines)


def main() -> None:
    """Run, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run", type=Path, required=True, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    found = figures(attar.distill(options.recipe, options.run, seeds=options.seeds, say=print))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
