"""From a recipe to a model that points, and to the segmenter that refines it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from chiasm.heads.colour_reading import ColourReadingConfig
from chiasm.heads.mask_refiner import MaskRefiner, MaskRefinerConfig
from chiasm.heads.mask_unet import MaskUNetConfig
from chiasm.heads.sam import SamConfig
from chiasm.heads.text_layers import TextLayersConfig
from chiasm.language.hosts.protocol import HostAdapter
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
    refiner = None if choice.refiner is None else located_refiner(choice.refiner, base).build()
    head, text = head_configs(choice, host.model.config, host.adapter, refiner)
    masks = PhraseMasks(
        mask_head=head.build(),
        refiner=refiner,
        text_layers=None if text is None else text.build(),
    )
    return Grounding(
        base=answering,
        masks=masks,
        collator=build_collator(recipe, host, dict(answering.encoders), masks.transforms),
        merge=choice.merge,
        request=choice.request,
    )


def head_configs(
    choice: GroundingChoice, config: Any, adapter: HostAdapter, refiner: MaskRefiner | None
) -> tuple[MaskUNetConfig | ColourReadingConfig, TextLayersConfig | None]:
    """Return the sizes of the mask head, and of the text layers where the refiner reads text.

    Args:
        choice: Of the recipe.
        config: The configuration of the host's model.
        adapter: Its family.
        refiner: The refiner, if there is one.
    """
    decoder = config.get_text_config()
    layers = decoder.num_hidden_layers
    width = decoder.hidden_size
    head: MaskUNetConfig | ColourReadingConfig = ColourReadingConfig(width=width)
    if choice.reads == "maps":
        head = MaskUNetConfig(
            channels=layers * decoder.num_attention_heads * adapter.most_grids,
            widths=choice.widths,
            least=choice.least,
        )
    if refiner is None or not refiner.use_text:
        return head, None
    return head, TextLayersConfig(layers=layers, width=width, prompt_width=refiner.sam.width)


def grounding_parts(names: Collection[str]) -> set[str]:
    """Return the parts that train where nothing else is said: all heads, no image encoder."""
    heads = {name for name in names if name in ("mask_head", "text_layers")}
    pieces = {f"{REFINER}.prompt_encoder", f"{REFINER}.mask_decoder"}
    return heads | {name for name in names if name in pieces}


def build_segmenter(config: SegmenterConfig, base: Path, seed: int) -> Segmenter:
    """Build or load a segmenter."""
    return config.model_copy(update={"sam": located_sam(config.sam, base)}).build(seed=seed)


def located_refiner(config: MaskRefinerConfig, base: Path) -> MaskRefinerConfig:
    """Return a refiner's configuration whose checkpoint is a folder or a name on the hub."""
    return config.model_copy(update={"sam": located_sam(config.sam, base)})


def located_sam(config: SamConfig, base: Path) -> SamConfig:
    """Return a model's configuration whose checkpoint is a folder or a name on the hub."""
    if config.path is None:
        return config
    return config.model_copy(update={"path": str(segmenter_folder(config.path, base))})
