"""Bad input of language models that only a run can see, or has to bear: told with place, value and next step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from language_parts import make
from torch.nn import functional

import attar
from attar.errors import DataError, PlanError, TrainingError
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import ForwardKLSpec
from attar.recipe.task import CausalLMSpec
from attar.recipe.training import TrainingSpec
from attar.tasks.causal_lm import CausalLM
from attar.tasks.vocabularies import shared_outputs
from attar.training.rows import Batch, LiveTeacher, TrainingRows
from attar.training.train import make_trainer
from tiny_causal import tiny_causal
from tiny_language import TEXTS, save_language_model, tiny_bpe, tiny_llama

PROMPTED = {"kind": "causal_lm", "prompt": "prompt", "max_length": 48}
SHORT = {"max_steps": 2, "batch_size": 8, "control": False}
TOKENIZER = tiny_bpe()
TASK = CausalLM(CausalLMSpec(kind="causal_lm", max_length=40))
ROWS = Dataset.from_dict({"text": TEXTS[:8]})


def rewrite(root: Path, split: str, **cells: list[str]) -> None:
    lines = [json.dumps(dict(zip(cells, values, strict=True))) for values in zip(*cells.values(), strict=True)]
    (root / "rows" / f"{split}.jsonl").write_text("\n".join(lines))


def test_an_empty_completion(tmp_path: Path) -> None:
    path = make(tmp_path, task=PROMPTED, training=SHORT)
    rewrite(tmp_path, "train", prompt=["a?", "b?", "c?"] * 8, text=["the cat", " ", "the dog"] * 8)
    with pytest.raises(
        DataError, match=r'column "text" must hold an answer to each prompt .* nothing to learn from an'
    ):
        attar.distill(path, tmp_path / "out")


def test_a_prompt_that_leaves_no_room_for_its_answer(tmp_path: Path) -> None:
    path = make(tmp_path, task={**PROMPTED, "max_length": 24}, training=SHORT)
    long = " ".join(TEXTS[:9])
    rewrite(tmp_path, "train", prompt=["a?", long] * 20, text=[text[:14] for text in TEXTS[:40]])
    facts = attar.distill(path, tmp_path / "out")
    (told,) = [line for line in facts.warnings if "no token is left" in line and line.startswith("train: in ")]
    assert "fills task.max_length (24). Raise it" in told
    assert facts.data.truncated > 0
    rewrite(tmp_path, "train", prompt=[f"{n} {long}" for n in range(40)], text=[text[:14] for text in TEXTS[:40]])
    with pytest.raises(DataError, match="no token is left to learn"):
        attar.distill(path, tmp_path / "other")


def test_a_template_that_has_to_be_there(tmp_path: Path) -> None:
    task = CausalLM(CausalLMSpec(kind="causal_lm", prompt="p", template="always"))
    rows = Dataset.from_dict({"prompt": ["who?"], "text": ["the cat"]})
    with pytest.raises(
        PlanError, match=r"task\.template: always, but the tokenizer of .* has no chat template\. Put chat"
    ):
        task.encode(rows, TOKENIZER)
    assert len(task.encode(rows, tiny_bpe(chat=True))) == 1
    path = make(tmp_path, task={**PROMPTED, "template": "always"})
    with pytest.raises(PlanError, match=r"task\.template: always, but the teacher's tokenizer has no chat template"):
        attar.distill(path, tmp_path / "out")


def test_one_vocabulary_that_cuts_texts_in_two_ways(tmp_path: Path) -> None:
    """Both know all tokens of each other, so only the texts tell: the student here merges nothing."""
    state = json.loads(TOKENIZER.backend_tokenizer.to_str())
    state["model"]["merges"] = []
    letters = type(TOKENIZER)(
        tokenizer_object=type(TOKENIZER.backend_tokenizer).from_str(json.dumps(state)), eos_token=TOKENIZER.eos_token
    )
    letters.pad_token = letters.eos_token
    assert letters.get_vocab() == TOKENIZER.get_vocab()
    terms = Terms([ForwardKLSpec(kind="forward_kl")], problem="single_label", seed=0)
    ours, theirs = TASK.encode(ROWS, letters), TASK.encode(ROWS, TOKENIZER)
    live = LiveTeacher(tiny_llama(TOKENIZER), theirs, TOKENIZER, terms.wanted_teacher)
    rows, spec = TrainingRows(ours, letters, live=live), TrainingSpec(device="cpu")
    trainer = make_trainer(tiny_llama(TOKENIZER), terms, TASK, rows, spec, tmp_path, key="k")
    told = (
        r"sequence 0: the student reads \d+ learned tokens, the teacher \d+: .* tokenizers: uld, aligned, projected_kl"
    )
    with pytest.raises(TrainingError, match=told):
        trainer.micro_batch(Batch(rows=np.arange(4), epoch=0, number=0))


def loss_of(tmp_path: Path, model: Any, teacher: Any, outputs: Any = None) -> tuple[float, dict[str, Any]]:
    terms, encoded = (
        Terms([ForwardKLSpec(kind="forward_kl")], problem="single_label", seed=0),
        TASK.encode(ROWS, TOKENIZER),
    )
    live = LiveTeacher(teacher, encoded, TOKENIZER, terms.wanted_teacher, outputs)
    rows, spec = TrainingRows(encoded, TOKENIZER, live=live), TrainingSpec(device="cpu", max_steps=1)
    trainer = make_trainer(model, terms, TASK, rows, spec, tmp_path, key="k")
    batch = trainer.micro_batch(Batch(rows=np.arange(4), epoch=0, number=0))
    loss, _ = trainer.distil(**batch, counts=trainer.distil.kept(batch))
    return float(loss.detach()), batch


def dense_kl(model: Any, teacher: Any, batch: dict[str, Any], tokens: int) -> float:
    with torch.no_grad():
        q, p = (one(**batch["inputs"]).logits.flatten(0, 1)[batch["positions"]] for one in (model, teacher))
    q, p = (side[:, :tokens].double().log_softmax(-1) for side in (q, p))
    return float(functional.kl_div(q, p, log_target=True, reduction="batchmean"))


def test_a_teacher_with_another_softcap(tmp_path: Path) -> None:
    """Each side's logits are those that its own model makes."""
    teacher = tiny_causal("gemma2", vocab_size=len(TOKENIZER), final_logit_softcapping=0.5).float()
    model = tiny_llama(TOKENIZER, hidden=16, layers=1)
    loss, batch = loss_of(tmp_path, model, teacher)
    assert loss == pytest.approx(dense_kl(model.eval(), teacher, batch, len(TOKENIZER)), rel=1e-4)
    teacher.config.final_logit_softcapping = None
    assert loss_of(tmp_path, model, teacher)[0] != pytest.approx(loss, rel=1e-3)


def test_a_teacher_s_head_that_is_padded(tmp_path: Path) -> None:
    """Rows beyond the tokens are left out of its softmax."""
    teacher, model = tiny_llama(TOKENIZER), tiny_llama(TOKENIZER, hidden=16, layers=1)
    teacher.resize_token_embeddings(len(TOKENIZER) + 25, mean_resizing=False)
    widths = {"student_width": len(TOKENIZER), "teacher_width": len(TOKENIZER) + 25}
    outputs = shared_outputs(tiny_bpe(), TOKENIZER, **widths)
    loss, batch = loss_of(tmp_path, model, teacher, outputs)
    assert loss == pytest.approx(dense_kl(model.eval(), teacher, batch, len(TOKENIZER)), rel=1e-4)


def test_a_padded_teacher_carries_a_whole_run(tmp_path: Path) -> None:
    path = make(tmp_path, training=SHORT)
    teacher = tiny_llama(TOKENIZER)
    teacher.resize_token_embeddings(len(TOKENIZER) + 25, mean_resizing=False)
    save_language_model(tmp_path / "teacher", teacher, TOKENIZER)
    facts = attar.distill(path, tmp_path / "out")
    assert facts.evaluation.kl_to_teacher is not None
