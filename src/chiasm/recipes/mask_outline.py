"""The sizes of mask heads and segmenters, from configurations alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.heads.mask_refiner import MaskRefiner, MaskRefinerConfig
from chiasm.heads.mask_unet import MaskUNet
from chiasm.heads.sam import SamConfig, outline_sam
from chiasm.heads.segment_anything import SegmentAnything
from chiasm.language.hosts.protocol import HostAdapter
from chiasm.models.phrase_masks import PhraseMasks
from chiasm.recipes.mask_models import head_configs, located_refiner, located_sam
from chiasm.recipes.schema import GroundingChoice


def outline_masks(
    choice: GroundingChoice, config: Any, adapter: HostAdapter, base: Path
) -> PhraseMasks:
    """Build the mask heads of a recipe on the meta device.

    Args:
        choice: Of the recipe.
        config: The configuration of the host's model.
        adapter: Its family.
        base: Folder that relative paths start from.

    Raises:
        CheckpointError: A configuration cannot be read.
    """
    refiner = None if choice.refiner is None else _outline_refiner(choice.refiner, base)
    head, text = head_configs(choice, config, adapter, refiner)
    with torch.device("meta"):
        layers = None if text is None else text.build()
        return PhraseMasks(mask_head=head.build(), refiner=refiner, text_layers=layers)


def outline_segmenter(config: SamConfig, base: Path) -> SegmentAnything:
    """Build a segmenter on the meta device."""
    return SegmentAnything(outline_sam(located_sam(config, base)))


def picture_places(sam: SegmentAnything) -> int:
    """Return how many places the image encoder gives for a picture."""
    return (sam.mask_side // 4) ** 2


def head_values(head: MaskUNet, side: int) -> int:
    """Return how many numbers a mask head computes for one phrase on side x side cells.

    What its layers give is what their successors keep for the backward pass.
    """
    counts: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        counts.append(output.numel())

    # The head looks at its maps' values, which the meta device has not; weights may be any.
    head = copy.deepcopy(head).to_empty(device="cpu")
    leaves = [module for module in head.modules() if not list(module.children())]
    for leaf in leaves:
        leaf.register_forward_hook(count)
    channels = next(p for p in head.parameters() if p.dim() == 4).shape[1]
    with torch.no_grad():
        head.predict([torch.zeros(channels, side, side)])
    return sum(counts)


def _outline_refiner(config: MaskRefinerConfig, base: Path) -> MaskRefiner:
    config = located_refiner(config, base)
    sam = SegmentAnything(outline_sam(config.sam))
    return MaskRefiner(sam=sam, use_text=config.use_text)
