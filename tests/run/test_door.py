"""The Python door: modules, rows and a loss of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from run_parts import LABELS, texts
from torch import Tensor, nn

import attar
from attar.errors import PolicyError, RecipeError
from tiny import tiny_bert, tiny_tokenizer

ROWS = {
    split: {
        "text": [t for label in LABELS for t in texts(label, start, count)],
        "label": [label for label in LABELS for _ in range(count)],
    }
    for split, start, count in (("train", 0, 24), ("test", 100, 12))
}
TOKENIZER = tiny_tokenizer(ROWS["train"]["text"])
TRAINING = {"max_steps": 6, "evaluations": 1, "batch_size": 16}


class Bag(nn.Module):
    """A classifier that is no Transformers model: the mean of word vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(len(TOKENIZER), width)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        return self.head((self.words(input_ids) * mask).sum(1) / mask.sum(1))


def own_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (student_logits.log_softmax(-1) - teacher_logits.log_softmax(-1)).square().mean(-1)


def test_bare_modules_and_an_own_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher, student = Bag(32), Bag(8)
    before = student.head.weight.clone()
    facts = attar.distill_models(
        teacher, student, ROWS, [own_loss, {"kind": "forward_kl", "temperature": 2.0}], processor=TOKENIZER,
        out=tmp_path / "out", reason="my own model", training=TRAINING, report={"bootstrap": 100, "latency": False},
    )  # fmt: skip
    assert torch.equal(student.head.weight, before)
    assert facts.student.params < facts.teacher.params
    assert {"term_own_loss", "term_forward_kl"} <= facts.training["student"].curve[0].keys()
    assert facts.student.note is not None
    assert facts.policy.reason == "my own model"


def test_a_transformers_teacher_and_a_student_section(tmp_path: Path) -> None:
    facts = attar.distill_models(
        tiny_bert(TOKENIZER, LABELS), {"kind": "from_teacher", "layers": 1}, ROWS, [{"kind": "forward_kl"}],
        processor=TOKENIZER, out=tmp_path / "out", reason="my own model", training=TRAINING,
        report={"bootstrap": 100, "latency": False},
    )  # fmt: skip
    assert facts.student.family == "bert"
    assert (tmp_path / "out" / "student" / "tokenizer.json").is_file()


def test_a_wrong_objective_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="neither a spec"):
        attar.distill_models(
            Bag(8),
            Bag(4),
            ROWS,
            [3],
            processor=TOKENIZER,
            out=tmp_path,
            reason="mine",  # type: ignore[list-item]
        )
    with pytest.raises(PolicyError):
        attar.distill_models(Bag(8), Bag(4), ROWS, [own_loss], processor=TOKENIZER, out=tmp_path / "o", reason="")
