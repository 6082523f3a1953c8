"""The teacher of a recipe: what it is, what it offers, and whether it knows the data's labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, cast

from attar.plan.checkpoint import Checkpoint, look_at_model
from attar.plan.notes import Notes
from attar.plan.result import ModelPlan, Size
from attar.plan.rows import RowsFound, problem_of
from attar.plan.sizes import Count, count, count_language, read_field
from attar.plan.targets import stored_targets
from attar.plan.tokenizers import Tokenizer, read_tokenizer
from attar.plan.transformers_source import config_fields, model_types
from attar.plan.words import Vocabulary, read_vocabulary
from attar.recipe import Recipe
from attar.recipe.nearest import did_you_mean, listed
from attar.recipe.places import Path
from attar.recipe.targets import TargetsSpec
from attar.recipe.task import CausalLMSpec, ImageClassificationSpec
from attar.recipe.teacher import LocalTeacherSpec, StoredTeacherSpec

_GENERIC = re.compile(r"LABEL_\d+")
_SHOWN = 8


@dataclass
class TeacherFound:
    """The plan's teacher, and what later checks read of it."""

    plan: ModelPlan
    checkpoint: Checkpoint | None = None
    vocabulary: Vocabulary | None = None
    count: Count | None = None
    tokenizer: Tokenizer | None = None
    """Of a language model, where its files tell."""
    offers: tuple[str, ...] | None = None
    """Of a stored teacher: its signals; None for a live one, which offers logits and every layer."""
    targets: TargetsSpec | None = None
    """Of a language model's stored teacher: what is stored of each token."""
    members: dict[str, TeacherFound] = field(default_factory=dict[str, "TeacherFound"])
    """Of several teachers each, by name; what stands above is the first's, but for the plan and the offers."""
    routed: bool = False
    """Is each row asked of one of several?"""

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration; empty where it is not known."""
        return {} if self.checkpoint is None else self.checkpoint.config

    @property
    def alone(self) -> tuple[TeacherFound, ...]:
        """Each of several teachers, or itself."""
        return tuple(self.members.values()) or (self,)

    def flops(self, tokens: float) -> float | None:
        """Arithmetic of a row; of several teachers that are mixed all of it, of routed ones the mean. None: unknown."""
        each = [None if one.count is None else one.count.flops(tokens) for one in self.alone]
        known = [flops for flops in each if flops is not None]
        if len(known) < len(each):
            return None
        return sum(known) / (len(known) if self.routed else 1)


def look_at_one(
    recipe: Recipe, spec: LocalTeacherSpec | StoredTeacherSpec, rows: RowsFound, notes: Notes, python_objects: bool
) -> TeacherFound:
    """What can be seen of one teacher; problems go to `notes`, by the places that the recipe's only teacher has."""
    match spec:
        case StoredTeacherSpec():
            return _stored(recipe, spec, rows, notes)
        case LocalTeacherSpec() if spec.config is not None:
            return _untrained(recipe, spec.config, rows, notes)
        case LocalTeacherSpec():
            return _local(recipe, spec, rows, notes, python_objects)


def outputs_of(recipe: Recipe, rows: RowsFound) -> int | None:
    """Logits of the task, as far as labels are known; of language models 0, as these are counted by their tokens."""
    if isinstance(recipe.task, CausalLMSpec):
        return 0
    return 1 if problem_of(recipe.task) == "regression" else len(rows.plan.labels) or None


def count_of(recipe: Recipe, config: dict[str, Any]) -> Count | None:
    """Sizes of the task's model of this configuration; None where the family's formula is not known here."""
    return count_language(config) if isinstance(recipe.task, CausalLMSpec) else count(config, image_size(recipe))


def image_size(recipe: Recipe) -> int | None:
    """Side of the task's images in pixels; None for texts."""
    return recipe.task.image_size if isinstance(recipe.task, ImageClassificationSpec) else None


def _local(recipe: Recipe, spec: LocalTeacherSpec, rows: RowsFound, notes: Notes, python_objects: bool) -> TeacherFound:
    path: Path = ("teacher", "model")
    checkpoint = look_at_model(
        str(spec.model), path, notes,
        trust_remote_code=spec.trust_remote_code, revision=spec.revision, python_objects=python_objects,
    )  # fmt: skip
    vocabulary = read_vocabulary(checkpoint.folder) if image_size(recipe) is None else None
    counted = count_of(recipe, checkpoint.config)
    if spec.fit != "none" and rows.plan.labelled is False:
        notes.problem(
            ("teacher", "fit"), f'"{spec.fit}" needs labels, and the data has none. Use a teacher with a head.'
        )
    if spec.fitting.min_count > 1 and not (isinstance(recipe.task, CausalLMSpec) and spec.fit == "full"):
        notes.problem(
            ("teacher", "fitting", "min_count"),
            "only a language model that is fine-tuned (fit: full) reads rare words in pieces, too. Remove it.",
        )
    if isinstance(recipe.task, CausalLMSpec):
        _writes(spec, checkpoint, notes)
    elif spec.fit == "none" and checkpoint.config:
        _head(recipe, spec, checkpoint, rows, notes)
    if spec.label_map is not None and spec.fit != "none":
        notes.problem(
            ("teacher", "label_map"), f"a head that is fitted (fit: {spec.fit}) has the data's labels already."
        )
    if checkpoint.is_timm and image_size(recipe) is None:
        notes.problem(path, f"timm has image models, but task.kind is {recipe.task.kind}.")
    params = Size(note=checkpoint.reason or "its configuration does not tell")
    if checkpoint.params is not None:
        outputs = outputs_of(recipe, rows)
        head = 0 if spec.fit == "none" or counted is None or outputs is None else counted.per_output * outputs
        note = "" if spec.fit == "none" else f"with the head of fit: {spec.fit}"
        params = (
            Size(checkpoint.params, checkpoint.params + 2 * head, checkpoint.params + head, note)
            if head
            else Size.exact(checkpoint.params)
        )
    return TeacherFound(
        _plan(str(spec.model), checkpoint.config, params, vocabulary, checkpoint), checkpoint, vocabulary, counted,
        read_tokenizer(checkpoint) if isinstance(recipe.task, CausalLMSpec) else None,
    )  # fmt: skip


def _untrained(recipe: Recipe, config: dict[str, Any], rows: RowsFound, notes: Notes) -> TeacherFound:
    path: Path = ("teacher", "config")
    check_config(config, path, notes)
    if rows.plan.labelled is False:
        notes.problem(("teacher", "fit"), "an untrained teacher needs labels, and the data has none.")
    if isinstance(recipe.task, CausalLMSpec):
        notes.problem(path, "a language model built from a configuration has no tokenizer. Name one in teacher.model.")
    checkpoint = Checkpoint("config", config=config)
    counted = count_of(recipe, config)
    outputs = outputs_of(recipe, rows)
    params = Size(note=f'no formula for "{config.get("model_type")}" here')
    if counted is not None:
        params = Size(note="the labels are not known yet")
        if outputs is not None:
            params = Size.exact(counted.params(read_field(config, "tokens") or 0, outputs))
    return TeacherFound(_plan("config", config, params, None, checkpoint), checkpoint, None, counted)


def _plan(
    source: str, config: dict[str, Any], params: Size, vocabulary: Vocabulary | None, checkpoint: Checkpoint
) -> ModelPlan:
    tokens = read_field(config, "tokens") if config else None
    return ModelPlan(
        source=source,
        family=checkpoint.family,
        layers=read_field(config, "layers") if config else None,
        hidden=read_field(config, "hidden") if config else None,
        params=params,
        tokens=Size.exact(vocabulary.size)
        if vocabulary is not None
        else None
        if tokens is None
        else Size.exact(tokens),
        bytes=None if params.likely is None else 4 * params.likely,
        labels=checkpoint.labels,
    )


def check_config(config: dict[str, Any], path: Path, notes: Notes) -> None:
    """A configuration of the recipe against the fields of its class: misspelt ones would be ignored in silence."""
    known = model_types()
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        notes.problem(path, 'needs a `model_type`, such as "bert" or "resnet".')
        return
    if known is not None and model_type not in known:
        near = did_you_mean(model_type, known)
        notes.problem((*path, "model_type"), f'the installed Transformers does not know "{model_type}".{near}')
        return
    fields = config_fields(model_type)
    for name in config if fields is not None else []:
        if name not in (fields or {}):
            near = did_you_mean(name, fields or ())
            notes.problem((*path, name), f'the configuration of "{model_type}" has no such field.{near}')
    width, heads = read_field(config, "hidden"), read_field(config, "heads")
    if width is not None and heads and width % heads:
        notes.problem(path, f"{heads} attention heads do not divide the width {width}.")


def _writes(spec: LocalTeacherSpec, checkpoint: Checkpoint, notes: Notes) -> None:
    """A language model's teacher must be one itself."""
    if checkpoint.config and not checkpoint.writes:
        kinds = listed(str(name) for name in checkpoint.config.get("architectures") or ["none named"])
        notes.problem(
            ("teacher", "model"), f"the teacher is no causal language model ({kinds}), but task.kind is causal_lm."
        )
    if spec.fit == "probe":
        notes.problem(("teacher", "fit"), '"probe" fits classifiers. Allowed for causal_lm: none, full (fine-tuning).')
    if spec.fitting.head_learning_rate is not None:
        notes.problem(
            ("teacher", "fitting", "head_learning_rate"),
            "a language model's head is no new part that could have a rate of its own. Remove it.",
        )
    if spec.pooling != "auto":
        notes.problem(("teacher", "pooling"), "a language model tells each token: nothing is pooled. Remove it.")
    if spec.label_map is not None:
        notes.problem(("teacher", "label_map"), "a language model has no labels to map. Remove it.")


def _head(recipe: Recipe, spec: LocalTeacherSpec, checkpoint: Checkpoint, rows: RowsFound, notes: Notes) -> None:
    """The labels of the teacher's head against those of the data; unnamed ones are taken in order."""
    if not checkpoint.has_head:
        kinds = listed(str(name) for name in checkpoint.config.get("architectures") or ["none named"])
        notes.problem(
            ("teacher", "fit"), f"the teacher has no classification head ({kinds}). Use fit: probe or fit: full."
        )
        return
    own = checkpoint.labels
    if problem_of(recipe.task) == "regression":
        if len(own) != 1:
            notes.problem(("teacher", "model"), f"regression needs a head with one output; this one has {len(own)}.")
        return
    mapping = spec.label_map or {}
    strangers = [f'"{name}"{did_you_mean(name, own)}' for name in mapping if name not in own]
    if strangers:
        notes.problem(
            ("teacher", "label_map"),
            f"the teacher has no label {listed(strangers, _SHOWN)}. It has {listed(own, _SHOWN)}.",
        )
    labels = rows.plan.labels
    if not labels:
        return
    targets = [f'"{name}"{did_you_mean(name, labels)}' for name in mapping.values() if name not in labels]
    if targets:
        notes.problem(("teacher", "label_map"), f"the data has no label {listed(targets, _SHOWN)}.")
    if not mapping and all(_GENERIC.fullmatch(name) for name in own):
        if len(own) == len(labels):
            notes.warn(
                ("teacher", "model"), "its labels have no names (LABEL_0, …); they are taken in the data's order."
            )
        else:
            notes.problem(
                ("teacher", "model"),
                f"it has {len(own)} unnamed outputs, the data has {len(labels)} labels. Use fit: probe.",
            )
        return
    known = {_plain(mapping.get(name, name)) for name in own}
    unknown = [f'"{name}"{did_you_mean(name, own)}' for name in labels if _plain(name) not in known]
    if unknown and not strangers and not targets:
        notes.problem(
            ("teacher", "model"),
            f"it does not know {len(unknown)} of the data's {len(labels)} labels: {listed(unknown, _SHOWN)}. "
            f"Its labels: {listed(own, _SHOWN)}. Map its names to the data's in teacher.label_map, or use fit: probe.",
        )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.casefold())


def _stored(recipe: Recipe, spec: StoredTeacherSpec, rows: RowsFound, notes: Notes) -> TeacherFound:
    path: Path = ("teacher", "path")
    unknown = ModelPlan(spec.path, None, None, None, Size(note="the store does not tell"))
    found = _manifest(FilePath(spec.path).expanduser(), path, notes)
    if found is None:
        return TeacherFound(unknown, offers=())
    folder, manifest = found
    offers = tuple(str(name) for name in manifest.get("offers", []))
    labels = tuple(str(name) for name in manifest.get("labels", []))
    if labels and rows.plan.labels and set(labels) != set(rows.plan.labels):
        strange = [f'"{name}"{did_you_mean(name, labels)}' for name in rows.plan.labels if name not in labels]
        lacking = listed(strange or labels, _SHOWN)
        notes.problem(
            path, f"the store's labels are not the data's: {lacking}. It was made for other data; label again."
        )
    elif labels and rows.plan.labels and labels != rows.plan.labels:
        notes.warn(path, "its labels stand in another order; if it is refused, give task.labels in the store's order.")
    _several(recipe, cast("dict[str, Any]", manifest.get("facts") or {}), path, notes)
    about = cast("dict[str, Any]", manifest.get("about") or {})
    facts = cast("dict[str, Any]", about.get("facts") or {})
    widths = {int(layer): int(width) for layer, width in cast("dict[str, int]", about.get("widths") or {}).items()}
    params = facts.get("params")
    size = Size.exact(params, "as the store says") if isinstance(params, int) else unknown.params
    vocabulary = read_vocabulary(folder / "processor")
    plan = ModelPlan(
        source=spec.path,
        family=cast("str | None", facts.get("family")),
        layers=max(widths, default=None),
        hidden=widths.get(max(widths, default=0)),
        params=size,
        tokens=None if vocabulary is None else Size.exact(vocabulary.size),
        bytes=None if size.likely is None else 4 * size.likely,
        labels=labels,
    )
    targets = stored_targets(spec, manifest, path, notes) if isinstance(recipe.task, CausalLMSpec) else None
    return TeacherFound(plan, vocabulary=vocabulary, offers=offers, targets=targets)


def _several(recipe: Recipe, facts: dict[str, Any], path: Path, notes: Notes) -> None:
    """A store of several teachers serves elsewhere where nobody need ask them again or know how rows are routed."""
    told = cast("dict[str, Any] | None", facts.get("teachers"))
    if told and (told.get("route") or isinstance(recipe.task, CausalLMSpec)):
        why = f'its rows are routed by "{told["route"]}"' if told.get("route") else "they judge the student, too"
        notes.problem(
            path,
            f"several teachers made this store ({listed(told['members'], _SHOWN)}), and {why}. Use teacher.kind: "
            "ensemble with signals: store.",
        )


def _manifest(folder: FilePath, path: Path, notes: Notes) -> tuple[FilePath, dict[str, Any]] | None:
    """A store's folder and its manifest.json: there, or the only one below (`signals/KEY`, `store/signals/KEY`)."""
    for root in (folder, folder / "signals", folder / "store" / "signals"):
        direct = root / "manifest.json"
        found = [direct] if direct.is_file() else sorted(root.glob("*/manifest.json"))
        if len(found) > 1:
            notes.problem(
                path, f"{root} holds {len(found)} stores: {listed(f.parent.name for f in found)}. Name one of them."
            )
            return None
        if found:
            try:
                content = json.loads(found[0].read_bytes())
            except (OSError, ValueError):
                content = None
            if not isinstance(content, dict):
                notes.problem(path, f"{found[0]} is not a store's manifest. Delete the folder and label again.")
                return None
            manifest = cast("dict[str, Any]", content)
            for shard in cast("list[dict[str, Any]]", manifest.get("shards", [])):
                if not (found[0].parent / str(shard.get("name"))).is_file():
                    notes.problem(path, f"the shard {shard.get('name')} is missing in {found[0].parent}. Label again.")
            return found[0].parent, manifest
    notes.problem(
        path, f"{folder} holds no store (no manifest.json). Make one with `attar label RECIPE`, or correct the path."
    )
    return None
