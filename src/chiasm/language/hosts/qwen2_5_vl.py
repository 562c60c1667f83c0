"""Qwen2.5-VL: images of any size, 2 x 2 patches a token, positions by time, row and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.mrope import mrope_kwargs, mrope_positions
from chiasm.language.hosts.plain import OneGrid, Projected, Repeated, decoder_parts
from chiasm.language.hosts.protocol import Extras, HostTokens, Written
from chiasm.language.hosts.qwen_images import QwenImages
from chiasm.language.hosts.written import cell_repeats
from chiasm.language.parts import leave_out


@dataclass(frozen=True)
class Qwen25VLAdapter(Repeated, Projected, OneGrid):
    """What differs in Qwen2.5-VL; see `HostAdapter`."""

    model_type: str = "qwen2_5_vl"
    decoder_name: str = "model.language_model"
    separated: bool = True

    def preparer(self, config: Any, image_processor: Any) -> QwenImages:
        """Return the preparer for images of any size."""
        return QwenImages.from_config(config.vision_config, image_processor)

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Cut `visual` into the tower and its merger, which is the projector."""
        core = model.base_model
        return {
            "vision": leave_out(core.visual, [core.visual.merger]),
            "projector": nn.ModuleDict({"merger": core.visual.merger}),
            "language": decoder_parts(model),
        }

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Return merged tokens, which the tower has put back into row order."""
        output = model.base_model.get_image_features(
            host_images["pixel_values"], host_images["image_grid_thw"], return_dict=True
        )
        return HostTokens(VisualTokens.from_images(output.pooler_output, geometries), {})

    def write(self, rows: Sequence[Tensor], extras: Extras, tokens_per_cell: int) -> Written:
        """Write the cells as they are."""
        output = BaseModelOutputWithPooling(pooler_output=tuple(rows))
        return Written(tuple(rows), cell_repeats(rows, tokens_per_cell), {"image": output})

    def positions(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_types: Tensor,
        host_images: Mapping[str, Tensor],
    ) -> Tensor:
        """Return int64 (3, B, S): time, row, column."""
        return mrope_positions(model, input_ids, attention_mask, token_types, host_images)

    def model_kwargs(
        self, token_types: Tensor, host_images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the token types and the grid."""
        return mrope_kwargs(token_types, host_images)

    def forget(self, model: Any) -> None:
        """Clear the distance between positions and lengths that the model keeps from a call."""
        model.base_model.rope_deltas = None
