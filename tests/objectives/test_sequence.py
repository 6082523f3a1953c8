"""Which tokens of a text count, against transformers and by hand; whose text a step learns from."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DataCollatorForLanguageModeling
from transformers.loss.loss_utils import ForCausalLMLoss

from attar.errors import TrainingError
from attar.logits import Projection
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Share, Term
from attar.objectives.sequence import next_token_rows, on_policy
from attar.objectives.supervised import cross_entropy
from tiny import tiny_tokenizer

quick = settings(max_examples=50, derandomize=True)
EOS = 2
"""It pads, too."""
IDS = torch.tensor([[5, 6, 7, 8, EOS, EOS, EOS], [EOS, EOS, 5, 6, 7, EOS, 9]])
ATTENDED = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
"""The first is padded right, after its end; the second left, and an end within its prompt is no padding."""
ANSWER = torch.tensor([[0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1]])


def test_by_hand() -> None:
    keep, targets = next_token_rows(IDS, ANSWER, ATTENDED)
    assert keep.long().tolist() == [[0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0]]
    assert targets.tolist() == [[0, 7, 8, EOS, 0, 0, 0], [0, 0, 0, 0, 0, 9, 0]]


@quick
@given(data=st.data(), shape=st.tuples(st.integers(0, 4), st.integers(0, 6)))
def test_each_position_is_asked_for_the_next_token(data: st.DataObject, shape: tuple[int, int]) -> None:
    ids, answer, attended = (
        data.draw(arrays.arrays(np.int64, shape, elements=st.integers(0, top))) for top in (9, 1, 1)
    )
    keep, targets = next_token_rows(*(torch.from_numpy(part) for part in (ids, answer, attended)))
    for b in range(shape[0]):
        for t in range(shape[1]):
            wanted = t + 1 < shape[1] and attended[b, t] and attended[b, t + 1] and answer[b, t + 1]
            assert bool(keep[b, t]) == bool(wanted)
            assert targets[b, t] == (ids[b, t + 1] if wanted else 0)


def nll(hidden: Tensor, head: Tensor, ids: Tensor, answer: Tensor, attended: Tensor) -> Tensor:
    keep, targets = next_token_rows(ids, answer, attended)
    share = Share(Term("sequence_nll", cross_entropy), targets.flatten(), keep.flatten(), int(keep.sum()))
    return reduce_rows(Projection(hidden.flatten(0, 1), head), [share]).total


def test_sequence_nll_is_transformers_loss() -> None:
    """Theirs shifts labels once too, and pads them instead of cutting the logits."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(2, 7, 4, generator=generator), torch.randn(10, 4, generator=generator)
    labels = torch.where((ANSWER & ATTENDED).bool(), IDS, -100)
    peer = ForCausalLMLoss(hidden @ head.T, labels, 10)
    torch.testing.assert_close(nll(hidden, head, IDS, ANSWER, ATTENDED), peer)


def test_trap_labels_shifted_twice() -> None:
    """Targets handed to a loss that shifts by itself ask each position for the token after the next."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(2, 7, 4, generator=generator), torch.randn(10, 4, generator=generator)
    keep, targets = next_token_rows(IDS, ANSWER, ATTENDED)
    twice = ForCausalLMLoss(hidden @ head.T, torch.where(keep, targets, -100), 10)
    once = ForCausalLMLoss(hidden @ head.T, None, 10, shift_labels=torch.where(keep, targets, -100))
    value = nll(hidden, head, IDS, ANSWER, ATTENDED)
    torch.testing.assert_close(value, once)
    assert (value - twice).abs() > 0.01


def test_trap_a_collator_that_masks_the_padding_id_loses_the_real_end() -> None:
    tokenizer = tiny_tokenizer(["a b c"])
    tokenizer.pad_token = "[SEP]"  # the end-of-text token, as is usual where a tokenizer has no padding token
    batch = tokenizer(["a b c", "a"], padding=True, return_tensors="pt")
    labels = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": ids} for ids in batch["input_ids"]])
    end = tokenizer.convert_tokens_to_ids("[SEP]")
    assert end not in labels["labels"]
    keep, targets = next_token_rows(
        batch["input_ids"], torch.ones_like(batch["input_ids"]), attention_mask=batch["attention_mask"]
    )
    assert (targets[keep] == end).sum() == 2  # one a text
    assert keep.sum(1).tolist() == [4, 2]


def test_the_first_token_of_a_left_padded_text_has_nothing_before_it() -> None:
    ids, attended = torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 1, 1]])
    assert next_token_rows(ids, torch.ones_like(ids), attended).keep.tolist() == [[False, False, True, False]]


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(TrainingError, match=r"ids \[2, 7\], completion \[2, 6\] and attention \[2, 7\] differ"):
        next_token_rows(IDS, ANSWER[:, 1:], ATTENDED)


@quick
@given(seed=st.integers(0, 2**31), step=st.integers(0, 10**6), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_larger_fraction_only_adds_steps(seed: int, step: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert on_policy(step, fraction=high, seed=seed) >= on_policy(step, fraction=low, seed=seed)
    assert not on_policy(step, fraction=0.0, seed=seed)
    assert on_policy(step, fraction=1.0, seed=seed)


def test_on_policy_takes_its_share_of_steps_whatever_was_drawn_before() -> None:
    drawn = [on_policy(step, fraction=0.3, seed=1) for step in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.3, abs=0.03)
    np.random.seed(5)
    assert [on_policy(step, fraction=0.3, seed=1) for step in range(3999, 3900, -1)] == drawn[:3900:-1]
    assert drawn != [on_policy(step, fraction=0.3, seed=2) for step in range(4000)]
    with pytest.raises(ValueError, match=r"fraction is -0\.1"):
        on_policy(0, fraction=-0.1, seed=0)
