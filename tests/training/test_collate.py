from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from attar.errors import PlanError
from attar.recipe.task import ImageClassificationSpec
from attar.signals import Wanted
from attar.tasks import make_task
from attar.training.collate import Collator
from attar.training.rows import Batch, LiveTeacher, TrainingRows
from tiny import tiny_image_model, tiny_image_processor, tiny_images
from training.parts import Reader, reader, text_task, training_rows


def collator(rows: TrainingRows | None = None, **changes: Any) -> Collator:
    plain = {"seed": 0, "token_dropout": 0.0, "subword_dropout": 0.0, "mixup": 0.0, "in_place": False}
    settings = {**plain, **changes}
    return Collator(rows or training_rows(), settings.pop("task", text_task()[0]), **settings)


def batch(*rows: int, epoch: int = 0, number: int = 0) -> Batch:
    return Batch(np.array(rows), epoch, number)


def image_rows(processor: Any, teacher_processor: Any = None) -> tuple[Any, TrainingRows]:
    labels = [0, 1] * 8
    task = make_task(ImageClassificationSpec(kind="image_classification", image_size=8), ("dark", "light"))
    rows = Dataset.from_dict({"image": tiny_images(labels), "label": labels})
    live = None
    if teacher_processor is not None:
        model = tiny_image_model(("dark", "light"))
        live = LiveTeacher(model, task.encode(rows, teacher_processor), teacher_processor, Wanted())
    return task, TrainingRows(task.encode(rows, processor), processor, live=live)


def test_signals_and_labels_are_those_of_the_rows() -> None:
    made = collator()(batch(7, 3, 30))
    stored = reader()
    assert torch.equal(made["signals"]["logits"], stored.logits[[7, 3, 30]])
    assert made["labels"].tolist() == text_task()[2].labels[[7, 3, 30]].tolist()
    assert "view" not in made
    assert "signals" not in collator(replace(training_rows(), signals=None))(batch(1))


def tokens(made: dict[str, Any]) -> list[list[int]]:
    inputs = made["inputs"]
    return [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


def test_token_dropout_takes_plain_tokens_out() -> None:
    special = set(text_task()[1].all_special_ids)
    rows = range(40)
    before = tokens(collator()(batch(*rows)))
    after = tokens(collator(token_dropout=0.3)(batch(*rows)))
    for had, has in zip(before, after, strict=True):
        left = iter(had)
        assert all(token in left for token in has), "what is left stands in its old order"
        assert [t for t in has if t in special] == [t for t in had if t in special]
    plain = [sum(t not in special for row in side for t in row) for side in (before, after)]
    assert 0.6 < plain[1] / plain[0] < 0.8


def test_a_text_keeps_a_token_at_any_rate() -> None:
    special = set(text_task()[1].all_special_ids)
    for row in tokens(collator(token_dropout=0.999)(batch(*range(40)))):
        assert sum(token not in special for token in row) >= 1


def test_dropout_depends_on_seed_epoch_and_number_alone() -> None:
    def drawn(seed: int = 0, epoch: int = 0, number: int = 0) -> list[list[int]]:
        torch.rand(1)
        np.random.random()
        return tokens(collator(token_dropout=0.3, seed=seed)(batch(*range(40), epoch=epoch, number=number)))

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    assert drawn() != drawn(epoch=1)
    assert drawn() != drawn(number=1)


def test_dropout_in_place_hides_by_the_mask() -> None:
    plain, hidden = collator()(batch(1, 2, 3)), collator(token_dropout=0.4, in_place=True)(batch(1, 2, 3))
    assert torch.equal(plain["inputs"]["input_ids"], hidden["inputs"]["input_ids"])
    masks = plain["inputs"]["attention_mask"], hidden["inputs"]["attention_mask"]
    assert bool((masks[1] <= masks[0]).all())
    assert 0 < int(masks[1].sum()) < int(masks[0].sum())
    assert tokens(hidden) == tokens(collator(token_dropout=0.4)(batch(1, 2, 3)))


def test_dropout_with_padding_on_the_left(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tokens(collator(token_dropout=0.4)(batch(*range(20))))
    monkeypatch.setattr(text_task()[1], "padding_side", "left")
    assert tokens(collator(token_dropout=0.4)(batch(*range(20)))) == right


def words(made: dict[str, Any]) -> list[str]:
    return [text_task()[1].decode(row, skip_special_tokens=True) for row in tokens(made)]


def test_subword_dropout_spells_some_words_in_pieces() -> None:
    rows = range(40)
    whole, spelled = collator()(batch(*rows)), collator(subword_dropout=0.2)(batch(*rows))
    assert words(whole) == words(spelled), "the texts read alike"
    more = sum(map(len, tokens(spelled))) / sum(map(len, tokens(whole)))
    assert 1.05 < more < 1.8, "w12 becomes w ##1 ##2"
    again = collator(subword_dropout=0.2)(batch(*rows))
    assert tokens(again) == tokens(spelled)
    assert tokens(collator(subword_dropout=0.2, seed=1)(batch(*rows))) != tokens(spelled)
    assert spelled["inputs"].keys() == whole["inputs"].keys()


def test_a_text_stays_within_the_longest_one() -> None:
    longest = int(text_task()[2].lengths.max())
    made = collator(subword_dropout=0.99)(batch(*range(40)))
    assert max(map(len, tokens(made))) <= longest
    short = min(range(40), key=lambda row: int(text_task()[2].lengths[row]))
    assert any("##" in token for token in text_task()[1].convert_ids_to_tokens(tokens(made)[short]))


def test_mixup_mixes_both_views_alike() -> None:
    processor, other = tiny_image_processor(8), tiny_image_processor(8)
    other.image_mean = [0.0, 0.0, 0.0]
    task, rows = image_rows(processor, other)
    plain = collator(rows, task=task)(batch(*range(16)))
    mixed = collator(rows, task=task, mixup=1.0)(batch(*range(16)))
    share = mixed["share"]
    assert 0 < share < 1
    random = np.random.default_rng([0, 0, 0, 2])
    assert share == random.beta(1.0, 1.0)
    partner = random.permutation(16)
    for side in ("inputs", "view"):
        pixels = plain[side]["pixel_values"]
        torch.testing.assert_close(mixed[side]["pixel_values"], share * pixels + (1 - share) * pixels[partner])
    assert mixed["labels"].tolist() == plain["labels"].tolist()
    assert mixed["partner_labels"].tolist() == plain["labels"][partner].tolist()


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(PlanError, match="mixes images, but the rows are texts"):
        collator(mixup=0.2)
    task, images = image_rows(tiny_image_processor(8))
    with pytest.raises(PlanError, match=r"training\.token_dropout: changes the tokens of texts"):
        collator(images, task=task, token_dropout=0.1)
    with pytest.raises(PlanError, match=r"training\.subword_dropout: changes the tokens of texts"):
        collator(images, task=task, subword_dropout=0.1)
    with pytest.raises(PlanError, match="compares token by token"):
        collator(subword_dropout=0.1, in_place=True)
    stored = replace(images, signals=Reader(torch.zeros(16, 2), torch.zeros(16, 2)))
    with pytest.raises(PlanError, match="stored signals are of plain ones"):
        collator(stored, task=task, mixup=0.2)
