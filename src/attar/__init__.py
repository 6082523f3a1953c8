"""attar: from a large teacher to a small student that you can ship, with proof.

    import attar

    facts = attar.distill("recipe.yaml")                                    # loads what the recipe names
    facts = attar.distill_models(teacher, student, rows, [{"kind": "forward_kl"}], processor=tokenizer, …)  # computes

Names are loaded when they are first used, so that `import attar` is instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attar.version import __version__

if TYPE_CHECKING:
    from attar.door import distill, distill_models
    from attar.facts import RunFacts
    from attar.objectives.own import OwnObjective
    from attar.recipe import Recipe
    from attar.recipe.load import load_recipe

__all__ = ["OwnObjective", "Recipe", "RunFacts", "__version__", "distill", "distill_models", "load_recipe"]

_HOMES = {
    "distill": "attar.door",
    "distill_models": "attar.door",
    "RunFacts": "attar.facts",
    "OwnObjective": "attar.objectives.own",
    "Recipe": "attar.recipe",
    "load_recipe": "attar.recipe.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attar' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
