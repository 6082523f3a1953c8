"""The Python door: modules, rows and a loss of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from run_parts import LABELS, texts
from safetensors.numpy import load_file
from torch import Tensor, nn

import attar
import attar.facts
from attar.errors import PolicyError, RecipeError
from attar.objectives.own import OwnObjective
from attar.recipe.load import load_recipe
from tiny import save, tiny_bert, tiny_tokenizer

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


def other_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (student_logits.log_softmax(-1) - teacher_logits.log_softmax(-1)).abs().mean(-1)


def bags() -> tuple[Bag, Bag]:
    torch.manual_seed(0)
    return Bag(32), Bag(8)


def distil(student: nn.Module, out: Path, *objectives: object, **sections: object) -> attar.facts.RunFacts:
    return attar.distill_models(
        bags()[0], student, ROWS, list(objectives), processor=TOKENIZER, out=out, reason="my own model",
        **{"training": TRAINING, "report": {"bootstrap": 100, "latency": False}, **sections},
    )  # fmt: skip


def test_own_losses_are_recorded_as_what_they_are(tmp_path: Path) -> None:
    mine = OwnObjective(own_loss, weight=0.5, temperature=2.0)
    facts = distil(bags()[1], tmp_path, mine, other_loss)
    recorded = facts.recipe["objectives"]
    assert [(one["kind"], one["name"], one["weight"], one["temperature"]) for one in recorded] == [
        ("python", "own_loss", 0.5, 2.0), ("python", "other_loss", 1.0, 1.0)]  # fmt: skip
    assert load_recipe(tmp_path / "recipe.yaml").model_dump(mode="json") == facts.recipe
    card = (tmp_path / "student" / "README.md").read_text()
    assert "under `own_loss`, `other_loss`." in card
    for name in ("recipe.yaml", "run.json", "report.html", "student/README.md"):
        assert "forward_kl" not in (tmp_path / name).read_text(), name
    with pytest.raises(RecipeError, match="handed over to"):
        attar.distill(tmp_path / "recipe.yaml", tmp_path / "again")


def test_the_recipe_tells_one_own_loss_from_another(tmp_path: Path) -> None:
    one, again, other = (OwnObjective(fn, name="mine").record() for fn in (own_loss, own_loss, other_loss))
    assert one == again != other


def test_an_own_loss_fits_a_regression(tmp_path: Path) -> None:
    def squared(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return (student_logits - teacher_logits).square().mean(-1)

    rows = {
        name: {"text": part["text"], "label": [float(len(t) % 5) for t in part["text"]]} for name, part in ROWS.items()
    }
    teacher, student = Bag(16), Bag(4)
    teacher.head, student.head = nn.Linear(16, 1), nn.Linear(4, 1)
    facts = attar.distill_models(
        teacher, student, rows, [squared], processor=TOKENIZER, out=tmp_path, reason="my own model",
        task={"problem": "regression"}, training=TRAINING, report={"bootstrap": 100, "latency": False},
    )  # fmt: skip
    assert "term_squared" in facts.training["student"].curve[0]


def test_what_was_handed_over_decides_what_is_done_before(tmp_path: Path) -> None:
    student = bags()[1]
    distil(student, tmp_path, own_loss)
    weights = tmp_path / "student" / "model.safetensors"
    first = load_file(weights)
    assert all(stage.cached for stage in distil(student, tmp_path, own_loss).stages)
    with torch.no_grad():
        student.head.weight += 1
    shifted = distil(student, tmp_path, own_loss)
    assert not next(stage for stage in shifted.stages if stage.name == "0/student").cached
    assert not np.array_equal(
        load_file(tmp_path / "student" / "model.safetensors")["head.weight"], first["head.weight"]
    )
    again = distil(student, tmp_path, other_loss)
    assert not next(stage for stage in again.stages if stage.name == "0/student").cached
    assert next(stage for stage in again.stages if stage.name == "0/control").cached


def test_a_pretrained_student_is_known_by_its_weights(tmp_path: Path) -> None:
    section = {"kind": "pretrained", "model": str(tmp_path / "small")}
    for seed, cached in ((0, False), (0, True), (1, False)):
        save(tiny_bert(TOKENIZER, LABELS, hidden=16, layers=1, seed=seed), TOKENIZER, tmp_path / "small")
        facts = distil(section, tmp_path / "out", {"kind": "forward_kl"})
        assert next(stage for stage in facts.stages if stage.name == "0/student").cached is cached


def test_a_transformers_teacher_and_a_student_section(tmp_path: Path) -> None:
    facts = attar.distill_models(
        tiny_bert(TOKENIZER, LABELS), {"kind": "from_teacher", "layers": 1}, ROWS, [{"kind": "forward_kl"}],
        processor=TOKENIZER, out=tmp_path / "out", reason="my own model", training=TRAINING,
        report={"bootstrap": 100, "latency": False},
    )  # fmt: skip
    assert facts.student.family == "bert"
    assert (tmp_path / "out" / "student" / "tokenizer.json").is_file()


def test_objectives_as_dicts_are_those_of_a_recipe(tmp_path: Path) -> None:
    written = {"kind": "hidden", "layers": [[1, 1]], "weight": {"start": 1, "end": 0}}
    facts = attar.distill_models(
        tiny_bert(TOKENIZER, LABELS), {"kind": "from_teacher", "layers": 1}, ROWS, [written],
        processor=TOKENIZER, out=tmp_path / "out", reason="my own model", training=TRAINING,
        report={"bootstrap": 100, "latency": False},
    )  # fmt: skip
    assert facts.recipe["objectives"][0]["layers"] == [[1, 1]]
    with pytest.raises(RecipeError, match=r"end|start"):
        distil(bags()[1], tmp_path / "o", {"kind": "forward_kl", "weight": {"start": 1}})
    with pytest.raises(RecipeError, match="more than text, numbers and lists"):
        distil(bags()[1], tmp_path / "o", {"kind": "forward_kl", "weight": own_loss})


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
