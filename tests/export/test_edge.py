"""Files for devices: they answer like the checkpoint through their own runtime, or are refused with the reason.

LiteRT and ExecuTorch are large to install: their tests belong to the slow tier.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from attar.errors import ExportError, MissingExtra, ParityError
from attar.export.classifier import write_artifact
from attar.export.exporter import Trained, single_rows
from attar.export.runtimes import open_artifact
from attar.export.runtimes.static import Shapes
from attar.hashing import sha256
from attar.recipe.outcome import ClassifierSpec, ExportSpec
from attar.tasks.base import Encoded
from export.cases import Case

MODULES = {
    "openvino": ("openvino", "nncf"),
    "litert": ("litert_torch", "ai_edge_quantizer"),
    "executorch": ("executorch",),
}
FILES = {"openvino": "model.xml", "litert": "model.tflite", "executorch": "model.pte"}
KINDS = [
    "openvino",
    pytest.param("litert", marks=pytest.mark.slow),
    pytest.param("executorch", marks=pytest.mark.slow),
]
FIXED = KINDS[1:]
BOTH = pytest.mark.parametrize("rows", ["text", "image"])


class SignalStack(ctypes.Structure):
    """Where this thread's signals are handled: `stack_t` of Linux."""

    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    @classmethod
    def now(cls) -> tuple[int | None, int]:
        found = cls()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
        return found.address, found.flags


def spec(kind: str, **fields: Any) -> ClassifierSpec:
    return TypeAdapter(ExportSpec).validate_python({"kind": kind, **fields})


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    absent = [name for name in MODULES[request.param] if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"needs {absent[0]}: pip install 'attar[{request.param}]'")
    return request.param


@BOTH
@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_fp32_answers_like_the_checkpoint(
    kind: str, rows: str, request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case: Case = request.getfixturevalue(rows)
    found = case.export(tmp_path, spec(kind))
    assert found.facts.parity.max_abs < 1e-4
    assert found.facts.parity.agreement == 1
    assert found.facts.path == f"export/{kind}-fp32"
    assert sorted(found.facts.inputs) == sorted(case.batch([0]))
    assert found.facts.outputs == ["logits"]
    assert found.facts.runtime.startswith(kind)
    np.testing.assert_allclose(found.logits, case.logits, atol=1e-4)
    told = capfd.readouterr()
    assert told.out == told.err == ""
    model = found.folder / FILES[kind]
    assert found.facts.sha256 == sha256(model) == found.facts.files[model.name]
    card = json.loads((found.folder / "attar.json").read_text())
    assert card["model"] == {"file": model.name, "sha256": sha256(model)}
    assert (card["kind"], card["labels"], card["temperature"]) == (kind, ["a", "b", "c"], 1.5)
    read = {FILES[kind], "model.bin", "attar.json", "config.json"} & set(found.facts.files)
    assert found.facts.bytes == sum((found.folder / name).stat().st_size for name in read)
    many = open_artifact(kind, found.folder)(case.batch(range(7)))
    np.testing.assert_allclose(many, case.logits[:7], atol=1e-4)


@BOTH
@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_int8_keeps_the_answers_in_a_smaller_file(
    kind: str, rows: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    case: Case = request.getfixturevalue(rows)
    small = spec(kind, precision="int8", **({} if kind == "litert" else {"calibration_rows": 24}))
    if (kind, rows) == ("executorch", "text"):
        with pytest.raises(ExportError, match=r"fails on transformers such as BertFor.*litert, openvino or onnx"):
            case.export(tmp_path, small)
        return
    found = case.export(tmp_path, small)
    assert found.facts.parity.agreement >= 0.97
    assert 0 < found.facts.parity.max_abs
    large = write_artifact(case.trained, tmp_path / "large", spec(kind))
    assert large.classes == 3
    weights = "model.bin" if kind == "openvino" else FILES[kind]
    assert (found.folder / weights).stat().st_size < (tmp_path / "large" / weights).stat().st_size
    assert "int8" in str(found.facts.note)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_a_file_that_misses_its_bound_is_not_handed_over(kind: str, image: Case, tmp_path: Path) -> None:
    with pytest.raises(
        ParityError, match=r"agreement is 0\.\d+, at least 0.999 is asked.*not handed over. Use `kind: onnx`"
    ):
        image.export(tmp_path, spec(kind), logits=np.roll(image.logits, 1, axis=1))
    assert [place.name for place in (tmp_path / "export").iterdir()] == [f"{kind}-fp32.refused"]


@pytest.mark.parametrize("kind", FIXED, indirect=True)
def test_a_text_longer_than_the_file_reads_is_told(kind: str, text: Case, tmp_path: Path) -> None:
    longest = int(text.rows.lengths.max())
    runner = write_artifact(text.trained, tmp_path / "x", spec(kind, length=longest))
    said = runner.logits(single_rows(text.task, text.rows, text.processor))
    np.testing.assert_allclose(said, text.logits, atol=1e-4)
    longer = {name: np.ones((1, longest + 1), np.int64) for name in runner.inputs}
    with pytest.raises(ExportError, match=rf"texts of {longest} tokens at most, but one has {longest + 1}"):
        runner(longer)
    with pytest.raises(ExportError, match=rf"`length: 4`, but the longest training row has {longest} tokens"):
        write_artifact(text.trained, tmp_path / "y", spec(kind, length=4))


class Rare(nn.Module):
    """Asks for an operator that no runtime of devices has."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(torch.special.bessel_j0(pixel_values.flatten(1)))


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_an_operator_that_a_runtime_lacks_is_named(kind: str, image: Case, tmp_path: Path) -> None:
    rare = Trained(Rare().eval(), image.task, image.processor, image.rows)
    with pytest.raises(ExportError, match=r"Rare cannot be .*bessel_j0.*another student architecture"):
        write_artifact(rare, tmp_path / "x", spec(kind))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_a_damaged_file_names_its_runtime(kind: str, image: Case, tmp_path: Path) -> None:
    write_artifact(image.trained, tmp_path / "x", spec(kind))
    (tmp_path / "x" / FILES[kind]).write_bytes(b"no model")
    with pytest.raises(ExportError, match=rf"{FILES[kind]}: {kind} \d.* cannot run it"):
        open_artifact(kind, tmp_path / "x")


@pytest.mark.parametrize(
    ("kind", "package"), [("openvino", "openvino"), ("litert", "litert_torch"), ("executorch", "executorch.exir")]
)
def test_an_absent_package_gives_the_pip_command(
    kind: str, package: str, image: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf'"{package.split(".")[0]}".*pip install "attar\[{kind}\]"'):
        write_artifact(image.trained, tmp_path / "x", spec(kind))


def test_no_training_rows_give_no_file(image: Case) -> None:
    none = Encoded({"pixel_values": np.zeros((0, 3, 8, 8), np.uint8)}, np.zeros(0, np.int64), np.zeros(0, np.int64))
    with pytest.raises(ExportError, match="no training rows"):
        Trained(image.model, image.task, image.processor, none)


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r'no runtime for "gguf".*onnx, web, openvino, litert, executorch'):
        open_artifact("gguf", tmp_path)


@pytest.mark.parametrize("left", [False, True])
def test_rows_are_padded_anew_whatever_their_padding_was(left: bool) -> None:
    mask = np.array([[0, 1, 1], [1, 1, 1]])
    batch = {"input_ids": np.array([[9, 5, 6], [5, 6, 7]]), "attention_mask": mask}
    shapes = Shapes(("input_ids", "attention_mask"), 4, {"input_ids": 8}, left=left)
    ids = [row["input_ids"].tolist() for row in shapes.rows(batch)]
    masks = [row["attention_mask"].tolist() for row in shapes.rows(batch)]
    assert ids == ([[[8, 8, 5, 6]], [[8, 5, 6, 7]]] if left else [[[5, 6, 8, 8]], [[5, 6, 7, 8]]])
    assert masks == ([[[0, 0, 1, 1]], [[0, 1, 1, 1]]] if left else [[[1, 1, 0, 0]], [[1, 1, 1, 0]]])


def test_a_card_without_shapes_is_told(tmp_path: Path) -> None:
    (tmp_path / "attar.json").write_text("{}")
    with pytest.raises(ExportError, match=r"attar.json: does not tell the shapes"):
        Shapes.read(tmp_path)


def test_files_are_opened_without_torch() -> None:
    code = (
        "import sys; from attar.export.runtimes import open_artifact; "
        "heavy = {'torch', 'transformers', 'datasets'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["openvino"], indirect=True)
def test_openvino_reports_to_nobody(kind: str) -> None:
    code = (
        "import sys; from attar.export.runtimes.openvino import openvino; openvino(); import nncf; "
        "sys.exit([name for name in sys.modules if name.startswith('openvino_telemetry.')] != [])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO sets a signal stack on Linux only")
@pytest.mark.parametrize("kind", ["openvino"], indirect=True)
def test_signals_are_handled_where_they_were(kind: str, image: Case, tmp_path: Path) -> None:
    """Two compiled models that go in the order they came leave their thread's signals a freed stack."""
    before = SignalStack.now()
    made = write_artifact(image.trained, tmp_path / "x", spec(kind, precision="int8", calibration_rows=24))
    one, other = open_artifact(kind, tmp_path / "x"), open_artifact(kind, tmp_path / "x")
    assert one.classes == other.classes == made.classes
    del made, one, other
    assert SignalStack.now() == before
