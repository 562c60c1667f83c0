"""HPT Air (HyperGAI, 2024): three published checkpoints to one LLaVA host.

The composition: LLaVA classes with a SigLIP tower whose `image_size` is 392 (HPT Air, 28 x 28 cells
of 14) or 448 (HPT 1.5 Air, 32 x 32), `vision_feature_layer` -2, `vision_feature_select_strategy`
"full", and a Llama decoder. Pictures are stretched to the square.

Where the names come from. Read in the published code (HyperGAI/HPT, `hpt1_5.py`): the three folders
`llm`, `visual_encoder` (SigLIP of transformers, hence `vision_model.`) and `projector`, the layer,
the size 448, the stretching, and the resizing of position embeddings. Recalled, and not read again
for this: the projector's `model.0` and `model.2`, which are those of xtuner's two-layer projector
with GELU. No published file was at hand when this was written; `load_renamed` refuses what does
not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import interpolate

from chiasm.core.errors import CheckpointError
from chiasm.language.checkpoints.renaming import Renamed, Rule, rename

POSITIONS = "model.vision_tower.embeddings.position_embedding.weight"

RULES: tuple[Rule, ...] = (
    (r"llm/model\.(.+)", "host", r"model.language_model.\1"),
    (r"llm/(lm_head\..+)", "host", r"\1"),
    (r"visual_encoder/vision_model\.(.+)", "host", r"model.vision_tower.\1"),
    (r"projector/model\.0\.(.+)", "host", r"model.multi_modal_projector.linear_1.\1"),
    (r"projector/model\.2\.(.+)", "host", r"model.multi_modal_projector.linear_2.\1"),
)


def rename_hpt(
    llm: Mapping[str, Tensor],
    visual_encoder: Mapping[str, Tensor],
    projector: Mapping[str, Tensor],
    *,
    side: int,
) -> Renamed:
    """Rename the three published state dictionaries, and resize the tower's positions.

    Args:
        llm: The decoder's.
        visual_encoder: The tower's.
        projector: The projector's.
        side: Cells along each side of the tower's square.

    Returns:
        The module `host` (the host's `model`).

    Raises:
        CheckpointError: The tower's positions are no square.
    """
    folders = {"llm": llm, "visual_encoder": visual_encoder, "projector": projector}
    renamed = rename(
        {
            f"{folder}/{name}": tensor
            for folder, own in folders.items()
            for name, tensor in own.items()
        },
        RULES,
    )
    host = renamed.modules["host"]
    if POSITIONS in host:
        host[POSITIONS] = resize_positions(host[POSITIONS], side)
    return renamed


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Resize learned positions of a square of patches, bicubic, in float32.

    Args:
        positions: float (cells, D), row by row, without a class token.
        side: Cells along each side of the new square.

    Returns:
        float (side * side, D), of the same type.

    Raises:
        CheckpointError: There are not as many positions as in a square.
    """
    old = math.isqrt(positions.shape[0])
    if old * old != positions.shape[0]:
        raise CheckpointError(
            f"{positions.shape[0]} position embeddings are no square of patches; a tower without a "
            "class token and with a square picture is needed"
        )
    grid = positions.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).flatten(0, 2).to(positions.dtype)
