"""A small valid recipe, as YAML and as plain data."""

from __future__ import annotations

from typing import Any

import yaml

SAMPLE = """\
# a sample
name: sample
task:
  kind: text_classification
  text: text
teacher:
  kind: local
  model: org/teacher
  fit: probe
data:
  source: org/rows
student:
  kind: from_teacher
  layers: 2
  hidden_size: 64
objectives:
  - kind: forward_kl
    temperature: 2.0
  - kind: hidden
    layers: [[1, 2], [2, 4]]
training:
  epochs: 3
  learning_rate: 1e-4
report:
  examples: off
"""


def sample() -> dict[str, Any]:
    data = yaml.safe_load(SAMPLE)
    data["training"]["learning_rate"] = 1e-4
    return data
