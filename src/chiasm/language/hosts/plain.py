"""What families share whose text decoder is an ordinary one: plain positions, nothing remembered.

Finished methods, which no family overrides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chiasm.core.grid import ImageGeometry
from chiasm.language.hosts.mrope import text_positions
from chiasm.language.hosts.protocol import CellGrid, Extras, Written
from chiasm.language.hosts.written import cell_repeats, whole_grid


class Placeholder:
    """A family whose configuration names the placeholder of one visual token."""

    def image_token_id(self, config: Any) -> int:
        """Return the id of the placeholder."""
        return int(config.image_token_id)


class Repeated(Placeholder):
    """A family that writes an image as placeholders alone; see `HostAdapter.image_text`."""

    def image_text(self, placeholder: str, count: int) -> str:
        """Repeat the placeholder; what else stands around an image is the chat template's."""
        return placeholder * count


class Projected:
    """A family whose `encode` gives tokens in the width of the language model."""

    def token_width(self, config: Any) -> int:
        """Return the width of the language model."""
        return int(config.get_text_config().hidden_size)

    def project(self, model: Any, tokens: Tensor) -> Tensor:
        """Return the tokens as they are."""
        return tokens


class PlainText:
    """Positions and arguments of a decoder that counts its tokens; see `HostAdapter`."""

    def positions(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_types: Tensor,
        host_images: Mapping[str, Tensor],
    ) -> Tensor:
        """Return int64 (B, S): the place among the real tokens of the row."""
        return text_positions(attention_mask)

    def model_kwargs(
        self, token_types: Tensor, host_images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return nothing: the family's forward knows no token types."""
        return {}

    def forget(self, model: Any) -> None:
        """Do nothing: the family's model remembers nothing between calls."""


class OneGrid:
    """Grids of a family that writes a picture cell by cell and nothing else; see `HostAdapter`."""

    @property
    def most_grids(self) -> int:
        """One."""
        return 1

    def grids(
        self, config: Any, geometry: ImageGeometry, tokens_per_cell: int
    ) -> tuple[CellGrid, ...]:
        """Return the one grid."""
        return whole_grid(geometry, tokens_per_cell)


class OneTensor:
    """Writing for a family that wants all images in one tensor, cell by cell; see `HostAdapter`."""

    def write(self, rows: Sequence[Tensor], extras: Extras, tokens_per_cell: int) -> Written:
        """Write the cells as they are."""
        output = BaseModelOutputWithPooling(pooler_output=torch.cat(list(rows))[None])
        return Written(tuple(rows), cell_repeats(rows, tokens_per_cell), {"image": output})


def decoder_parts(model: Any) -> nn.Module:
    """Return the text decoder with its output layer, as one part."""
    return nn.ModuleDict(
        {"language_model": model.base_model.language_model, "lm_head": model.lm_head}
    )
