from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.errors import RecipeError
from attar.recipe import Recipe
from attar.recipe.load import dump_recipe, load_recipe, recipe_from
from attar.recipe.objectives import HiddenSpec
from attar.recipe.text import MAX_BYTES
from recipe.sample import SAMPLE, sample


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert all(str(folder) in line or line.startswith("--set") for line in caught.value.problems)
    return [line.replace(f"{folder}/", "") for line in caught.value.problems]


def test_a_good_file_is_read(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SAMPLE))
    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.epochs == 3.0
    assert recipe.report.examples is False
    hidden = recipe.objectives[1]
    assert isinstance(hidden, HiddenSpec)
    assert hidden.layers == ((1, 2), (2, 4))
    assert recipe.places.at(("objectives", 1, "kind")).text.endswith("recipe.yaml:19")


def test_five_mistakes_in_five_sections_are_listed_with_their_lines(tmp_path: Path) -> None:
    text = (
        SAMPLE.replace("text: text", "txt: text")
        .replace("fit: probe", "fit: prob")
        .replace("kind: forward_kl", "kind: forward_lk")
        .replace("layers: 2", "layers: two")
        .replace("epochs: 3", "epochs: -3")
    )
    found = problems(tmp_path, text)
    assert [line.partition("  ")[0] for line in found] == [f"recipe.yaml:{n}" for n in (5, 9, 14, 17, 22)]
    assert 'task.txt: there is no such field. Did you mean "text"?' in found[0]
    assert 'teacher.fit: "prob" is not allowed. Did you mean "probe"? Allowed: none, probe, full.' in found[1]
    assert 'student.layers: "two" is not allowed. Allowed: a whole number of at least 1 or a list' in found[2]
    assert 'objectives[0].kind: "forward_lk" is not an objective. Did you mean "forward_kl"? Allowed: ' in found[3]
    assert " forward_kl, hard_labels, hidden, " in found[3]
    assert "training.epochs: -3 is not allowed. Allowed: a number above 0." in found[4]


def test_what_a_wrong_kind_or_name_hides_is_found_too(tmp_path: Path) -> None:
    text = SAMPLE.replace(
        "kind: hidden\n    layers: [[1, 2], [2, 4]]", "kind: hiden\n    layers: [[1], [2, 4]]\n    pol: none"
    ).replace("data:\n  source: org/rows", "data:\n  sorce: 3")
    found = problems(tmp_path, text)
    assert [line.split(": ")[0].split("  ")[1] for line in found] == [
        "data.sorce", "data.source", "objectives[1].kind", "objectives[1].layers[0]", "objectives[1].pol",
    ]  # fmt: skip
    assert 'Text goes in quotes: "3".' in found[1]


def test_yaml_problems_and_recipe_problems_come_together(tmp_path: Path) -> None:
    found = problems(tmp_path, SAMPLE.replace("epochs: 3", "epochs: !x ten\n  epochs: 4") + "naem: x\n")
    assert len(found) == 4
    assert [line.partition("  ")[0] for line in found] == [f"recipe.yaml:{n}" for n in (22, 22, 23, 27)]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("epochs: 3", 'epochs: "3"', "Numbers go without quotes: 3."),
        ("epochs: 3", "epochs: .nan", "NaN is not allowed. Allowed: a number above 0."),
        ("epochs: 3", "num_train_epochs: 3", "What Transformers calls num_train_epochs is training.epochs here."),
        ("epochs: 3", "tf32: true", 'Other fields of TrainingArguments go under "extra".'),
        ("name: sample", "name: sample\nepochs: 3", "It belongs to the section training."),
        ("name: sample", "name: ../up", '"../up" is not allowed. Allowed: text such as banking77-small'),
        ("kind: from_teacher", "kind: from_teacher\n  config: {}", "It belongs to kind from_config."),
        ("examples: off", "examples: of", '"of" is not allowed. Allowed: true or false.'),
        ("layers: [[1, 2], [2, 4]]", "layers: lats", 'Did you mean "last"? Allowed: last, uniform, cka or a list'),
        ("  kind: local\n", "", "teacher: the section needs a `kind`. Allowed: ensemble, local, stored."),
        ("model: org/teacher", "label_map: {a: b}", "teacher: give either `model` or `config`."),
        ("data:\n  source: org/rows", "data: 3", "data: 3 is not allowed. Allowed: a section with source,"),
        ("data:\n  source: org/rows\n", "", "data: is missing. Needed: a section with source,"),
        ("objectives:\n", "budget: {min_retention: 98}\nobjectives:\n", "98 % is written 0.98."),
        ("objectives:\n", "budget: {max_params: 4 percent}\nobjectives:\n", 'or text such as "4%"'),
    ],
)  # fmt: skip
def test_messages_say_what_to_do(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in SAMPLE
    found = problems(tmp_path, SAMPLE.replace(old, new))
    assert len(found) == 1
    assert told in found[0]


def test_words_are_switches_where_one_is_expected_and_text_elsewhere(tmp_path: Path) -> None:
    text = SAMPLE.replace("text: text", "labels: [no, yes, off]") + "export: []\n"
    text = text.replace("epochs: 3", "control: no\n  extra: {dataloader_pin_memory: off}")
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.task.labels == ("no", "yes", "off")
    assert recipe.training.control is False
    assert recipe.training.extra == {"dataloader_pin_memory": False}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "not a list"),
        (b"hello", 'not "hello"'),
        (b"\x89PNG\r\n\x1a\n\xff", "is not UTF-8 text"),
        (b"name: a\0b", "is a binary file"),
        (b"#" * (MAX_BYTES + 1), "is larger than 256 KB"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=told):
        load_recipe(path)


def test_an_absent_file_and_a_folder_point_to_the_right_one(tmp_path: Path) -> None:
    write(tmp_path, SAMPLE)
    with pytest.raises(RecipeError, match=r'there is no such file\. Did you mean "recipe.yaml"'):
        load_recipe(tmp_path / "recpie.yaml")
    with pytest.raises(RecipeError, match=r"is a folder\. Did you mean .*recipe.yaml"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="does not exist either"):
        load_recipe(tmp_path / "no" / "recipe.yaml")


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SAMPLE.encode())
    assert load_recipe(path).name == "sample"


def test_plain_data_may_hold_tuples_and_paths() -> None:
    data = sample()
    data["objectives"] = ({"kind": "hidden", "layers": ((1, 2), (2, 4))},)
    data["data"]["source"] = Path("rows.csv")
    recipe = recipe_from(data)
    assert recipe.data.source == "rows.csv"
    with pytest.raises(RecipeError, match="plain data"):
        recipe_from({**data, "name": object()})
    with pytest.raises(RecipeError, match=r"^recipe  naem: there is no such field"):
        recipe_from({**data, "naem": 1})


def test_dump_round_trips(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SAMPLE.replace("text: text", 'labels: ["no", "1e-4", "~"]')))
    again = load_recipe(write(tmp_path, dump_recipe(recipe)))
    assert again == recipe
    assert again.hash == recipe.hash


def shuffled(value: object, draw: st.DataObject) -> object:
    if isinstance(value, dict):
        keys = draw.draw(st.permutations(list(value)))
        return {key: shuffled(value[key], draw) for key in keys}
    if isinstance(value, list):
        return [shuffled(inner, draw) for inner in value]
    return value


@given(st.data())
def test_any_order_of_keys_gives_the_same_hash(data: st.DataObject) -> None:
    mixed = shuffled(sample(), data)
    assert isinstance(mixed, dict)
    assert recipe_from(mixed).hash == recipe_from(sample()).hash


def test_the_hash_is_of_the_meaning(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SAMPLE))
    spelled_out = recipe_from(recipe.model_dump(mode="json"))
    numbers = load_recipe(write(tmp_path, SAMPLE.replace("epochs: 3", "epochs: 3.0   # the same")))
    budgets = [recipe_from({**sample(), "budget": {"max_params": share}}) for share in ("4%", "4.0 %")]
    assert recipe.hash == spelled_out.hash == numbers.hash == recipe_from(sample()).hash
    assert budgets[0].hash == budgets[1].hash
    assert load_recipe(write(tmp_path, SAMPLE), ["training.epochs=4"]).hash != recipe.hash


def test_a_default_spelled_out_has_the_hash_of_the_default() -> None:
    base = recipe_from(sample())
    for section in ("task", "teacher", "data", "student", "training", "budget", "policy", "report"):
        for name, field in type(getattr(base, section)).model_fields.items():
            value = field.get_default(call_default_factory=True)
            if (
                field.is_required()
                or name in sample().get(section, {})
                or not isinstance(value, bool | int | float | str)
            ):
                continue
            data = sample()
            data.setdefault(section, {})[name] = value
            assert recipe_from(data).hash == base.hash, f"{section}.{name}"


def test_places_take_no_part_in_equality(tmp_path: Path) -> None:
    read = load_recipe(write(tmp_path, SAMPLE))
    assert read == Recipe.model_validate_json(read.model_dump_json())


def test_overrides_replace_add_and_index(tmp_path: Path) -> None:
    overrides = [
        "objectives.0.weight=2", "objectives[1].layers=uniform", "training.learning_rate=1e-3", "training.max_steps=",
        "budget.max_params=5%", "data.splits.test=~", "export=[{kind: onnx}]", "report.examples=on",
    ]  # fmt: skip
    recipe = load_recipe(write(tmp_path, SAMPLE), overrides)
    assert recipe.objectives[0].weight == 2.0
    assert recipe.objectives[1].layers == "uniform"  # type: ignore[union-attr]
    assert recipe.training.learning_rate == 1e-3
    assert recipe.budget.max_params == "5%"
    assert recipe.data.splits.test is None
    assert recipe.export[0].kind == "onnx"
    assert recipe.report.examples is True
    assert recipe.places.at(("training", "learning_rate")).text == "--set training.learning_rate=1e-3"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainin.epochs=3", 'trainin: there is no such field. Did you mean "training"?'),
        ("training.epoch=3", 'training.epoch: there is no such field. Did you mean "epochs"?'),
        ("training.epochs=ten", 'training.epochs: "ten" is not allowed.'),
        ("objectives[9].weight=1", 'objectives is a list: "9" is not one of its positions (0 to 1).'),
        ("objectives.first.weight=1", 'objectives is a list: "first" is not one'),
        ("name.x=1", "name is a value, not a section"),
        ("training.epochs", "is not of the form path=value"),
        ("training..epochs=1", "is not of the form path=value"),
        ("training.epochs=[1", "the value is not plain YAML"),
        ("training.epochs=!!python/name:os 1", "the value is not plain YAML"),
    ],
)
def test_a_wrong_override_is_reported_as_such(tmp_path: Path, override: str, told: str) -> None:
    (found,) = problems(tmp_path, SAMPLE, override)
    assert found.startswith(f"--set {override}  ")
    assert told in found


def test_problems_of_file_and_overrides_come_together(tmp_path: Path) -> None:
    found = problems(tmp_path, SAMPLE.replace("fit: probe", "fit: pro"), "training.seed=-1", "nonsense")
    assert len(found) == 3
