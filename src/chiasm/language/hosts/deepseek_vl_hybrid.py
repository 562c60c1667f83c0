"""DeepSeek-VL with two towers: SigLIP on a small square, SAM on a large one, one token a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.padded_images import PaddedImages
from chiasm.language.hosts.plain import (
    OneGrid,
    OneTensor,
    PlainText,
    Projected,
    Repeated,
    decoder_parts,
)
from chiasm.language.hosts.protocol import HostTokens


@dataclass(frozen=True)
class DeepseekVLHybridAdapter(Repeated, PlainText, Projected, OneGrid, OneTensor):
    """What differs in the hybrid DeepSeek-VL; see `HostAdapter`."""

    model_type: str = "deepseek_vl_hybrid"
    decoder_name: str = "model.language_model"
    separated: bool = False

    def preparer(self, config: Any, image_processor: Any) -> PaddedImages:
        """Return the preparer for the two sizes."""
        return PaddedImages.from_config(
            config.vision_config, image_processor, config.high_res_vision_config
        )

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Return both towers with what brings them to one grid, projector, and decoder."""
        core = model.base_model
        return {
            "vision": nn.ModuleDict(
                {
                    "vision_model": core.vision_model,
                    "high_res_vision_model": core.high_res_vision_model,
                    "high_res_vision_neck": core.high_res_vision_neck,
                    "high_res_vision_proj": core.high_res_vision_proj,
                    "alpha": nn.ParameterDict(
                        {"high_res_vision_alpha": core.high_res_vision_alpha}
                    ),
                }
            ),
            "projector": core.aligner,
            "language": decoder_parts(model),
        }

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Return one token a patch of the small square, row by row."""
        output = model.base_model.get_image_features(
            host_images["pixel_values"], host_images["high_res_pixel_values"], return_dict=True
        )
        return HostTokens(VisualTokens.from_images(list(output.pooler_output), geometries), {})
