"""`chiasm recipes`: list, show, copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from chiasm.cli.main import app
from chiasm.recipes.loading import load_recipe
from chiasm.recipes.places import shipped_engines, shipped_recipes
from tests.recipes.small import SCENARIOS


def chiasm(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["recipes", *map(str, arguments)], catch_exceptions=False)


def test_the_list_names_every_recipe_with_its_stages() -> None:
    rows = json.loads(chiasm("list", "--json").stdout)["recipes"]
    assert [row["name"] for row in rows] == sorted(shipped_recipes())
    assert set(SCENARIOS) < {row["name"] for row in rows}
    by_name = {row["name"]: row for row in rows}
    assert by_name["progressive"]["stages"] == ["fusion", "vision", "everything"]
    assert all(row["description"] for row in rows)
    printed = chiasm("list").stdout
    assert [name for name in shipped_recipes() if name not in printed] == []


def test_show_prints_the_text_or_the_values() -> None:
    text = shipped_recipes()["medical"].read_text(encoding="utf-8")
    assert chiasm("show", "medical").stdout == text
    values = json.loads(chiasm("show", "medical", "--json").stdout)
    assert values == load_recipe("medical").to_plain()


def test_a_copy_is_the_recipe_with_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "my.yaml"
    result = chiasm("copy", "efficient", file)
    assert result.exit_code == 0
    assert file.read_text(encoding="utf-8") == chiasm("show", "efficient").stdout
    assert load_recipe(file) == load_recipe("efficient")


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_an_engine_can_be_copied(engine: str, tmp_path: Path) -> None:
    assert chiasm("copy", engine, tmp_path / "engine.yaml").exit_code == 0
    text = (tmp_path / "engine.yaml").read_text(encoding="utf-8")
    assert "distributed_type: " in text
    assert text == shipped_engines()[engine].read_text(encoding="utf-8")


def test_a_file_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("mine", encoding="utf-8")
    result = chiasm("copy", "efficient", file)
    assert result.exit_code == 1
    assert "is there already; give another name, or --force" in result.stderr.replace("\n", " ")
    assert file.read_text(encoding="utf-8") == "mine"
    assert chiasm("copy", "efficient", file, "--force").exit_code == 0
    assert file.read_text(encoding="utf-8") != "mine"


def test_a_config_json_becomes_a_recipe_that_says_what_it_lacks(tmp_path: Path) -> None:
    config = {"common_dim": 37, "use_wandb": True, "learning_rte": 0.5, "num_epochs": 3}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    file = tmp_path / "my.yaml"
    result = chiasm("copy", tmp_path / "config.json", file, "--json")
    assert result.exit_code == 0
    missing = json.loads(result.stdout)["not_taken_over"]
    assert [line.split(" ")[0] for line in missing] == ["use_wandb", "learning_rte"]
    assert "did you mean 'learning_rate'?" in missing[1]
    for line in missing:
        assert f"not taken over: {line}" in result.stderr
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# Made from config.json.\n#\n# Not taken over:\n#   use_wandb")
    recipe = load_recipe(file)
    assert recipe.to_plain()["fusion"]["width"] == 37
    assert recipe.training.stages[0].epochs == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "efficent"), "unknown recipe (and no such file) 'efficent'"),
        (("show", "efficent"), "Did you mean 'efficient'?"),
        (("copy", "efficient", "my.json"), "a recipe is a YAML file; call it my.yaml"),
    ],
)
def test_faults_are_messages(arguments: tuple[str, ...], message: str) -> None:
    result = chiasm(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", " ")
    assert result.stdout == ""
