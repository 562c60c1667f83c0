"""LLaVA-1.5: a CLIP or SigLIP tower of one size, one patch a token, plain positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chiasm.core.config import lookup
from chiasm.core.errors import ConfigError
from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.plain import OneGrid, PlainText, Repeated, decoder_parts
from chiasm.language.hosts.protocol import Extras, HostTokens, Written
from chiasm.language.hosts.square_images import SquareImages
from chiasm.language.hosts.written import cell_repeats

SELECT = {"clip_vision_model": "default", "siglip_vision_model": "full"}
"""By tower, the feature selection that leaves one token a patch: CLIP has a class token to drop."""


def check_selection(config: Any) -> None:
    """Check that the model keeps one token a patch of its tower.

    Raises:
        ConfigError: It keeps a class token, or drops a patch.
        UnknownNameError: The tower is of a kind that is not known here.
    """
    vision = config.vision_config
    wanted = lookup(SELECT, vision.model_type, "vision tower of a LLaVA host")
    if config.vision_feature_select_strategy != wanted:
        raise ConfigError(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy!r} with a "
            f"{vision.model_type} does not give one token a patch; only {wanted!r} does"
        )


@dataclass(frozen=True)
class LlavaAdapter(Repeated, PlainText, OneGrid):
    """What differs in LLaVA-1.5; see `HostAdapter`.

    Attributes:
        late: Whether tokens keep the tower's width until they are written, so that a fusion reads
            and writes them before the projector, as patch info mining in MGM does.
    """

    late: bool = False
    model_type: str = "llava"
    decoder_name: str = "model.language_model"
    separated: bool = False

    def preparer(self, config: Any, image_processor: Any) -> SquareImages:
        """Return the preparer for the tower's one size."""
        check_selection(config)
        return SquareImages.from_config(config.vision_config, image_processor)

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Return tower, projector, and decoder with its output layer."""
        core = model.base_model
        return {
            "vision": core.vision_tower,
            "projector": core.multi_modal_projector,
            "language": decoder_parts(model),
        }

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Return one token a patch, row by row; before the projector if that is to come late."""
        if self.late:
            return HostTokens(self._before_projector(model, host_images, geometries), {})
        output = model.base_model.get_image_features(
            pixel_values=host_images["pixel_values"], return_dict=True
        )
        return HostTokens(VisualTokens.from_images(list(output.pooler_output), geometries), {})

    def token_width(self, config: Any) -> int:
        """Return the tower's width if the projector comes late, else the language model's."""
        wide = config.vision_config if self.late else config.get_text_config()
        return int(wide.hidden_size)

    def project(self, model: Any, tokens: Tensor) -> Tensor:
        """Run the projector if it comes late."""
        if not self.late:
            return tokens
        projected: Tensor = model.base_model.multi_modal_projector(tokens)
        return projected

    def _before_projector(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> VisualTokens:
        tower = model.base_model.vision_tower
        states = tower(host_images["pixel_values"], output_hidden_states=True).hidden_states
        seen = states[model.config.vision_feature_layer]
        # A class token, where the tower has one, comes first.
        return VisualTokens.from_images(list(seen[:, -geometries[0].count :]), geometries)

    def write(self, rows: Sequence[Tensor], extras: Extras, tokens_per_cell: int) -> Written:
        """Write the cells as they are."""
        output = BaseModelOutputWithPooling(pooler_output=tuple(rows))
        return Written(tuple(rows), cell_repeats(rows, tokens_per_cell), {"image": output})
