"""A finished run without any training: the record of `report.made`, and files whose hashes it holds."""

from __future__ import annotations

import json
from pathlib import Path

from attar.facts import ArtifactFacts, RunFacts
from attar.hashing import sha256
from attar.recipe.load import dump_recipe, recipe_from
from report.made import made_run

TEXT = "my card is lost"


def write_run(folder: Path, **changes: object) -> RunFacts:
    """run.json, recipe.yaml, report.html and export/onnx-int8 of a text classifier that nobody can run."""
    place = folder / "export" / "onnx-int8"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(b"weights" * 1000)
    (place / "tokenizer.json").write_text("{}")
    (place / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    (place / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 48}))
    made = made_run()
    artifact = _artifact(made).model_copy(
        update={
            "path": "export/onnx-int8", "sha256": sha256(place / "model.onnx"), "inputs": ["input_ids"],
            "files": {file.name: sha256(file) for file in place.iterdir()},
        }
    )  # fmt: skip
    facts = made.model_copy(update={"artifacts": [artifact], **changes})
    (folder / "run.json").write_text(facts.model_dump_json())
    (folder / "report.html").write_text("<!doctype html><title>report</title>")
    (folder / "recipe.yaml").write_text(
        dump_recipe(
            recipe_from(
                {
                    "name": "made",
                    "task": {"kind": "text_classification", "max_length": 96},
                    "teacher": {"kind": "local", "model": "some/model"},
                    "data": {"source": "some/data"},
                    "student": {"kind": "from_teacher", "layers": 1},
                    "objectives": [{"kind": "forward_kl"}],
                }
            )
        )
    )
    return facts


def write_page(folder: Path) -> Path:
    """What `make web` would build, in three files."""
    for name, content in {
        "index.html": "<!doctype html><title>attar</title>",
        "assets/page.js": "1",
        "runtime/1/ort-wasm-simd-threaded.asyncify.wasm": "gpu",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def _artifact(made: RunFacts) -> ArtifactFacts:
    return next(one for one in made.artifacts if one.precision == "int8")
