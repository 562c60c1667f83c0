"""InternVL: tiles, whose patches are shuffled into fewer cells, and a thumbnail of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.plain import Placeholder, PlainText, Projected, decoder_parts
from chiasm.language.hosts.protocol import CellGrid, Extras, HostTokens, Written
from chiasm.language.hosts.tiled_images import TiledImages
from chiasm.language.hosts.written import cell_repeats


@dataclass(frozen=True)
class InternVLAdapter(Placeholder, PlainText, Projected):
    """What differs in InternVL; see `HostAdapter`.

    The tokens are the cells of the tiles side by side. The thumbnail's tokens are an extra, which a
    fusion does not see.
    """

    model_type: str = "internvl"
    decoder_name: str = "model.language_model"
    separated: bool = True
    most_grids: int = 2

    def image_text(self, placeholder: str, count: int) -> str:
        """Repeat the placeholder between the tokens that begin and end an image."""
        return f"<img>{placeholder * count}</img>"

    def preparer(self, config: Any, image_processor: Any) -> TiledImages:
        """Return the preparer that cuts tiles."""
        return TiledImages.from_config(config, image_processor)

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
        """Return the cells of all tiles row by row.

        As extras, an image each: `thumbnail`, empty where the image is one tile, and `order`, int64
        (cells,), for each token of the tiles in the order of the text the cell it stands for.
        """
        output = model.base_model.get_image_features(host_images["pixel_values"], return_dict=True)
        tile = output.pooler_output.shape[1]
        orders = [tile_order(grid, tile) for grid in geometries]
        lengths = [
            length for order in orders for length in (len(order), tile if len(order) > tile else 0)
        ]
        pieces = output.pooler_output.flatten(0, 1).split(lengths)
        orders = [order.to(pieces[0].device) for order in orders]
        cells = [piece[order.argsort()] for piece, order in zip(pieces[::2], orders, strict=True)]
        extras = {"thumbnail": (pieces[1::2],), "order": (tuple(orders),)}
        return HostTokens(VisualTokens.from_images(cells, geometries), extras)

    def write(self, rows: Sequence[Tensor], extras: Extras, tokens_per_cell: int) -> Written:
        """Write tile after tile, then the thumbnail."""
        features, repeats = [], []
        images = zip(rows, extras["thumbnail"][0], extras["order"][0], strict=True)
        for (row, thumbnail, order), cells in zip(
            images, cell_repeats(rows, tokens_per_cell), strict=True
        ):
            tiles = row.unflatten(0, (-1, tokens_per_cell))[order].flatten(0, 1)
            features.append(torch.cat([tiles, thumbnail]))
            repeats.append(torch.cat([cells, cells.new_ones(len(thumbnail))]))
        output = BaseModelOutputWithPooling(pooler_output=torch.cat(features)[None])
        return Written(tuple(features), tuple(repeats), {"image": output})

    def grids(
        self, config: Any, geometry: ImageGeometry, tokens_per_cell: int
    ) -> tuple[CellGrid, ...]:
        """Return the grid of the tiles, and where there are several that of the thumbnail."""
        (side, _), cell = config.vision_config.image_size, geometry.cell_height
        original = (geometry.original_height, geometry.original_width)
        thumbnail = ImageGeometry.from_resize(original, (side, side), (cell, cell))
        places = tile_order(geometry, thumbnail.count).argsort()[:, None] * tokens_per_cell
        fine = CellGrid(geometry, places + torch.arange(tokens_per_cell))
        after = geometry.count * tokens_per_cell + torch.arange(thumbnail.count)
        if geometry.count == thumbnail.count:
            return (fine,)
        return fine, CellGrid(thumbnail, after[:, None])


def tile_order(geometry: ImageGeometry, tile: int) -> Tensor:
    """Return int64 (cells,): for each token of square tiles, one after another, its cell."""
    side = round(tile**0.5)
    cells = torch.arange(geometry.count).reshape(-1, side, geometry.columns // side, side)
    return cells.transpose(1, 2).flatten()
