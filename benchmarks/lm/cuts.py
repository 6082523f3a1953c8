"""SmolLM2-135M cut in depth and in width: how far each choice is from the teacher, before any training.

    PYTHONPATH=benchmarks/objectives python benchmarks/lm/cuts.py --json benchmarks/results/cuts.json
    PYTHONPATH=benchmarks/objectives python benchmarks/lm/cuts.py --json benchmarks/results/cuts.json --train
    PYTHONPATH=benchmarks/objectives python benchmarks/lm/cuts.py --json F.json --quick

Layers, heads, neurons and channels are chosen, and refitted, on blocks of gsm8k's training text; perplexity and KL
are of held-out blocks. Of layers: spread evenly, with the first two and the last or the last alone, by block influence,
by the KL of one removal, and greedily by KL. Of widths, each cut alone: what stays copied, or what reads it refitted;
beside them a rotation to principal components, which needs a head of its own. Intervals are over blocks. `--train`
takes the layers that stand in the JSON, trains each student as `smollm2.py` does, and adds what became of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import smollm2
import torch
from language import Language, load, states_of, tiny
from smollm2 import judge
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from attar.bench.size import count_params
from attar.evaluation.metrics import mean_of
from attar.evaluation.statistics import bootstrap_difference, bootstrap_metric, resample
from attar.logits import Projection
from attar.students.cut import even_layers
from attar.students.cut_decoder import cut_decoder
from attar.students.importance import LayerChoice, choose_layers
from attar.students.width_importance import score_widths

UNIFORM = "uniform: first two and last"


@dataclass(frozen=True)
class Size:
    """How much is asked, and cut."""

    tokens: int = 128
    choosing: int = 4
    """Blocks on which layers are chosen."""
    fitting: int = 16
    """Blocks on which widths are scored and refitted."""
    held_out: int = 16
    layers: int = 8
    heads: tuple[int, int] = (6, 2)
    neurons: int = 768
    widths: tuple[int, ...] = (432, 288)


QUICK = Size(tokens=16, choosing=2, fitting=8, held_out=8, layers=2, heads=(1, 1), neurons=32, widths=(24,))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--place", type=Path, default=Path("runs/cuts"), help="what the teacher said, kept for a rerun")
    parser.add_argument("--train", action="store_true", help="train the students of the layers that the JSON holds")
    parser.add_argument("--quick", action="store_true", help="a tiny teacher and made-up text, to walk the path")
    args = parser.parse_args()
    size = QUICK if args.quick else Size()
    say = partial(print, flush=True)
    training = smollm2.QUICK if args.quick else smollm2.Size()
    blocks = training.steps * training.blocks_a_step if args.train else size.fitting
    language = (
        tiny(args.place, say)
        if args.quick
        else load(blocks=blocks, held_out=size.held_out, tokens=size.tokens, layers=(), place=args.place, say=say)
    )
    if args.train:
        result = json.loads(args.json.read_text(encoding="utf-8"))
        result["trained"] = trained(language, result["depth"], size, training, say)
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return
    started = os.getloadavg()
    depth = measure(language, depths(language, size), UNIFORM, say)
    width = measure(language, widths(language, size), None, say)
    own, _ = judge(language, lambda block: language.teacher_logits(language.held_out, block))
    result = {
        "teacher": {
            "name": language.name,
            "perplexity": math.exp(own.mean()),
            "params": count_params(language.teacher),
        },
        "size": asdict(size),
        "depth": depth,
        "width": width,
        "conditions": {
            "text": "gsm8k",
            "held-out tokens": language.held_out.ids.numel(),
            "threads": torch.get_num_threads(),
            "dtype": "float32",
            "device": f"cpu, {platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "load": [started, os.getloadavg()],
            "versions": {name: version(name) for name in ("torch", "transformers")},
        },
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


Made = tuple[Sequence[nn.Module], dict[str, Any]]
"""A student, or the same of several seeds, and what is to be told of it."""


def measure(
    language: Language, ways: Mapping[str, Callable[[], Made]], base: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Make each student and ask it about the held-out blocks; gains are positive where it is nearer than `base`."""
    told: dict[str, dict[str, Any]] = {}
    kls: dict[str, np.ndarray] = {}
    for name, make in ways.items():
        clock = time.perf_counter()
        students, facts = make()
        seconds = time.perf_counter() - clock
        asked = [judge(language, lambda block, of=one: _answer(of, language.held_out.ids[block])) for one in students]
        kls[name] = np.stack([kl for _, kl in asked])
        perplexity = math.exp(np.mean([nll for nll, _ in asked]))
        told[name] = {
            "perplexity": perplexity,
            "kl_by_seed": kls[name].mean(-1).tolist(),
            "params": count_params(students[0]),
            "seconds_to_make": round(seconds, 1),
            **facts,
        }
        say(f"{name}: KL {kls[name].mean(-1)}, perplexity {perplexity:.1f}, {seconds:.0f} s, {facts}")
    drawn = resample(
        {name: [mean_of(kl) for kl in seeds] for name, seeds in kls.items()}, next(iter(kls.values())).shape[1]
    )
    for name in told:
        told[name]["kl"] = bootstrap_metric(drawn[name]).model_dump()
        if base is not None and name != base:
            told[name]["kl_gain"] = bootstrap_difference(drawn[base], drawn[name]).model_dump()
    return told


@dataclass(frozen=True)
class Started(Language):
    """The same teacher and text with a student that is there already."""

    start: LlamaForCausalLM

    def student(self) -> LlamaForCausalLM:
        """A copy of it, to be trained."""
        return deepcopy(self.start).requires_grad_(True)


def trained(
    language: Language, depth: Mapping[str, Any], size: Size, training: smollm2.Size, say: Callable[[str], None]
) -> dict[str, Any]:
    """The students of these layers, and those of the least width, after a short training on the teacher's answers.

    All are trained alike; a seed draws the order of the blocks. Of the widths there is one seed.
    """

    def train(make: Callable[[], Made], seeds: Sequence[int]) -> Made:
        parts = {name: getattr(language, name) for name in ("teacher", "train", "held_out", "layers", "name")}
        start = Started(**parts, start=make()[0][0])
        line = smollm2.LINES[smollm2.REFERENCE]
        return [smollm2.train(start, line, training, seed) for seed in seeds], {}

    def of_layers(layers: Sequence[int]) -> Made:
        return [cut_decoder(language.teacher, layers=layers)], {}

    layers = {name: partial(of_layers, told["layers"]) for name, told in depth.items()}
    by_depth = {name: partial(train, make, training.seeds) for name, make in layers.items()}
    least = f"width {min(size.widths)},"
    ways = {name: make for name, make in widths(language, size).items() if name.startswith(least)}
    by_width = {name: partial(train, make, training.seeds[:1]) for name, make in ways.items()}
    return {
        "steps": training.steps,
        "training tokens": training.steps * training.blocks_a_step * language.train.ids.shape[1],
        "depth": measure(language, by_depth, UNIFORM, say),
        "width": measure(language, by_width, f"{least} copied", say),
    }


def depths(language: Language, size: Size) -> dict[str, Callable[[], Made]]:
    """Ways to choose layers."""
    teacher, batches = language.teacher, [{"input_ids": language.train.ids[: size.choosing]}]
    total = teacher.config.num_hidden_layers

    def cut(choose: Callable[[], LayerChoice]) -> Made:
        choice = choose()
        facts = {"layers": choice.layers, "scores": choice.scores, "removals": [asdict(one) for one in choice.removals]}
        return [cut_decoder(teacher, layers=choice.layers)], {key: value for key, value in facts.items() if value}

    return {
        UNIFORM: partial(cut, lambda: choose_layers(teacher, batches, size.layers, "uniform")),
        "uniform: last alone": partial(cut, lambda: LayerChoice(even_layers(size.layers, total))),
        "block_influence": partial(cut, lambda: choose_layers(teacher, batches, size.layers, "block_influence")),
        "kl": partial(cut, lambda: choose_layers(teacher, batches, size.layers, "kl")),
        "greedy_kl": partial(cut, lambda: choose_layers(teacher, batches, size.layers, "greedy_kl")),
    }


def widths(language: Language, size: Size) -> dict[str, Callable[[], Made]]:
    """One axis cut at a time, of all layers."""
    teacher = language.teacher
    batches = [{"input_ids": ids} for ids in language.train.ids[: size.fitting].split(4)]
    scores = score_widths(teacher, batches)
    cuts: dict[str, dict[str, int]] = {
        f"{size.heads[0]} heads in {size.heads[1]} groups": {"heads": size.heads[0], "key_value_heads": size.heads[1]},
        f"{size.neurons} neurons": {"intermediate": size.neurons},
        **{f"width {width}": {"width": width} for width in size.widths},
    }
    ways: dict[str, Callable[[], Made]] = {}
    for name, sizes in cuts.items():
        for how, rows in (("copied", ()), ("refitted", batches)):
            cut = partial(cut_decoder, teacher, **sizes, scores=scores, refit_on=rows)
            ways[f"{name}, {how}"] = lambda cut=cut: ([cut()], {})
    for width in size.widths:
        ways[f"width {width}, rotated, untied"] = partial(rotated, teacher, batches, width)
    return ways


def rotated(teacher: LlamaForCausalLM, batches: list[dict[str, Tensor]], width: int) -> Made:
    """The idea of SliceGPT (arXiv:2401.15024) with one rotation for all layers, so that it stays a plain Llama.

    Norms go into what reads them; the residual stream is turned to the principal components of the normed states, and
    the last of them are left out. The head reads a norm and the embeddings don't: it can't be tied any more.
    """
    moments = torch.zeros(teacher.config.hidden_size, teacher.config.hidden_size, dtype=torch.float64)

    def note(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> None:
        states = args[0].flatten(0, -2).double()
        states = states * states.square().mean(-1, keepdim=True).rsqrt()
        moments.add_(states.T @ states)

    norms = {name: module for name, module in teacher.named_modules() if name.endswith(("layernorm", "model.norm"))}
    handles = [module.register_forward_hook(note) for module in norms.values()]
    with torch.no_grad():
        for batch in batches:
            teacher.model(**batch, use_cache=False)
    for handle in handles:
        handle.remove()
    basis = torch.linalg.eigh(moments)[1][:, -width:].float()
    config = deepcopy(teacher.config)
    config.hidden_size, config.tie_word_embeddings = width, False
    student, source = LlamaForCausalLM(config), teacher.state_dict()
    weights = {}
    for name, value in source.items():
        layer = name.rsplit(".", 3)[0]
        if name.removesuffix(".weight") in norms:
            weights[name] = torch.full((width,), math.sqrt(len(value) / width))
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = basis.T @ value
        elif name == "model.embed_tokens.weight":
            weights[name] = value @ basis
        else:
            norm = "input_layernorm" if "self_attn" in name else "post_attention_layernorm"
            before = "model.norm" if name == "lm_head.weight" else f"{layer}.{norm}"
            weights[name] = (value * source[f"{before}.weight"]) @ basis
    student.load_state_dict(weights)
    return [student.eval()], {}


def _answer(student: Any, ids: Tensor) -> Projection:
    return Projection(states_of(student, ids), student.lm_head.weight)


if __name__ == "__main__":
    main()
