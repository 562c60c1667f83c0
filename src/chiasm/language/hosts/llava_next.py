"""LLaVA-NeXT: the picture in a coarse grid, then in a fine one whose rows end in a newline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.any_resolution_images import AnyResolutionImages
from chiasm.language.hosts.llava import check_selection
from chiasm.language.hosts.plain import PlainText, Projected, Repeated, decoder_parts
from chiasm.language.hosts.protocol import CellGrid, Extras, HostTokens, Written
from chiasm.language.hosts.written import cell_repeats


@dataclass(frozen=True)
class LlavaNextAdapter(Repeated, PlainText, Projected):
    """What differs in LLaVA-NeXT; see `HostAdapter`.

    The tokens are the fine cells. The coarse tokens and the newlines are extras, which a fusion
    does not see.
    """

    model_type: str = "llava_next"
    decoder_name: str = "model.language_model"
    separated: bool = False
    most_grids: int = 2

    def preparer(self, config: Any, image_processor: Any) -> AnyResolutionImages:
        """Return the preparer for a picture and its tiles."""
        check_selection(config)
        return AnyResolutionImages.from_config(config, image_processor)

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Return tower, projector with the newline, and decoder with its output layer."""
        core = model.base_model
        return {
            "vision": core.vision_tower,
            "projector": nn.ModuleDict(
                {
                    "multi_modal_projector": core.multi_modal_projector,
                    "newline": nn.ParameterDict({"image_newline": core.image_newline}),
                }
            ),
            "language": decoder_parts(model),
        }

    def encode(
        self, model: Any, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Return the fine cells row by row; as extras, an image each, `coarse` and `newline`."""
        output = model.base_model.get_image_features(
            host_images["pixel_values"], host_images["image_sizes"], return_dict=True
        )
        coarse, fine, newline = [], [], []
        for packed, grid in zip(output.pooler_output, geometries, strict=True):
            rows = packed[-grid.rows * (grid.columns + 1) :].unflatten(0, (grid.rows, -1))
            coarse.append(packed[: -rows.shape[0] * rows.shape[1]])
            fine.append(rows[:, :-1].flatten(0, 1))
            newline.append(rows[:, -1])
        extras = {"coarse": (tuple(coarse),), "newline": (tuple(newline),)}
        return HostTokens(VisualTokens.from_images(fine, geometries), extras)

    def write(self, rows: Sequence[Tensor], extras: Extras, tokens_per_cell: int) -> Written:
        """Write the coarse tokens, then row by row the fine cells and a newline."""
        features, repeats = [], []
        images = zip(rows, extras["coarse"][0], extras["newline"][0], strict=True)
        for (row, coarse, newline), cells in zip(
            images, cell_repeats(rows, tokens_per_cell), strict=True
        ):
            lines = row.unflatten(0, (len(newline), -1))
            lines = torch.cat([lines, newline[:, None]], dim=1).flatten(0, 1)
            features.append(torch.cat([coarse, lines]))
            closed = torch.nn.functional.pad(
                cells.unflatten(0, (len(newline), -1)), (0, 1), value=1
            )
            repeats.append(torch.cat([cells.new_ones(len(coarse)), closed.flatten()]))
        output = BaseModelOutputWithPooling(pooler_output=tuple(features))
        return Written(tuple(features), tuple(repeats), {"image": output})

    def grids(
        self, config: Any, geometry: ImageGeometry, tokens_per_cell: int
    ) -> tuple[CellGrid, ...]:
        """Return the fine grid, then the coarse one of the whole picture, stretched to a square."""
        side, patch = int(config.vision_config.image_size), float(config.vision_config.patch_size)
        original = (geometry.original_height, geometry.original_width)
        coarse = ImageGeometry.from_resize(original, (side, side), (patch, patch))
        line = geometry.columns * tokens_per_cell
        places = coarse.count + torch.arange(geometry.rows * (line + 1))
        fine = places.unflatten(0, (geometry.rows, line + 1))[:, :-1]
        return (
            CellGrid(geometry, fine.reshape(geometry.count, tokens_per_cell)),
            CellGrid(coarse, torch.arange(coarse.count)[:, None]),
        )
