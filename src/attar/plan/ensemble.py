"""Several teachers in a plan: each is looked at like one, and then whether they go together."""

from __future__ import annotations

from dataclasses import replace

from attar.plan.language_heads import enough, head
from attar.plan.notes import Notes
from attar.plan.result import ModelPlan, Size
from attar.plan.rows import RowsFound
from attar.plan.sizes import read_field
from attar.plan.tables import MAX_ROWS
from attar.plan.teacher import TeacherFound, image_size, look_at_one
from attar.plan.tokenizers import compare
from attar.recipe import Recipe
from attar.recipe.data import UnlabelledSpec
from attar.recipe.nearest import did_you_mean, listed
from attar.recipe.places import Path
from attar.recipe.task import CausalLMSpec
from attar.recipe.teacher import EnsembleSpec, LocalTeacherSpec, ModelSpec, RouteSpec

_SHOWN = 8


class _Within(Notes):
    """Notes about one of several teachers, taken as about an only one: they go to its own place."""

    def __init__(self, notes: Notes, name: str) -> None:
        super().__init__(notes.places)
        self._notes, self._name = notes, name

    def problem(self, path: Path, message: str) -> None:
        """See `Notes.problem`."""
        self._notes.problem(self._moved(path), self._reworded(message))

    def warn(self, path: Path, message: str) -> None:
        """See `Notes.warn`."""
        self._notes.warn(self._moved(path), self._reworded(message))

    def _moved(self, path: Path) -> Path:
        own = path[:1] == ("teacher",) and path[1:2] and path[1] in ModelSpec.model_fields
        return ("teacher", "members", self._name, *path[1:]) if own else path

    def _reworded(self, message: str) -> str:
        for field in ModelSpec.model_fields:
            message = message.replace(f"teacher.{field}", f"teacher.members.{self._name}.{field}")
        return message


def notes_of_first(recipe: Recipe, notes: Notes) -> Notes:
    """Where notes about the teacher's model belong: of several they are the first's."""
    spec = recipe.teacher
    return _Within(notes, next(iter(spec.members))) if isinstance(spec, EnsembleSpec) else notes


def specs_of(recipe: Recipe) -> list[LocalTeacherSpec]:
    """The teachers that are models on this machine, in the order of `TeacherFound.alone`."""
    match recipe.teacher:
        case EnsembleSpec() as spec:
            return [spec.alone(name) for name in spec.members]
        case LocalTeacherSpec() as spec:
            return [spec]
        case _:
            return []


def told_members(recipe: Recipe) -> str:
    """What several teachers of a language model cost, in words."""
    spec = recipe.teacher
    assert isinstance(spec, EnsembleSpec), "there are several"
    count = len(spec.members)
    if spec.route is not None:
        return f"{count}, one for each row, by column {spec.route.by}; all are held in memory"
    return (
        f"{count}, mixed by their {spec.combine}: each reads every row and makes its logits of every token, in blocks, "
        "one after another; all are held in memory"
    )


def unshown(teacher: TeacherFound, signal: str) -> str | None:
    """Why several teachers do not offer what is inside of them; None: they do."""
    if not teacher.routed:
        return (
            "several teachers that are mixed offer logits alone: states of different models mean different things. "
            "Route each row to one of them (teacher.route), or drop it."
        )
    if ":cka" in signal:
        return "layers: cka asks one model. Name the pairs, or use last or uniform."
    shapes = {(one.plan.family, one.plan.layers, one.plan.hidden) for one in teacher.alone}
    if len(shapes) > 1:
        told = "; ".join(
            f"{name}: {one.plan.family or 'not known'}, {one.plan.layers} layers, {one.plan.hidden} wide"
            for name, one in teacher.members.items()
        )
        return f"the teachers that rows are routed to are not of one shape ({told}). Use such teachers, or drop it."
    return None


def look_at_teacher(recipe: Recipe, rows: RowsFound, notes: Notes, python_objects: bool) -> TeacherFound:
    """What can be seen of the recipe's teacher, or of its several; problems go to `notes`."""
    spec = recipe.teacher
    if not isinstance(spec, EnsembleSpec):
        return look_at_one(recipe, spec, rows, notes, python_objects)
    members = {name: look_at_one(recipe, spec.alone(name), rows, _Within(notes, name), False) for name in spec.members}
    if isinstance(recipe.task, CausalLMSpec):
        _languages(recipe, spec, members, notes)
    elif spec.signals == "live" or (spec.signals == "auto" and recipe.training.mixup > 0):
        _one_view(recipe, members, notes)
    if spec.route is not None:
        _routes(recipe, spec.route, rows, notes)
    first = next(iter(members.values()))
    routed = spec.route is not None
    return replace(
        first, plan=_plan(spec, members), members=members, routed=routed,
        offers=None if routed and len({one.plan.hidden for one in members.values()}) == 1 else ("logits",),
    )  # fmt: skip


def _plan(spec: EnsembleSpec, members: dict[str, TeacherFound]) -> ModelPlan:
    """Sizes are those of all together; a shape is told where all have it."""
    plans = [one.plan for one in members.values()]
    params = Size(note="; ".join(f"{name}: {one.plan.params}" for name, one in members.items()))
    if all(plan.params.likely is not None for plan in plans):
        low, high, likely = (
            sum(getattr(plan.params, bound) or 0 for plan in plans) for bound in ("low", "high", "likely")
        )
        params = Size(low, high, likely, f"{len(plans)} models together")
    families = {plan.family for plan in plans}
    how = spec.combine if spec.route is None else f"by column {spec.route.by}"
    return replace(
        plans[0],
        source=f"{' + '.join(f'{name} ({one.plan.source})' for name, one in members.items())}, {how}",
        family=" + ".join(sorted({str(family) for family in families})) if None not in families else None,
        layers=plans[0].layers if len({plan.layers for plan in plans}) == 1 else None,
        hidden=plans[0].hidden if len({plan.hidden for plan in plans}) == 1 else None,
        params=params,
        bytes=None if params.likely is None else 4 * params.likely,
    )


def _languages(recipe: Recipe, spec: EnsembleSpec, members: dict[str, TeacherFound], notes: Notes) -> None:
    """Language models can be joined where they have the same tokens; all read texts as the first does."""
    (first, ours), *others = members.items()
    for name, theirs in others:
        path: Path = ("teacher", "members", name, "model")
        relation = compare(theirs.tokenizer, ours.tokenizer)
        if relation.kind not in ("same", "unknown"):
            notes.problem(
                path,
                f'its tokenizer is not that of "{first}": {relation.first}. What they say of a token can be joined '
                "only where both have the same tokens: use models with one tokenizer, or distil from one of them "
                "(teacher.kind: local), between tokenizers if need be.",
            )
        elif ours.tokenizer and theirs.tokenizer and ours.tokenizer.template != theirs.tokenizer.template:
            notes.warn(path, f'it has another chat template than "{first}", whose is used for all teachers.')
        enough(theirs.config, theirs.tokenizer, path, notes)
        head(theirs.config, path, notes)
        positions = read_field(theirs.config, "positions") if theirs.config else None
        longest = getattr(recipe.task, "max_length", None)
        if positions is not None and longest is not None and longest > positions:
            notes.problem(
                ("task", "max_length"),
                f'{longest:,} tokens are more than the {positions:,} positions of "{name}". Set at most {positions}.',
            )
    if recipe.rollouts is not None and recipe.rollouts.source == "vllm":
        notes.problem(("rollouts", "source"), "a served teacher is one model, and these are several. Use student.")
    if spec.route is not None:
        return
    if getattr(recipe.task, "metric", None) == "exact_match":
        notes.problem(
            ("task", "metric"),
            "exact_match reads what the teacher writes, and teachers that are mixed write nothing together. Use "
            "perplexity, or route each row to one of them (teacher.route).",
        )
    for number, one in enumerate(recipe.data.transfer):
        if isinstance(one, UnlabelledSpec) and getattr(recipe.task, "prompt", None) is not None:
            notes.problem(
                ("data", "transfer", number),
                "teachers that are mixed write no answers to prompts. Route rows (teacher.route), or remove this line.",
            )


def _one_view(recipe: Recipe, members: dict[str, TeacherFound], notes: Notes) -> None:
    """Teachers that are asked in every step share one batch; what reads images otherwise is seen when it is opened."""
    if image_size(recipe) is not None:
        return
    (first, ours), *others = members.items()
    for name, theirs in others:
        if ours.vocabulary and theirs.vocabulary and ours.vocabulary.tokens != theirs.vocabulary.tokens:
            notes.problem(
                ("teacher", "members", name, "model"),
                f'its tokenizer is not that of "{first}", but teachers that are asked in every step share one batch. '
                "Use teacher.signals: store, where each reads rows in its own way.",
            )


def _routes(recipe: Recipe, route: RouteSpec, rows: RowsFound, notes: Notes) -> None:
    path: Path = ("teacher", "route", "by")
    if recipe.task.slice_by not in (None, route.by):
        notes.problem(
            ("task", "slice_by"),
            f'"{recipe.task.slice_by}", but rows are routed by "{route.by}", whose values are the slices then. Remove '
            "this line.",
        )
    if recipe.training.mixup > 0:
        notes.problem(("training", "mixup"), "a mixed image is of two rows, which may be two teachers'. Set it to 0.")
    for part, table in rows.tables.items():
        if table.columns and route.by not in table.columns:
            near = did_you_mean(route.by, table.columns)
            message = f'{table.place} has no column "{route.by}".{near} Columns there: {listed(table.columns)}.'
            notes.problem(path, message)
            return
        if route.otherwise is not None or not table.columns:
            continue
        found = {str(value) for value in table.read(route.by, MAX_ROWS)}
        if lost := sorted(found - set(route.to)):
            told = listed((f'"{value}"{did_you_mean(value, route.to)}' for value in lost), _SHOWN)
            notes.problem(
                ("teacher", "route", "to"),
                f"{part} has rows for which no teacher is named: {told}. Add them, or teacher.route.otherwise.",
            )
