"""A benchmark as a user starts it, on one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_script(script: str, out: Path, *options: str, told: str = "--json") -> tuple[Any, str]:
    """What the script wrote to `out`, which it is told by an option, and what it printed."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options, told, str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8")), done.stdout
