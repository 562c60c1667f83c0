"""A run loads as it was saved, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chiasm.core.errors import CheckpointError, ReceiptError
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run
from chiasm.training.weights import WEIGHTS
from tests.recipes.small import tiny_overrides
from tests.tiny import tiny_qwen2_5_vl


def train(home: Path, output: Path, name: str = "fusion-learning", *more: str) -> Path:
    recipe = load_recipe(name, [*tiny_overrides(home), "host.dtype=float32", *more])
    prepared = prepare(recipe, output, Path.cwd())
    run(prepared, output)
    return output


@pytest.fixture(scope="module")
def trained(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the fusion; its fusion has moved."""
    return train(home, tmp_path_factory.mktemp("runs") / "fusion")


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The run's directory, for breaking."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def altered(file: Path, name: str, change: float) -> None:
    tensors = load_file(file)
    metadata = json.loads(_header(file))["__metadata__"]
    tensors[name] = tensors[name] + change
    save_file(tensors, file, metadata=metadata)


def _header(file: Path) -> str:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length].decode()


def test_a_run_answers_as_the_model_that_was_trained(trained: Path, home: Path) -> None:
    model = load_run(trained)
    assert not model.training
    weights = load_file(trained / WEIGHTS)
    assert {name.split("/")[0] for name in weights} == {
        "fusion.projections",
        "fusion.gate",
        "fusion.output",
    }
    part = dict(model.parts["fusion.output"].named_parameters())
    assert torch.equal(part["weight"], weights["fusion.output/weight"])
    assert bool(part["weight"].any()), "trained, so no longer zero"


@pytest.mark.parametrize("name", ["recipe.yaml", WEIGHTS, "host.json", "receipt.safetensors"])
def test_a_missing_file_is_named(name: str, copied: Path) -> None:
    (copied / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_run(copied)


def test_changed_weights_do_not_pass_the_receipt(copied: Path) -> None:
    altered(copied / WEIGHTS, "fusion.output/weight", 0.3)
    with pytest.raises(ReceiptError, match="the loaded model's logits differ by up to"):
        load_run(copied)


def test_a_missing_or_foreign_tensor_is_named(copied: Path) -> None:
    file = copied / WEIGHTS
    tensors = load_file(file)
    metadata = json.loads(_header(file))["__metadata__"]
    tensors["fusion.output/wieght"] = tensors.pop("fusion.output/weight")
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(CheckpointError) as caught:
        load_run(copied)
    assert "missing: fusion.output/weight" in str(caught.value)
    assert "unexpected: fusion.output/wieght" in str(caught.value)


def test_another_host_is_refused(copied: Path, tmp_path: Path) -> None:
    """A folder of the same name with other weights must not pass for the host."""
    other = tmp_path / "other" / "host"
    tiny_qwen2_5_vl(seed=5).save(other)
    text = (copied / "recipe.yaml").read_text(encoding="utf-8")
    before = load_recipe(copied / "recipe.yaml").host.path or ""
    (copied / "recipe.yaml").write_text(text.replace(before, str(other)), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"was trained on another host[\s\S]*sha256"):
        load_run(copied)


def test_another_fusion_is_refused(copied: Path) -> None:
    text = (copied / "recipe.yaml").read_text(encoding="utf-8")
    assert "width: 31" in text
    (copied / "recipe.yaml").write_text(text.replace("width: 31", "width: 29"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="saved with shape"):
        load_run(copied)


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no run: no folder with a recipe.yaml"):
        load_run(tmp_path / "nowhere")


def test_adapters_are_part_of_a_run(home: Path, tmp_path: Path) -> None:
    run_folder = train(home, tmp_path / "lora", "language-adaptation", "host.lora.rank=3")
    names = {name.split("/")[0] for name in load_file(run_folder / WEIGHTS)}
    assert "host_adapter" in names
    assert "host_language" not in names, "the weights below the adapters stay where the host is"
    parts = json.loads((run_folder / "parts.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in parts["stages"]["language"]["parts"]}
    assert rows["host_adapter"]["trainable"] == rows["host_adapter"]["total"] > 0
    assert rows["host_language"]["trainable"] == 0
    load_run(run_folder)


def test_the_mode_of_a_live_trainer_can_be_switched(home: Path, tmp_path: Path) -> None:
    more = ["training.stages.0.steps=4", "freeze_config.freeze_qwen_vision=true"]
    recipe = load_recipe("vision-finetuning", [*tiny_overrides(home), *more])
    prepared = prepare(recipe, tmp_path / "run", Path.cwd())
    trainer = prepared.trainer
    assert trainer is not None
    trainer.train(steps=1)
    before = trainer.trainable
    assert before == {
        "host_vision",
        "host_projector",
        "encoder.dinov2",
        "fusion.projections",
        "fusion.gate",
        "fusion.output",
    }
    language = prepared.model.parts["host_language"]
    held = [parameter.detach().clone() for parameter in language.parameters()]
    trainer.switch_mode("llm_only")
    assert trainer.trainable == {"host_language"}
    trainer.train(steps=1)
    moved = [not torch.equal(a, b) for a, b in zip(held, language.parameters(), strict=True)]
    assert all(moved)
    trainer.switch_mode("fusion_only")
    trainer.set_trainable({"fusion.gate": False})
    assert trainer.trainable == {"fusion.projections", "fusion.output"}
    report = trainer.train()
    assert report.finished


def test_flags_of_the_run_hold_in_every_mode_that_is_switched_to(
    home: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("fusion-learning", [*tiny_overrides(home), "freeze.freeze_llm=true"])
    trainer = prepare(recipe, tmp_path / "run", Path.cwd()).trainer
    assert trainer is not None
    trainer.switch_mode("full")
    assert "host_language" not in trainer.trainable
    assert "host_vision" in trainer.trainable


def test_modes_do_not_thaw_the_weights_below_adapters(home: Path, tmp_path: Path) -> None:
    recipe = load_recipe("fusion-learning", [*tiny_overrides(home), "host.lora.rank=3"])
    trainer = prepare(recipe, tmp_path / "run", Path.cwd()).trainer
    assert trainer is not None
    assert "host_adapter" not in trainer.trainable
    trainer.switch_mode("llm_only")
    assert trainer.trainable == {"host_adapter"}


def test_a_run_with_the_null_eye_loads_and_says_so(home: Path, tmp_path: Path) -> None:
    folder = train(home, tmp_path / "null", "fusion-learning", "control=null_eye")
    model = load_run(folder)
    assert model.identity["encoders"]["dinov2"]["control"] == "null_eye"
    plain = train(home, tmp_path / "plain", "fusion-learning")
    assert load_file(plain / WEIGHTS).keys() == load_file(folder / WEIGHTS).keys()
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    (folder / "recipe.yaml").write_text(text.replace("control: null_eye\n", ""), encoding="utf-8")
    with pytest.raises(CheckpointError, match="was trained on another host"):
        load_run(folder)
