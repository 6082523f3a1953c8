"""Tokens of a language model labelled once: the store says what the teacher says, in any batches, killed or not."""

from __future__ import annotations

import errno
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional
from torch.utils.data import DataLoader

from attar import storage
from attar.errors import StorageError, StoreError, TeacherError
from attar.known import Known
from attar.objectives.terms.terms import Terms
from attar.recipe.objectives import ForwardKLSpec, SparseKLSpec
from attar.recipe.targets import SampledTargetsSpec, TargetsSpec, TopKTargetsSpec
from attar.recipe.task import CausalLMSpec
from attar.signals import Sampled, Signals
from attar.students.vocabulary import reduce_vocabulary
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import Sequences, renumbered, sequence_keys
from attar.tasks.vocabularies import shared_outputs
from attar.teachers import token_labelling
from attar.teachers.local import LocalTeacher, from_module
from attar.teachers.manifest import TOKENS, Manifest
from attar.teachers.store import Store, open_store, show, verify
from attar.teachers.token_labelling import label_tokens
from attar.teachers.token_store import TokenStore
from attar.token_forms import form_of, written_by
from attar.training.collate import Collator
from attar.training.distil import Distil
from attar.training.rows import Batch, LiveTeacher, Places, TrainingRows
from tiny_language import TEXTS, tiny_bpe, tiny_llama

TOKENIZER = tiny_bpe([*TEXTS, *["zebra quagga okapi"] * 40], size=340)
"""Some of whose tokens the rows do not use."""
TASK = CausalLM(CausalLMSpec(kind="causal_lm", prompt="prompt", max_length=40))
ROWS = Dataset.from_dict({"prompt": [text[:9] for text in TEXTS], "text": [text[9:] for text in TEXTS]})
ENCODED = TASK.encode(ROWS, TOKENIZER)
KEYS = sequence_keys(ENCODED)
SAMPLED = SampledTargetsSpec(kind="sampled")
NEARLY_ALL = SampledTargetsSpec(kind="sampled", threshold=1e-4)
LISTED = TopKTargetsSpec(kind="top_k", k=24)


def teacher_of(*, double: bool = False) -> LocalTeacher:
    model = tiny_llama(TOKENIZER)
    return from_module(model.double() if double else model, TOKENIZER, TASK)


def make(place: Path, targets: TargetsSpec = SAMPLED, *, teacher: LocalTeacher | None = None, **options: Any):
    facts = {"targets": written_by(targets)}
    rows = {"train": (ENCODED, KEYS)} if "rows" not in options else options.pop("rows")
    return label_tokens(teacher or teacher_of(), TASK, rows, form_of(targets), place, facts, **options)


def bits(store: Store) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.path.glob("*.safetensors")}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten rows or so, and blocks of a few tokens."""
    monkeypatch.setattr(token_labelling, "_SHARD", 10 * int(ENCODED.labels.max()))
    monkeypatch.setattr(token_labelling, "_BLOCK", 7 * len(TOKENIZER))


def dense(teacher: LocalTeacher, rows: np.ndarray) -> torch.Tensor:
    """The oracle: dense logits before each learned token, one sequence at a time."""
    found = []
    for row in rows.tolist():
        ids = torch.from_numpy(ENCODED.inputs["input_ids"][row])[None]
        with torch.no_grad():
            found.append(teacher.model.model(ids).logits[0, np.flatnonzero(ENCODED.learned[row]) - 1])
    return torch.cat(found)


@pytest.mark.usefixtures("small_shards")
def test_lists_are_the_teachers_in_any_order_of_rows(tmp_path: Path) -> None:
    teacher = teacher_of()
    store = make(tmp_path, LISTED, teacher=teacher)
    assert len(store.manifest.shards) > 4
    assert store.manifest.tokens == int(ENCODED.labels.sum())
    rows = np.random.default_rng(0).permutation(len(ENCODED))[:13]
    few = store.token_reader(KEYS).read(rows).few
    log_probs = dense(teacher, rows).log_softmax(-1)
    best = log_probs.topk(LISTED.k)
    torch.testing.assert_close(few.token_ids, best.indices.sort(-1).values)
    torch.testing.assert_close(few.log_probs, log_probs.gather(1, few.token_ids), rtol=0, atol=0.1)
    total = few.log_probs.exp().sum(-1) + few.tail.exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)


def test_draws_are_unbiased_for_the_teachers_probabilities(tmp_path: Path) -> None:
    """Over all tokens at once: for each of many fixed weightings of the vocabulary, the mean within its noise."""
    teacher = teacher_of()
    few = make(tmp_path, teacher=teacher).token_reader(KEYS).read(np.arange(len(ENCODED))).few
    p = dense(teacher, np.arange(len(ENCODED))).softmax(-1).double()
    weights = torch.zeros_like(p).scatter_add_(1, few.token_ids.clamp(min=0), few.weights.double())
    torch.testing.assert_close(weights.sum(1), torch.ones(len(p), dtype=torch.float64), rtol=0, atol=0.01)
    probes = torch.randn(p.shape[1], 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = (weights - p) @ probes
    z = error.mean(0) / (error.std(0) / len(p) ** 0.5)
    assert z.abs().max() < 4.0
    assert z.square().mean() < 2.0


@pytest.mark.parametrize("targets", [SAMPLED, LISTED], ids=["sampled", "top_k"])
@pytest.mark.usefixtures("small_shards")
def test_any_batches_make_the_same_bytes(tmp_path: Path, targets: TargetsSpec) -> None:
    """In float64, where other batches round no stored number otherwise; the last row of a batch is padded most."""
    stores = [
        make(tmp_path / str(n), targets, teacher=teacher_of(double=True), batch_tokens=n) for n in (20, 100, 1000)
    ]
    assert len(bits(stores[0])) > 4
    assert bits(stores[0]) == bits(stores[1]) == bits(stores[2])


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_labelling_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, real, written = make(tmp_path / "whole"), token_labelling.write_token_shard, list[str]()

    def dies(*args: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(args[1])
        return real(*args)

    monkeypatch.setattr(token_labelling, "write_token_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut")
    monkeypatch.setattr(token_labelling, "write_token_shard", real)
    totals: list[int] = []
    cut = make(tmp_path / "cut", progress=lambda _, done, total: totals.append(total))
    assert set(totals) == {len(ENCODED) - sum(s.rows for s in whole.manifest.shards if s.name in written)}
    assert bits(cut) == bits(whole)
    assert cut.path.name == whole.path.name
    asked: list[int] = []
    make(tmp_path / "cut", progress=lambda _, done, total: asked.append(done))
    assert asked == []


def test_a_full_disk_is_told_and_what_was_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, iter(range(100))

    def full(number: int) -> None:
        if next(calls) >= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(token_labelling, "_SHARD", 10 * int(ENCODED.labels.max()))
    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        make(tmp_path)
    monkeypatch.setattr(storage.os, "fsync", real)
    totals: list[int] = []
    make(tmp_path, progress=lambda _, done, total: totals.append(total))
    assert set(totals) == {len(ENCODED) - 10}


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda raw: raw[:-40], "damaged: it has .* bytes, .* were written"),
        (lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], "damaged: its SHA-256 is"),
    ],
    ids=["truncated", "flipped"],
)
def test_a_damaged_store_is_refused(tmp_path: Path, harm: Any, told: str) -> None:
    store = make(tmp_path)
    file = store.path / store.manifest.shards[0].name
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(StoreError, match=told + ".*attar store prune"):
        open_store(store.path, TokenStore)
    assert len(verify(store.path)) == 1


def test_a_store_goes_to_a_loaders_workers_by_name(tmp_path: Path) -> None:
    reader = make(tmp_path).token_reader(KEYS)
    sent = pickle.dumps(reader)
    assert len(sent) < 8 * len(KEYS) + 5000
    rows = np.array([5, 1, 30])
    for mine, theirs in zip(pickle.loads(sent).read(rows).few, reader.read(rows).few, strict=True):
        assert torch.equal(mine, theirs)


def test_rows_that_are_absent_or_cut_otherwise_are_told(tmp_path: Path) -> None:
    store = make(tmp_path)
    with pytest.raises(StoreError, match=r"1 of 2 sequences .*store of 64 \(the first is 1\).*attar label"):
        store.token_reader([KEYS[0], "f" * 16])
    ids = [one.copy() for one in ENCODED.inputs["input_ids"]]
    ids[4][-2], ids[7][0] = ids[4][-1], ids[7][1]
    with pytest.raises(StoreError, match=r"2 of 64 .*the first is 4\).*the student reads texts otherwise.*keep: all"):
        store.token_reader(sequence_keys(replace(ENCODED, inputs={"input_ids": ids})))
    marks = [one.copy() for one in ENCODED.learned]
    marks[9][-1] = False
    with pytest.raises(StoreError, match="1 of 64"):
        store.token_reader(sequence_keys(replace(ENCODED, learned=marks)))


def test_kinds_of_stores_are_told_apart(tmp_path: Path) -> None:
    store = make(tmp_path)
    with pytest.raises(StoreError, match=r"tokens of a language model.*causal_lm"):
        open_store(store.path)
    other = Manifest({}, ("logits",), ("a", "b"))
    other.write(tmp_path / "rows")
    with pytest.raises(StoreError, match=r"holds logits of whole rows.*causal_lm"):
        open_store(tmp_path / "rows", TokenStore)
    said = show(store.path)
    assert said["tokens"] == int(ENCODED.labels.sum())
    assert said["offers"] == {TOKENS: len(TOKENIZER)}


def test_a_teacher_that_overflows_is_told_by_row(tmp_path: Path) -> None:
    teacher = teacher_of()
    word = int(ENCODED.inputs["input_ids"][20][-2])
    with torch.no_grad():
        teacher.model.model.model.embed_tokens.weight[word] = float("nan")
    with pytest.raises(TeacherError, match=r"train row \d+: the logits of .* have NaN or infinite values"):
        make(tmp_path, teacher=teacher)


def test_long_texts_become_rows_of_their_own(tmp_path: Path) -> None:
    task = CausalLM(CausalLMSpec(kind="causal_lm", max_length=6))
    rows = Dataset.from_dict({"text": TEXTS[:5]})
    encoded = task.encode(rows, TOKENIZER)
    assert len(encoded) > 5
    keys = sequence_keys(encoded)
    store = label_tokens(
        from_module(tiny_llama(TOKENIZER), TOKENIZER, task), task, {"train": (encoded, keys)}, form_of(SAMPLED),
        tmp_path, {},
    )  # fmt: skip
    assert len(store) == len(set(keys)) < len(encoded), "equal pieces are asked once"
    few = store.token_reader(keys).read(np.arange(len(encoded))).few
    assert len(few.token_ids) == encoded.labels.sum()


def losses(
    store: TokenStore, targets: TargetsSpec, spec: Any, *, temperature: float = 1.0, student: Any = None,
    encoded: Sequences = ENCODED, processor: Any = TOKENIZER, known: Known | None = None, rows: int = 64,
) -> tuple[float, float, dict[str, torch.Tensor], dict[str, torch.Tensor]]:  # fmt: skip
    """Loss and gradients of one batch: with stored signals, and with forward_kl to the live teacher."""
    found: list[Any] = []
    for stored in (True, False):
        model = student or tiny_llama(TOKENIZER, hidden=16, layers=2, seed=1)
        model.zero_grad()
        specs = [spec if stored else ForwardKLSpec(kind="forward_kl", temperature=temperature)]
        terms = Terms(specs, problem="single_label", targets=targets if stored else None, seed=0)
        live = LiveTeacher(teacher_of().model.model, ENCODED, TOKENIZER, terms.wanted_teacher, known)
        signals = store.token_reader(sequence_keys(renumbered(encoded, known))) if stored else None
        given = TrainingRows(encoded, processor, signals=signals, live=None if stored else live)
        collate = Collator(given, TASK, seed=0, token_dropout=0.0, subword_dropout=0.0, mixup=0.0, in_place=False)
        batch = collate(Batch(np.random.default_rng(3).permutation(len(encoded))[:rows], 0, 0))
        loss, _ = Distil(model, terms, None if stored else live)(
            **batch, counts=dict.fromkeys(terms.names, len(batch["labels"]))
        )
        loss.backward()
        found.append((float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (ours, slopes), (theirs, exact) = found
    return ours, theirs, slopes, exact


@pytest.mark.parametrize(
    ("targets", "spec", "near"),
    [
        (NEARLY_ALL, ForwardKLSpec(kind="forward_kl"), 2e-3),
        (SAMPLED, ForwardKLSpec(kind="forward_kl"), 0.06),
        (TopKTargetsSpec(kind="top_k", k=300), SparseKLSpec(kind="sparse_kl", k=300), 2e-2),
        (
            SampledTargetsSpec(kind="sampled", threshold=1e-4, temperature=2.0),
            ForwardKLSpec(kind="forward_kl", temperature=2.0),
            2e-3,
        ),
    ],
    ids=["nearly all", "sampled", "top_k", "tempered"],
)
def test_a_batch_has_the_loss_and_gradient_of_a_live_teacher(
    tmp_path: Path, targets: TargetsSpec, spec: Any, near: float
) -> None:
    ours, theirs, slopes, exact = losses(make(tmp_path, targets), targets, spec, temperature=targets.temperature)
    assert ours == pytest.approx(theirs, rel=near)
    error = sum(float((slopes[name] - exact[name]).square().sum()) for name in exact)
    size = sum(float(value.square().sum()) for value in exact.values())
    assert (error / size) ** 0.5 < 10 * near


def test_a_reduced_student_learns_what_a_live_teacher_says_of_its_tokens(tmp_path: Path) -> None:
    processor = reduce_vocabulary(TOKENIZER, TASK.texts(ROWS, TOKENIZER)).tokenizer
    model = tiny_llama(processor, hidden=16, layers=1, seed=2)
    known = shared_outputs(processor, TOKENIZER, student_width=len(processor), teacher_width=len(TOKENIZER))
    assert known is not None
    assert len(known.others) > 0
    encoded = TASK.encode(ROWS, processor)
    assert np.array_equal(encoded.labels, ENCODED.labels)
    store = make(tmp_path, NEARLY_ALL, known=known)
    assert store.manifest.widths == {TOKENS: len(known.outputs)}
    ours, theirs, slopes, exact = losses(
        store, NEARLY_ALL, ForwardKLSpec(kind="forward_kl"), student=model, encoded=encoded, processor=processor,
        known=known,
    )  # fmt: skip
    assert ours == pytest.approx(theirs, rel=2e-3)
    for name, value in exact.items():
        torch.testing.assert_close(slopes[name], value, rtol=0, atol=0.02 * float(value.abs().max()) + 1e-6, msg=name)


def test_a_loader_with_workers_gives_the_same_batches(tmp_path: Path) -> None:
    store = make(tmp_path)
    given = TrainingRows(ENCODED, TOKENIZER, signals=store.token_reader(KEYS))
    collate = Collator(given, TASK, seed=0, token_dropout=0.0, subword_dropout=0.0, mixup=0.0, in_place=False)
    batches = [Batch(np.array([3, 60, 7]), 0, 0), Batch(np.array([1, 2]), 0, 1)]
    loader = DataLoader(Places(64), batch_sampler=batches, collate_fn=collate, num_workers=1)
    for made, batch in zip(loader, batches, strict=True):
        for name, value in collate(batch)["signals"]["few"].items():
            assert torch.equal(made["signals"]["few"][name], value)
        assert len(made["signals"]["few"]["token_ids"]) == len(made["labels"])


def test_cross_entropy_is_what_is_left_of_a_sure_teacher(tmp_path: Path) -> None:
    """A teacher that is sure says one token, and the loss on it is cross-entropy: an oracle without any store."""
    teacher = teacher_of()
    with torch.no_grad():
        teacher.model.model.model.norm.weight.mul_(200.0)
    store = make(tmp_path, teacher=teacher)
    rows = np.arange(30)
    best = dense(teacher, rows).argmax(-1)
    few = store.token_reader(KEYS).read(rows).few
    sure = few.weights.max(-1).values > 1.0 - 1e-4
    assert sure.float().mean() > 0.8
    logits = torch.randn(len(best), len(TOKENIZER), generator=torch.Generator().manual_seed(0))
    terms = Terms([ForwardKLSpec(kind="forward_kl")], problem="single_label", targets=SAMPLED, seed=0)
    few = Sampled(*(part[sure] for part in few))
    loss = terms(Signals(logits[sure]), Signals(few=few), None, {"forward_kl": int(sure.sum())}).total
    torch.testing.assert_close(loss, functional.cross_entropy(logits[sure], best[sure]), rtol=0.01, atol=0.0)
