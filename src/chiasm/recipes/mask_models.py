"""From a recipe to a model that points, and to the segmenter that refines it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from chiasm.core.errors import ConfigError
from chiasm.heads.mask_refiner import MaskRefiner, MaskRefinerConfig
from chiasm.heads.mask_unet import MaskUNetConfig
from chiasm.heads.sam import SamConfig
from chiasm.heads.text_layers import TextLayersConfig
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.grounding import Grounding
from chiasm.models.phrase_masks import REFINER, PhraseMasks
from chiasm.models.segmenter import Segmenter, SegmenterConfig
from chiasm.recipes.collating import build_collator
from chiasm.recipes.places import segmenter_folder
from chiasm.recipes.schema import GroundingChoice, Recipe


def build_grounding(recipe: Recipe, answering: DualEncoder, base: Path) -> Grounding:
    """Build a model that points.

    Args:
        recipe: The recipe.
        answering: What answers, and stays as it is.
        base: Folder that relative paths start from.

    Raises:
        ChiasmError: The refiner's checkpoint is missing or does not fit.
    """
    choice = recipe.grounding or GroundingChoice()
    host = answering.host
    decoder = host.model.config.get_text_config()
    layers, heads = decoder.num_hidden_layers, decoder.num_attention_heads
    grids = host.adapter.most_grids
    refiner = None if choice.refiner is None else _build_refiner(choice.refiner, base)
    text_layers = None
    if refiner is not None and refiner.use_text:
        text_layers = TextLayersConfig(
            layers=layers, width=host.width, prompt_width=refiner.sam.width
        ).build()
    masks = PhraseMasks(
        mask_head=MaskUNetConfig(
            channels=layers * heads * grids, widths=choice.widths, least=choice.least
        ).build(),
        refiner=refiner,
        text_layers=text_layers,
    )
    return Grounding(
        base=answering,
        masks=masks,
        collator=build_collator(recipe, host, dict(answering.encoders), masks.transforms),
        merge=choice.merge,
        request=choice.request,
    )


def grounding_parts(names: Collection[str]) -> set[str]:
    """Return the parts that train where nothing else is said: all heads, no image encoder."""
    heads = {name for name in names if name in ("mask_head", "text_layers")}
    pieces = {f"{REFINER}.prompt_encoder", f"{REFINER}.mask_decoder"}
    return heads | {name for name in names if name in pieces}


def build_segmenter(config: SegmenterConfig, base: Path, seed: int) -> Segmenter:
    """Build or load a segmenter."""
    return config.model_copy(update={"sam": _located(config.sam, base)}).build(seed=seed)


def _build_refiner(config: MaskRefinerConfig, base: Path) -> MaskRefiner:
    if config.sam.path is None and config.sam.architecture is None:
        raise ConfigError("grounding.refiner.sam: give `path` or `architecture`")
    return config.model_copy(update={"sam": _located(config.sam, base)}).build()


def _located(config: SamConfig, base: Path) -> SamConfig:
    if config.path is None:
        return config
    return config.model_copy(update={"path": str(segmenter_folder(config.path, base))})
