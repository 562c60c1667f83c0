"""From a recipe to a model of an image and its reconstruction."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiasm.encoders.codebook import CodebookConfig
from chiasm.language.host import Host
from chiasm.language.hosts.protocol import HostAdapter
from chiasm.language.late import LATE, with_late_projector
from chiasm.language.painter import give_tokenizer
from chiasm.models.drawing import Drawing
from chiasm.models.occlusion import Occlusion
from chiasm.recipes.collating import build_collator, frame_pairs
from chiasm.recipes.occlusion_choice import OcclusionChoice
from chiasm.recipes.schema import Recipe
from chiasm.recipes.tokenizers import open_codebook

FROZEN = frozenset({"host_tokenizer", "host_vision"})
"""Parts that stay as they are where a stage names none: as HTFA keeps its two encoders."""


def build_occlusion(recipe: Recipe, host: Host) -> Occlusion:
    """Build a model of pairs.

    Args:
        recipe: The recipe.
        host: The model that is extended; its projector comes after the fusion from here on, where
            its family can do that.

    Raises:
        ConfigError: The recipe asks for pictures and the host cannot draw.
    """
    choice = recipe.occlusion or OcclusionChoice()
    host = with_late_projector(host)
    drawing = None
    if choice.drawing is not None:
        drawn = choice.drawing
        drawing = Drawing.of(host, drawn.order, drawn.drawn, drawn.drop)
    attention = choice.attention
    # Without a branch that draws, targets are not read by anything.
    side = 1 if drawing is None else drawing.codebook.side
    return Occlusion(
        host=host,
        blend=choice.blend.build(),
        attention=None if attention is None else attention.build(width=host.token_width),
        drawing=drawing,
        collator=build_collator(recipe, host, {}, pairs=frame_pairs(host, side)),
        scored=scored_branches(recipe),
    )


def give_pictures(host: Host, config: CodebookConfig, base: Path) -> None:
    """Give a host another tokenizer of pictures; what embeds and scores its codes starts anew.

    Args:
        host: Of the Janus family.
        config: The tokenizer; its path may be a shipped name or a run.
        base: Folder that relative paths start from.

    Raises:
        CheckpointError: The tokenizer cannot be read.
        ConfigError: The host draws no pictures.
    """
    give_tokenizer(host, open_codebook(config, base).model)


def outline_levels(recipe: Recipe, config: Any, adapter: HostAdapter) -> dict[str, nn.Module]:
    """Return levels 1 and 2 by the names of their parts, on the meta device.

    Args:
        recipe: The recipe.
        config: The configuration of the host's model.
        adapter: Its family.
    """
    choice = recipe.occlusion or OcclusionChoice()
    adapter = LATE.get(adapter.model_type, adapter)
    with torch.device("meta"):
        levels: dict[str, nn.Module] = {"pixel_blend": choice.blend.build()}
        if choice.attention is not None:
            width = adapter.token_width(config)
            levels["aligned_attention"] = choice.attention.build(width=width)
    return {name: part for name, part in levels.items() if list(part.parameters())}


def codes_of(recipe: Recipe, config: Any) -> int:
    """Return how many codes of a picture training writes into a row.

    Args:
        recipe: The recipe.
        config: The configuration of the host's model.
    """
    choice = recipe.occlusion or OcclusionChoice()
    if recipe.family != "occlusion" or choice.drawing is None:
        return 0
    return int(config.vq_config.num_patches**2) if "codes" in scored_branches(recipe) else 0


def scored_branches(recipe: Recipe) -> frozenset[str]:
    """Return the branches whose loss has a weight."""
    weights = {"tokens": recipe.objective.tokens, "codes": recipe.objective.codes}
    return frozenset(name for name, weight in weights.items() if weight)


def occlusion_parts(names: Collection[str]) -> set[str]:
    """Return the parts that train where a stage says nothing: all but the two frozen encoders."""
    trained = set(names) - FROZEN
    return trained - {"host_language"} if "host_adapter" in trained else trained
