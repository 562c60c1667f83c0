"""The strategy by domain: what the stage of the shared model learns from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from chiasm.recipes.loading import load_recipe, load_run
from chiasm.recipes.running import prepare, run
from tests.recipes.small import tiny_strategy

NAME = "video-domain-aware"


def learned(folder: Path, *changes: str) -> dict[str, Tensor]:
    """Return the weights after a step of each stage."""
    short = [f"training.stages.{stage}.steps=1" for stage in (0, 1)]
    recipe = load_recipe(NAME, [*tiny_strategy(NAME), "data.validation=[]", *short, *changes])
    run(prepare(recipe, folder, folder), folder)
    return load_run(folder).state_dict()


def test_the_router_teaches_what_is_by_domain_alone(tmp_path: Path) -> None:
    """A router that is not learned yet must not shape the tower that it reads."""
    never = ["objective.router={}", "training.stages.0.loss_weights={}"]
    without = learned(tmp_path / "without", *never)
    within = learned(tmp_path / "within")
    both = learned(tmp_path / "both", "training.stages.0.loss_weights={}")
    differing, spread = (
        {name for name in without if not torch.equal(without[name], found[name])}
        for found in (within, both)
    )
    # In the second stage its terms teach the router, and nothing that is shared.
    own = ("by_domain.", "lora_")
    assert differing and all(any(part in name for part in own) for name in differing), differing
    # Without the weights of the recipe it would: the rest of this test could fail.
    assert any("encoder" in name for name in spread)
