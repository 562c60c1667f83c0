"""Janus, the path that reads pictures: as DeepSeek-VL, between tokens that begin and end one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.padded_images import PaddedImages
from chiasm.language.hosts.plain import OneGrid, OneTensor, PlainText, Projected
from chiasm.language.hosts.protocol import HostTokens


@dataclass(frozen=True)
class JanusAdapter(PlainText, Projected, OneGrid, OneTensor):
    """What differs in Janus; see `HostAdapter`.

    What draws pictures (codebook, embeddings, aligner and head of its tokens) is a part of its own,
    `generation`, which this path does not run.
    """

    model_type: str = "janus"
    decoder_name: str = "model.language_model"
    separated: bool = True

    def image_token_id(self, config: Any) -> int:
        """Return the id of `<image_placeholder>`."""
        return int(config.image_token_id)

    def image_text(self, placeholder: str, count: int) -> str:
        """Repeat the placeholder between the tokens that begin and end an image."""
        return f"<begin_of_image>{placeholder * count}<end_of_image>"

    def preparer(self, config: Any, image_processor: Any) -> PaddedImages:
        """Return the preparer for the tower's one size."""
        return PaddedImages.from_config(config.vision_config, image_processor)

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Return tower, projector, decoder with its output layer, and what draws pictures."""
        core = model.base_model
        return {
            "vision": core.vision_model,
            "projector": core.aligner,
            "language": nn.ModuleDict(
                {"language_model": core.language_model, "lm_head": model.lm_head}
            ),
            "generation": nn.ModuleDict(
                {
                    "vqmodel": core.vqmodel,
                    "generation_embeddings": core.generation_embeddings,
                    "generation_aligner": core.generation_aligner,
                    "generation_head": core.generation_head,
                }
            ),
        }

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Return one token a patch, row by row."""
        output = model.base_model.get_image_features(host_images["pixel_values"], return_dict=True)
        return HostTokens(VisualTokens.from_images(list(output.pooler_output), geometries), {})
