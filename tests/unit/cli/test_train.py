"""`chiasm train`: dry runs, flags and what they override, faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from chiasm.cli.main import app
from chiasm.recipes.loading import load_recipe
from tests.recipes.small import furnish, tiny_overrides


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("home"))


def chiasm(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)


def trained_parts(result: Result) -> dict[str, set[str]]:
    """By stage, the parts that the table calls trainable."""
    found: dict[str, set[str]] = {}
    stage = ""
    for line in result.stderr.splitlines():
        if "PARAMETER FREEZE STATUS: " in line:
            stage = line.partition(": ")[2].strip()
            found[stage] = set()
        elif "TRAINABLE" in line:
            found[stage].add(line.split()[1])
    return found


@pytest.mark.parametrize("stages", [1, 3])
def test_a_dry_run_prints_the_recipe_and_the_parts(
    stages: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = {1: "vision-finetuning", 3: "progressive"}[stages]
    overrides = [*tiny_overrides(home, stages), "training.stages.0.learning_rate=0.5"]
    result = chiasm(name, *overrides, "--dry-run")
    assert result.exit_code == 0
    (tmp_path / "again.yaml").write_text(result.stdout, encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == load_recipe(name, overrides)
    names = [stage["name"] for stage in yaml.safe_load(result.stdout)["training"]["stages"]]
    assert list(trained_parts(result)) == names
    assert "0.5" in result.stderr, "the table has the peak learning rate"
    assert not (Path.cwd() / "runs").exists()


def language_and_eye(result: Result) -> tuple[bool, bool]:
    (parts,) = trained_parts(result).values()
    return "host_language" in parts, "encoder.dinov2" in parts


@pytest.mark.parametrize("mode", ["--training-mode", "--training_mode"])
def test_a_flag_counts_before_the_mode_and_the_mode_before_the_config(
    mode: str, home: Path, tmp_path: Path
) -> None:
    config = {
        "qwen_model_name": str(home / "host"),
        "dinov2_model_name": str(home / "eye"),
        "train_data_path": str(home / "data" / "train.json"),
        "common_dim": 31,
        "freeze_config": {"freeze_llm": True, "freeze_dinov2": False},
        "use_wandb": False,
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    plain = chiasm(file, "--dry-run")
    assert plain.exit_code == 0, plain.stderr
    assert "not taken over: use_wandb" in plain.stderr
    assert language_and_eye(plain) == (False, True)
    assert language_and_eye(chiasm(file, "--dry-run", mode, "full")) == (True, True)
    both = chiasm(file, "--dry-run", mode, "full", "--freeze-llm")
    assert language_and_eye(both) == (False, True)
    undone = chiasm(file, "--dry-run", mode, "encoders_only", "--no-freeze-llm", "--freeze_dinov2")
    assert language_and_eye(undone) == (True, False)


def test_a_flag_counts_before_an_override(home: Path) -> None:
    given = ["training_mode=full", "--training-mode", "fusion_only"]
    result = chiasm("medical", *tiny_overrides(home), "--dry-run", *given)
    assert yaml.safe_load(result.stdout)["training_mode"] == "fusion_only"


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--freeze-llm", {"host_language"}),
        ("--freeze_llm", {"host_language"}),
        ("--freeze-dinov2", {"encoder.dinov2"}),
        ("--freeze_dinov2", {"encoder.dinov2"}),
        ("--freeze-encoders", {"encoder.dinov2"}),
        ("--freeze-qwen-vision", {"host_vision", "host_projector"}),
        ("--freeze_qwen_vision", {"host_vision", "host_projector"}),
        ("--freeze-host-vision", {"host_vision", "host_projector"}),
        ("--freeze-fusion", {"fusion.gate", "fusion.output"}),
        ("--freeze_fusion", {"fusion.gate", "fusion.output"}),
        ("--freeze-projections", {"fusion.projections"}),
        ("--freeze_projections", {"fusion.projections"}),
    ],
)
def test_each_flag_freezes_its_parts_and_no_other(flag: str, parts: set[str], home: Path) -> None:
    # Through the loader alone: the whole dry run is tested above.
    from chiasm.models.dual_encoder_modes import parts_to_train

    everything = {
        "host_vision",
        "host_projector",
        "host_language",
        "encoder.dinov2",
        "fusion.projections",
        "fusion.gate",
        "fusion.output",
    }
    result = chiasm("medical", *tiny_overrides(home), "--dry-run", flag)
    assert result.exit_code == 0, result.stderr
    recipe = yaml.safe_load(result.stdout)
    trains = parts_to_train(everything, recipe["training_mode"], {}, recipe["freeze"])
    assert everything - trains == parts
    assert yaml.safe_load(result.stdout)["freeze"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("progressive", "--training-mode", "full"), "would change nothing: each stage"),
        (
            ("efficient", "training.stages.0.train=[fusion]", "--freeze-llm"),
            "the freeze flags would change nothing",
        ),
        (("efficient", "--training-mode", "ful"), "unknown training mode; known: full,"),
        (("efficient", "training.batch_sise=1"), "did you mean 'batch_size'?"),
        (("efficient", "training.stages.1.steps=1"), "its indices are 0 to 0"),
        (("efficient", "batch"), "'batch': write key.path=value"),
        (("efficient", "host.path=/nowhere/at/all"), "no host checkpoint at '/nowhere/at/all'"),
        (("efficent",), "Did you mean 'efficient'?"),
    ],
)
def test_faults_are_messages(arguments: tuple[str, ...], message: str) -> None:
    result = chiasm(*arguments, "--dry-run")
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_somewhere_to_write_is_needed() -> None:
    result = chiasm("efficient")
    assert result.exit_code == 2
    assert "give --output DIR, or --dry-run" in result.stderr


def test_a_run_is_not_overwritten_and_can_be_resumed(home: Path, tmp_path: Path) -> None:
    overrides = [*tiny_overrides(home), "training.checkpoint_every=1"]
    run = tmp_path / "run"
    assert chiasm("fusion-learning", *overrides, "--output", run).exit_code == 0
    again = chiasm("fusion-learning", *overrides, "--output", run)
    assert again.exit_code == 1
    assert "holds checkpoints of an earlier run; resume it" in " ".join(again.stderr.split())
    other = chiasm("fusion-learning", *overrides, "seed=5", "--output", run, "--resume")
    assert other.exit_code == 1
    assert "started with 0, now 5" in " ".join(other.stderr.split())
    assert chiasm("fusion-learning", *overrides, "--output", run, "--resume").exit_code == 0
