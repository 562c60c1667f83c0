"""The scenario recipes from end to end, as shipped, on a tiny host, a tiny eye and real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.places import shipped_recipes
from tests.recipes.small import SCENARIOS, tiny_overrides

FIGURES = {
    "vision-finetuning": (5e-5, [15], 0.2),
    "language-adaptation": (1e-5, [10], 0.0),
    "fusion-learning": (1e-3, [20], 0.5),
    "progressive": (1e-4, [5, 10, 5], 0.1),
    "medical": (2e-5, [25], 0.15),
    "efficient": (5e-4, [30], 0.3),
}
"""Learning rate, epochs and diversity weight of the published scenarios."""

FUSION = {"fusion.projections", "fusion.gate", "fusion.output"}
EYES = {"host_vision", "host_projector", "encoder.dinov2"}
TRAINED = {
    "vision-finetuning": [FUSION | EYES],
    "language-adaptation": [{"host_language"}],
    "fusion-learning": [FUSION],
    "progressive": [FUSION, FUSION | EYES, FUSION | EYES | {"host_language"}],
    "medical": [FUSION | EYES | {"host_language"}],
    "efficient": [FUSION],
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_figures_are_those_published(name: str) -> None:
    recipe = load_recipe(name)
    rate, epochs, diversity = FIGURES[name]
    assert recipe.training.learning_rate == pytest.approx(rate)
    assert [stage.epochs for stage in recipe.training.stages] == epochs
    assert recipe.objective.diversity == diversity
    assert recipe.to_plain()["fusion"] == {
        "kind": "gated",
        "scope": "global",
        "width": 1024,
        "dropout": 0.1,
        "initial_host_share": 0.5,
    }
    assert recipe.host.path == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert recipe.encoders["dinov2"].path == "facebook/dinov2-base"


def test_medical_says_that_it_is_no_medical_device() -> None:
    text = shipped_recipes()["medical"].read_text(encoding="utf-8")
    assert "NOT A MEDICAL DEVICE" in text
    assert "Not a medical device" in load_recipe("medical").description


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_first_line_is_a_command_that_runs_it(name: str) -> None:
    line = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()[0]
    assert line.startswith(f"# chiasm train {name} --output runs/")
    command = line.removeprefix("# chiasm ").split()
    result = CliRunner().invoke(app, ["train", "--help"])
    assert result.exit_code == 0
    overrides = [word for word in command if "=" in word]
    assert load_recipe(name, overrides) == load_recipe(name), "the command changes nothing else"


@pytest.mark.parametrize("name", SCENARIOS)
def test_runs_from_end_to_end(name: str, home: Path, tmp_path: Path) -> None:
    stages = len(FIGURES[name][1])
    result = CliRunner().invoke(
        app,
        ["train", name, *tiny_overrides(home, stages), "--output", str(tmp_path / "run")],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.stderr
    run = tmp_path / "run"
    parts = json.loads((run / "parts.json").read_text(encoding="utf-8"))
    resolved = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    trained = [
        {row["name"] for row in parts["stages"][stage["name"]]["parts"] if row["trainable"]}
        for stage in resolved["training"]["stages"]
    ]
    assert trained == TRAINED[name]
    assert resolved["training"]["stages"][0]["steps"] == 2
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    numbers = [json.loads(line) for line in lines]
    assert any("loss" in str(entry) for entry in numbers)
    model = load_run(run)
    assert model.chat([{"role": "user", "content": "What is it?"}], max_new_tokens=2) is not None
