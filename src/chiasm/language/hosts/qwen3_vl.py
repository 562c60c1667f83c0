"""Qwen3-VL: as Qwen2.5-VL, and features of inner tower layers that early text layers add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.mrope import mrope_kwargs, mrope_positions
from chiasm.language.hosts.plain import OneGrid, Projected, Repeated, decoder_parts
from chiasm.language.hosts.protocol import Extras, HostTokens, Written
from chiasm.language.hosts.qwen_images import QwenImages
from chiasm.language.hosts.written import cell_repeats, pad_cells
from chiasm.language.parts import leave_out


@dataclass(frozen=True)
class Qwen3VLAdapter(Repeated, Projected, OneGrid):
    """What differs in Qwen3-VL; see `HostAdapter`.

    The deepstack features (arXiv:2406.04334) belong to the host's own token of a cell. Where a
    fusion adds tokens to a cell, those get zeros, which is what the text layers add for them.
    """

    model_type: str = "qwen3_vl"
    decoder_name: str = "model.language_model"
    separated: bool = True

    def preparer(self, config: Any, image_processor: Any) -> QwenImages:
        """Return the preparer for images of any size."""
        return QwenImages.from_config(config.vision_config, image_processor)

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Cut `visual` into the tower and its mergers, which are the projector."""
        core = model.base_model
        mergers = {
            "merger": core.visual.merger,
            "deepstack_merger_list": core.visual.deepstack_merger_list,
        }
        return {
            "vision": leave_out(core.visual, list(mergers.values())),
            "projector": nn.ModuleDict(mergers),
            "language": decoder_parts(model),
        }

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Return merged tokens in row order, and as `deepstack` one set a tapped layer."""
        output = model.base_model.get_image_features(
            host_images["pixel_values"], host_images["image_grid_thw"], return_dict=True
        )
        deepstack = tuple(tuple(level) for level in output.deepstack_features)
        tokens = VisualTokens.from_images(output.pooler_output, geometries)
        return HostTokens(tokens, {"deepstack": deepstack})

    def write(self, rows: Sequence[Tensor], extras: Extras, tokens_per_cell: int) -> Written:
        """Write the cells as they are, with the deepstack features on the host's own tokens."""
        output = BaseModelOutputWithDeepstackFeatures(
            pooler_output=tuple(rows),
            deepstack_features=[
                [pad_cells(row, tokens_per_cell) for row in level] for level in extras["deepstack"]
            ],
        )
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
