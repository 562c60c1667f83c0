"""Images for towers of one fixed size: padded if asked, resized, then cut or stretched to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import LlavaImageProcessor, LlavaImageProcessorPil

from chiasm.core.errors import ConfigError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import PreparedImages


@dataclass(frozen=True)
class SquareImages:
    """Prepares images through the library's own processor and follows its steps.

    These are a resize and a centre crop, and before them, where a `LlavaImageProcessor` is told so,
    centred padding to a square with the mean colour.

    Attributes:
        image_processor: The checkpoint's image processor.
        side: Height and width of the tower's input, in pixels.
        patch: Side of a patch, which is one cell, in pixels.
    """

    image_processor: Any
    side: int
    patch: int

    @classmethod
    def from_config(cls, vision: Any, image_processor: Any) -> SquareImages:
        """Take the sizes from the model and check that the processor's steps are known.

        Raises:
            ConfigError: The processor gives another size, or takes steps whose geometry is not
                known here.
        """
        side = int(vision.image_size)
        size, crop = dict(image_processor.size), dict(image_processor.crop_size or {})
        faults: list[str] = []
        if not image_processor.do_resize:
            faults.append("do_resize: off; the tower reads one size only")
        if image_processor.do_pad and not _pads_to_square(image_processor):
            faults.append(
                f"do_pad: on; how {type(image_processor).__name__} pads is not known here, only "
                "LlavaImageProcessor pads to a square"
            )
        if image_processor.do_center_crop:
            if crop != {"height": side, "width": side}:
                faults.append(f"crop_size: {crop}, the tower reads {side} x {side}")
            shortest = size.get("shortest_edge") or min(size.get("height", 0), size.get("width", 0))
            if shortest < side:
                faults.append(f"size: {size} is less than the crop of {side} x {side}")
        elif size != {"height": side, "width": side}:
            faults.append(f"size: {size} without a crop, the tower reads {side} x {side}")
        if faults:
            raise ConfigError("the image processor does not fit the vision tower", faults)
        return cls(image_processor, side, int(vision.patch_size))

    def prepare(self, images: Sequence[Image.Image]) -> PreparedImages:
        """Prepare RGB images; see `ImagePreparer`."""
        if not images:
            return PreparedImages({}, (), ())
        prepared = self.image_processor(images=list(images), return_tensors="pt")
        geometries = tuple(self._geometry(image) for image in images)
        return PreparedImages(
            tensors={"pixel_values": prepared["pixel_values"]},
            geometries=geometries,
            token_counts=tuple(geometry.count for geometry in geometries),
        )

    def _geometry(self, image: Image.Image) -> ImageGeometry:
        whole = (image.height, image.width)
        above = left = 0
        if self.image_processor.do_pad:
            longest = max(whole)
            above, left = ((longest - length) // 2 for length in whole)
            whole = (longest, longest)
        height, width = self._resized(*whole)
        scale_y, scale_x = height / whole[0], width / whole[1]
        # The library rounds the half pixel of an odd margin down.
        return ImageGeometry(
            original_height=image.height,
            original_width=image.width,
            scale_x=scale_x,
            scale_y=scale_y,
            offset_x=left * scale_x - (width - self.side) // 2,
            offset_y=above * scale_y - (height - self.side) // 2,
            cell_height=float(self.patch),
            cell_width=float(self.patch),
            rows=self.side // self.patch,
            columns=self.side // self.patch,
        )

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        size = dict(self.image_processor.size)
        short = size.get("shortest_edge")
        if short is None:
            return size["height"], size["width"]
        # The library cuts the longer side off to whole pixels.
        if width <= height:
            return int(short * height / width), short
        return short, int(short * width / height)


def _pads_to_square(image_processor: Any) -> bool:
    return isinstance(image_processor, LlavaImageProcessor | LlavaImageProcessorPil)
