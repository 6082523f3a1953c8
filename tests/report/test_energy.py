"""Energy in the report, the card and the terminal: intervals, with `estimated` beside each estimate."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from attar.account import energy_facts
from attar.errors import RecipeError
from attar.facts import RunFacts, SpentFacts
from attar.recipe.energy import EnergySpec
from attar.recipe.load import recipe_from
from attar.report.card import model_card
from attar.report.headline import headline
from attar.report.html import render
from attar.report.schema import run_schema
from recipe.sample import sample
from report.made import made_run
from report.test_html import Page

CARBON = {"intensity": 56.0, "source": "a grid <of> ours", "year": 2024, "pue": 1.1}


def spent(cpu: float, joules: float | None = None) -> SpentFacts:
    return SpentFacts(seconds=cpu, cpu_seconds=cpu, processor_joules=joules)


def run_with(counted: bool = False, notes: tuple[str, ...] = (), **fields: object) -> RunFacts:
    watts = 10.0 if counted else None

    def of(cpu: float) -> SpentFacts:
        return spent(cpu, None if watts is None else watts * cpu)

    parts = {"teacher fitting": of(900.0), "training": of(1000.0), "control": of(700.0)}
    taken = {"teacher": [of(4.7e-3)] * 10, "student": [of(0.9e-3)] * 10, "onnx-int8": [of(0.2e-3)] * 10}
    return made_run(energy=energy_facts(parts, taken, EnergySpec.model_validate(fields), notes))


def test_the_report_shows_teacher_against_student_and_the_break_even() -> None:
    page = Page(render(run_with()))
    assert "energy" in page.ids()
    for part in (
        "paid back after 684,211 inferences", "9.40 J – 70.5 J estimated", "19.1 % (19.1 – 19.1)", "ONNX int8",
        "Teacher fitting", "5.20 kJ – 39.0 kJ estimated", "10 interleaved repeats", "2 to 15 W a busy core",
        "laptop's 15 W over eight cores",
    ):  # fmt: skip
        assert part in page.text.replace("\u00a0", " "), part
    assert "CO2" not in page.text


def test_counters_are_not_called_estimates() -> None:
    page = Page(render(run_with(counted=True)))
    text = page.text.replace("\u00a0", " ")
    assert "estimated" not in text
    assert "47.0 J" in text
    assert "RAPL's counters of the whole machine" in text


def test_carbon_is_told_where_its_intensity_is_stated() -> None:
    run = run_with(carbon=CARBON)
    for text in (Page(render(run)).text, model_card(run)):
        assert "56 g a kilowatt-hour" in text
        assert "2024) and a PUE of 1.1" in text
    assert "<of>" not in render(run)


def test_the_card_and_the_terminal_say_the_same() -> None:
    run = run_with(notes=("energy of something: not measured, <b>why</b>",))
    card = model_card(run).split("\n## Energy\n")[1].split("\n## ")[0]
    assert "| distilling, total | 43 min 20 s | 5.20 kJ – 39.0 kJ, *estimated* |" in card
    assert "| teacher, 1,000 rows | 4.7 s | 9.40 J – 70.5 J, *estimated* |" in card
    assert "The student takes 19.1 % (19.1 – 19.1) of the teacher's for a row, estimated" in card
    assert "<b>" not in card
    line = next(line for line in headline(run) if line.startswith("  energy"))
    assert line.endswith("distilling is paid back after 684,211 inferences")


def test_what_was_not_measured_has_its_reason() -> None:
    off = "energy of inference: not measured, report.latency is off"
    run = made_run(energy=energy_facts({"training": spent(10.0)}, {}, EnergySpec(), [off]))
    text = Page(render(run)).text
    assert off in text
    assert "Distilling took" in text
    assert not any(line.startswith("  energy") for line in headline(run))
    assert off.replace("_", "\\_") in model_card(run)


def test_a_record_with_energy_fulfils_the_schema_and_is_read_back() -> None:
    run = run_with(carbon=CARBON)
    Draft202012Validator(run_schema()).validate(json.loads(run.model_dump_json()))
    assert RunFacts.model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize(
    ("energy", "said"),
    [
        ({"watts_per_core": [15.0, 2.0]}, "turn them round"),
        ({"watts_per_core": [0.0, 2.0]}, "a number above 0"),
        ({"carbon": {"intensity": 56.0, "source": "x", "year": 2024}}, "pue"),
        ({"carbon": {"intensity": 56.0, "year": 2024, "pue": 1.1}}, "source"),
        ({"carbon": {**CARBON, "pue": 0.9}}, "1"),
        ({"country": "FR"}, "country"),
    ],
)
def test_what_is_not_stated_is_refused(energy: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe_from({**sample(), "report": {"energy": energy}})
