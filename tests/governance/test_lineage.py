"""Lineage: complete, stable, and without a trace of who or where."""

from __future__ import annotations

import getpass
import platform
from datetime import UTC, datetime
from pathlib import Path

from attar.facts import SourceFacts
from attar.governance.lineage import collect, source_hash
from attar.recipe.load import load_recipe
from attar.version import __version__

RECIPE = Path(__file__).parents[2] / "recipes" / "digits.yaml"


def test_lineage_names_code_packages_machine_and_time() -> None:
    recipe = load_recipe(RECIPE)
    sources = [SourceFacts(role="data", name="digits", hash="0123456789abcdef")]
    facts = collect(recipe, sources)
    assert facts.recipe_hash == recipe.hash
    assert facts.sources == sources
    assert facts.code == {"attar": __version__, "source": source_hash()}
    assert {"python", "numpy", "torch", "transformers"} <= set(facts.packages)
    assert {"system", "processor", "cores"} <= set(facts.machine)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(facts.created)).total_seconds()) < 60
    assert facts.created.endswith("+00:00")


def test_lineage_names_no_host_user_or_folder() -> None:
    home = str(Path("/") / "srv" / "someone" / "teacher")
    facts = collect(load_recipe(RECIPE), [SourceFacts(role="teacher", name=home, hash="0" * 16)])
    text = facts.model_dump_json()
    assert facts.sources[0].name == "teacher"
    for secret in (platform.node(), str(Path.home()), str(Path.cwd())):
        assert len(secret) < 3 or secret not in text
    user = getpass.getuser()
    assert f'"{user}"' not in text


def test_the_source_hash_is_stable() -> None:
    first = source_hash()
    source_hash.cache_clear()
    assert source_hash() == first
