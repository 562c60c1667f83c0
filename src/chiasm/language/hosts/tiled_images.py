"""Images for InternVL: stretched onto whole tiles, and once more, whole, onto one tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from chiasm.core.errors import ConfigError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import PreparedImages


@dataclass(frozen=True)
class TiledImages:
    """Prepares images through the library's own processor, cut into tiles as its host reads them.

    The geometry of an image is that of its tiles side by side. An image of more than one tile has a
    thumbnail after them.

    Attributes:
        image_processor: The checkpoint's image processor.
        side: Height and width of a tile, in pixels.
        cells: Cells along one side of a tile.
    """

    image_processor: Any
    side: int
    cells: int

    @classmethod
    def from_config(cls, config: Any, image_processor: Any) -> TiledImages:
        """Take the sizes from the model and check that the processor cuts the tiles it reads.

        Raises:
            ConfigError: Processor and model disagree, or a tile is no whole number of cells.
        """
        (height, width), (patch, patch_width) = (
            config.vision_config.image_size,
            config.vision_config.patch_size,
        )
        cell = patch / config.downsample_ratio
        size = dict(image_processor.size)
        faults: list[str] = []
        if height != width or patch != patch_width:
            faults.append(f"tiles of {height} x {width} with patches of {patch} x {patch_width}")
        if height % cell:
            faults.append(f"tiles of {height} pixels are no whole number of cells of {cell:g}")
        if size != {"height": height, "width": width}:
            faults.append(f"size: {size}, the tower reads {height} x {width}")
        if not image_processor.do_resize:
            faults.append("do_resize: off; the tower reads one size only")
        if faults:
            raise ConfigError("the image processor does not fit the model", faults)
        return cls(image_processor, int(height), int(height // cell))

    def prepare(self, images: Sequence[Image.Image]) -> PreparedImages:
        """Prepare RGB images; see `ImagePreparer`."""
        if not images:
            return PreparedImages({}, (), ())
        # The library's processor for this family always cuts, whatever the image processor says.
        prepared = self.image_processor(
            images=list(images), crop_to_patches=True, return_tensors="pt"
        )
        geometries = tuple(self._geometry(image) for image in images)
        return PreparedImages(
            tensors={"pixel_values": prepared["pixel_values"]},
            geometries=geometries,
            token_counts=tuple(self._count(geometry) for geometry in geometries),
        )

    def _count(self, geometry: ImageGeometry) -> int:
        tile = self.cells**2
        return geometry.count + (tile if geometry.count > tile else 0)

    def _geometry(self, image: Image.Image) -> ImageGeometry:
        columns, rows = get_optimal_tiled_canvas(
            (image.height, image.width),
            (self.side, self.side),
            self.image_processor.min_patches,
            self.image_processor.max_patches,
        )
        cell = self.side / self.cells
        return ImageGeometry.from_resize(
            (image.height, image.width), (rows * self.side, columns * self.side), (cell, cell)
        )
