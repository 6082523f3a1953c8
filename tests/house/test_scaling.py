"""docs/scaling.md: its numbers are those of its formulas, and what it shows can be read by attar."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from attar.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from scaling import ASSUMED, PAGE, RESULTS, TABLES, measured, page, values  # noqa: E402

TEXT = PAGE.read_text(encoding="utf-8")
FOUND = values({**ASSUMED, **measured()})


def test_the_page_is_that_of_its_formulas() -> None:
    assert page(TEXT) == TEXT, "run: python docs/scaling.py"
    with pytest.raises(ValueError, match="lacks"):
        page("nothing")


def test_parameters_are_those_of_such_a_model() -> None:
    """Counted by building it, without memory."""
    sizes = {name: int(good) for name, (_, good, _) in ASSUMED.items()}
    config = LlamaConfig(
        vocab_size=sizes["vocabulary"], hidden_size=sizes["width"], intermediate_size=sizes["inner"],
        num_hidden_layers=sizes["layers"], num_attention_heads=24, num_key_value_heads=8, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert FOUND["params"] == (model.num_parameters(),) * 2
    assert FOUND["layer"][0] == sum(p.numel() for p in model.model.layers[0].parameters())


def test_what_was_measured_is_in_the_results() -> None:
    rows = json.loads((RESULTS / "token_store.json").read_text())["rows"]
    assert FOUND["measured_bytes"][0] in {row["bytes"] for row in rows}
    assert f"{FOUND['measured_bytes'][0]:.3g}" == "37.7"
    steps = json.loads((RESULTS / "step.json").read_text())["students"].values()
    told = [f"{one['stored_over_alone']['value']:.2f}" for one in steps]
    assert f"took {min(told)} to {max(told)} times one without a teacher" in TEXT


def test_what_the_page_concludes_follows() -> None:
    memory, bad = {name: pair[0] for name, pair in FOUND.items()}, {name: pair[1] for name, pair in FOUND.items()}
    assert memory["state"] < min(memory["root"], memory["inputs"])
    assert memory["in_all"] < 80e9 < memory["kept_all"]
    assert bad["wire_time"] < bad["arithmetic"]
    assert memory["wire_time"] < memory["arithmetic"]
    assert memory["label_cost"] > 3 * memory["train_cost"]
    assert memory["read"] < 1e6
    assert memory["decode"] < 0.05 * memory["arithmetic"]
    assert f"{2 * ASSUMED['teacher'][1] / 1e9:.0f} GB in bf16" in TEXT
    assert f"in float32: {4 * ASSUMED['teacher'][1] / 1e9:.0f} GB" in TEXT
    assert f"({4 * memory['params'] / 1e9:.1f} GB each)" in TEXT
    assert f"take {8 * 2 * 4 * memory['params'] / 1e9:.0f} GB" in TEXT


def test_names_are_told_once() -> None:
    names = [*ASSUMED, *measured(), *(row.name for rows in TABLES.values() for row in rows)]
    assert len(names) == len(set(names))
    assert set(re.findall(r"rows? `(\w+)`", TEXT)) <= set(names)


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "student.yaml"
    path.write_text(block, encoding="utf-8")
    recipe = load_recipe(path)
    assert recipe.training.batch_size == ASSUMED["batch"][1]
    assert recipe.task.max_length == ASSUMED["length"][1]
    assert (recipe.training.parallel, recipe.training.activation_checkpointing) == ("fsdp", True)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / target).is_file(), target
