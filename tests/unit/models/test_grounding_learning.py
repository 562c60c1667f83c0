"""What a step of the real trainer moves, and pointing on hosts with further eyes or few tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chiasm.core.protocols import Fused
from chiasm.core.samples import Sample
from chiasm.core.tokens import VisualTokens
from chiasm.fusion import FUSIONS
from chiasm.models.grounding import Grounding
from chiasm.objectives.masks import Masks
from chiasm.objectives.weighted import WeightedSum
from chiasm.recipes.mask_models import grounding_parts
from chiasm.training.loop import Trainer
from chiasm.training.settings import StageSettings, TrainingSettings
from tests.tiny_eyes import tiny_encoder
from tests.tiny_grounders import (
    build_base,
    build_grounder,
    build_masks,
    build_on,
    conversations,
    only,
    pictures,
    said,
)
from tests.tiny_hosts import ALL_HOSTS, build_tiny
from tests.unit.language.test_merged import halves

TRAINED = {"mask_head", "text_layers", "refiner.prompt_encoder", "refiner.mask_decoder"}


def build_with_eye(fusion: str, **settings: Any) -> Grounding:
    """A dual encoder whose fusion speaks, as after training, that points."""
    host = build_tiny("qwen2_5_vl")
    eye = tiny_encoder("dinov2")
    torch.manual_seed(7)
    module = FUSIONS[fusion](**settings).build(
        host_width=host.width, encoder_widths={"dinov2": eye.width}
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return build_on(build_base(host, {"dinov2": eye}, module), build_masks(host))


class Halving(nn.Module):
    """A fusion that joins neighbouring cells, as a compression does."""

    def fuse(self, host: VisualTokens, extra: Any) -> Fused:
        """Return half as many tokens."""
        return Fused(tokens=halves(host), named={})


def build_halving(family: str = "qwen2_5_vl") -> Grounding:
    host = build_tiny(family)
    base = build_base(host, {"dinov2": tiny_encoder("dinov2")}, Halving())
    return build_on(base, build_masks(host))


class Rows:
    """Samples in a list."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index % len(self.samples)]


def train(model: Grounding, output: Path, steps: int = 1) -> Trainer:
    """Train as a recipe does where it says nothing of parts."""
    masks = Masks(("coarse", "refined"))
    stage = StageSettings(
        name="masks",
        steps=steps,
        train=tuple(sorted(grounding_parts(model.parts))),
        learning_rate=0.01,
    )
    trainer = Trainer(
        model=model,
        objective=WeightedSum([masks], dict.fromkeys(masks.terms, 1.0)),
        dataset=Rows(conversations()),
        collate=model.collator,
        settings=TrainingSettings(stages=(stage,), batch_size=3, seed=3, order="sequential"),
        output=output,
    )
    trainer.train()
    return trainer


def weights(model: Grounding) -> dict[str, dict[str, Tensor]]:
    return {
        part: {name: value.detach().clone() for name, value in module.state_dict().items()}
        for part, module in model.parts.items()
    }


def check_moved(model: Grounding, before: dict[str, dict[str, Tensor]]) -> None:
    after = weights(model)
    moved = {
        part
        for part, values in before.items()
        if any(not torch.equal(value, after[part][name]) for name, value in values.items())
    }
    assert moved == TRAINED
    for part, module in model.parts.items():
        for name, parameter in module.named_parameters():
            assert parameter.requires_grad == (part in TRAINED), f"{part}.{name}"
            assert part in TRAINED or parameter.grad is None, f"{part}.{name}"


@pytest.mark.parametrize("family", sorted(ALL_HOSTS))
def test_a_step_moves_the_heads_and_nothing_of_the_host(family: str, tmp_path: Path) -> None:
    model = build_grounder(family)
    before = weights(model)
    everything = {name: value.clone() for name, value in model.host.model.state_dict().items()}
    train(model, tmp_path / "run")
    check_moved(model, before)
    after = model.host.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in everything.items())


def test_gradient_reaches_exactly_what_trains() -> None:
    model = build_grounder("qwen2_5_vl").requires_grad_(False)
    for name in TRAINED:
        model.parts[name].requires_grad_(True)
    batch = model.collator(conversations())
    outputs = model(batch)
    assert not model.read(batch).maps[0].requires_grad
    sum(mask.square().mean() for mask in outputs.masks["refined"]).backward()
    reached = {
        part
        for part, module in model.parts.items()
        if any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
    }
    # The mask prompt carries the refined loss into the coarse head as well.
    assert reached == TRAINED


def test_a_base_that_trains_gets_its_gradient_through_the_maps() -> None:
    """Frozen is not blind: a recipe may train a fusion for pointing."""
    model = build_with_eye("gated", width=31)
    model.requires_grad_(False)
    model.base.fusion.requires_grad_(True)
    outputs = model(model.collator(conversations()))
    sum(mask.square().mean() for mask in outputs.masks["coarse"]).backward()
    assert any(bool(p.grad.any()) for p in model.base.fusion.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("fusion", "settings"),
    [("gated", {"width": 31}), ("interleave", {"opened": True}), ("interleave", {})],
)
@torch.no_grad()
def test_pointing_with_two_eyes_works_through_geometry(fusion: str, settings: Any) -> None:
    model = build_with_eye(fusion, **settings)
    samples = conversations()
    batch = model.collator(samples)
    fused = model.look(batch)
    assert fused.tokens_per_cell == (2 if settings.get("opened") else 1)
    together = model(batch)
    reading = model.read(batch)
    assert batch.phrases is not None
    for maps, image in zip(reading.maps, batch.phrases.images.tolist(), strict=True):
        grid = batch.geometries[image]
        assert maps.shape[1:] == (grid.rows, grid.columns)
    index = 0
    for sample in samples:
        for place in range(len(sample.phrases)):
            alone = model(model.collator([only(sample, place)]))
            for head in model.mask_heads:
                found = together.masks[head][index]
                torch.testing.assert_close(found, alone.masks[head][0], atol=1e-3, rtol=1e-3)
            index += 1
    (image,) = pictures(1)
    ((mask, score),) = model.point(image, ["the red cup"])
    sample = said("one", ["the red cup"], [image], asks=model.request)
    ((expected, same),) = model.predict(model.collator([sample]))
    assert (mask ^ expected).mean() < 0.002 and score == pytest.approx(same, abs=1e-3)


@torch.no_grad()
def test_the_other_eye_changes_where_a_phrase_points() -> None:
    model = build_with_eye("gated", width=31)
    batch = model.collator(conversations())
    plain = build_grounder("qwen2_5_vl")
    alone = plain.read(plain.collator(conversations()))
    for one, other in zip(model.read(batch).maps, alone.maps, strict=True):
        assert one.shape == other.shape and not torch.equal(one, other)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "janus"])
@torch.no_grad()
def test_pointing_on_merged_tokens(family: str) -> None:
    model = build_halving(family)
    batch = model.collator(conversations())
    reading = model.read(batch)
    assert batch.phrases is not None
    for maps, image in zip(reading.maps, batch.phrases.images.tolist(), strict=True):
        grid = batch.geometries[image]
        assert maps.shape[1:] == (grid.rows, grid.columns)
        flat = maps.flatten(1)
        even = flat[:, : grid.count // 2 * 2].unflatten(1, (-1, 2))
        assert torch.equal(even[..., 0], even[..., 1])
    (image,) = pictures(1)
    found = model.point(image, ["the red cup", "it"])
    for text, (mask, score) in zip(["the red cup", "it"], found, strict=True):
        sample = said("one", [text], [image], asks=model.request)
        ((expected, same),) = model.predict(model.collator([sample]))
        assert (mask ^ expected).mean() < 0.002 and score == pytest.approx(same, abs=1e-3)


def test_merged_tokens_can_be_answered_and_trained_on(tmp_path: Path) -> None:
    model = build_halving()
    assert model.generate(
        model.collator.collate(conversations()[:1], generation=True), max_new_tokens=3
    )
    before = weights(model)
    train(model, tmp_path / "run")
    check_moved(model, before)
    assert np.isfinite(float(model.probe()["gradient.refined"].sum()))
