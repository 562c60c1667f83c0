"""HTFA's nine presets: each runs from its first step to answers and pictures, at tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chiasm.models.occlusion import Occlusion
from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.outline import outline_recipe
from chiasm.recipes.plan import list_parts
from chiasm.recipes.running import prepare, run
from tests.tiny_pairs import SMALL, pair_samples

PRESETS = {
    "htfa-debug": {"tokens", "codes"},
    "htfa-standard": {"tokens", "codes"},
    "htfa-large_scale": {"tokens", "codes"},
    "htfa-memory_efficient": {"tokens", "codes"},
    "htfa-understanding_only": {"tokens"},
    "htfa-generation_only": {"codes"},
    "htfa-ablation_no_level1": {"tokens", "codes"},
    "htfa-ablation_no_level2_affine": {"tokens", "codes"},
    "htfa-ablation_single_encoder": {"tokens"},
}
"""Preset to the branches that it scores."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs_to_its_end(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    recipe = load_recipe(name, SMALL)
    report = run(prepare(recipe, folder, tmp_path), folder)
    assert report.finished
    model = load_run(folder)
    assert isinstance(model, Occlusion)
    assert model.scored == PRESETS[name]
    draws = name != "htfa-ablation_single_encoder"
    assert ("complete" in model.senses) == draws
    batch = model.collator.collate(pair_samples(2), generation=True)
    assert len(model.generate(batch, max_new_tokens=2)) == 2
    if draws:
        assert model.complete(batch, seed=0, max_new_tokens=2)[1].image.shape == (64, 64, 3)


def test_presets_say_what_they_change() -> None:
    read = {name: load_recipe(name) for name in PRESETS}
    assert {name: recipe.seed for name, recipe in read.items()} == dict.fromkeys(PRESETS, 42)
    levels = {name: recipe.occlusion for name, recipe in read.items()}
    one, two = levels["htfa-ablation_no_level1"], levels["htfa-ablation_no_level2_affine"]
    three, usual = levels["htfa-ablation_single_encoder"], levels["htfa-standard"]
    assert one is not None
    assert two is not None
    assert three is not None
    assert usual is not None
    assert (one.blend.alpha, usual.blend.alpha) == ("fixed", "static")
    assert two.attention is not None
    assert usual.attention is not None
    assert (two.attention.align, usual.attention.align) == (False, True)
    assert three.drawing is None
    weights = {name: recipe.objective for name, recipe in read.items()}
    standard = weights["htfa-standard"]
    assert (standard.tokens, standard.codes) == (0.7, 0.3)
    assert weights["htfa-understanding_only"].codes == 0
    assert weights["htfa-generation_only"].tokens == 0


@pytest.mark.parametrize(
    ("name", "layers"), [("htfa-standard", 4), ("htfa-large_scale", 8), ("htfa-debug", 2)]
)
def test_real_sizes_are_known_without_weights(name: str, layers: int, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    outline = outline_recipe(recipe, tmp_path)
    assert all(
        p.device == torch.device("meta") for m in outline.parts.values() for p in m.parameters()
    )
    parts = {part.name: part.parameters for part in list_parts(recipe, outline)}
    width, inside, vocabulary = 2048, 8192, 92544
    layer = 4 * width * width + 3 * width * inside + 2 * width
    assert parts["host_language"] == vocabulary * width + layers * layer + width
    assert parts["pixel_blend"] == 448 * 448
    # Four projections of 1152, that of the keys without bias, and three norms.
    assert parts["aligned_attention"] == 4 * 1152 * 1152 + 3 * 1152 + 3 * 2 * 1152
    assert outline.codes == (448 // 14) ** 2
