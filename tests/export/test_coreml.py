"""Core ML, experimental: written anywhere, handed over where a Mac compared it; who cannot be converted is told."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attar.errors import ExportError, MissingExtra, ParityError
from attar.export.classifier import write_artifact
from attar.export.exporter import Trained
from attar.export.runtimes import coreml as runtime
from attar.export.runtimes import open_artifact
from attar.hashing import sha256
from attar.recipe.outcome import CoreMLSpec
from export.cases import Case
from export.test_edge import Rare

SPEC = CoreMLSpec(kind="coreml")
PACKAGE = "model.mlpackage"
PROGRAM = f"{PACKAGE}/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = f"{PACKAGE}/Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def tools() -> Any:
    if importlib.util.find_spec("coremltools") is None:
        pytest.skip("needs coremltools: pip install 'attar[coreml]'")
    return pytest.importorskip("coremltools", exc_type=ImportError)


class Fake:
    """In the place of coremltools' MLModel, which answers on macOS alone: the spec of the file, the model's answers."""

    model: torch.nn.Module
    spec: Any

    def __init__(self, path: str, compute_units: Any) -> None:
        assert Path(path).name == PACKAGE
        assert compute_units.name == "CPU_ONLY"

    def get_spec(self) -> Any:
        return self.spec

    def predict(self, row: dict[str, Any]) -> dict[str, Any]:
        (pixels,) = row.values()
        assert pixels.shape[0] == 1
        with torch.no_grad():
            return {"logits": self.model(torch.from_numpy(pixels)).logits.numpy()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac compares it")
def test_without_a_mac_the_file_is_written_and_refused(
    tools: Any, image: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ParityError, match=r"answers on macOS alone.*not handed over.*on a Mac, or use `kind: executorch`"
    ):
        image.export(tmp_path, SPEC)
    told = capfd.readouterr()
    assert told.out == told.err == ""
    (left,) = (tmp_path / "export").iterdir()
    assert left.name == "coreml-fp32.refused"
    assert "macOS alone" in (left / "REFUSED.txt").read_text()
    spec = tools.utils.load_spec(str(left / PACKAGE))
    (given,), (answer,) = spec.description.input, spec.description.output
    assert (given.name, list(given.type.multiArrayType.shape)) == ("pixel_values", [1, 3, 8, 8])
    assert (answer.name, list(answer.type.multiArrayType.shape)) == ("logits", [1, 3])
    numbers = sum(p.numel() for name, p in image.model.named_parameters() if p.dim() > 1)
    assert (left / WEIGHTS).stat().st_size >= 4 * numbers, "float32"


@pytest.mark.slow
def test_on_a_mac_it_is_compared_and_handed_over(
    tools: Any, image: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake.model, Fake.spec = image.model, _spec(tools, image, tmp_path)
    here = SimpleNamespace(ComputeUnit=tools.ComputeUnit, models=SimpleNamespace(MLModel=Fake))
    monkeypatch.setattr(runtime, "need", lambda *_: here)
    monkeypatch.setattr(runtime, "_IS_MAC", True)
    found = image.export(tmp_path, SPEC)
    assert found.facts.parity.max_abs < 1e-4
    assert found.facts.path == "export/coreml-fp32"
    assert (found.facts.inputs, found.facts.outputs) == (["pixel_values"], ["logits"])
    assert found.facts.runtime.startswith("coreml through coremltools 9")
    assert found.facts.sha256 == sha256(found.folder / PROGRAM)
    assert {PROGRAM, WEIGHTS} <= set(found.facts.files)
    assert found.facts.bytes >= (found.folder / WEIGHTS).stat().st_size
    assert json.loads((found.folder / "attar.json").read_text())["model"]["file"] == PROGRAM
    np.testing.assert_allclose(found.logits, image.logits, atol=1e-4)
    with pytest.raises(ParityError, match=r"at least 0.999 is asked.*Use `kind: onnx`"):
        image.export(tmp_path / "wrong", SPEC, logits=np.roll(image.logits, 1, axis=1))


def _spec(tools: Any, image: Case, tmp_path: Path) -> Any:
    """Of the file that is written here, without a Mac."""
    with pytest.raises(ParityError):
        image.export(tmp_path / "spec", SPEC)
    return tools.utils.load_spec(str(tmp_path / "spec" / "export" / "coreml-fp32.refused" / PACKAGE))


@pytest.mark.slow
def test_who_cannot_be_converted_is_told(tools: Any, text: Case, image: Case, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot convert students of texts such as BertFor.*executorch.*iOS"):
        write_artifact(text.trained, tmp_path / "x", SPEC)
    rare = Trained(Rare().eval(), image.task, image.processor, image.rows)
    with pytest.raises(ExportError, match=r"Rare cannot be converted .*another student architecture"):
        write_artifact(rare, tmp_path / "y", SPEC)
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


def test_an_absent_package_gives_the_pip_command(image: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtra, match=r'"coremltools".*pip install "attar\[coreml\]"'):
        write_artifact(image.trained, tmp_path / "x", SPEC)
    monkeypatch.setattr(runtime, "_IS_MAC", True)
    with pytest.raises(MissingExtra, match=r'"coremltools"'):
        open_artifact("coreml", tmp_path)
