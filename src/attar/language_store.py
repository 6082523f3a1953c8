"""Stored signals of a language model's teacher: labelled once, or opened and held to the recipe and to the teacher."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from datasets import Dataset
from pydantic import TypeAdapter

from attar.errors import StoreError
from attar.ground import Ground, Progress
from attar.hashing import hash_value
from attar.identity import hash_processor
from attar.known import Known
from attar.precision import DTYPES
from attar.recipe.targets import TargetsSpec
from attar.recipe.teacher import EnsembleSpec, LocalTeacherSpec, StoredTeacherSpec
from attar.row_store import told_of_several
from attar.stages import Nothing, Stages
from attar.tasks.base import Processor
from attar.tasks.causal_lm import CausalLM
from attar.tasks.sequences import renumbered, sequence_keys
from attar.teachers.local import LocalTeacher
from attar.teachers.manifest import MANIFEST, PROCESSOR
from attar.teachers.store import open_store
from attar.teachers.stored import OTHER_TEACHER
from attar.teachers.token_codec import Draws, Lists, unpack_draws, unpack_lists
from attar.teachers.token_labelling import label_tokens, take_tokens, token_manifest
from attar.teachers.token_shards import row_starts
from attar.teachers.token_store import TokenStore
from attar.token_forms import form_of, read_by, written_by

TOLERANCE = 0.02
"""Share of a token's probability that may stand elsewhere, for draws that other arithmetic decides otherwise."""
_TAIL = (1 << 32) - 1
_PRECISIONS = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
"""By what a store calls the precision that the teacher was asked in: that of the training it was made for."""


def targets_of_store(store: TokenStore) -> TargetsSpec:
    """What a store holds of each token."""
    return TypeAdapter[TargetsSpec](TargetsSpec).validate_python(read_by(store.manifest.facts["targets"]))


def label_language(
    ground: Ground,
    spec: LocalTeacherSpec | EnsembleSpec,
    reader: Processor,
    known: Known | None,
    about: dict[str, Any],
    stages: Stages,
    progress: Progress,
) -> TokenStore:
    """Ask the teacher about all rows to train on, as a stage: about the student's tokens (`reader` makes them), as far
    as they are `known` apart from its own.
    """
    teacher, task, splits, targets = ground.teacher, cast("CausalLM", ground.task), ground.splits, ground.targets
    precision = ground.recipe.training.precision
    assert teacher is not None, "a teacher that is asked is a model"
    assert targets is not None, "what is stored is told by the recipe"
    facts = {
        "teacher": teacher.source.hash,
        "fitted": ground.fitted,
        **shaping(task, ground.processor, known),
        "targets": written_by(targets),
        "dtype": str(DTYPES[precision]).removeprefix("torch."),
        "batch_tokens": spec.batch_tokens,
        **told_of_several(ground),
    }
    parts = {"train": splits.train, **({} if splits.transfer is None else {"transfer": splits.transfer})}
    place = ground.out / "store"
    folder = place / "signals" / token_manifest(facts).key

    def work() -> Nothing:
        read = {name: ground.taught(task.encode(rows, reader), rows, known) for name, rows in parts.items()}
        encoded = {name: (one, sequence_keys(one)) for name, one in read.items()}
        stages.say(f"signals of {sum(int(e.labels.sum()) for e, _ in encoded.values()):,} tokens …")
        label_tokens(
            teacher, task, encoded, form_of(targets), place, facts, known=known, about=about,
            batch_tokens=spec.batch_tokens, precision=precision, device=ground.device, progress=progress,
        )  # fmt: skip
        return Nothing()

    written = [folder / MANIFEST, *([folder / PROCESSOR] if hasattr(ground.processor, "save_pretrained") else [])]
    stages.run("signals", [folder.name, splits.hash, sorted(parts)], written, Nothing, work)
    return open_store(folder, TokenStore)


def shaping(task: CausalLM, processor: Any, known: Known | None) -> dict[str, Any]:
    """What shapes the sequences and outputs that a teacher is asked about, besides the rows: by name."""
    spec = task.spec
    form = "messages" if spec.messages is not None else "text" if spec.prompt is None else "prompt"
    return {
        "tokenizer": hash_processor(processor),
        "rows": form,
        "template": spec.template,
        "learn": spec.learn,
        "max_length": min(spec.max_length, int(processor.model_max_length)),
        "outputs": None if known is None else hash_value(_listed(known)),
    }


def _listed(known: Known) -> list[Any]:
    """All that shapes outputs over a student's tokens."""
    outputs = known.outputs.tolist()
    return [outputs, known.others.tolist(), known.starts.tolist()] if len(known.others) else outputs


def open_language(ground: Ground, spec: StoredTeacherSpec, reader: Processor, known: Known | None) -> TokenStore:
    """A store that was made before, held to the recipe, the student's tokens and the teacher's answers.

    Raises StoreError that names what differs.
    """
    store = cast("TokenStore", ground.store)
    mine = shaping(cast("CausalLM", ground.task), ground.processor, known)
    store.require_facts({**store.manifest.facts, **mine})
    assert ground.teacher is not None, "the plan asks for the teacher"
    ground.spot_check = check_tokens(
        store, ground.teacher, cast("CausalLM", ground.task), ground.splits.train, reader=reader, known=known,
        n=spec.spot_check, device=ground.device,
    )  # fmt: skip
    return store


def check_tokens(
    store: TokenStore,
    teacher: LocalTeacher,
    task: CausalLM,
    rows: Dataset,
    *,
    reader: Processor | None = None,
    known: Known | None = None,
    n: int = 8,
    tolerance: float = TOLERANCE,
    device: str = "cpu",
) -> float:
    """Ask `teacher` again for `n` rows, evenly spaced, cut and pack its answer alike, and compare with the store.

    `reader`: the student's processor (None: the teacher's), of whose tokens `known` tells where the teacher has them.

    Returns the largest difference of a sequence: the share of a token's probability that stands elsewhere (mean over
    tokens). It is 0 for the same teacher on the same kind of machine. Raises StoreError where a row is absent, or the
    difference is more than `tolerance`.
    """
    if n == 0 or len(rows) == 0:
        return 0.0
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(np.int64))
    encoded = task.encode(rows.select(chosen.tolist()), reader or teacher.processor)
    encoded = renumbered(encoded, known)
    keys = sequence_keys(encoded)
    stored = store.read_few(store.token_reader(keys).positions)
    form = form_of(targets_of_store(store))
    teacher.model.to(device)
    precision = _PRECISIONS.get(str(store.manifest.facts.get("dtype")), "fp32")
    _, taken = take_tokens(
        teacher, task, encoded, np.arange(len(encoded)), keys, form, known=known, precision=precision,
        device=device, split="train",
    )  # fmt: skip
    packed = form.pack(taken.few, taken.keys, row_starts(taken.lengths))
    fresh = (unpack_draws if isinstance(stored, Draws) else unpack_lists)(
        packed, np.zeros(1, dtype=np.int64), np.array([len(taken.keys)])
    )
    owner = np.repeat(np.arange(len(encoded)), encoded.labels)
    moved = np.bincount(owner, _moved(stored, fresh), minlength=len(encoded)) / np.maximum(encoded.labels, 1)
    worst = int(moved.argmax())
    if not moved[worst] <= tolerance:
        raise StoreError(
            f"{store.path}: of what is stored of row {chosen[encoded.owners[worst]]} (key {keys[worst]}), "
            f"{moved[worst]:.2%} of the probability stands elsewhere in what {teacher.source.name} says now (tolerance "
            f"{tolerance:.0%}). {OTHER_TEACHER}"
        )
    return float(moved[worst])


def _moved(stored: Lists | Draws, fresh: Lists | Draws) -> np.ndarray:
    """Half the sum of absolute differences of each token's weights, float64 [R]; a tail is one more cell."""
    tokens, signed = len(stored.token_ids), list[tuple[np.ndarray, np.ndarray]]()
    for few, sign in ((stored, 1.0), (fresh, -1.0)):
        weights = few.weights if isinstance(few, Draws) else np.exp(few.log_probs)
        owner, place = np.nonzero(weights)
        signed.append(((owner << 32) + few.token_ids[owner, place], sign * weights[owner, place]))
        if isinstance(few, Lists):
            signed.append(((np.arange(tokens) << 32) + _TAIL, sign * np.exp(few.tail)))
    cells, which = np.unique(np.concatenate([cell for cell, _ in signed]), return_inverse=True)
    difference = np.bincount(which, np.concatenate([weight for _, weight in signed]), minlength=len(cells))
    return 0.5 * np.bincount(cells >> 32, np.abs(difference), minlength=tokens)
