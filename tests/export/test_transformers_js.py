"""transformers.js itself writes on from an exported decoder as attar does; npm fetches it, so node must be there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from language_parts import make

import attar
from attar.finished import answer

pytestmark = pytest.mark.slow
PACKAGE = "@huggingface/transformers@4.3.1"
SCRIPT = Path(__file__).with_name("generate.mjs")
TEXTS = ["the cat", "the old", "a"]
NAMES = {"fp32": "fp32", "int8": "q8", "int4": "q4"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the script finds transformers.js."""
    folder = tmp_path_factory.mktemp("node")
    if shutil.which("npm") is None:
        pytest.skip("needs node with npm (`make browser` brings them where apt is)")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    shutil.copy(SCRIPT, folder)
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", PACKAGE]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"npm could not fetch {PACKAGE}: {installed.stderr.strip()[:200]}")
    return folder


def test_an_exported_decoder_writes_the_same_in_transformers_js(home: Path, tmp_path: Path) -> None:
    export = [{"kind": "onnx", "precision": precision, "min_agreement": 0} for precision in NAMES]
    training = {"max_steps": 6, "batch_size": 8, "learning_rate": 0.002, "control": False}
    run = tmp_path / "out"
    attar.distill(make(tmp_path, export=export, training=training, report={"bootstrap": 100, "latency": False}), run)
    for precision, name in NAMES.items():
        folder, options = run / "export" / f"onnx-{precision}", '{"max_new_tokens": 12, "do_sample": false}'
        said = subprocess.run(
            ["node", SCRIPT.name, str(folder), name, "text-generation", options, *TEXTS],
            cwd=home, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        written = [one[0]["generated_text"] for one in json.loads(said.stdout)]
        ours = answer(run, TEXTS, f"onnx-{precision}")
        for text, theirs, mine in zip(TEXTS, written, ours, strict=True):
            assert len(theirs) > len(text)
            assert (text + mine["answers"][0]["text"]).startswith(theirs), precision
