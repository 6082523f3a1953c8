"""One case of `speed.py` in a process of its own: sets a training up, then answers questions on its stdin.

    python benchmarks/lm/speed_worker.py '{"case": "attar live", "rows": "whole", "place": "runs/speed", ...}'

`time N` takes N optimizer steps, and answers with their seconds and the tokens that were learned. `memory` takes one
and answers with its peak of bytes beyond what stays: weights, gradients and optimizer state. A training runs in a
thread of its own and takes a step when it is told to; all of a step counts, batch and log too. `bare` answers with the
seconds of each piece of a step.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore, Thread
from typing import Any

import speed_ground as ground
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[1]))

from loss_worker import give_back, resident

STEPS = 100_000
"""More than are ever taken."""
RATE = 1e-6


class InTurn(TrainerCallback):
    """A training in a thread of its own: `start` runs it, and says what it trains and how much it has learned."""

    def __init__(self, start: Callable[[InTurn], None], threads: int) -> None:
        self._go, self._done, self._mark, self._seconds = Semaphore(0), Semaphore(0), 0.0, 0.0
        self._before: Callable[[], None] = lambda: None
        self.tokens: Callable[[], int] = lambda: 0
        self.weights: list[nn.Parameter] = []
        """Those that are trained."""
        self.failed: BaseException | None = None
        Thread(target=self._run, args=(start, threads), daemon=True).start()

    def step(self, before: Callable[[], None] = lambda: None) -> float:
        """Seconds of the next step, all between the last one's end and its own. `before` runs first, uncounted."""
        self._before = before
        self._go.release()
        self._done.acquire()
        if self.failed is not None:
            raise self.failed
        return self._seconds

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the first turn."""
        self._wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Give the turn back, and wait for the next."""
        self._seconds = time.perf_counter() - self._mark
        self._done.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        self._before()
        self._mark = time.perf_counter()

    def _run(self, start: Callable[[InTurn], None], threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            start(self)
        except BaseException as error:
            self.failed = error
            self._done.release()


def attar(case: dict[str, Any], turns: InTurn) -> None:
    """A training of attar's, as `attar.training.train.train` runs it."""
    from attar.objectives.terms.terms import Terms
    from attar.recipe.objectives import ForwardKLSpec, ReverseKLSpec
    from attar.recipe.rollouts import RolloutsSpec
    from attar.recipe.targets import SAMPLED
    from attar.recipe.task import CausalLMSpec
    from attar.recipe.training import TrainingSpec
    from attar.tasks.causal_lm import CausalLM
    from attar.training.checkpoints import repeatable
    from attar.training.packing import packing
    from attar.training.rows import LiveTeacher, TrainingRows
    from attar.training.train import make_trainer

    place, size = Path(case["place"]), ground.Size(**case["size"])
    task = CausalLM(CausalLMSpec(kind="causal_lm", max_length=size.longest))
    tokenizer, student = task.load_processor(place / "teacher"), ground.model_of(place, "student")
    encoded = ground.encoded(ground.rows_of(place, case["rows"])[: case["count"]])
    on_policy = case["case"] == "attar on-policy"
    objective = ReverseKLSpec(kind="reverse_kl") if on_policy else ForwardKLSpec(kind="forward_kl")
    is_stored = case["case"] == "attar stored"
    terms = Terms([objective], problem="single_label", targets=SAMPLED if is_stored else None, seed=0)
    if is_stored:
        rows = TrainingRows(encoded, tokenizer, signals=ground.stored(place, case["rows"], encoded))
    else:
        teacher = ground.model_of(place, "teacher")
        rows = TrainingRows(encoded, tokenizer, live=LiveTeacher(teacher, encoded, tokenizer, terms.wanted_teacher))
    spec = TrainingSpec(
        max_steps=STEPS, batch_size=case["batch"], learning_rate=RATE, schedule="constant", warmup=0.0, device="cpu",
        evaluations=1, checkpoints=0, control=False, weight_decay=0.0,
    )  # fmt: skip
    rollouts = RolloutsSpec(fraction=1.0, cold_start=0.0, max_new_tokens=size.written) if on_policy else None
    with repeatable(), tempfile.TemporaryDirectory() as out:
        trainer = make_trainer(student, terms, task, rows, spec, Path(out) / "run", key="", rollouts=rollouts)
        turns.tokens, turns.weights = lambda: trainer.clock.rows, list(student.parameters())
        trainer.add_callback(turns)
        with packing(spec, trainer.distil.student, rows, task):
            trainer.resume(None)


def settings(case: dict[str, Any], out: str) -> dict[str, Any]:
    """TrainingArguments of TRL's trainers, set as attar's are."""
    return {
        "output_dir": out, "max_steps": STEPS, "per_device_train_batch_size": case["batch"],
        "learning_rate": RATE, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0,
        "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "logging_strategy": "no",
        "save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }  # fmt: skip


def gkd(case: dict[str, Any], turns: InTurn) -> None:
    """TRL's GKDTrainer on the data's answers (lmbda 0), forward KL (beta 0), its own collator given the same ids."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    place = Path(case["place"])
    rows = ground.rows_of(place, case["rows"])[: case["count"]]
    data = [{"prompt": "", "input_ids": row.ids, "completion_mask": [int(one) for one in row.learned]} for row in rows]
    with tempfile.TemporaryDirectory() as out:
        config = GKDConfig(
            **settings(case, out), lmbda=0.0, beta=0.0, temperature=1.0, max_length=case["size"]["longest"]
        )
        trainer = GKDTrainer(
            ground.model_of(place, "student"), ground.model_of(place, "teacher"), config,
            train_dataset=Dataset.from_list(data), processing_class=ground.tokenizer_of(place),
        )  # fmt: skip
        # A step is a batch of as many rows, so a pass over all of them learns the same tokens.
        learned = sum(sum(row.learned) for row in rows) * case["batch"] / len(rows)
        turns.tokens = lambda: round(learned * trainer.state.global_step)
        turns.weights = list(trainer.model.parameters())
        trainer.add_callback(turns)
        trainer.train()


def distillation(case: dict[str, Any], turns: InTurn) -> None:
    """TRL's DistillationTrainer: the student writes all answers; reverse KL (beta 1)."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    class Counting(DistillationTrainer):
        written = 0

        def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
            answers = super()._generate_single_turn(*args, **options)
            self.written += sum(map(len, answers))
            return answers

    place = Path(case["place"])
    tokenizer = ground.tokenizer_of(place)
    tokenizer.padding_side = "left"
    rows = ground.rows_of(place, case["rows"])[: case["count"]]
    prompts = [tokenizer.decode(row.ids[: row.prompt]) for row in rows]
    assert [tokenizer(text)["input_ids"] for text in prompts] == [row.ids[: row.prompt] for row in rows]
    with tempfile.TemporaryDirectory() as out:
        config = DistillationConfig(
            **settings(case, out), beta=1.0, temperature=1.0, max_completion_length=case["size"]["written"]
        )
        trainer = Counting(
            ground.model_of(place, "student"), ground.model_of(place, "teacher"), config,
            train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer,
        )  # fmt: skip
        turns.tokens = lambda: trainer.written
        trainer.add_callback(turns)
        trainer.train()


class Bare:
    """The pieces that a step on `whole` rows cannot do without, each timed alone."""

    def __init__(self, case: dict[str, Any]) -> None:
        place = Path(case["place"])
        rows = ground.rows_of(place, "whole")
        self.ids = torch.tensor([row.ids for row in rows])
        self.learned = sum(sum(row.learned) for row in rows)
        self.teacher, self.student = ground.model_of(place, "teacher").eval(), ground.model_of(place, "student").train()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=RATE, weight_decay=0.0, fused=True)
        width = self.student.config.hidden_size
        draw = torch.Generator().manual_seed(0)
        self.states, self.theirs = (torch.randn(self.learned, width, generator=draw) for _ in range(2))
        self.toward = torch.randn(*self.ids.shape, width, generator=draw)

    def time(self) -> dict[str, float]:
        """Seconds by piece."""
        head, theirs = self.student.lm_head.weight.detach(), self.teacher.lm_head.weight.detach()
        gradient = torch.zeros_like(head)
        pieces: dict[str, Callable[[], None]] = {
            "teacher body": lambda: self._ask(self.teacher),
            "student body": self._learn,
            "teacher head": lambda: blocks(self.theirs, lambda rows: rows @ theirs.t()),
            "student head": lambda: blocks(self.states, lambda rows: products(rows, head, gradient)),
            "optimizer": self.optimizer.step,
        }
        seconds: dict[str, float] = {}
        for name, piece in pieces.items():
            start = time.perf_counter()
            piece()
            seconds[name] = time.perf_counter() - start
        self.optimizer.zero_grad()
        return seconds

    def _ask(self, model: Any) -> None:
        with torch.no_grad():
            model.model(input_ids=self.ids, use_cache=False)

    def _learn(self) -> None:
        body: nn.Module = self.student.model
        body(input_ids=self.ids, use_cache=False).last_hidden_state.backward(self.toward)


def blocks(states: Tensor, act: Callable[[Tensor], object]) -> None:
    """Block by block, as large a product as is efficient."""
    with torch.no_grad():
        for rows in states.split(1024):
            act(rows)


def products(rows: Tensor, head: Tensor, gradient: Tensor) -> None:
    """The student's three: logits, and from a gradient of logits those of states and head."""
    logits = rows @ head.t()
    _ = logits @ head
    gradient.addmm_(logits.t(), rows)


def start(case: dict[str, Any], turns: InTurn) -> None:
    """The training of a case."""
    match case["case"]:
        case "trl live":
            gkd(case, turns)
        case "trl on-policy":
            distillation(case, turns)
        case _:
            attar(case, turns)


def peak(turns: InTurn) -> int:
    """Bytes of one step beyond what was there before, and the gradients, which are made anew in each."""
    before = 0

    def begin() -> None:
        nonlocal before
        assert all(weight.grad is None for weight in turns.weights)
        give_back()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew

    turns.step(begin)
    gradients = sum(weight.numel() * weight.element_size() for weight in turns.weights)
    return resident("VmHWM") - before - gradients


def answer(turns: InTurn | Bare, question: list[str]) -> dict[str, float]:
    """To one line of the input."""
    if isinstance(turns, Bare):
        return turns.time()
    if question[0] == "memory":
        return {"bytes": peak(turns)}
    tokens = turns.tokens()
    seconds = sum(turns.step() for _ in range(int(question[1])))
    return {"seconds": seconds, "tokens": turns.tokens() - tokens}


def main() -> None:
    """Set the case up, then answer until the input ends."""
    case = json.loads(sys.argv[1])
    said, sys.stdout = sys.stdout, sys.stderr  # trainers print
    torch.set_num_threads(case["threads"])
    turns = Bare(case) if case["case"] == "bare" else InTurn(lambda turns: start(case, turns), case["threads"])
    print(json.dumps({"ready": True}), file=said, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(turns, line.split())), file=said, flush=True)
    os._exit(0)  # in the middle of a training


if __name__ == "__main__":
    main()
