"""The shipped models: they load, they are what their recipes say, and they are small."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chiasm.core.errors import CheckpointError, InputError
from chiasm.recipes.build import build_model
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.places import shipped_models
from chiasm.recipes.shipping import ship
from chiasm.training.receipt import write_receipt
from chiasm.training.weights import load_model

NAMES = tuple(shipped_models())
PROMISED = {
    "tiny-dual",
    "tiny-eye",
    "tiny-grounding",
    "tiny-host",
    "tiny-host-112",
    "tiny-pair",
    "tiny-pair-host",
    "tiny-pair-tokenizer",
    "tiny-sam",
    "tiny-video",
    "tiny-video-memory",
}
MOST_BYTES = 25_000_000


def test_the_promised_models_are_there():
    assert set(NAMES) == PROMISED


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_loads_and_replays_its_receipt(name):
    model = load_run(name)
    assert not model.training


@pytest.mark.parametrize("arithmetic", ["ATEN_CPU_CAPABILITY=default", "MKL_CBWR=COMPATIBLE"])
def test_shipped_models_load_where_sums_and_random_numbers_differ(arithmetic):
    """As on older processors, and on others: loops without wide registers, and sums as they do."""
    setting, value = arithmetic.split("=")
    program = "import sys; from chiasm.recipes.loading import load_run\n"
    program += "for name in sys.argv[1:]: print(load_run(name) and name)"
    done = subprocess.run(
        [sys.executable, "-c", program, *NAMES],
        env={**os.environ, setting: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == list(NAMES), done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_was_trained_by_the_shipped_recipe(name):
    folder = shipped_models()[name]
    assert load_recipe(folder / "recipe.yaml") == load_recipe(name)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = sum(stage.steps or 0 for stage in load_recipe(name).training.stages)
    assert metrics[-1]["step"] == steps
    assert (folder / "log.txt").stat().st_size > 0


def test_all_assets_together_are_small():
    sizes = [
        file.stat().st_size
        for folder in shipped_models().values()
        for file in folder.rglob("*")
        if file.is_file()
    ]
    assert sum(sizes) < MOST_BYTES


def test_dual_stands_on_the_host_and_eye_that_ship():
    built_on = json.loads((shipped_models()["tiny-dual"] / "host.json").read_text())
    assert built_on["host"]["name"] == "tiny-host"
    model = load_run("tiny-dual")
    assert model.identity["host"]["sha256"] == built_on["host"]["sha256"]


def test_shipping_does_not_write_over_what_is_there(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    with pytest.raises(InputError, match="exists; remove it first"):
        ship(shipped_models()["tiny-eye"], target)


def test_shipping_an_unfinished_run_names_what_is_missing(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text((shipped_models()["tiny-eye"] / "recipe.yaml").read_text())
    with pytest.raises(CheckpointError, match=r"lacks host\.json"):
        ship(run, tmp_path / "model")


def test_a_shipped_run_can_be_shipped_again(tmp_path):
    ship(shipped_models()["tiny-host"], tmp_path / "copy")
    assert (tmp_path / "copy" / "host" / "config.json").is_file()
    assert not list((tmp_path / "copy" / "host").glob("*.safetensors"))


def test_a_shipped_host_has_the_parts_that_it_never_trained(tmp_path):
    folder = shipped_models()["tiny-pair-host"]
    saved = {name.split("/")[0] for name in load_file(folder / "model.safetensors")}
    assert {"host_generation", "host_tokenizer", "host_vision"} <= saved
    trained = json.loads((folder / "parts.json").read_text())
    assert "host_tokenizer" in json.dumps(trained)
    ship(folder, tmp_path / "copy")
    again = load_file(tmp_path / "copy" / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, again[name])


def test_half_precision_takes_half_the_space_and_has_its_own_receipt(tmp_path):
    ship(shipped_models()["tiny-dual"], tmp_path / "half", half=True)
    full, half = (
        load_file(folder / "model.safetensors")
        for folder in (shipped_models()["tiny-dual"], tmp_path / "half")
    )
    assert set(full) == set(half)
    for name, tensor in full.items():
        assert half[name].dtype == torch.half and torch.equal(half[name], tensor.half())
    sizes = [
        (folder / "model.safetensors").stat().st_size
        for folder in (shipped_models()["tiny-dual"], tmp_path / "half")
    ]
    assert sizes[1] < 0.55 * sizes[0]
    model = load_run(tmp_path / "half")
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    receipts = [
        load_file(folder / "receipt.safetensors")
        for folder in (shipped_models()["tiny-dual"], tmp_path / "half")
    ]
    assert any(not torch.equal(receipts[0][name], receipts[1][name]) for name in receipts[0])


def test_a_weight_too_large_for_half_precision_is_named(tmp_path):
    shutil.copytree(shipped_models()["tiny-eye"], tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = 70000.0
    save_file(tensors, weights, metadata=metadata)
    model = build_model(load_recipe(tmp_path / "run" / "recipe.yaml"), tmp_path)
    load_model(tmp_path / "run", model, receipt=False)
    model.eval()
    write_receipt(tmp_path / "run" / "receipt.safetensors", model)
    with pytest.raises(InputError, match=f"{name}: 7e\\+04 is no number of half precision"):
        ship(tmp_path / "run", tmp_path / "half", half=True)
