from __future__ import annotations

import jsonschema
import pytest

from attar.errors import RecipeError
from attar.recipe.load import recipe_from
from attar.recipe.schema import recipe_schema
from attar.recipe.template import TEMPLATES, template
from attar.recipe.text import parse
from recipe.sample import sample


def sections() -> list[tuple[str, dict]]:
    schema = recipe_schema()
    return [("Recipe", schema), *schema["$defs"].items()]


def test_every_field_and_section_has_a_title_and_a_description() -> None:
    for name, section in sections():
        assert section.get("description") or name == "JsonValue", name
        for field, schema in section.get("properties", {}).items():
            assert schema.get("title"), f"{name}.{field}"
            assert schema.get("description"), f"{name}.{field}"


def test_a_recipe_is_valid_and_a_wrong_one_is_not() -> None:
    validator = jsonschema.Draft202012Validator(recipe_schema())
    validator.check_schema(validator.schema)
    assert list(validator.iter_errors(sample())) == []
    wrong = {**sample(), "naem": 1, "training": {"epochs": "ten"}}
    assert len(list(validator.iter_errors(wrong))) == 2


@pytest.mark.parametrize("task", TEMPLATES)
def test_the_template_is_a_valid_recipe_with_comments(task: str) -> None:
    parsed = parse(template(task), "template")
    assert parsed.problems == []
    assert recipe_from(parsed.data).task.kind == task
    switched = {**parsed.data, "report": {"examples": True}}
    jsonschema.validate(switched, recipe_schema())
    assert template(task).count("#") > 20


@pytest.mark.parametrize("task", TEMPLATES)
def test_the_template_s_commented_options_are_valid_too(task: str) -> None:
    """A line behind a `#` shows an option; with the `#` taken away each one is still a field that exists."""
    for number, line in enumerate(template(task).splitlines()):
        stripped = line.lstrip()
        if not stripped.startswith("# ") or not line.startswith("  ") or ": " not in stripped:
            continue
        lines = template(task).splitlines()
        lines[number] = line.replace("# ", "", 1)
        parsed = parse("\n".join(lines), "template")
        assert parsed.problems == [], line
        recipe_from(parsed.data)


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match='Did you mean "text_classification"'):
        template("text_clasification")
