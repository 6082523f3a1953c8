"""A teacher on this machine: a Transformers or timm model, or a module handed over in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from attar.errors import AttarError, TeacherError
from attar.facts import SourceFacts
from attar.heads import head_width
from attar.identity import hash_module
from attar.recipe.teacher import LocalTeacherSpec
from attar.signals import HiddenKey, Inside, Speaker, Wanted, ask, look_inside
from attar.tasks.base import Processor, Task
from attar.tasks.causal_lm import CausalLM
from attar.tasks.tokenizers import ready
from attar.teachers.frozen import Frozen
from attar.teachers.gguf import read_gguf
from attar.teachers.labels import OutputOrder, order_outputs
from attar.teachers.origin import (
    Origin,
    check_code,
    find_model,
    from_folder,
    has_head,
    own_labels,
    quiet,
    read_config,
    writes,
)


@dataclass
class LocalTeacher:
    """A model that can be asked for signals, and what is known of it."""

    model: Frozen | Speaker
    """Eval mode, no gradients; logits in the order of the task's labels. Of several teachers all of them."""
    processor: Processor
    family: str
    """Transformers' model_type, or the module's class name."""
    inside: Inside
    """What it shows of its inside; empty where the model offers nothing."""
    labels: tuple[str, ...] | None
    """The task's labels, in order."""
    source: SourceFacts
    folder: Path | None = None
    warnings: list[str] = field(default_factory=list[str])
    """What the user should hear about the label map."""
    members: Mapping[str, LocalTeacher] = field(default_factory=dict[str, "LocalTeacher"])
    """By name, where it is several teachers."""

    @property
    def core(self) -> nn.Module:
        """The bare model, which a student is cut from; of several teachers the first's."""
        if isinstance(self.model, Frozen):
            return self.model.model
        return next(iter(self.members.values())).core

    @property
    def speaker(self) -> nn.Module:
        """Who is asked about each token of a language model."""
        return self.model.model if isinstance(self.model, Frozen) else self.model

    @property
    def alone(self) -> Mapping[str, LocalTeacher]:
        """Each of several teachers, or itself as `teacher`."""
        return self.members or {"teacher": self}

    @property
    def outputs(self) -> int:
        """Logits that a language model gives; of several the fewest. Raises PlanError as `head_width` does."""
        return min(head_width(one.core) for one in self.alone.values())

    @property
    def widths(self) -> Mapping[int, int]:
        """Width of each hidden state, 0 (embeddings) to L; empty where the model offers none."""
        return self.inside.widths

    @property
    def layers(self) -> int:
        """L: number of the last hidden state."""
        return self.inside.layers

    def resolve(self, wanted: Wanted) -> Wanted:
        """`wanted` with negative layers counted from the end. Raises TeacherError for a layer that is not there."""
        absent = [key.layer for key in wanted.hidden if not -len(self.widths) <= key.layer < len(self.widths)]
        if absent:
            offered = f"layers 0 to {self.layers}" if self.widths else "no hidden states"
            raise TeacherError(f"{self.source.name} offers {offered}, but layer {absent[0]} is wanted by an objective.")
        hidden = {HiddenKey(key.layer % len(self.widths), key.pool) for key in wanted.hidden}
        return Wanted(wanted.logits, tuple(sorted(hidden)), wanted.attention)


def load_local(spec: LocalTeacherSpec, task: Task, *, folder: Path | None = None) -> LocalTeacher:
    """Load a teacher that has a head for the task (`fit: none`). Raises TeacherError.

    `folder`: the model's folder, where it is known already; None: found, and fetched if need be, by `spec.model`.
    """
    name = spec.model or "teacher"
    origin = from_folder(folder, name, spec.licence) if folder is not None else find_origin(spec)
    if origin.folder.is_file():
        return _from_gguf(origin, name, task)
    config = read_config(origin.folder)
    check_code(config, name, trust_remote_code=spec.trust_remote_code)
    if isinstance(task, CausalLM):
        if not writes(config):
            raise TeacherError(
                f"{name}: is no causal language model (architectures: {config.get('architectures')}). Name one in "
                "`teacher.model`."
            )
    elif not has_head(config):
        raise TeacherError(
            f"{name}: has no classification head (architectures: {config.get('architectures')}), so it cannot answer "
            "this "
            "task. Use `teacher.fit: probe` or `full` to give it one from your data."
        )
    order = OutputOrder(None)
    if task.labels:
        order = order_outputs(own_labels(origin.folder), task.labels, spec.label_map)
    remote = spec.trust_remote_code
    model, processor = load_parts(
        name,
        lambda: (
            task.load_model(origin.folder, trust_remote_code=remote),
            task.load_processor(origin.folder, trust_remote_code=remote),
        ),
    )
    return assemble(model, processor, task, order=order, source=origin.source, folder=origin.folder)


def _from_gguf(origin: Origin, name: str, task: Task) -> LocalTeacher:
    if not isinstance(task, CausalLM):
        raise TeacherError(f"{name}: is a language model in a GGUF file, but the task is {task.spec.kind}.")
    model, tokenizer = read_gguf(origin.folder)
    processor = ready(tokenizer, name, None)
    return assemble(model, processor, task, order=OutputOrder(None), source=origin.source, folder=origin.folder)


def from_module(module: nn.Module, processor: Processor, task: Task, *, name: str | None = None) -> LocalTeacher:
    """A teacher from a module handed over in Python; it must take the task's batches as keywords. Raises TeacherError.

    A Transformers model with named labels is matched by name; any other module answers in the task's order.
    """
    named = cast("dict[int, str]", module.config.id2label) if isinstance(module, PreTrainedModel) else None
    order = order_outputs([named[i] for i in sorted(named)], task.labels) if named else OutputOrder(None)
    title = name or type(module).__name__
    source = SourceFacts(role="teacher", name=title, hash=hash_module(module))
    return assemble(module, processor, task, order=order, source=source, folder=None)


def find_origin(spec: LocalTeacherSpec) -> Origin:
    """Folder and identity of the recipe's teacher. Raises TeacherError."""
    if spec.model is None:
        raise TeacherError("teacher.model: absent; a teacher built from `config` has no folder before it is fitted.")
    return find_model(
        spec.model, revision=spec.revision, licence=spec.licence, trust_remote_code=spec.trust_remote_code
    )


def assemble(
    model: nn.Module, processor: Processor, task: Task, *, order: OutputOrder, source: SourceFacts, folder: Path | None
) -> LocalTeacher:
    """Freeze a model, ask it one row, and note what it offers. Raises TeacherError where it cannot answer."""
    frozen = Frozen(model, order.outputs)
    config = getattr(model, "config", None)
    return LocalTeacher(
        model=frozen,
        processor=processor,
        family=str(getattr(config, "model_type", None) or type(model).__name__),
        inside=_measure(frozen, processor, task, source.name),
        labels=task.labels,
        source=source,
        folder=folder,
        warnings=list(order.warnings),
    )


def load_parts(name: str, load: Any) -> Any:
    """Call `load`, quietly; whatever Transformers cannot do becomes a TeacherError that says what to do."""
    try:
        with quiet():
            return load()
    except AttarError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TeacherError(
            f"{name}: cannot be loaded: {reason} Check that the folder is whole and that the installed Transformers "
            "knows "
            "its architecture."
        ) from error


def _measure(model: Frozen, processor: Processor, task: Task, name: str) -> Inside:
    """What it shows of its inside, found by asking one made-up row."""
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    inputs = {key: value.to(device) for key, value in made_up_row(processor, task).items()}
    try:
        inside = look_inside(model, inputs)
        if not inside.widths:
            ask(model, inputs, Wanted())
    except TypeError as error:
        raise TeacherError(f"{name}: its forward does not take the task's inputs {sorted(inputs)}: {error}.") from error
    return inside


def made_up_row(processor: Processor, task: Task) -> dict[str, Tensor]:
    """The shortest batch of the task: one text of one letter, or one black image."""
    match task.spec.kind:
        case "image_classification":
            side = task.spec.image_size
            return {"pixel_values": torch.zeros(1, 3, side, side)}
        case "causal_lm":
            ids = processor("a b", add_special_tokens=False)["input_ids"]
            return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
        case _:
            pair = ("a", "a") if task.spec.text_pair else ("a",)
            return dict(processor(*pair, return_tensors="pt"))
