"""`attar push` through the real Hub client, against a Hub of our own on the loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from datasets import Dataset
from huggingface_hub import ModelCard

from attar.errors import AttarError, ParityError, PolicyError
from attar.facts import RunFacts
from attar.recipe.outcome import OnnxSpec
from attar.recipe.task import ImageClassificationSpec
from attar.report.push import push
from attar.tasks import make_task
from report.made import made_run
from tiny import tiny_image_model, tiny_image_processor, tiny_images


@dataclass
class Hub:
    """What a Hub was asked, and what it holds."""

    address: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    refuse: int = 0


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.body()
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.refuse:
                return self.answer({"error": "no"}, hub.refuse)
            if self.path == "/api/repos/create":
                hub.created.append(json.loads(body))
                return self.answer({"url": f"{hub.address}/{hub.created[-1].get('organization', 'me')}/x", "id": "x"})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
                return self.answer({"files": [{**f, "shouldIgnore": False, "oid": None} for f in files]})
            if "/commit/" in self.path:
                lines = [json.loads(line) for line in body.splitlines()]
                added = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
                hub.commits.append({path: base64.b64decode(content) for path, content in added.items()})
                return self.answer(
                    {"commitUrl": f"{hub.address}/me/x/commit/0", "commitOid": "0" * 40, "success": True}
                )
            return self.answer({"error": f"unexpected {self.path}"}, 500)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def answer(self, content: dict[str, Any], status: int = 200) -> None:
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def run_folder(folder: Path, **policy: Any) -> Path:
    run: RunFacts = made_run()
    artifact = next(a for a in run.artifacts if a.precision == "int8")
    artifact = artifact.model_copy(update={"sha256": hashlib.sha256(b"onnx").hexdigest()})
    run = run.model_copy(update={"policy": run.policy.model_copy(update=policy), "artifacts": [artifact]})
    run = run.model_copy(update={"files": {"student/model.safetensors": hashlib.sha256(b"weights").hexdigest()}})
    files = {
        "run.json": run.model_dump_json(),
        "report.html": "<!doctype html>",
        "student/config.json": "{}",
        "student/model.safetensors": "weights",
        "student/.cache/x": "hidden",
        "export/onnx-int8/model.onnx": "onnx",
        "export/onnx-int8/attar.json": "{}",
        "checkpoints/0/state": "large",
        "control/model.safetensors": "control",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_a_run_is_pushed_in_one_commit(tmp_path: Path, hub: Hub) -> None:
    address = push(run_folder(tmp_path), "me/banking77", private=True, token="hf_secret", endpoint=hub.address)
    assert address.startswith(hub.address)
    assert hub.created[0]["name"] == "banking77"
    assert hub.created[0]["organization"] == "me"
    assert "rivate" in json.dumps(hub.created[0])
    assert "Bearer hf_secret" in hub.tokens
    assert len(hub.commits) == 1
    assert sorted(hub.commits[0]) == [
        "README.md", "config.json", "export/onnx-int8/attar.json", "export/onnx-int8/model.onnx", "model.safetensors",
        "report.html", "run.json",
    ]  # fmt: skip
    assert hub.commits[0]["model.safetensors"] == b"weights"
    assert ModelCard(hub.commits[0]["README.md"].decode()).data.license == "apache-2.0"


def refused_export(folder: Path) -> Path:
    """A folder as the exporter leaves it where a file fails parity."""
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    from attar.export.classifier import export_and_check
    from attar.export.exporter import Trained

    labels = [0, 1, 0, 1]
    task = make_task(ImageClassificationSpec(kind="image_classification", image_size=8), ("a", "b"))
    processor = tiny_image_processor()
    rows = task.encode(Dataset.from_dict({"image": tiny_images(labels), "label": labels}), processor)
    strict = OnnxSpec(kind="onnx", precision="fp32", max_abs=1e-9)
    with pytest.raises(ParityError):
        export_and_check(
            Trained(tiny_image_model(("a", "b")), task, processor, rows), folder / "export" / "onnx-fp32", strict,
            parity=rows, parity_logits=np.ones((4, 2), np.float32), test=rows, root=folder,
        )  # fmt: skip
    return folder / "export" / "onnx-fp32.refused"


def test_only_what_the_record_describes_is_pushed(tmp_path: Path, hub: Hub) -> None:
    folder = run_folder(tmp_path)
    assert (refused_export(folder) / "model.onnx").is_file()
    earlier = folder / "export" / "onnx-fp32" / "model.onnx"
    earlier.parent.mkdir()
    earlier.write_text("of an earlier recipe")
    push(folder, "me/banking77", token="t", endpoint=hub.address)
    assert {path for path in hub.commits[0] if path.startswith("export/")} == {
        "export/onnx-int8/attar.json", "export/onnx-int8/model.onnx",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["export/onnx-int8/model.onnx", "student/model.safetensors"])
@pytest.mark.parametrize("content", ["other", None])
def test_files_that_were_not_measured_are_not_pushed(tmp_path: Path, hub: Hub, name: str, content: str | None) -> None:
    file = run_folder(tmp_path) / name
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(AttarError, match=r"not as run\.json has it.*attar distill"):
        push(tmp_path, "me/banking77", token="t", endpoint=hub.address)
    assert hub.created == []


def test_a_card_that_is_there_is_kept(tmp_path: Path, hub: Hub) -> None:
    folder = run_folder(tmp_path)
    (folder / "student" / "README.md").write_text("---\nlicense: mit\n---\nmine\n", encoding="utf-8")
    push(folder, "me/banking77", token="t", endpoint=hub.address)
    assert hub.commits[0]["README.md"].endswith(b"mine\n")


def test_the_prefix_that_the_terms_ask_for_is_enforced(tmp_path: Path, hub: Hub) -> None:
    folder = run_folder(tmp_path, student_name_prefix="Llama")
    with pytest.raises(PolicyError, match="Use for example me/Llama-banking77"):
        push(folder, "me/banking77", token="t", endpoint=hub.address)
    with pytest.raises(PolicyError, match="Use for example Llama-banking77"):
        push(folder, "banking77", token="t", endpoint=hub.address)
    assert hub.created == []
    push(folder, "me/Llama-banking77", token="t", endpoint=hub.address)
    assert len(hub.commits) == 1


def test_what_must_not_be_distributed_is_not_pushed(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(PolicyError, match="Nothing was uploaded"):
        push(run_folder(tmp_path / "a", distribute=False), "me/x", token="t", endpoint=hub.address)
    with pytest.raises(PolicyError, match="`stop`"):
        push(run_folder(tmp_path / "b", decision="stop"), "me/x", token="t", endpoint=hub.address)
    assert hub.created == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_the_hub_is_explained(tmp_path: Path, hub: Hub, status: int) -> None:
    hub.refuse = status
    with pytest.raises(AttarError, match="token may write"):
        push(run_folder(tmp_path), "me/banking77", token="t", endpoint=hub.address)
    assert hub.commits == []


def test_a_bad_name_and_an_unreachable_hub(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(tmp_path)
    with pytest.raises(AttarError, match="not a repository's name"):
        push(folder, "me/a/b", token="t", endpoint=hub.address)
    with pytest.raises(AttarError, match="cannot be reached"):
        push(folder, "me/banking77", token="t", endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AttarError, match="HF_HUB_OFFLINE"):
        push(folder, "me/banking77", token="t", endpoint=hub.address)


def test_an_unfinished_run_is_not_pushed(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(AttarError, match="no such file"):
        push(tmp_path, "me/x", token="t", endpoint=hub.address)
    folder = run_folder(tmp_path)
    (folder / "student" / "config.json").unlink()
    with pytest.raises(AttarError, match="no student here"):
        push(folder, "me/x", token="t", endpoint=hub.address)
    assert hub.created == []
