"""Augmentation and unlabelled rows."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.data.augment_image import affine, augment_images
from attar.data.augment_text import augment_texts
from attar.data.overlap import text_key
from attar.errors import DataError
from attar.recipe.data import AugmentImageSpec, AugmentTextSpec

TEXTS = [f"{kind} number {i} is here today" for i in range(8) for kind in ("cat", "dog")]
CLASSES = np.array([0, 1] * 8)
LABELS = ["cat", "dog"] * 8
ROWS = {"text": TEXTS, "label": LABELS}


def make(texts=TEXTS, pairs=None, classes=CLASSES, avoid=(), longest=128, **spec):
    plain = {"rows": 50, "splice": 0.0, "drop": 0.0, "swap": 0.0}
    return augment_texts(
        list(texts),
        pairs,
        classes,
        AugmentTextSpec(kind="augment_text", **{**plain, **spec}),
        avoid={text_key(t) for t in avoid},
        longest=longest,
    )


chance = st.floats(0.0, 1.0)


@settings(max_examples=40)
@given(
    texts=st.lists(st.text(st.sampled_from("ab \t\n爱你é"), max_size=12), min_size=1, max_size=8),
    splice=chance,
    within=chance,
    drop=chance,
    swap=chance,
    insert=chance,
    seed=st.integers(0, 5),
    paired=st.booleans(),
)
def test_new_texts_are_never_empty_never_avoided_ones_and_repeatable(
    texts, splice, within, drop, swap, insert, seed, paired
):
    spec = AugmentTextSpec(
        kind="augment_text",
        rows=20,
        splice=splice,
        splice_within_label=within,
        drop=drop,
        swap=swap,
        insert=insert,
        seed=seed,
    )
    pairs = [f"other {t}" for t in texts] if paired else None
    classes = np.arange(len(texts)) % 2
    avoid = {text_key(t, None if pairs is None else pairs[i]) for i, t in enumerate(texts)}
    if (not paired and not any(t.strip() for t in texts)) or not any((splice, drop, swap, insert)):
        with pytest.raises(DataError):
            augment_texts(texts, pairs, classes, spec, avoid=avoid, longest=16)
        return
    made = augment_texts(texts, pairs, classes, spec, avoid=avoid, longest=16)
    assert len(made) <= 20
    keys = [text_key(t, None if made.pairs is None else made.pairs[i]) for i, t in enumerate(made.texts)]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & avoid
    words = {w for t in [*texts, *(pairs or [])] for w in t.replace("爱", " 爱 ").replace("你", " 你 ").split()}
    for i, text in enumerate(made.texts):
        source = int(made.sources[i])
        if made.pairs is None:
            assert text.strip()
        else:
            assert (text == texts[source]) != (made.pairs[i] == pairs[source])
        new_words = set(text.replace("爱", " 爱 ").replace("你", " 你 ").split())
        assert new_words <= words
    again = augment_texts(texts, pairs, classes, spec, avoid=avoid, longest=16)
    assert (again.texts, again.pairs) == (made.texts, made.pairs)
    assert again.keeps_label.tolist() == made.keeps_label.tolist()


def test_a_splice_joins_a_head_and_a_tail():
    made = make(splice=1.0)
    tails = {tuple(t.split()[k:]) for t in TEXTS for k in range(1, 6)}
    for text, source, keeps in zip(made.texts, made.sources, made.keeps_label, strict=True):
        words, head = text.split(), TEXTS[source].split()
        assert any(words[:k] == head[:k] and tuple(words[k:]) in tails for k in range(1, len(words)))
        if keeps:
            assert CLASSES[source] in (0, 1)
    assert 0 < made.keeps_label.mean() < 1


def test_a_splice_within_a_label_keeps_it():
    made = make(splice=1.0, splice_within_label=1.0, rows=30)
    assert made.keeps_label.all()
    two = [w for text in TEXTS for w in text.split() if w in ("cat", "dog")]
    assert set(two) == {"cat", "dog"}
    assert not make(splice=1.0, classes=None).keeps_label.any()


@pytest.mark.parametrize("change", ["drop", "swap", "insert"])
def test_small_changes_keep_the_label(change):
    made = make(**{change: 0.3}, rows=30, avoid=TEXTS)
    assert made.keeps_label.all()
    for text, source in zip(made.texts, made.sources, strict=True):
        before, after = TEXTS[source].split(), text.split()
        match change:
            case "drop":
                assert len(after) < len(before)
            case "swap":
                assert sorted(after) == sorted(before)
            case _:
                assert len(after) > len(before)


def test_rates_are_what_they_say():
    texts = [" ".join(f"w{i}x{j}" for j in range(50)) for i in range(40)]
    classes = np.zeros(40, dtype=np.int64)
    dropped = make(texts, classes=classes, drop=0.2, rows=300)
    assert 0.78 < np.mean([len(t.split()) for t in dropped.texts]) / 50 < 0.82
    grown = make(texts, classes=classes, insert=0.2, rows=300)
    assert 1.18 < np.mean([len(t.split()) for t in grown.texts]) / 50 < 1.22


def test_a_pair_changes_on_one_side_and_keeps_its_label_only_under_drop_and_swap():
    pairs = [f"reply {t}" for t in TEXTS]
    kept = make(pairs=pairs, drop=0.3)
    assert kept.keeps_label.all()
    assert any(a != TEXTS[s] for a, s in zip(kept.texts, kept.sources, strict=True))
    assert any(b != pairs[s] for b, s in zip(kept.pairs, kept.sources, strict=True))
    assert not make(pairs=pairs, splice=1.0, splice_within_label=1.0).keeps_label.any()
    assert not make(pairs=pairs, insert=1.0).keeps_label.any()


def test_words_without_spaces_between_them_are_cut_too():
    made = make(["我爱你们", "他们喜欢猫"], classes=np.array([0, 1]), splice=1.0, rows=10)
    assert all(" " not in text for text in made.texts)
    assert len(made) == 10


def test_nothing_new_is_said_not_hidden(load):
    data = {"source": "python", "transfer": [{"kind": "augment_text", "rows": 500, "splice": 0.0, "swap": 0.0}]}
    rows = {"text": [f"a{i} b" for i in range(16)], "label": LABELS}
    splits = load(data, given=rows)
    assert splits.facts.rows["transfer"] < 40
    assert any("texts made of 500 wanted" in note for note in splits.facts.notes)


def test_two_hundred_thousand_texts_take_seconds():
    texts = [f"how do i {verb} my {noun} in {i} days" for i in range(100) for verb in ("get", "use") for noun in "abcd"]
    start = time.process_time()
    made = make(texts, classes=None, splice=0.5, drop=0.1, swap=0.1, insert=0.1, rows=50_000)
    assert len(made) == 50_000
    assert time.process_time() - start < 10


def test_transfer_rows_keep_labels_where_they_survive_and_avoid_test(load):
    given_rows = {"train": ROWS, "test": {"text": ["cat here today", "dog here"], "label": ["cat", "dog"]}}
    data = {
        "source": "python",
        "transfer": [
            {"kind": "augment_text", "rows": 400, "splice": 0.3, "drop": 0.5},
            {"kind": "augment_text", "rows": 30, "splice": 0.0, "swap": 0.4, "seed": 1},
        ],
    }
    splits = load(data, given=given_rows)
    keys = [text_key(text) for text in splits.transfer["text"]]
    held = {text_key(text) for part in (splits.test, splits.validation) for text in part["text"]}
    assert not held & set(keys)
    assert len(set(keys)) == len(keys)
    assert set(splits.transfer["origin"]) == {"augmented"}
    assert splits.transfer.column_names == splits.train.column_names
    for text, label in zip(splits.transfer["text"], splits.transfer["label"], strict=True):
        if label != -100 and len({"cat", "dog"} & set(text.split())) == 1:
            assert ("cat" in text) == (label == 0)
    assert -100 in splits.transfer["label"][:]


@pytest.mark.parametrize("problem", ["regression", "multi_label"])
def test_other_problems_lose_labels_on_a_splice_only(load, problem):
    labels = [float(i) for i in range(16)] if problem == "regression" else [["x"], ["y", "x"]] * 8
    data = {"source": "python", "transfer": [{"kind": "augment_text", "rows": 40}]}
    splits = load(data, {"problem": problem}, {"text": TEXTS, "label": labels})
    none = [math.isnan(np.ravel(label)[0]) for label in splits.transfer["label"]]
    assert 0 < sum(none) < 40


def test_unlabelled_rows(load, tmp_path):
    lines = ["text", *(f"free text {i}" for i in range(9)), "Cat number 3 is here  today"]
    (tmp_path / "pool.csv").write_text("\n".join(lines))
    transfer = {"kind": "unlabelled", "source": str(tmp_path / "pool.csv")}
    test = {"text": ["cat number 3 is here today"], "label": ["cat"]}
    given_rows = {"train": ROWS, "test": test}
    splits = load({"source": "python", "transfer": [transfer]}, given=given_rows)
    assert len(splits.transfer) == 9
    assert splits.facts.overlap_removed == 2
    assert set(splits.transfer["label"]) == {-100}
    assert set(splits.transfer["origin"]) == {"unlabelled"}
    some = load({"source": "python", "transfer": [{**transfer, "rows": 4}]}, given=given_rows)
    assert 3 <= len(some.transfer) <= 4
    assert [(source.role, source.name) for source in splits.sources] == [("transfer", str(tmp_path / "pool.csv"))]
    assert splits.sources[0].hash != some.sources[0].hash
    with pytest.raises(DataError, match=r'no column "body" \(task.text\)'):
        load({"source": "python", "transfer": [transfer]}, {"text": "body"}, {"body": TEXTS, "label": LABELS})
    with pytest.raises(DataError, match=r'data.transfer\[0\]: .* no split "pool"'):
        load({"source": "python", "transfer": [{**transfer, "split": "pool"}]}, given=given_rows)


def test_unlabelled_rows_of_a_multi_label_task_are_rows_of_nan(load, tmp_path):
    (tmp_path / "pool.csv").write_text("text\nfree\n")
    data = {"source": "python", "transfer": [{"kind": "unlabelled", "source": str(tmp_path / "pool.csv")}]}
    splits = load(data, {"problem": "multi_label"}, {"text": TEXTS, "label": [["x"], ["y", "x"]] * 8})
    assert np.isnan(splits.transfer[0]["label"]).tolist() == [True, True]


def test_unlabelled_images(load, tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3)).astype(np.uint8)
    for i in range(3):
        Image.fromarray(pixels[i] // 2).save(tmp_path / f"{i}.png")
    data = {"source": "python", "transfer": [{"kind": "unlabelled", "source": str(tmp_path)}]}
    task = {"kind": "image_classification", "image_size": 4}
    splits = load(data, task, {"image": list(pixels), "label": LABELS})
    assert len(splits.transfer) == 3
    assert set(splits.transfer["label"]) == {-100}


def test_new_images_keep_the_label_and_are_repeatable(load):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 3)).astype(np.uint8)
    task = {"kind": "image_classification", "image_size": 6, "slice_by": "part"}
    data = {"source": "python", "transfer": [{"kind": "augment_image", "rows": 24, "flip": True, "noise": 0.05}]}
    rows = {"image": list(pixels), "label": LABELS, "part": ["left", "right"] * 8}
    one, two = load(data, task, rows), load(data, task, rows)
    assert one.hash == two.hash
    assert len(one.transfer) == 24
    assert set(one.transfer["label"]) == {0, 1}
    assert [{"left": 0, "right": 1}[s] for s in one.transfer["slice"]] == one.transfer["label"][:]
    assert one.transfer[0]["image"].size == (6, 6)


@settings(max_examples=25)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    level=st.integers(0, 255),
    rotate=st.floats(0, 180),
    shift=st.floats(0, 1),
    scale=st.floats(0, 1),
)
def test_a_plain_image_stays_plain_under_moves(height, width, level, rotate, shift, scale):
    plain = np.full((height, width, 3), level, np.uint8)
    moved = affine(plain, math.radians(rotate), 1 + scale, shift * height, -shift * width)
    assert np.allclose(moved, level)


def test_moves_go_where_they_say():
    image = np.zeros((5, 5, 3), np.uint8)
    image[1, 2] = 200
    assert affine(image, 0.0, 1.0, 1.0, 0.0)[2, 2, 0] == 200
    assert affine(image, 0.0, 1.0, 0.0, 2.0)[1, 4, 0] == 200
    assert np.isclose(affine(image, math.pi / 2, 1.0, 0.0, 0.0)[2, [1, 3], 0].max(), 200)
    same = affine(image, 0.0, 1.0, 0.0, 0.0)
    assert (same == image).all()


def test_an_image_augmentation_that_changes_nothing():
    image = np.zeros((4, 4, 3), np.uint8)
    off = {"rotate": 0.0, "shift": 0.0, "scale": 0.0}
    with pytest.raises(DataError, match="all off"):
        augment_images(lambda _: image, 1, AugmentImageSpec(kind="augment_image", rows=2, **off), avoid=set())
    made = augment_images(lambda _: image, 1, AugmentImageSpec(kind="augment_image", rows=2), avoid=set())
    assert len(made.images) == 1
