"""SmolLM2-135M to 8 of its layers: six rows, three seeds, one learning rate, a few thousand tokens.

Each row is one objective alone, at temperature 1, on every token. A seed draws the blocks of text and their order; the
start is the same for all, the teacher's own layers. Heads are never projected as a whole: `Projection` goes through
attar's reduction. Quality is the perplexity of held-out text and the KL to the teacher there; intervals are over seeds,
then blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from language import Language, load, states_of, tiny
from rows import CONTROL, REFERENCE, file_name
from torch import Tensor
from transformers import get_scheduler

from attar.bench.size import count_params
from attar.evaluation.metrics import mean_of
from attar.evaluation.statistics import bootstrap_difference, bootstrap_metric, resample
from attar.facts import Interval
from attar.hashing import hash_value
from attar.identity import hash_function
from attar.logits import Projection
from attar.objectives.reduction.rows import reduce_rows
from attar.objectives.reduction.share import Share, Term
from attar.objectives.response import forward_kl, jsd, reverse_kl, skew_kl
from attar.objectives.sparse import sparse_kl
from attar.objectives.supervised import cross_entropy
from attar.storage import atomic_write

NAME = "smollm2"
TOP_K = 64
CLIP = 1.0


@dataclass(frozen=True)
class Line:
    """One row: the objective, and what it reads."""

    term: Term
    reads: Literal["labels", "teacher", "list"]


LINES = {
    CONTROL: Line(Term("hard_labels", cross_entropy), "labels"),
    REFERENCE: Line(Term("forward_kl", forward_kl), "teacher"),
    "reverse_kl": Line(Term("reverse_kl", reverse_kl), "teacher"),
    "jsd": Line(Term("jsd", partial(jsd, beta=0.5)), "teacher"),
    "skew_kl": Line(Term("skew_kl", partial(skew_kl, alpha=0.1)), "teacher"),
    f"sparse_kl (K = {TOP_K})": Line(Term("sparse_kl", sparse_kl), "list"),
}


@dataclass(frozen=True)
class Size:
    """How much is trained and asked."""

    steps: int = 32
    blocks_a_step: int = 2
    tokens: int = 128
    pool: int = 192
    held_out: int = 48
    layers: tuple[int, ...] = (0, 1, 5, 10, 15, 20, 25, 29)
    """The first two and the last, and evenly between: without the first two the start is 4 nats a token worse (five
    choices were tried on `language.CHOSEN_ON` blocks that are not reported)."""
    learning_rate: float = 1e-3
    """In 16 steps of the control, on the same blocks, 5e-4 did as well and 2e-3 worse; no other row was tried."""
    warmup: float = 0.1
    seeds: tuple[int, ...] = (0, 1, 2)

    def language(self, place: Path, say: Callable[[str], None]) -> Language:
        """SmolLM2 and its text."""
        return load(
            blocks=self.pool, held_out=self.held_out, tokens=self.tokens, layers=self.layers, place=place, say=say
        )


QUICK = Size(steps=6, blocks_a_step=2, tokens=16, seeds=(0, 1))


class Judged(NamedTuple):
    """A trained student on each held-out block: means over its tokens, nats."""

    nll: np.ndarray
    kl: np.ndarray
    seconds: float
    """Of the processor, on one thread, for the training alone."""


def run_case(part: tuple[int, int], place: Path, say: Callable[[str], None], *, quick: bool) -> dict[str, Any] | None:
    """Train this process's share of the rows; the figures, if that share is all of them."""
    size, place = QUICK if quick else Size(), place / NAME
    language = tiny(place, say) if quick else size.language(place, say)
    found: dict[str, list[Judged]] = {}
    for name in list(LINES)[part[0] :: part[1]]:
        found[name] = [outcome(language, name, size, seed, place) for seed in size.seeds]
        nll, kl = (np.mean([getattr(one, key) for one in found[name]]) for key in ("nll", "kl"))
        say(f"{NAME}: {name}: perplexity {math.exp(nll):.1f}, KL {kl:.3f}, {found[name][-1].seconds:.1f} s a training")
    return figures(language, found, size) if part[1] == 1 else None


def outcome(language: Language, name: str, size: Size, seed: int, place: Path) -> Judged:
    """One training, from disk if it was done before."""
    line = LINES[name]
    shaped_by = [language.hash(), vars(size) | {"seeds": None}, hash_function(line.term.function), line.reads, TOP_K]
    file = place / "trainings" / f"{file_name(name)}-{seed}-{hash_value(shaped_by)}.npz"
    if not file.is_file():
        started = time.process_time()
        student = train(language, line, size, seed)
        seconds = time.process_time() - started
        ids, head = language.held_out.ids, student.lm_head.weight
        nll, kl = judge(language, lambda block: Projection(states_of(student, ids[block]), head))
        buffer = BytesIO()
        np.savez(buffer, nll=nll, kl=kl, seconds=seconds)
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, buffer.getvalue())
    with np.load(file) as kept:
        return Judged(kept["nll"], kept["kl"], float(kept["seconds"]))


def train(language: Language, line: Line, size: Size, seed: int) -> Any:
    """A student after `size.steps` steps, in eval mode."""
    data, count = language.train, size.steps * size.blocks_a_step
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).repeat(-(-count // len(data)))
    student = language.student().train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=size.learning_rate, weight_decay=0.0, fused=True)
    warmup = math.ceil(size.warmup * size.steps)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=size.steps)
    for blocks in order[:count].view(size.steps, size.blocks_a_step):
        states = states_of(student, data.ids[blocks])
        share = _share(language, line, blocks, len(states))
        reduce_rows(Projection(states, student.lm_head.weight), [share]).total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return student.eval()


def judge(language: Language, answer: Callable[[Tensor], Projection]) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood and KL to the teacher on each held-out block, means over its tokens."""
    data = language.held_out
    nll, kl = [], []
    with torch.no_grad():
        for block in torch.arange(len(data)).view(-1, 1):
            logits = answer(block).dense()
            nll.append(float(cross_entropy(logits, data.labels(block)).mean()))
            kl.append(float(forward_kl(logits, language.teacher_logits(data, block).dense()).mean()))
    return np.array(nll), np.array(kl)


def figures(language: Language, found: Mapping[str, list[Judged]], size: Size) -> dict[str, Any]:
    """Everything as JSON holds it. Gains are positive where the row is better."""
    own, _ = judge(language, lambda block: language.teacher_logits(language.held_out, block))
    statistics = {"teacher/nll": [mean_of(own)]}
    for name, seeds in found.items():
        statistics[f"{name}/nll"] = [mean_of(one.nll) for one in seeds]
        statistics[f"{name}/kl"] = [mean_of(one.kl) for one in seeds]
    drawn = resample(statistics, len(own))
    rows: dict[str, Any] = {}
    for name, seeds in found.items():
        nll = bootstrap_metric(drawn[f"{name}/nll"])
        rows[name] = {
            "perplexity": _exp(nll).model_dump(),
            "kl": bootstrap_metric(drawn[f"{name}/kl"]).model_dump(),
            "seeds": [{"nll": float(one.nll.mean()), "kl": float(one.kl.mean())} for one in seeds],
            "cpu_seconds": [round(one.seconds, 1) for one in seeds],
        }
        for key, other, title in (("nll", CONTROL, "over_control"), ("kl", REFERENCE, "over_reference")):
            if name != other:
                gain = bootstrap_difference(drawn[f"{other}/{key}"], drawn[f"{name}/{key}"])
                rows[name][title] = gain.model_dump()
    student = language.student()
    return {
        "title": f"{language.name}: {language.teacher.config.num_hidden_layers} layers to {len(language.layers)}",
        "metric": "perplexity",
        "rows_of_data": {
            "training tokens": size.steps * size.blocks_a_step * language.train.ids.shape[1],
            "held-out tokens": language.held_out.ids.numel(),
        },
        "text": "gsm8k",
        "size": vars(size),
        "layers": language.layers,
        "teacher": {
            "params": count_params(language.teacher),
            "perplexity": _exp(bootstrap_metric(drawn["teacher/nll"])).model_dump(),
        },
        "student": {"params": count_params(student)},
        "steps": size.steps,
        "learning_rate": size.learning_rate,
        "seeds": size.seeds,
        "cpu_seconds_a_training": median(one.seconds for seeds in found.values() for one in seeds),
        "rows": rows,
    }


def _share(language: Language, line: Line, blocks: Tensor, rows: int) -> Share:
    data = language.train
    match line.reads:
        case "labels":
            return Share(line.term, data.labels(blocks), None, rows)
        case "teacher":
            return Share(line.term, language.teacher_logits(data, blocks), None, rows)
        case "list":
            listed = language.listed(data, blocks, TOP_K)
            return Share(line.term, listed.log_probs, None, rows, {"token_ids": listed.token_ids, "tail": listed.tail})


def _exp(interval: Interval) -> Interval:
    """Of nats a token to perplexity; exp is monotone, so the bounds are its bounds."""
    return interval.model_copy(update={end: math.exp(getattr(interval, end)) for end in ("value", "lo", "hi")})
