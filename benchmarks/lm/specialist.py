"""A specialist against a general-purpose student of the same architecture and bytes, on snips as JSON.

    ATTAR_MIRROR=../shared/data python benchmarks/lm/specialist.py --json benchmarks/results/specialist.json
    ATTAR_MIRROR=../shared/data python benchmarks/lm/specialist.py --json F.json --quick

The specialist is `recipes/smollm2-snips.yaml` as it stands. The general-purpose student has as many layers of the same
model, as it comes, and as many tokens in its vocabulary (those most used in its own text); it learns gsm8k by
forward_kl on a quarter of the tokens that the specialist is offered (its rows times their mean length, over all
epochs), about as many a step: all of them take a core an hour a seed. What it could reach with more is bounded by its
teacher, the model as it comes, which is asked, too. All answer `--rows` test rows, the students as their exported
files: the specialist the utterance alone, the general ones the utterance behind four others with their JSON (few-shot,
in their favour: the answer is the first line), the general student without them, too. Three seeds each, intervals over
seeds and rows, paired by rows. All that is done stays in `--place`, and the same command goes on from there; `--part`
makes one side alone, and its answers can be given to the other by `--specialist FILE` or `--general FILE`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import attar
from attar.data.load import load_data
from attar.evaluation.generate import complete
from attar.evaluation.metrics import mean_of
from attar.evaluation.statistics import bootstrap_difference, bootstrap_metric, bootstrap_ratio, resample
from attar.evaluation.written import same_answer
from attar.facts import RunFacts
from attar.hashing import hash_file, hash_value
from attar.recipe import Recipe
from attar.recipe.load import load_recipe, recipe_from
from attar.students.vocabulary import reduce_vocabulary
from attar.tasks.causal_lm import CausalLM
from attar.tasks.tokenizers import ready
from attar.teachers.gguf import read_gguf
from attar.teachers.local import load_local
from attar.teachers.origin import quiet

RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2-snips.yaml"
SHOTS = 4
SHARE = 0.25
"""Of the specialist's tokens, those that the general-purpose student learns from."""
WAYS = {"specialist": ("specialist",), "general": ("general, few-shot", "general, plain")}
TEACHER = "teacher as it comes, few-shot"
Say = Callable[[str], None]


def main() -> None:
    """Run, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument(
        "--place", type=Path, default=Path("runs/specialist"), help="runs and answers, kept for a rerun"
    )
    parser.add_argument("--part", choices=tuple(WAYS), help="this side alone; its answers are the result")
    for side in WAYS:
        parser.add_argument(f"--{side}", type=Path, help=f"the result of --part {side}, made before")
    parser.add_argument("--tokens", type=int, default=6322, help="of the general vocabulary, where that comes first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200, help="test rows to ask both about, evenly spread")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few rows, to walk the path")
    args = parser.parse_args()
    say: Say = partial(print, flush=True)
    place = args.place / "quick" if args.quick else args.place
    recipe = _quick(load_recipe(RECIPE), place) if args.quick else load_recipe(RECIPE)
    sides: dict[str, dict[str, Any]] = {}
    wanted = args.tokens
    for side in WAYS:
        given: Path | None = getattr(args, side)
        if given is not None:
            sides[side] = json.loads(given.read_text(encoding="utf-8"))
        elif args.part in (None, side):
            spec = recipe if side == "specialist" else general(recipe, wanted, quick=args.quick)
            facts = attar.distill(spec, place / side, seeds=args.seeds, say=say)
            sides[side] = answers_of(side, recipe, place, facts, args.seeds, args.rows, say)
        if side == "specialist" and side in sides:
            wanted = int(sides[side]["tokens"])
    result = compare(**sides) if args.part is None else sides[args.part]
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.part is None:
        say(table(result))


def general(recipe: Recipe, wanted: int, *, quick: bool) -> Recipe:
    """The recipe of the general-purpose student: same layers, some `wanted` tokens in its vocabulary, less text."""
    fields: dict[str, Any] = recipe.model_dump(mode="json")
    fields["name"] = f"{recipe.name}-general"
    fields["description"] = "The same student for no purpose in particular: the model as it comes teaches it gsm8k."
    fields["task"] = {
        "kind": "causal_lm", "prompt": "question", "text": "answer", "template": "never", "learn": "all",
        "max_length": 256,
    }  # fmt: skip
    fields["teacher"] |= {"fit": "none", "fitting": {}}
    fields["data"] = {
        "source": "openai/gsm8k", "config": "main", "licence": "mit", "validation_fraction": 0.02,
        "max_train_rows": 64 if quick else None, "max_held_out_rows": 8 if quick else 100,
    }  # fmt: skip
    fields["objectives"] = [{"kind": "forward_kl"}]
    fields["budget"] = {}
    fields["training"] |= {"control": False, "keep": "last", "evaluations": 1}
    draft = recipe_from(fields)
    task, own = CausalLM(draft.task), CausalLM(recipe.task)  # type: ignore[arg-type]
    with quiet():
        tokenizer = load_local(draft.teacher, task).processor  # type: ignore[arg-type]
    offered = load_data(recipe).train
    ours = float(own.encode(offered, tokenizer).lengths.mean())
    learned = len(offered) + sum(one.rows or 0 for one in recipe.data.transfer)
    lengths = task.encode(load_data(draft).train, tokenizer).lengths
    theirs, available = float(lengths.mean()), len(lengths)
    rows = min(round(learned * ours / theirs), available)
    fields["data"]["max_train_rows"] = rows
    fields["training"]["epochs"] = SHARE * recipe.training.epochs * learned * ours / theirs / rows
    fields["training"]["batch_size"] = max(round(recipe.training.batch_size * ours / theirs), 1)
    texts = task.texts(load_data(recipe_from(fields)).train, tokenizer)
    sizes = {least: len(reduce_vocabulary(tokenizer, texts, least).kept) for least in range(1, 16)}
    least = min(sizes, key=lambda count: abs(sizes[count] - wanted))
    fields["student"]["vocabulary"] = {"keep": "used", "min_count": least}
    return recipe_from(fields)


def answers_of(
    side: str, recipe: Recipe, place: Path, facts: RunFacts, seeds: int, rows: int, say: Say
) -> dict[str, Any]:
    """Which test rows the exported files of one side answer rightly (1), by way and seed, and what made them."""
    splits = load_data(recipe)
    asked = splits.test.select(_spread(splits.test, rows))
    task = CausalLM(recipe.task)  # type: ignore[arg-type]
    about = task, splits.train, asked, say
    right = {way: [ask(way, place, seed, *about) for seed in range(seeds)] for way in WAYS[side]}
    if side == "general":
        right[TEACHER] = [ask_teacher(recipe, place, *about)] * seeds
    student, quality = facts.training["student"], facts.quality
    intervals = {"teacher": quality.intervals["teacher"], "retention": facts.retention, "kd_gain": facts.kd_gain}
    intervals["control"] = quality.intervals["control"] if quality.control is not None else None
    return {
        "asked": hash_value([list(asked["prompt"]), list(asked["text"])]),
        "right": {way: ["".join(map(str, one.astype(int))) for one in by_seed] for way, by_seed in right.items()},
        "bytes": {"teacher": facts.teacher.bytes, "student": facts.artifacts[0].bytes},
        "tokens": student.initial["tokens_kept"],
        "steps": student.steps,
        "epochs": student.epochs,
        "run": {name: None if one is None else one.model_dump() for name, one in intervals.items()},
        "written": {name: one.model_dump() for name, one in facts.evaluation.written.items()},
        "conditions": {
            **facts.lineage.machine, **facts.lineage.packages, "attar": facts.lineage.code,
            "threads": torch.get_num_threads(), "load": os.getloadavg(), "shots": SHOTS,
        },
    }  # fmt: skip


def compare(specialist: dict[str, Any], general: dict[str, Any]) -> dict[str, Any]:
    """What follows from the answers of both sides. Raises SystemExit where they were asked about other rows."""
    if specialist["asked"] != general["asked"]:
        raise SystemExit("The sides answered other test rows: give both the same --rows, and ask again.")
    told = {**specialist["right"], **general["right"]}
    right = {way: [np.array(list(one)) == "1" for one in by_seed] for way, by_seed in told.items()}
    rows = len(right["specialist"][0])
    drawn = resample({way: [mean_of(one) for one in by_seed] for way, by_seed in right.items()}, rows)
    best = max(WAYS["general"], key=lambda way: drawn[way].point)
    ours = drawn["specialist"]
    ratio = bootstrap_ratio(ours, drawn[best])
    return {
        "metric": "exact match on snips as JSON, of the exported file",
        "rows": rows,
        "exact_match": {way: bootstrap_metric(one).model_dump() for way, one in drawn.items()},
        "by_seed": {way: [float(one.mean()) for one in by_seed] for way, by_seed in right.items()},
        "best_general": best,
        "specialist_minus_general": bootstrap_difference(ours, drawn[best]).model_dump(),
        "specialist_over_general": None if ratio is None else ratio.model_dump(),
        "specialist_minus_teacher": bootstrap_difference(ours, drawn[TEACHER]).model_dump(),
        "sides": {"specialist": specialist, "general": general},
    }


def ask(way: str, place: Path, seed: int, task: CausalLM, train: Dataset, test: Dataset, say: Say) -> np.ndarray:
    """Bool [N]: the test rows that a seed's file answers rightly; asked once, then read."""
    run = place / way.partition(",")[0]
    files = sorted((run / "seeds" / str(seed) / "export").glob("*/model.gguf")) or sorted(
        (run / "export").glob("*/model.gguf")
    )
    done = place / "answers" / f"{way.replace(', ', '-')}-{len(test)}-{hash_file(files[0])}.npy"
    if done.is_file():
        return cast("np.ndarray", np.load(done))
    with quiet():
        model, tokenizer = read_gguf(files[0])
        processor = ready(tokenizer, str(files[0]), None)
    say(f"{way}, seed {seed}: {len(test)} prompts …")
    return _answer(model, processor, task, train if way.endswith("few-shot") else None, test, done)


def ask_teacher(recipe: Recipe, place: Path, task: CausalLM, train: Dataset, test: Dataset, say: Say) -> np.ndarray:
    """Bool [N]: the same of the teacher as it comes, few-shot: whatever it distils into knows no more of this."""
    done = place / "answers" / f"teacher-{len(test)}.npy"
    if done.is_file():
        return cast("np.ndarray", np.load(done))
    with quiet():
        loaded = load_local(recipe.teacher, task)  # type: ignore[arg-type]
    say(f"{TEACHER}: {len(test)} prompts …")
    return _answer(cast("Any", loaded.model).model, loaded.processor, task, train, test, done)


def _answer(model: Any, processor: Any, task: CausalLM, train: Dataset | None, test: Dataset, done: Path) -> np.ndarray:
    """Which rows are answered rightly, behind some of `train` if these are given; kept in `done`."""
    shots = [] if train is None else cast("list[dict[str, str]]", list(train.select(_spread(train, SHOTS))))
    before = "".join(f"{row['prompt'].strip()}\n{row['text']}\n\n" for row in shots)
    prompts = [f"{before}{prompt.strip()}\n" if shots else prompt for prompt in cast("list[str]", test["prompt"])]
    ids = [task.prompt_ids(prompt, processor) for prompt in prompts]
    written = complete(model, processor, ids, longest=task.spec.generation.max_tokens)
    said = [one.text.partition("\n")[0] if shots else one.text for one in written]
    right = np.array([same_answer(truth, one) for truth, one in zip(test["text"], said, strict=True)], dtype=bool)
    done.parent.mkdir(parents=True, exist_ok=True)
    np.save(done, right)
    return right


def _spread(rows: Dataset, wanted: int) -> list[int]:
    """Which of the rows are `wanted` ones at even distances, from the first to the last."""
    return np.linspace(0, len(rows) - 1, min(wanted, len(rows))).astype(int).tolist()


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| | exact match | 95 % interval | bytes |", "|---|---|---|---|"]
    run, sides = found["sides"]["specialist"]["run"], found["sides"]
    sizes = {way: sides[side]["bytes"]["student"] for side, ways in WAYS.items() for way in ways}
    sizes |= dict.fromkeys(("teacher, fine-tuned", TEACHER), sides["specialist"]["bytes"]["teacher"])
    kinds = {"teacher, fine-tuned": run["teacher"], **found["exact_match"], "control (checkpoint)": run["control"]}
    kinds |= {name.replace("_", " "): found[name] for name in ("specialist_minus_general", "specialist_minus_teacher")}
    kinds |= {"retention": run["retention"], "gain over the control": run["kd_gain"]}
    for name, one in kinds.items():
        if one is not None:
            size = f"{sizes[name] / 1e6:.1f} MB" if name in sizes else ""
            lines.append(f"| {name} | {one['value']:.1%} | {one['lo']:.1%} to {one['hi']:.1%} | {size} |")
    return "\n".join(lines)


def _quick(recipe: Recipe, place: Path) -> Recipe:
    """The same path with a teacher of some kilobytes, whose tokenizer knows the rows, and few rows and steps."""
    fields: dict[str, Any] = recipe.model_dump(mode="json")
    fields["data"] |= {"max_train_rows": 64, "max_held_out_rows": 16, "transfer": []}  # it ends no answer of its own
    fields["task"]["generation"] = {"max_tokens": 48, "watched_rows": 8}
    fields["teacher"] |= {"model": str(place / "teacher"), "fitting": {"epochs": 1, "learning_rate": 0.003}}
    fields["student"] |= {"layers": 1}
    fields["training"] |= {"epochs": 1.0, "evaluations": 1, "checkpoints": 1}
    fields["budget"] = {}
    fields["report"] |= {"bootstrap": 100}
    if not (place / "teacher" / "config.json").is_file():
        rows = load_data(recipe).train
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator([*rows["prompt"], *rows["text"]], trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(place / "teacher")
        tokenizer.save_pretrained(place / "teacher")
    return recipe_from(fields)


if __name__ == "__main__":
    main()
