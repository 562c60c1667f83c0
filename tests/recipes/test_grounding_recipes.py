"""Pointing from a recipe to a run that loads: on a host, on a run with further eyes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import chiasm
from chiasm.core.batch import Batch, PhraseBatch
from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.core.outputs import Outputs
from chiasm.heads.colour_reading import ColourReading
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.grounding import Grounding
from chiasm.models.segmenter import Segmenter
from chiasm.recipes.build import build_model, build_objective, run_with_eyes, stage_parts
from chiasm.recipes.host_choice import HostChoice
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.measuring import assume_tokens
from chiasm.recipes.objective_choice import ObjectiveChoice
from chiasm.recipes.outline import outline_recipe
from chiasm.recipes.plan import list_parts, plan_stages
from chiasm.recipes.running import prepare, run
from tests.recipes.small import tiny_overrides, tiny_pointing
from tests.tiny import picture
from tests.tiny_sams import ARCHITECTURES

TRAINED = {"mask_head", "text_layers", "refiner.prompt_encoder", "refiner.mask_decoder"}


@pytest.fixture(scope="module")
def trained(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mask heads."""
    folder = tmp_path_factory.mktemp("pointing")
    recipe = load_recipe("tiny-grounding", tiny_pointing(home, folder))
    report = run(prepare(recipe, folder / "run", Path.cwd()), folder / "run")
    assert report.finished
    return folder / "run"


def test_a_run_loads_as_it_was_and_points(trained: Path) -> None:
    model = chiasm.load(trained)
    assert isinstance(model, Grounding) and not model.training
    again = load_run(trained)
    image = picture(43, 61, 3)
    ((mask, score),) = model.point(image, ["the red cup"])
    ((same, equal),) = again.point(image, ["the red cup"])
    assert mask.shape == (43, 61) and np.array_equal(mask, same) and score == equal
    probes = model.probe()
    assert all(torch.equal(value, again.probe()[name]) for name, value in probes.items())


def test_a_run_keeps_the_heads_and_not_the_host(trained: Path, home: Path) -> None:
    recipe = load_recipe(trained / "recipe.yaml")
    fresh = build_model(recipe, Path.cwd())
    model = load_run(trained)
    for name, part in model.parts.items():
        values = zip(
            part.state_dict().values(), fresh.parts[name].state_dict().values(), strict=True
        )
        assert all(torch.equal(*pair) for pair in values) == (name not in TRAINED), name
    from safetensors.torch import load_file

    kept = {name.split("/")[0] for name in load_file(trained / "model.safetensors")}
    assert not any(name.startswith("host_") for name in kept)


def test_a_run_on_another_segmenter_does_not_load(trained: Path, home: Path) -> None:
    segmenter = Path(load_recipe(trained / "recipe.yaml").grounding.refiner.sam.path)
    file = segmenter / "segmenter" / "model.safetensors"
    before = file.read_bytes()
    changed = bytearray(before)
    changed[-3] ^= 1
    file.write_bytes(bytes(changed))
    try:
        with pytest.raises(CheckpointError):
            load_run(trained)
    finally:
        file.write_bytes(before)
    load_run(trained)


def test_parts_that_train_where_a_recipe_says_nothing(home: Path, tmp_path: Path) -> None:
    recipe = load_recipe("tiny-grounding", tiny_pointing(home, tmp_path))
    names = build_model(recipe, Path.cwd()).parts
    assert set(stage_parts(recipe, recipe.training.stages[0], names)) == TRAINED
    named = recipe.training.stages[0].model_copy(update={"train": ("mask_head",)})
    assert stage_parts(recipe, named, names) == ("mask_head",)


def test_a_head_that_reads_colours_from_a_recipe_to_a_run(home: Path, tmp_path: Path) -> None:
    overrides = [
        *tiny_pointing(home, tmp_path),
        "grounding={reads: colours}",
        "objective.masks={coarse.balanced: 1.0}",
        "training.stages.0.learning_rates={}",
    ]
    recipe = load_recipe("tiny-grounding", overrides)
    outline = outline_recipe(recipe, Path.cwd())
    planned = {part.name: part.parameters for part in list_parts(recipe, outline)}
    (stage,) = plan_stages(recipe, outline, assume_tokens(outline))
    assert set(stage.trains) == {"mask_head"} and stage.activations > 0
    run(prepare(recipe, tmp_path / "run", Path.cwd()), tmp_path / "run")
    model = load_run(tmp_path / "run")
    assert isinstance(model, Grounding) and isinstance(model.masks.mask_head, ColourReading)
    weights = list(model.masks.mask_head.parameters())
    assert sum(p.numel() for p in weights) == planned["mask_head"] == 26 * (1 + model.host.width)
    assert all(weight.any() for weight in weights)  # They started at zero.
    ((mask, _),) = model.point(picture(43, 61, 3), ["the red cup"])
    assert mask.shape == (43, 61)


def test_the_share_of_the_inside_reaches_the_loss() -> None:
    ids = torch.zeros((1, 1), dtype=torch.long)
    truth = torch.zeros(5, 7, dtype=torch.bool)
    truth[1, 2:] = True
    phrases = PhraseBatch(ids[0], ids[0], torch.zeros((1, 2), dtype=torch.long), (truth,))
    batch = Batch(ids, ids + 1, ids, ids, phrases=phrases)
    outputs = Outputs(masks={"coarse": (torch.full((5, 7), 2.0),)})
    found = []
    for share in (0.25, 0.5, 0.75):
        choice = ObjectiveChoice(masks={"coarse.balanced": 1.0}, masks_inside=share)
        scores = build_objective(choice).score(outputs, batch)
        assert set(scores) == {"coarse.bce", "coarse.dice", "coarse.balanced"}
        found.append(float(scores["coarse.balanced"]))
    # Masks of everything cost less, the more the inside weighs.
    assert found == sorted(found, reverse=True) and found[0] - found[1] > 0.4


@pytest.fixture(scope="module")
def with_eyes(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a host with a further eye."""
    folder = tmp_path_factory.mktemp("eyes") / "run"
    run(prepare(load_recipe("fusion-learning", tiny_overrides(home)), folder, Path.cwd()), folder)
    return folder


def test_a_run_with_further_eyes_points_with_them(
    home: Path, with_eyes: Path, tmp_path: Path
) -> None:
    overrides = [*tiny_pointing(home, tmp_path), f"host.path={with_eyes}"]
    recipe = load_recipe("tiny-grounding", overrides)
    dual = load_run(with_eyes)
    assert isinstance(dual, DualEncoder)
    model = build_model(recipe, Path.cwd())
    assert isinstance(model, Grounding)
    assert set(model.encoders) == {"dinov2"} and model.fusion is not None
    assert set(model.collator.transforms) == {"dinov2", "refiner"}
    probes = dual.probe()
    assert all(torch.equal(value, model.base.probe()[name]) for name, value in probes.items())
    run(prepare(recipe, tmp_path / "run", Path.cwd()), tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert isinstance(loaded, Grounding) and set(loaded.encoders) == {"dinov2"}
    assert all(torch.equal(value, loaded.base.probe()[name]) for name, value in probes.items())


def test_only_a_run_with_eyes_is_taken_whole(
    home: Path, with_eyes: Path, trained: Path, tmp_path: Path
) -> None:
    def found(path: Path | str) -> Path | None:
        return run_with_eyes(HostChoice(path=str(path)), tmp_path)

    assert found(with_eyes) == with_eyes
    assert run_with_eyes(HostChoice(path=with_eyes.name), with_eyes.parent) == with_eyes
    assert found("tiny-dual") is not None
    assert found("tiny-host") is None and found("tiny-eye") is None
    assert found(home / "host") is None and found(trained) is None and found("gone") is None
    assert run_with_eyes(HostChoice(scratch={}), with_eyes) is None


def test_pixels_of_the_recipe_hold_for_a_run_with_eyes(
    home: Path, with_eyes: Path, tmp_path: Path
) -> None:
    size = ["host.pixels=[784, 1568]", f"host.path={with_eyes}"]
    recipe = load_recipe("tiny-grounding", [*tiny_pointing(home, tmp_path), *size])
    model = build_model(recipe, Path.cwd())
    (geometry,) = model.collator.preparer.prepare([picture(83, 83, 1)]).geometries
    assert geometry.count <= 8


def test_the_segmenter_of_a_recipe_is_a_refiner_of_the_next(home: Path, tmp_path: Path) -> None:
    few = [
        "training.batch_size=2",
        "training.workers=0",
        "training.evaluate_every=2",
        "training.checkpoint_every=2",
        "data.validation.0.count=3",
        *(
            f"training.stages.{stage}.{what}"
            for stage in (0, 1)
            for what in ("steps=2", "warmup=0")
        ),
        "training.stages.0.data.0.count=7",
        "data.train.0.count=7",
    ]
    recipe = load_recipe("tiny-sam", few)
    plain = recipe.to_plain()
    plain["segmenter"]["sam"] = {"architecture": ARCHITECTURES["sam"]}
    recipe = type(recipe).model_validate(plain)
    report = run(prepare(recipe, tmp_path / "sam", Path.cwd()), tmp_path / "sam")
    assert report.finished
    segmenter = load_run(tmp_path / "sam")
    assert isinstance(segmenter, Segmenter) and not segmenter.training
    overrides = tiny_pointing(home, tmp_path / "other")
    overrides[1] = f"grounding.refiner.sam.path={tmp_path / 'sam'}"
    model = build_model(load_recipe("tiny-grounding", overrides), Path.cwd())
    assert isinstance(model, Grounding) and model.masks.refiner is not None
    theirs = segmenter.sam.model.state_dict()
    own = model.masks.refiner.sam.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in theirs.items())
    assert model.identity["refiner"]["weights"] != "random"


def test_a_missing_segmenter_is_named(home: Path, tmp_path: Path) -> None:
    overrides = tiny_pointing(home, tmp_path)
    overrides[1] = "grounding.refiner.sam.path=no-such-segmenter"
    recipe = load_recipe("tiny-grounding", overrides)
    with pytest.raises(CheckpointError, match=r"mask refiner: .*no-such-segmenter"):
        build_model(recipe, Path.cwd())
    with pytest.raises(ConfigError, match="give either `path`"):
        load_recipe("tiny-grounding", ["grounding.refiner.sam.path=null"])
