"""Answers by a served teacher: token ids in and out, kept on disk, and errors that say where and what next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.errors import TrainingError
from attar.recipe.objectives import HardLabelsSpec
from attar.recipe.rollouts import RolloutsSpec
from attar.training.endpoint import Kept
from training.parts import same_bits
from training.rollout_parts import REVERSE, first_step, rollouts, student, trained, trainer_of
from training.served import NAME, Served, serving
from training.test_rollouts import answers_in

HARD = HardLabelsSpec(kind="hard_labels")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("attar.training.endpoint._PAUSES", (0.0, 0.0))
    with serving() as served:
        yield served


def spec(server: Served, **changes: Any) -> RolloutsSpec:
    return rollouts(**{"source": "vllm", "url": server.url, "model": NAME, **changes})


def test_ids_go_out_and_in_and_are_labels(tmp_path: Path, server: Served) -> None:
    """Sequence-level distillation: what the teacher wrote is told by its labels, and scored by the live teacher."""
    trainer = trainer_of(tmp_path, REVERSE, HARD, written=spec(server, temperature=0.7, top_p=0.8))
    (sample,) = first_step(trainer)
    (asked,) = server.asked
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"], asked["n"]) == (0.7, 0.8, 6, 1)
    assert len(asked["prompt"]) == 8
    told = [token for ids in answers_in(sample).values() for token in ids]
    assert sample["labels"].tolist() == told
    assert sample["counts"] == {"reverse_kl": len(told), "hard_labels": len(told)}
    assert answers_in(sample, "view", "view_positions") == answers_in(sample)


def test_labels_alone_learn_from_a_served_teacher(tmp_path: Path, server: Served) -> None:
    """Kim & Rush: no teacher is asked for scores."""
    before, (after, _) = student().state_dict(), trained(tmp_path, HARD, written=spec(server), max_steps=2)
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_dead_server_is_told_and_what_it_wrote_is_kept(tmp_path: Path, server: Served) -> None:
    whole, facts = trained(tmp_path / "whole", REVERSE, HARD, written=spec(server))
    assert len(server.asked) == 6
    assert facts.rollouts is not None
    assert facts.rollouts.texts == 48
    server.asked.clear()
    server.dies_after = 4
    with pytest.raises(TrainingError) as caught:
        trained(tmp_path / "cut", REVERSE, HARD, written=spec(server), checkpoints=0)
    told = str(caught.value)
    assert f"rollouts.url: {server.url}/v1/ refuses with 503" in told
    assert "out of order" in told
    assert f"32 answers are kept in {tmp_path / 'cut'}. The same command goes on from there." in told
    server.dies_after = None
    server.asked.clear()
    again, _ = trained(tmp_path / "cut", REVERSE, HARD, written=spec(server), checkpoints=0)
    assert [len(asked["prompt"]) for asked in server.asked] == [8, 8]
    assert same_bits(again, whole)


def test_a_line_that_was_half_written_is_asked_for_again(tmp_path: Path) -> None:
    kept = Kept.of(tmp_path, "key", 0)
    kept.add(1, {4: [7, 8], 5: [9]})
    kept.own.write_text(kept.own.read_text()[:-3])
    again = Kept.of(tmp_path, "key", 0)
    assert (again.get(1, 4), again.get(1, 5)) == ([7, 8], None)
    again.add(1, {5: [3]})
    other = Kept.of(tmp_path, "key", 1)
    assert (other.get(1, 5), other.get(0, 4), len(other)) == ([3], None, 2)


def test_another_training_keeps_nothing_of_it(tmp_path: Path, server: Served) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "written-0123-0.jsonl").write_text('{"epoch": 0, "row": 0, "ids": [1]}\n')
    trained(tmp_path / "out", REVERSE, written=spec(server), max_steps=1)
    assert [len(asked["prompt"]) for asked in server.asked] == [8]
    assert len(list((tmp_path / "out").glob("written-*.jsonl"))) == 1


def test_nobody_there(tmp_path: Path, server: Served) -> None:
    nowhere = spec(server, url="http://127.0.0.1:9/v1")
    with pytest.raises(TrainingError, match=r"rollouts.url: http://127.0.0.1:9/v1/ does not answer \(ConnectError"):
        trainer_of(tmp_path, written=nowhere)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "other"}, 'rollouts.model: .* has no "other". It serves the-teacher. Set'),
        ({"url": "{url}/elsewhere"}, "refuses with 404"),
        ({"change": lambda choice: {**choice, "token_ids": None}}, "gives no token ids, .* vLLM 0.10.2 or later"),
        ({"change": lambda choice: {**choice, "token_ids": [9999]}}, "wrote token 9999: it has another tokenizer"),
        ({"change": lambda choice: {**choice, "prompt_token_ids": [1]}}, "read another prompt than it was given"),
        ({"change": lambda choice: {**choice, "index": 0}}, "answered 8 prompts with 1 texts"),
    ],
    ids=["other model", "other place", "no ids", "other ids", "other prompt", "too few"],
)  # fmt: skip
def test_a_server_of_another_kind_is_told(tmp_path: Path, server: Served, change: dict[str, Any], told: str) -> None:
    server.change = change.pop("change", None)
    changes = {name: value.format(url=server.url) for name, value in change.items()}
    with pytest.raises(TrainingError, match=told):
        first_step(trainer_of(tmp_path, REVERSE, written=spec(server, **changes)))
