"""A tiny model of pairs with random weights, and pairs to read."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from chiasm.core.samples import Sample
from chiasm.data.world.worlds import WorldDataset
from chiasm.models.occlusion import Occlusion
from chiasm.recipes.build import build_model
from chiasm.recipes.loading import load_recipe
from chiasm.recipes.schema import Recipe

SMALL = (
    "host.scratch.vocabulary=400",
    "host.scratch.width=34",
    "host.scratch.layers=2",
    "host.scratch.heads=1",
    "host.scratch.intermediate=47",
    "host.scratch.vision_width=22",
    "host.scratch.vision_layers=2",
    "host.scratch.vision_heads=2",
    "host.scratch.vision_ratio=1.5",
    "host.scratch.side=24",
    "host.scratch.patch=8",
    "host.scratch.pictures={embed_dim: 7, num_embeddings: 37, latent_channels: 32, "
    "base_channels: 32, channel_multiplier: [1, 1, 1, 1], num_res_blocks: 1, num_patches: 3}",
    "occlusion.blend.size=29",
    "occlusion.attention.heads=2",
    "data.train=[{world: occluded, count: 60}]",
    "training.batch_size=4",
    "training.accumulation=1",
    "training.precision=fp32",
    "training.gradient_checkpointing=false",
    "training.stages.0.epochs=null",
    "training.stages.0.steps=4",
)
"""Overrides that bring a preset of HTFA to a size that trains in seconds: a tower of 3 x 3 tokens,
pictures of 3 x 3 codes."""


def tiny_pair_recipe(*overrides: str, preset: str = "htfa-debug") -> Recipe:
    """A preset at tiny size."""
    return load_recipe(preset, [*SMALL, *overrides])


@cache
def tiny_pair_model(*overrides: str) -> Occlusion:
    """A model with random weights; tests leave it as it is, or copy it."""
    model = build_model(tiny_pair_recipe(*overrides), Path())
    assert isinstance(model, Occlusion)
    return model


@cache
def _samples(count: int, split: str) -> tuple[Sample, ...]:
    dataset = WorldDataset(world="occluded", split=split, count=count)
    return tuple(dataset[index] for index in range(count))


def pair_samples(count: int, split: str = "train") -> list[Sample]:
    """Pairs of the world `occluded`."""
    return list(_samples(count, split))
