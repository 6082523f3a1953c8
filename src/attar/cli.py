"""The command line. Each command imports what it needs when it runs, so that `--help` and `check` answer at once.

Exit codes are those of `attar.errors.EXIT_CODES`; `--help` lists them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attar.cli_bench import bench
from attar.cli_store import store_app
from attar.errors import EXIT_CODES, AttarError, BudgetMissed, OutOfMemory, RecipeError
from attar.version import __version__

if TYPE_CHECKING:
    from attar.facts import RunFacts
    from attar.recipe import Recipe

_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="attar",
    epilog=_CODES,
    help="From a large teacher to a small student that you can ship, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(store_app, name="store")
app.command()(bench)

_INTERRUPTED = 130
_EDITOR_LINE = "# yaml-language-server: $schema=recipe.schema.json"
"""How the YAML server of many editors is told which schema a file follows."""

RecipeFile = Annotated[Path, typer.Argument(help="The recipe (YAML).", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override one field: training.epochs=3. May be repeated.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Output folder; default runs/NAME.", show_default=False)]


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        _print(f"attar {__version__}")
        raise typer.Exit


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("recipe.yaml"),
    task: Annotated[
        str, typer.Option(help="text_classification, image_classification or causal_lm.")
    ] = "text_classification",
    schema: Annotated[
        bool, typer.Option("--schema", help="Also write recipe.schema.json, which editors check against.")
    ] = False,
) -> None:
    """Write a commented recipe to start from."""
    from attar.recipe.template import template
    from attar.storage import atomic_write, guard

    text, beside = template(task), path.with_name("recipe.schema.json")
    with guard(path):
        there = path.exists()
    if there and not schema:
        raise RecipeError(f"{path}: exists already; nothing was written. Choose another name.")
    if schema:
        from attar.recipe.schema import recipe_schema

        atomic_write(beside, json.dumps(recipe_schema(), indent=2) + "\n")
        _print(f"wrote {beside}")
        text = f"{_EDITOR_LINE}\n{text}"
    if there:
        _print(f"{path}: exists already and stays as it is. For your editor put on top of it:\n{_EDITOR_LINE}")
        return
    atomic_write(path, text)
    _print(f"wrote {path}; next: attar check {path}")


@app.command("schema")
def show_schema(of: Annotated[str, typer.Argument(help="recipe, run or bench.")] = "recipe") -> None:
    """Print the JSON schema of a recipe, of run.json or of bench.json."""
    match of:
        case "recipe":
            from attar.recipe.schema import recipe_schema as made
        case "run":
            from attar.report.schema import run_schema as made
        case "bench":
            from attar.report.schema import bench_schema as made
        case _:
            raise RecipeError(f'"{of}" has no schema here. Allowed: recipe, run, bench.')
    _print(json.dumps(made(), indent=2))


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe and plan the run, without doing any of it."""
    from attar.plan import make_plan

    loaded = _load(recipe, overrides)
    plan = make_plan(loaded)
    for line in plan.lines():
        _print(line)
    _require_policy(loaded)


@app.command()
def distill(
    recipe: RecipeFile,
    out: Out = None,
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Train this many seeds into one run.json.")] = 1,
) -> None:
    """Carry a recipe from teacher to exported, measured student. A rerun resumes."""
    from attar.run import run

    loaded = _load(recipe, overrides)
    folder = out or Path("runs") / loaded.name
    with _terminal() as terminal:
        facts = run(loaded, folder, seeds=seeds, say=terminal.say, progress=terminal.progress)
    _headline(facts, folder)


@app.command()
def label(recipe: RecipeFile, out: Out = None, overrides: Overrides = None) -> None:
    """Store the teacher's signals on a recipe's data.

    A recipe with `teacher.kind: stored` trains on them, here or on another machine.
    """
    from attar.run import label_only

    loaded = _load(recipe, overrides)
    folder = out or Path("runs") / loaded.name
    with _terminal() as terminal:
        path = label_only(loaded, folder, say=terminal.say, progress=terminal.progress)
    _print(f"signals: {path}\nnext: teacher: {{kind: stored, path: {path}}}")


@app.command()
def evaluate(
    run_folder: RunFolder,
    data: Annotated[str | None, typer.Option(help="Another labelled source; default: the numbers of run.json.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of --data; default: test, or the only one there is.", show_default=False)
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(help="Tasks of EleutherAI's harness, comma-separated: hellaswag,arc_easy.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Examples a task of --harness; default: all.", show_default=False)
    ] = None,
) -> None:
    """Print a run's quality, or score its student elsewhere."""
    from attar.report.load import load_whole

    facts = load_whole(run_folder)
    if data is None and split is not None:
        raise RecipeError("--split: names a split of other data. Give that as --data.")
    if harness is not None:
        from attar.finished import score_by_harness

        tasks = [name.strip() for name in harness.split(",") if name.strip()]
        _print(json.dumps(score_by_harness(run_folder, tasks, limit), indent=2, default=str))
        return
    if data is None:
        _headline(facts, run_folder)
        return
    from attar.finished import score_on

    _print(json.dumps(score_on(run_folder, data, split), indent=2))


@app.command()
def predict(
    run_folder: RunFolder,
    inputs: Annotated[list[str], typer.Argument(help="Texts, image files, or - for texts from standard input.")],
    artifact: Annotated[str | None, typer.Option(help="Ask an exported file instead: onnx-int8, onnx-fp32.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels to print for each input.")] = 1,
) -> None:
    """Ask the student."""
    from attar.finished import answer

    rows = [line.rstrip("\n") for line in sys.stdin] if inputs == ["-"] else inputs
    for row in answer(run_folder, rows, artifact, top):
        _print(json.dumps(row, ensure_ascii=False))


@app.command()
def compare(runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")]) -> None:
    """Put runs side by side."""
    from attar.report.compare import compare as table
    from attar.report.load import load_run

    _print(table([load_run(path) for path in runs], _apart(runs)))


@app.command()
def export(
    run_folder: RunFolder,
    precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "int8",
    kind: Annotated[str, typer.Option(help="The format.")] = "onnx",
    to: Annotated[
        str | None,
        typer.Option(help="Several at once: onnx-int8,openvino-int8,web; page: a copy of the page for any host."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the page; default RUN/page.")] = None,
) -> None:
    """Export a finished run's student once more.

    The file is compared with the checkpoint and measured like those of the recipe; one that fails is refused.
    """
    from attar.recipe.export_names import PAGE, named_exports

    wanted, page = ([(kind, precision)], False) if to is None else named_exports(to)
    if out is not None and not page:
        raise RecipeError("--out: is the folder of the page. Add --to page.")
    facts = None
    if wanted:
        from attar.finished import add_exports

        with _terminal() as terminal:
            facts = add_exports(run_folder, wanted, say=terminal.say)
        for made in (one for one in facts.artifacts if (one.kind, one.precision) in wanted):
            _print(
                f"{run_folder / made.path}: {made.bytes:,} bytes, quality {made.quality}, "
                f"parity {made.parity.agreement:.4f}"
            )
    if page:
        from attar.page.hosted import export_page

        place = export_page(run_folder, out or run_folder / PAGE)
        _print(f"page: {place}; put this folder on any host, or try it: python -m http.server -d {place}")
    if facts is not None:
        from attar.handover import require_exports

        require_exports(facts, run_folder, only=wanted)


@app.command()
def report(run_folder: RunFolder) -> None:
    """Write report.html again from run.json."""
    from attar.report.html import write_report
    from attar.report.load import load_run

    write_report(load_run(run_folder), run_folder / "report.html")
    _print(f"report: {run_folder / 'report.html'}")


@app.command()
def serve(
    place: Annotated[Path, typer.Argument(help="A run's folder, or one that holds several.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0: any that is free.")] = 8760,
) -> None:
    """Show runs on a local page; the student runs in the browser."""
    from attar.server import Server

    with Server(place, port) as server:
        _print(f"attar: {server.url} (this machine only; Ctrl-C ends it)")
        server.warm_up()
        try:
            server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            _print("ended")


@app.command()
def push(
    run_folder: RunFolder,
    repo: Annotated[str, typer.Argument(help="Hub repository, OWNER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Create it private.")] = False,
) -> None:
    """Upload the student, its exports and its card to the Hub."""
    from attar.report.push import push as upload

    _print(upload(run_folder, repo, private=private))


def main() -> None:
    """Entry point: run a command and turn errors into messages and exit codes."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _run()
        return
    code: object = 1
    try:
        _run()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)  # threads of gloo may abort an interpreter that ends by itself


def _run() -> None:
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao, if it is there, makes it warn
    try:
        code = app(standalone_mode=False)  # typer hands an exit code back; 130 where Ctrl-C was pressed
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        if isinstance(code, int) and code:
            raise SystemExit(code)
    except AttarError as error:
        if not error.told:
            _complain(str(error))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        _complain("interrupted; finished stages are kept, the same command resumes")
        raise SystemExit(_INTERRUPTED) from None
    except typer.Exit as stop:
        raise SystemExit(stop.exit_code) from None
    except typer.Abort:
        raise SystemExit(_INTERRUPTED) from None
    except Exception as error:
        if _ran_out(error):
            raise SystemExit(OutOfMemory.exit_code) from None
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        raise SystemExit(getattr(error, "exit_code", 2)) from None


def _ran_out(error: Exception) -> bool:
    """Tell of a lack of memory outside of a run's stages."""
    from attar.shortage import ran_out, told

    if not ran_out(error):
        return False
    _complain(told(error, "attar", "Close other programs, or use a machine with more memory."))
    return True


def _apart(runs: list[Path]) -> list[str]:
    """A name for each run: its folder's, or as much of the path as tells it from the others."""
    folders = [(path.parent if path.suffix == ".json" else path).resolve() for path in runs]
    for length in range(1, max((len(folder.parts) for folder in folders), default=0)):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            return names
    return [str(path) for path in runs]


def _load(path: Path, overrides: list[str] | None) -> Recipe:
    from attar.recipe.load import load_recipe

    return load_recipe(path, overrides or ())


def _require_policy(recipe: Recipe) -> None:
    from attar.governance.policy import decide_for, require_allowed

    facts = decide_for(recipe)
    _print(f"policy: {facts.decision} ({facts.rule}): {facts.reason}")
    require_allowed(facts)


def _terminal() -> Any:
    from attar.terminal import Terminal

    return Terminal()


def _headline(facts: RunFacts, folder: Path) -> None:
    from attar.report.headline import headline

    for line in headline(facts):
        _print(line)
    _print(f"report: {folder / 'report.html'}")
    missed = [line for line in facts.budget if line.met is False]
    if missed:
        raise BudgetMissed(
            "\n".join(f"budget missed: {m.name} is {m.value:g} {m.unit}, the limit is {m.limit:g}" for m in missed)
        )


def _print(text: str) -> None:
    """Of several processes the first alone hands out results."""
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    rank = os.environ.get("RANK", "0")
    sys.stderr.write(f"attar: {text}\n" if rank == "0" else f"attar, process {rank}: {text}\n")
