"""Janus, the path that reads pictures: as DeepSeek-VL, between tokens that begin and end one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.padded_images import PaddedImages
from chiasm.language.hosts.plain import OneGrid, OneTensor, Placeholder, PlainText, decoder_parts
from chiasm.language.hosts.protocol import HostTokens


@dataclass(frozen=True)
class JanusAdapter(Placeholder, PlainText, OneGrid, OneTensor):
    """What differs in Janus; see `HostAdapter`.

    What draws pictures are parts of their own, which this path does not run: `tokenizer` (codebook,
    what encodes pictures to codes and decodes them) and `generation` (embeddings, aligner and head
    of the codes).

    Attributes:
        late: Whether tokens keep the tower's width until they are written, so that a fusion reads
            and writes them before the projector.
    """

    late: bool = False
    model_type: str = "janus"
    decoder_name: str = "model.language_model"
    separated: bool = True

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
            "language": decoder_parts(model),
            "tokenizer": core.vqmodel,
            "generation": nn.ModuleDict(
                {
                    "generation_embeddings": core.generation_embeddings,
                    "generation_aligner": core.generation_aligner,
                    "generation_head": core.generation_head,
                }
            ),
        }

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Return one token a patch, row by row; before the projector if that is to come late."""
        core, pixels = model.base_model, host_images["pixel_values"]
        if self.late:
            seen = core.vision_model(pixels, return_dict=True).last_hidden_state
        else:
            seen = core.get_image_features(pixels, return_dict=True).pooler_output
        return HostTokens(VisualTokens.from_images(list(seen), geometries), {})

    def token_width(self, config: Any) -> int:
        """Return the tower's width if the projector comes late, else the language model's."""
        wide = config.vision_config if self.late else config.get_text_config()
        return int(wide.hidden_size)

    def project(self, model: Any, tokens: Tensor) -> Tensor:
        """Run the projector if it comes late."""
        if not self.late:
            return tokens
        projected: Tensor = model.base_model.aligner(tokens)
        return projected
