"""`attar store`: look after stored teacher signals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

store_app = typer.Typer(help="Look after stored teacher signals.", no_args_is_help=True, rich_markup_mode=None)


@store_app.command("verify")
def store_verify(path: Annotated[Path, typer.Argument(help="The store's folder.")]) -> None:
    """Check every shard against its checksum."""
    from attar.errors import StoreError
    from attar.teachers.store import verify

    if problems := verify(path):
        raise StoreError("\n".join([*problems, f"next: attar store prune {path}, then label again"]))
    _say(f"{path}: sound")


@store_app.command("prune")
def store_prune(path: Annotated[Path, typer.Argument(help="The store's folder.")]) -> None:
    """Remove damaged shards, so that labelling again makes only those."""
    from attar.teachers.store import prune

    removed = prune(path)
    _say("\n".join([*(f"removed {name}" for name in removed), f"{path}: {len(removed)} shards removed"]))


@store_app.command("show")
def store_show(path: Annotated[Path, typer.Argument(help="The store's folder.")]) -> None:
    """Print what a store holds and what shaped it."""
    from attar.teachers.store import show

    _say(json.dumps(show(path), indent=2, ensure_ascii=False))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
