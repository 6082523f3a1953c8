"""Labels, cuts, overlaps and the content hash."""

from __future__ import annotations

import math

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.data.cutting import draw, stratified_cut

WORDS = [f"word {i}" for i in range(20)]
TWO = ["a", "b"] * 10


def test_labels_follow_the_recipe_then_the_data(load):
    assert load(given={"text": WORDS, "label": [10, 9] * 10}).labels == ("9", "10")
    assert load(given={"text": WORDS, "label": [1.0, 2.0] * 10}).labels == ("1", "2")
    assert load(given={"text": WORDS, "label": ["10", "9"] * 10}).labels == ("9", "10")
    assert load(given={"text": WORDS, "label": ["10", "09"] * 10}).labels == ("09", "10")
    assert load(given={"text": WORDS, "label": [True, False] * 10}).labels == ("0", "1")
    assert load(given={"text": WORDS, "label": np.array([3, 4] * 10)}).labels == ("3", "4")
    named = load(given={"text": WORDS, "label": TWO}, task={"labels": ["b", "a", "c"]})
    assert named.labels == ("b", "a", "c")
    assert {(t.split()[1], k) for t, k in zip(named.train["text"], named.train["label"], strict=True)} <= {
        (str(i), 1 - i % 2) for i in range(20)
    }
    by_id = load(given={"text": WORDS, "label": [0, 1] * 10}, task={"labels": ["negative", "positive"]})
    assert set(by_id.train["label"]) == {0, 1}


@pytest.mark.parametrize(
    ("cells", "names", "labels", "first"),
    [
        ([["x", "y"], [], ["y"]], None, ("x", "y"), [1, 1]),
        ([[1, 0, 1], [0, 0, 0], [0, 1, 0]], None, ("0", "1", "2"), [1, 0, 1]),
        ([[1, 0], [0, 1], [1, 1]], ["x", "y"], ("x", "y"), [1, 0]),
        ([[2], [0, 1], [1]], ["x", "y", "z"], ("x", "y", "z"), [0, 0, 1]),
        ([[True, False]] * 3, None, ("0", "1"), [1, 0]),
        (['["x", "y"]', "[]", '["y"]'], None, ("x", "y"), [1, 1]),
    ],
)
def test_several_labels_a_row(load, cells, names, labels, first):
    rows = {"text": [f"text {i}" for i in range(12)], "label": cells * 4}
    test = {"text": ["x", "y", "z"], "label": cells}
    splits = load(given={"train": rows, "test": test}, task={"problem": "multi_label", "labels": names})
    assert splits.labels == labels
    assert splits.test[0]["label"] == first


def test_numbers(load):
    splits = load(
        given={"text": WORDS, "label": [str(i / 4) for i in range(20)]},
        task={"problem": "regression", "label": "label"},
    )
    assert splits.labels == ("label",)
    values = {t: v for part in (splits.train, splits.test) for t, v in zip(part["text"], part["label"], strict=True)}
    assert all(values[text] == WORDS.index(text) / 4 for text in values)


@pytest.mark.parametrize(
    ("problem", "none"), [("single_label", -100), ("regression", math.nan), ("multi_label", [math.nan])]
)
def test_data_without_labels(load, problem, none):
    splits = load(given={"text": WORDS, "note": WORDS}, task={"problem": problem})
    assert not splits.labelled
    assert not splits.facts.labelled
    assert splits.labels == ()
    assert all(
        str(label) == str(none) for part in (splits.train, splits.validation, splits.test) for label in part["label"]
    )


def test_overlaps_are_taken_out_of_train_and_never_out_of_test(load):
    train = {"text": [*WORDS, "In Test", "in validation", "twice", "twice"], "label": [*TWO, "a", "b", "a", "a"]}
    validation = {"text": ["In  VALIDATION", "both", "own"], "label": ["a", "b", "a"]}
    test = {"text": ["in test", "\uff22oth", "in test"], "label": ["b", "a", "b"]}
    splits = load(given={"train": train, "validation": validation, "test": test})
    assert splits.facts.rows == {"train": 22, "validation": 2, "test": 3}
    assert splits.facts.overlap_removed == 3
    assert splits.facts.duplicates == 1
    assert splits.validation["text"][:] == ["In  VALIDATION", "own"]
    assert not {"In Test", "in validation"} & set(splits.train["text"])
    assert any("1 rows of validation that stand in test" in note for note in splits.facts.notes)


def test_pairs_overlap_only_as_pairs(load):
    task = {"text_pair": "other"}
    train = {"text": ["a", "a", *WORDS], "other": ["b", "c", *WORDS], "label": ["x", "y", *["x", "y"] * 10]}
    splits = load(given={"train": train, "test": {"text": ["A"], "other": ["B"], "label": ["x"]}}, task=task)
    assert splits.facts.overlap_removed == 1
    assert splits.test.column_names == ["text", "text_pair", "label", "origin"]


def test_images_overlap_by_pixels(load):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    given_rows = {"train": {"image": list(pixels), "label": TWO}, "test": {"image": [pixels[3] / 255], "label": ["a"]}}
    splits = load(given=given_rows, task={"kind": "image_classification", "image_size": 4})
    assert splits.facts.overlap_removed == 1


def test_nothing_left_is_an_error(load):
    from attar.errors import DataError

    rows = {"text": WORDS, "label": TWO}
    with pytest.raises(DataError, match="every row of train also stands in test"):
        load(given={"train": rows, "test": rows, "validation": {"text": ["x", "y"], "label": ["a", "b"]}})


def test_the_same_recipe_gives_the_same_rows_and_seeds_differ(load):
    rows = {"text": WORDS, "label": TWO}
    data = {"source": "python", "transfer": [{"kind": "augment_text", "rows": 5}]}
    one, two = load(data, given=rows), load(data, given=rows)
    assert one.hash == two.hash
    assert one.transfer.to_dict() == two.transfer.to_dict()
    assert load({**data, "seed": 1}, given=rows).hash != one.hash
    changed = {"text": WORDS, "label": ["b", *TWO[1:]]}
    assert load(data, given=changed).hash != one.hash


def test_fewer_training_rows_in_proportion(load):
    rows = {"text": [f"text {i}" for i in range(200)], "label": ["a"] * 150 + ["b"] * 50}
    splits = load({"source": "python", "max_train_rows": 40}, given=rows)
    assert splits.facts.rows["train"] == 40
    assert splits.train["label"][:].count(1) in (9, 10, 11)


def test_slices_are_kept(load):
    splits = load(given={"text": WORDS, "label": TWO, "source": [1, 2] * 10}, task={"slice_by": "source"})
    assert set(splits.test["slice"]) == {"1", "2"}


def test_a_selected_dataset_is_read_through_its_selection(load):
    whole = Dataset.from_dict({"text": WORDS, "label": TWO})
    splits = load(given={"train": whole.select([1, 3, 5, 0, 2, 4]), "test": whole.select([7, 6])})
    assert splits.test["text"][:] == ["word 7", "word 6"]
    assert splits.test["label"][:] == [1, 0]


@settings(max_examples=60)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_a_cut_parts_the_rows_and_leaves_every_class_behind(labels, fraction, seed):
    array = np.array(labels)
    kept, cut = stratified_cut(array, fraction, seed)
    assert sorted([*kept, *cut]) == list(range(len(labels)))
    assert set(array[kept]) == set(labels)
    again = stratified_cut(array, fraction, seed)
    assert again[1].tolist() == cut.tolist()
    rows = draw(array, 3, seed)
    assert len(rows) == min(3, len(labels))


def test_a_cut_is_in_proportion():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    _, cut = stratified_cut(labels, 0.1, 0)
    assert np.abs(np.bincount(labels[cut]) - [60, 30, 10]).max() <= 1
