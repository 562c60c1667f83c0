"""The recipes of the shipped models run from start to a run that loads, a few steps each."""

from pathlib import Path

import pytest

from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run

FEW = {
    "tiny-host-112": [f"training.stages.{stage}.steps=2" for stage in range(3)],
    "tiny-host": ["training.stages.0.steps=2", "training.stages.1.steps=3"],
    "tiny-eye": ["training.stages.0.steps=3"],
    "tiny-dual": ["training.stages.0.steps=3"],
    "tiny-grounding": ["training.stages.0.steps=2"],
    "tiny-pair-tokenizer": ["training.stages.0.steps=3"],
    "tiny-video": [
        *(f"training.stages.{stage}.steps=3" for stage in range(2)),
        "data.validation.0.questions=2",
    ],
    "tiny-video-language": ["training.stages.0.steps=2"],
    "tiny-video-memory": [f"training.stages.{stage}.steps=2" for stage in range(2)],
    "tiny-sam": [f"training.stages.{stage}.steps=2" for stage in range(2)],
}
SMALL = ["training.batch_size=3", "training.evaluate_every=2", "data.validation.0.count=4"]


RUNS = [*((name, "none") for name in sorted(FEW)), ("tiny-dual", "null_eye")]


@pytest.mark.parametrize(("name", "control"), RUNS)
def test_it_runs_and_loads(name: str, control: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, [*FEW[name], *SMALL, f"control={control}"])
    output = tmp_path / "run"
    report = run(prepare(recipe, output, tmp_path), output)
    assert report.finished
    loaded = load_run(output)
    assert not loaded.training
    assert (output / "receipt.safetensors").is_file()
