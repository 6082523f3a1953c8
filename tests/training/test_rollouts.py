"""Answers that the student writes: scored as sampled, counted after they are written, the same in a resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM

from attar.known import Known
from attar.recipe.objectives import (
    ContrastiveSkewSpec,
    ForwardKLSpec,
    HardLabelsSpec,
    HiddenSpec,
    JSDSpec,
    ReverseKLSpec,
    SkewKLSpec,
    SkewReverseKLSpec,
)
from attar.recipe.task import CausalLMSpec
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences, prompt_lengths
from attar.training.rollouts import Turns, make_rollouts
from attar.training.rows import Batch, Batches, LiveTeacher, TrainingRows
from tiny_language import tiny_llama
from training.parts import same_bits
from training.rollout_parts import (
    ENCODED,
    REVERSE,
    TASK,
    TOKENIZER,
    first_step,
    rollouts,
    rows_of,
    student,
    terms_of,
    trained,
    trainer_of,
)

END = int(TOKENIZER.eos_token_id)
HARD = HardLabelsSpec(kind="hard_labels", weight=0.5)


def answers_in(made: dict[str, Any], view: str = "inputs", places: str = "positions") -> dict[int, list[int]]:
    """What the loss looks at: by row of the micro-batch the ids that are told, read off the padded batch."""
    ids, width = made[view]["input_ids"], made[view]["input_ids"].shape[1]
    found: dict[int, list[int]] = {}
    for place in made[places].tolist():
        row, at = divmod(place, width)
        found.setdefault(row, []).append(int(ids[row, at + 1]))
    return found


def watched(trainer: Any) -> list[list[int]]:
    """Everything that the writer says from now on."""
    said: list[list[int]] = []
    write = trainer.rollouts.writer

    class Watched:
        ends = write.ends

        def __call__(self, prompts: Any, epoch: int) -> list[list[int]]:
            found = write(prompts, epoch)
            said.extend(found)
            return found

    trainer.rollouts.writer = Watched()
    return said


def test_the_ids_that_were_sampled_are_scored_by_both(tmp_path: Path) -> None:
    """Random models write ids that no tokenizer would give back for their text."""
    trainer = trainer_of(tmp_path, written=rollouts())
    said = watched(trainer)
    (made,) = first_step(trainer)
    ours = answers_in(made)
    assert sorted(ours.values()) == sorted(said)
    assert answers_in(made, "view", "view_positions") == ours
    assert any(TOKENIZER(TOKENIZER.decode(ids))["input_ids"] != ids for ids in said)
    assert made["counts"] == {"reverse_kl": sum(map(len, said))}
    assert all(END not in ids[:-1] for ids in said)
    batch = next(iter(trainer.batches))
    for row, number in enumerate(batch.rows.tolist()):
        prompt = ENCODED.inputs["input_ids"][number][: prompt_lengths(ENCODED, [number])[0]]
        mask = made["inputs"]["attention_mask"][row].bool()
        assert made["inputs"]["input_ids"][row][mask].tolist() == [*prompt.tolist(), *ours[row]]


def reverse(p: Tensor, q: Tensor) -> Tensor:
    return (q.exp() * (q - p)).sum(-1)


def mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """KL(first || share first + (1 - share) second)."""
    return (first.exp() * (first - (share * first.exp() + (1 - share) * second.exp()).log())).sum(-1)


ORACLES: list[tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = [
    (REVERSE, reverse),
    (ForwardKLSpec(kind="forward_kl"), lambda p, q: reverse(q, p)),
    (SkewKLSpec(kind="skew_kl", alpha=0.1), lambda p, q: mixed(p, q, 0.1)),
    (SkewReverseKLSpec(kind="skew_reverse_kl", alpha=0.1), lambda p, q: mixed(q, p, 0.1)),
    (JSDSpec(kind="jsd", beta=0.3), lambda p, q: 0.3 * mixed(p, q, 0.3) + 0.7 * mixed(q, p, 0.7)),
]


def test_contrastive_skew_knows_whose_text_it_is(tmp_path: Path) -> None:
    """On the data's answers its value is skew_kl's, on the student's own skew_reverse_kl's; in one training."""
    trainer = trainer_of(
        tmp_path, ContrastiveSkewSpec(kind="contrastive_skew"), SkewKLSpec(kind="skew_kl"),
        SkewReverseKLSpec(kind="skew_reverse_kl"), written=rollouts(cold_start=0.5),
    )  # fmt: skip
    for epoch, sibling in ((0, "skew_kl"), (1, "skew_reverse_kl")):
        trainer.batches.set_epoch(epoch)
        (sample,) = first_step(trainer)
        _, values = trainer.distil(**sample)
        torch.testing.assert_close(values["contrastive_skew"], values[sibling])
    assert float(values["skew_kl"]) != pytest.approx(float(values["skew_reverse_kl"]), rel=1e-3)


def test_processes_write_other_answers_to_one_prompt(tmp_path: Path) -> None:
    same = replace(
        ENCODED, inputs={"input_ids": [ENCODED.inputs["input_ids"][0]] * 24}, learned=[ENCODED.learned[0]] * 24,
        lengths=ENCODED.lengths[:1].repeat(24), labels=ENCODED.labels[:1].repeat(24),
    )  # fmt: skip
    said: list[list[list[int]]] = []
    for rank in range(2):
        batches = Batches(same.lengths, batch_size=6, accumulate=1, seed=0, world=2, rank=rank)
        made = make_rollouts(rollouts(), student(), rows_of(terms_of(), same), TASK, batches, 6, tmp_path, "k")
        assert made is not None
        (sample,) = made.fill([{"batch": next(iter(batches))}])
        said.append(list(answers_in(sample).values()))
    assert len(said[0]) == len(said[1]) == 6
    assert said[0] != said[1]


@pytest.mark.parametrize(("spec", "oracle"), ORACLES, ids=lambda one: getattr(one, "kind", ""))
def test_the_loss_is_that_of_dense_logits_on_the_same_ids(
    tmp_path: Path, spec: Any, oracle: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """In float64, row by row without padding: the mean over all written tokens of the step."""
    model = student()
    trainer = trainer_of(tmp_path, spec, model=model, written=rollouts(), batch_size=4, accumulate=2)
    said = watched(trainer)
    samples = first_step(trainer)
    total = sum(float(trainer.distil(**sample)[0].detach()) for sample in samples)
    own, teacher = student().double(), tiny_llama(TOKENIZER).double()
    values: list[Tensor] = []
    for sample in samples:
        for row, ids in answers_in(sample).items():
            whole = sample["inputs"]["input_ids"][row][sample["inputs"]["attention_mask"][row].bool()]
            with torch.no_grad():
                p, q = (m(whole[None]).logits[0, -len(ids) - 1 : -1].log_softmax(-1) for m in (teacher, own))
            values.append(oracle(p, q))
    assert len(samples) == 2
    assert sum(map(len, values)) == sum(map(len, said)) == samples[0]["counts"][spec.kind]
    assert total == pytest.approx(float(torch.cat(values).mean()), rel=1e-4)


def test_micro_batches_make_the_same_step_as_one_batch(tmp_path: Path) -> None:
    """Draws belong to rows, so accumulation changes neither what is written nor, its count right, the weights."""
    whole, _ = trained(tmp_path / "whole", REVERSE, written=rollouts(), max_steps=3)
    cut, _ = trained(tmp_path / "cut", REVERSE, written=rollouts(), max_steps=3, batch_size=2, accumulate=4)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, msg=name, rtol=1e-3, atol=1e-5)


def test_a_resumed_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Interrupted in step 5, in mid-epoch, behind a checkpoint after step 4; half of the steps are written."""
    settings: dict[str, Any] = {"written": rollouts(fraction=0.6), "checkpoints": 3, "batch_size": 6}
    whole, facts = trained(tmp_path / "whole", REVERSE, HARD, **settings)
    model, calls = student(), count(1)

    def interrupt(layer: torch.nn.Module, *_: object) -> None:
        if layer.training and next(calls) == 5:
            raise KeyboardInterrupt

    model.model.layers[0].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", REVERSE, HARD, model=model, **settings)
    assert (tmp_path / "cut" / "checkpoint-4").is_dir()
    again, resumed = trained(tmp_path / "cut", REVERSE, HARD, **settings)
    assert same_bits(again, whole)
    assert resumed.curve == facts.curve
    assert facts.rollouts is not None
    assert resumed.rollouts is not None
    assert resumed.rollouts.texts == facts.rollouts.texts
    assert resumed.rollouts.length == pytest.approx(facts.rollouts.length)
    assert 0 < facts.rollouts.texts < 36


def test_without_written_steps_nothing_changes(tmp_path: Path) -> None:
    plain, facts = trained(tmp_path / "plain", REVERSE, HARD, max_steps=3)
    for name, spec in (("none", rollouts(fraction=0.0)), ("cold", rollouts(cold_start=1.0))):
        other, told = trained(tmp_path / name, REVERSE, HARD, max_steps=3, written=spec)
        assert same_bits(other, plain)
        assert told.curve == facts.curve
        assert told.rollouts is None


def test_the_first_steps_learn_from_the_data(tmp_path: Path) -> None:
    """Three steps an epoch, nine steps: the first third is one epoch. Labels count there and nowhere else."""
    trainer = trainer_of(tmp_path, REVERSE, HARD, written=rollouts(cold_start=0.3), max_steps=9)
    turns = trainer.rollouts.turns if trainer.rollouts else None
    assert turns is not None
    told = [turns.written(Batch(np.arange(8), epoch, number)) for epoch in range(3) for number in range(3)]
    assert told == [False] * 3 + [True] * 6
    kinds: list[tuple[bool, int]] = []
    for epoch in range(2):
        trainer.batches.set_epoch(epoch)
        (sample,) = first_step(trainer)
        kinds.append(("rows" in sample, sample["counts"]["hard_labels"]))
        loss, values = trainer.distil(**sample)
        assert torch.isfinite(loss)
        assert (float(values["hard_labels"]) > 0) == (epoch == 0)
    assert kinds[0][1] > 0
    assert kinds[1][1] == 0


def test_the_share_of_written_steps_is_the_fraction() -> None:
    turns = Turns(fraction=0.3, first=100, seed=5, an_epoch=50, pieces=4)
    by_step = [[turns.written(Batch(np.zeros(1, np.int64), e, n)) for n in range(s, s + 4)]
               for e in range(40) for s in range(0, 200, 4)]  # fmt: skip
    assert all(len(set(pieces)) == 1 for pieces in by_step)  # all of a step's micro-batches alike
    assert not any(pieces[0] for pieces in by_step[:100])
    assert np.mean([pieces[0] for pieces in by_step[100:]]) == pytest.approx(0.3, abs=0.04)


def one_sided(token: int | None) -> LlamaForCausalLM:
    """A student that writes one token for ever; None: never the end."""
    model = student()
    head = torch.nn.Linear(16, len(TOKENIZER), bias=True)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        if token is None:
            head.bias.zero_()[END] = -1e4
        else:
            head.bias.fill_(0.0)[token] = 1e4
    model.lm_head = head
    model.config.tie_word_embeddings = False
    return model


def test_what_never_ends_stops_at_the_limit_and_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    _, facts = trained(tmp_path / "out", model=one_sided(None), written=rollouts(), log=log, max_steps=2)
    assert facts.rollouts is not None
    assert (facts.rollouts.length, facts.rollouts.at_limit) == (6.0, 1.0)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["rollouts"]["at_limit"] for line in lines] == [1.0, 1.0]
    assert {"texts", "length", "seconds", "share_of_time"} < lines[0]["rollouts"].keys()
    assert 0 < lines[0]["rollouts"]["share_of_time"] <= 1
    assert facts.curve[0]["rollout_length"] == 6.0


def test_what_ends_at_once_is_one_token(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, model=one_sided(END), written=rollouts())
    (sample,) = first_step(trainer)
    assert list(answers_in(sample).values()) == [[END]] * 8


def no_room(rows: set[int]) -> TrainingRows:
    """Some of the prompts are as long as a sequence may be."""
    ids = [np.arange(3, 43) % 40 if at in rows else one for at, one in enumerate(ENCODED.inputs["input_ids"])]
    learned = [np.zeros(40, bool) if at in rows else one for at, one in enumerate(ENCODED.learned)]
    lengths = np.array([len(one) for one in ids])
    cut: Sequences = replace(ENCODED, inputs={"input_ids": ids}, learned=learned, lengths=lengths,
                             labels=np.array([int(one.sum()) for one in learned]))  # fmt: skip
    return rows_of(terms_of(REVERSE), cut)


def test_empty_answers_do_no_harm(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "some", written=rollouts(), rows=no_room({1, 5, 9}), batch_size=24)
    (sample,) = first_step(trainer)
    assert len(answers_in(sample)) == 21
    loss, _ = trainer.distil(**sample)
    assert torch.isfinite(loss)
    weights, facts = trained(tmp_path / "all", written=rollouts(), rows=no_room(set(range(24))), max_steps=2)
    assert all(bool(value.isfinite().all()) for value in weights.values())
    assert [point["loss"] for point in facts.curve if "loss" in point] == [0.0, 0.0]
    assert facts.rollouts is not None
    assert (facts.rollouts.length, facts.rollouts.at_limit) == (0.0, 1.0)


def test_a_teacher_with_other_numbers_scores_the_same_tokens(tmp_path: Path) -> None:
    """Its tokenizer is ours with the numbers reversed: its view holds the same text, the answers by its own numbers."""
    outputs = torch.arange(len(TOKENIZER)).flip(0)
    theirs = replace(ENCODED, inputs={"input_ids": [outputs.numpy()[ids] for ids in ENCODED.inputs["input_ids"]]})
    terms = terms_of(REVERSE)
    live = LiveTeacher(tiny_llama(TOKENIZER), theirs, TOKENIZER, terms.wanted_teacher, Known(outputs))
    trainer = trainer_of(tmp_path, written=rollouts(), rows=TrainingRows(ENCODED, TOKENIZER, live=live))
    (sample,) = first_step(trainer)
    ours, view = answers_in(sample), answers_in(sample, "view", "view_positions")
    assert view == {row: outputs[ids].tolist() for row, ids in ours.items()}
    assert torch.isfinite(trainer.distil(**sample)[0])


def test_chats_are_answered_at_their_end(tmp_path: Path) -> None:
    """What the assistant said before belongs to the prompt, and is not learned from there."""
    task = CausalLM(CausalLMSpec(kind="causal_lm", messages="messages", max_length=40))
    turns = (("user", "the cat"), ("assistant", "sees"), ("user", "the dog"), ("assistant", "wants the moon"))
    chat = [{"role": role, "content": text} for role, text in turns]
    encoded = task.encode(Dataset.from_dict({"messages": [json.dumps(chat)] * 8}), TOKENIZER)
    before = sum(len(TOKENIZER(part["content"])["input_ids"]) for part in chat[:3])
    assert prompt_lengths(encoded, [0]).tolist() == [before]
    trainer = trainer_of(tmp_path, written=rollouts(), rows=rows_of(terms_of(REVERSE), encoded), task=task)
    (sample,) = first_step(trainer)
    assert sample["positions"].min() == before - 1


def test_states_of_written_tokens_are_compared_too(tmp_path: Path) -> None:
    before = student().state_dict()
    after, _ = trained(tmp_path, HiddenSpec(kind="hidden", pool="none"), REVERSE, written=rollouts(), max_steps=2)
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_padded_and_packed_batches_write_and_learn_the_same(tmp_path: Path) -> None:
    (padded, one), (packed, two) = (
        trained(tmp_path / how, written=rollouts(), packing=how, max_steps=3) for how in ("padded", "packed")
    )
    assert (one.packed, two.packed) == (False, True)
    for name, value in padded.items():
        torch.testing.assert_close(packed[name], value, msg=name, rtol=1e-3, atol=1e-5)


def test_workers_of_the_data_loader_change_nothing(tmp_path: Path) -> None:
    one, _ = trained(tmp_path / "one", ReverseKLSpec(kind="reverse_kl"), written=rollouts(fraction=0.5), max_steps=3)
    two, _ = trained(
        tmp_path / "two", ReverseKLSpec(kind="reverse_kl"), written=rollouts(fraction=0.5), max_steps=3,
        extra={"dataloader_num_workers": 1},
    )  # fmt: skip
    assert same_bits(one, two)
