"""What a stored token costs and what it loses: bytes against store error, for lists and draws of a real teacher.

    ATTAR_MIRROR=../shared/data python benchmarks/lm/store.py --json benchmarks/results/token_store.json
    python benchmarks/lm/store.py --json F.json --quick

Teacher, student and training are those of `benchmarks/objectives/smollm2.py`: SmolLM2-135M and 8 of its layers, before
training and after 32 steps of `forward_kl`; a third student, near the teacher, has logits between the trained one's and
the teacher's. Held-out text: blocks of gsm8k's test split, and of self-instruct, which nothing was trained on. Of each
form the table shows

    bytes      all packed arrays over all tokens; a shard has 16 bytes a row for its key besides, and a header
    tokens/s   a second of the processor's own time, rows of a mapped shard read in random order

and of each student

    error      store error: abs(mean stored - mean dense) / mean dense of forward_kl
    noise      standard error of that, over tokens: what draws may show by chance
    gradient   by the logits, summed over all tokens: norm of its error, over its norm. That of a single sample is the
               noise of training on text that the teacher wrote

What was trained and asked before is kept in `--place`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "objectives"))

from language import MODEL, Language, states_of, tiny
from rows import REFERENCE
from smollm2 import LINES, QUICK, Size, train

from attar.hashing import hash_value
from attar.objectives.response import forward_kl
from attar.objectives.sparse import sample_targets, sampled_kl, sparse_kl, top_k, top_mass
from attar.objectives.threshold_sampling import threshold_targets
from attar.recipe.sources import find_source
from attar.signals import Few, Listed
from attar.teachers.origin import quiet
from attar.teachers.token_codec import DRAW_BITS, LIST_BITS, Draws, Lists, pack_draws, pack_lists
from attar.teachers.token_shards import TokenShard, map_token_shard, row_starts, write_token_shard

OTHER_TEXT = "self_instruct_seed175"
BLOCKS = 8
"""Held-out blocks of each text; of 128 tokens, 127 have a next one."""
SWEEP = (2, 4, 5, 6, 8)
NEAR = 0.3
"""Share of the trained student's logits in those of the third student; the others are the teacher's."""
STUDENTS = ("initial", "trained", "near")


@dataclass(frozen=True)
class Form:
    """One way of saying what the teacher said."""

    name: str
    make: Callable[[Tensor, torch.Generator], Few]
    bits: tuple[int, ...]


def forms(vocabulary: int) -> list[Form]:
    """All that are compared; bits of a level are varied for one list and one draw."""
    made: list[Form] = []
    for k in (16, 32, 64, 128, 1024):
        bits, few = SWEEP if k == 64 else (LIST_BITS,), min(k, vocabulary // 2)
        made.append(Form(f"top {k}", lambda z, _, k=few: top_k(z, k), bits))
    for tail, most in ((0.1, 64), (0.05, 128)):
        make = partial(top_mass, tail=tail, most=most)
        made.append(Form(f"tail {tail}, {most} at most", lambda z, _, make=make: make(z), (LIST_BITS,)))
    for samples in (1, 64):
        made.append(Form(f"{samples} samples", lambda z, g, n=samples: sample_targets(z, n, generator=g), (DRAW_BITS,)))
    made.append(Form("32 kept or drawn", lambda z, g: threshold_targets(z, 0.0, most=32, generator=g), (DRAW_BITS,)))
    for threshold in (0.05, 0.03, 0.02, 0.0125, 0.008, 0.005):
        bits = SWEEP if threshold == 0.02 else (DRAW_BITS,)
        made.append(
            Form(f"threshold {threshold}", lambda z, g, t=threshold: threshold_targets(z, t, generator=g), bits)
        )
    return made


@dataclass(frozen=True)
class Held:
    """Held-out rows, and a student's or the teacher's answer to them."""

    ids: Tensor
    """int64 [B, T]."""

    def logits(self, model: Any, block: int) -> Tensor:
        """Of one block's rows, [T - 1, V]."""
        with torch.no_grad():
            return states_of(model, self.ids[block : block + 1]) @ model.lm_head.weight.T


def held_out(language: Language, size: Size) -> Held:
    """The language's own held-out blocks, and as many of a text of another kind."""
    if language.name == "tiny":
        return Held(language.held_out.ids)
    model, text = find_source(MODEL, "model").path, find_source(OTHER_TEXT, "data").path
    if model is None or text is None:
        raise SystemExit(f"{OTHER_TEXT}: set ATTAR_MIRROR=DIR with DIR/{OTHER_TEXT}/train.parquet.")
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    ids: list[int] = []
    for row in load_dataset("parquet", data_files=str(text / "train.parquet"), split="train"):
        parts = [row[name] for name in ("instruction", "input", "output") if row[name]]
        ids += [*tokenizer("\n".join(parts))["input_ids"], tokenizer.eos_token_id]
    other = torch.tensor(ids[: BLOCKS * size.tokens]).view(BLOCKS, size.tokens)
    return Held(torch.cat([language.held_out.ids, other]))


def trained(language: Language, size: Size, place: Path, say: Callable[[str], None]) -> Any:
    """The student after training, from disk if it was trained before."""
    file = place / f"student-{hash_value([language.hash(), size.steps, size.learning_rate])}.safetensors"
    if not file.is_file():
        say(f"training for {size.steps} steps …")
        student = train(language, LINES[REFERENCE], size, 0)
        save_file({name: value for name, value in student.state_dict().items() if name != "lm_head.weight"}, file)
    student = language.student()
    student.load_state_dict(load_file(file), strict=False)
    return student.eval()


def joined(parts: list[Few]) -> Few:
    """Few of several blocks, padded to the widest."""
    widest = max(part.token_ids.shape[-1] for part in parts)
    fills = {"log_probs": -math.inf, "token_ids": -1, "weights": 0.0}

    def padded(part: Few, name: str) -> Tensor:
        value: Tensor = getattr(part, name)
        missing = widest - value.shape[-1] if name in fills else 0
        return torch.nn.functional.pad(value, (0, missing), value=fills[name]) if missing else value

    return type(parts[0])(*(torch.cat([padded(part, name) for part in parts]) for name in parts[0]._fields))


def store(targets: Few, bits: int, rows: int, place: Path) -> tuple[TokenShard, float]:
    """Few of `rows` rows of equal length as a shard, and the bytes a token of its arrays."""
    numpy = [part.numpy() for part in targets]
    lengths = np.full(rows, len(numpy[0]) // rows)
    if isinstance(targets, Listed):
        packed = pack_lists(Lists(numpy[1], numpy[0], numpy[2]), bits=bits, starts=row_starts(lengths))
    else:
        uniforms = np.random.default_rng(0).random((len(numpy[0]), numpy[0].shape[1] + 1))
        draws = Draws(numpy[1], numpy[0], numpy[2])
        packed = pack_draws(draws, uniforms, bits=bits, starts=row_starts(lengths))
    facts = write_token_shard(place, "shard.safetensors", [f"{row:016x}" for row in range(rows)], lengths, packed)
    size = sum(value.nbytes for value in packed.values()) / len(numpy[0])
    return map_token_shard(place / facts.name, rows), size


def rate(shard: TokenShard, seconds: float = 0.5) -> float:
    """Tokens read a second of the processor's own time, eight random rows at a time."""
    rng, read, spent = np.random.default_rng(0), 0, 0.0
    while spent < seconds:
        rows = rng.integers(0, len(shard), size=8)
        started = time.process_time()
        shard.read(rows)
        spent += time.process_time() - started
        read += int(shard.lengths[rows].sum())
    return read / spent


def value_of(stored: Lists | Draws, start: int, stop: int) -> Callable[[Tensor], Tensor]:
    """The objective on stored tokens `start` to before `stop`, of a student's logits."""
    parts = [torch.from_numpy(part[start:stop]) for part in stored]
    if isinstance(stored, Lists):
        return lambda z: sparse_kl(z, parts[1], token_ids=parts[0], tail=parts[2])
    return lambda z: sampled_kl(z, parts[1], token_ids=parts[0], weights=parts[2])


def slope(function: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Values [N], and the gradient by the logits, summed over rows, float64 [V]."""
    leaf = logits.clone().requires_grad_()
    values = function(leaf)
    return values.detach().double(), torch.autograd.grad(values.sum(), leaf)[0].sum(0, dtype=torch.float64)


def id_bits(token_ids: Tensor) -> dict[str, float]:
    """Bits an id takes by plainer codes: 16 bits each, bytes of 7 bits of the gaps, Elias-Fano with even buckets."""
    lists = [np.unique(row[row >= 0]) for row in token_ids.numpy()]
    number = sum(len(one) for one in lists)
    gaps = np.concatenate([np.diff(one, prepend=-1) - 1 for one in lists])
    even = 0
    for one in lists:
        low = max(int(math.log2((1 << 16) / len(one))), 0)
        even += len(one) * (low + 1) + ((1 << 16) >> low)
    return {
        "uint16": 16.0,
        "varint": 8 * float((1 + (gaps >= 1 << 7) + (gaps >= 1 << 14)).mean()),
        "even": even / number,
    }


def measure(language: Language, size: Size, place: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Every form at every number of bits."""
    held = held_out(language, size)
    blocks, tokens = held.ids.shape[0], held.ids.shape[1] - 1
    made = forms(language.head.shape[0])
    generators = [torch.Generator().manual_seed(number) for number in range(len(made))]
    parts: list[list[Few]] = [[] for _ in made]
    students = {"initial": language.student().eval(), "trained": trained(language, size, place, say)}
    say(f"asking about {blocks * tokens:,} held-out tokens …")
    for block in range(blocks):
        answer = held.logits(language.teacher, block)
        for form, generator, kept in zip(made, generators, parts, strict=True):
            kept.append(form.make(answer, generator))
    rows: list[dict[str, Any]] = []
    read: list[Lists | Draws] = []
    for form, kept in zip(made, parts, strict=True):
        targets = joined(kept)
        for bits in form.bits:
            shard, size_ = store(targets, bits, blocks, place)
            per = 8 / shard.packed["marks"][-1, 1]
            ours = per * (shard.packed["unary"].nbytes + shard.packed["low"].nbytes)
            row = {"form": form.name, "bits": bits, "ids": float(shard.packed["counts"].mean()), "bytes": size_}
            row["bits_an_id"] = {"attar": float(ours), **id_bits(targets.token_ids)}
            rows.append({**row, "rate": rate(shard)})
            read.append(shard.read(np.arange(blocks)))
    errors = {name: np.empty((len(rows), blocks * tokens)) for name in STUDENTS}
    dense = {name: np.empty(blocks * tokens) for name in STUDENTS}
    width = language.head.shape[0]
    slopes = {name: torch.zeros(len(rows) + 1, width, dtype=torch.float64) for name in STUDENTS}
    for block in range(blocks):
        say(f"comparing block {block + 1} of {blocks} …")
        span = slice(block * tokens, (block + 1) * tokens)
        answer = held.logits(language.teacher, block)
        logits = {name: held.logits(student, block) for name, student in students.items()}
        logits["near"] = NEAR * logits["trained"] + (1.0 - NEAR) * answer
        for name in STUDENTS:
            exact, by_logits = slope(partial(forward_kl, teacher_logits=answer), logits[name])
            dense[name][span], slopes[name][-1] = exact, slopes[name][-1] + by_logits
            for number, stored in enumerate(read):
                values, by_logits = slope(value_of(stored, span.start, span.stop), logits[name])
                errors[name][number, span] = values - exact
                slopes[name][number] += by_logits
    for number, row in enumerate(rows):
        for name in STUDENTS:
            error, mean, whole = errors[name][number], dense[name].mean(), slopes[name][-1]
            row[f"{name}_error"] = float(abs(error.mean()) / mean)
            row[f"{name}_noise"] = float(error.std(ddof=1) / math.sqrt(len(error)) / mean)
            row[f"{name}_gradient"] = float((slopes[name][number] - whole).norm() / whole.norm())
    return {"rows": rows, "tokens": blocks * tokens, "dense": {name: float(v.mean()) for name, v in dense.items()}}


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown: of each student the store error, its noise, and the gradient's error."""
    lines = [
        f"| form | bits | ids | bytes | tokens/s | {' | '.join(STUDENTS)} |",
        "|---|" + (4 + len(STUDENTS)) * "---|",
    ]
    for row in rows:
        cells = [row["form"], row["bits"], f"{row['ids']:.1f}", f"{row['bytes']:.1f}", f"{row['rate']:,.0f}"]
        for name in STUDENTS:
            error, noise, gradient = (row[f"{name}_{what}"] for what in ("error", "noise", "gradient"))
            cells.append(f"{error:.2%} (± {noise:.2%}), {gradient:.1%}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--place", type=Path, default=Path("runs/lm"), help="where trainings are kept")
    parser.add_argument("--quick", action="store_true", help="a made-up teacher: the path alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.place.mkdir(parents=True, exist_ok=True)
    size = QUICK if args.quick else Size(held_out=BLOCKS)

    def say(text: str) -> None:
        print(text, flush=True)

    language = tiny(args.place, say) if args.quick else size.language(args.place, say)
    result = measure(language, size, args.place, say)
    result["conditions"] = {
        "teacher": language.name,
        "threads": 1,
        "device": f"cpu, {platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
