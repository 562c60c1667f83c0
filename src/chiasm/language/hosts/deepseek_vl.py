"""DeepSeek-VL: a SigLIP tower that reads a padded square, one patch a token, plain positions."""

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
class DeepseekVLAdapter(Repeated, PlainText, Projected, OneGrid, OneTensor):
    """What differs in DeepSeek-VL; see `HostAdapter`."""

    model_type: str = "deepseek_vl"
    decoder_name: str = "model.language_model"
    separated: bool = False

    def preparer(self, config: Any, image_processor: Any) -> PaddedImages:
        """Return the preparer for the tower's one size."""
        return PaddedImages.from_config(config.vision_config, image_processor)

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Return tower, projector, and decoder with its output layer."""
        core = model.base_model
        return {
            "vision": core.vision_model,
            "projector": core.aligner,
            "language": decoder_parts(model),
        }

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Return one token a patch, row by row."""
        output = model.base_model.get_image_features(host_images["pixel_values"], return_dict=True)
        return HostTokens(VisualTokens.from_images(list(output.pooler_output), geometries), {})
