"""The README carries the file tree, one line a file, made from the first line of each file's docstring.

`python tests/house/test_readme.py` writes the tree anew.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import typer

from attar.cli import app
from attar.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
START, END = "<!-- tree -->\n```\n", "```\n<!-- /tree -->"


def headline(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = " ".join(doc.split("\n\n")[0].split())
    first = re.split(r"(?<=[a-z)`])[.;] ", line)[0].rstrip(".")
    return first if len(first) <= 104 else first[:100].rsplit(" ", 1)[0] + " …"


def tree() -> str:
    source = ROOT / "src" / "attar"
    lines = ["src/attar/"]
    files = sorted(source.glob("*.py"), key=lambda p: (p.name != "cli.py", p.name != "run.py", p.name))
    lines += [f"  {p.name:<22} {headline(p)}" for p in files]
    for folder in sorted(p for p in source.iterdir() if p.is_dir() and (p / "__init__.py").exists()):
        lines.append(f"  {folder.name + '/':<22} {headline(folder / '__init__.py')}")
        lines += [f"    {p.name:<20} {headline(p)}" for p in sorted(folder.glob("*.py")) if p.name != "__init__.py"]
        for inner in sorted(p for p in folder.iterdir() if (p / "__init__.py").exists()):
            lines.append(f"    {inner.name + '/':<20} {headline(inner / '__init__.py')}")
            lines += [
                f"      {p.name:<18} {headline(p)}" for p in sorted(inner.glob("*.py")) if p.name != "__init__.py"
            ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def test_the_tree_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    shown = text.split(START)[1].split(END)[0]
    assert shown == tree(), "run: python tests/house/test_readme.py"


def test_every_file_says_what_it_is_for() -> None:
    assert all(headline(p) for p in (ROOT / "src" / "attar").rglob("*.py"))


def test_the_changelog_knows_the_version() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src" / "attar" / "version.py").read_text())
    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


def test_exit_codes_stand_in_the_readme_as_in_the_help() -> None:
    table = README.read_text(encoding="utf-8").split("| exit code | meaning |\n")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_extras_of_the_documentation_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for names in re.findall(r"attar\[([a-z,]+)\]|EXTRAS=([a-z,]+)", page.read_text(encoding="utf-8")):
            for name in "".join(names).split(","):
                assert name in extras, f"{page.name}: extra {name}"


def test_commands_of_the_documentation_are_understood() -> None:
    commands = typer.main.get_command(app).commands
    shown = [
        line.split("#")[0].removeprefix("$ ").split("attar ", 1)[1].split()
        for page in [README, *(ROOT / "docs").glob("*.md")]
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.splitlines()
        if re.match(r"\$ (\S+=\S+ )*(\.venv/bin/)?attar ", line)
    ]
    assert len(shown) >= 3
    for name, *arguments in shown:
        commands[name].make_context(name, arguments)


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    README.write_text(before + START + tree() + END + rest.split(END)[1], encoding="utf-8")
    sys.stdout.write("README.md: tree written\n")
