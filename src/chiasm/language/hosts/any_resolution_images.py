"""Images for LLaVA-NeXT: the whole picture once, and tiles of a larger, padded copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from transformers.models.llava_next.modeling_llava_next import unpad_image

from chiasm.core.errors import ConfigError, MediaError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import PreparedImages


@dataclass(frozen=True)
class AnyResolutionImages:
    """Prepares images through the library's own processor and follows its steps.

    The geometry of an image is that of the fine grid without its padding: the picture, fitted into
    the best of the processor's sizes and padded to it, less the whole cells of padding that the
    model takes off again ("un-pad", LLaVA-NeXT; `unpad_image` of the library).

    Attributes:
        image_processor: The checkpoint's image processor.
        side: Height and width of a tile, in pixels.
        patch: Side of a patch, which is one cell, in pixels.
    """

    image_processor: Any
    side: int
    patch: int

    @classmethod
    def from_config(cls, config: Any, image_processor: Any) -> AnyResolutionImages:
        """Take the sizes from the model and check that the processor cuts the tiles it reads.

        Raises:
            ConfigError: Processor and model disagree.
        """
        side = int(config.vision_config.image_size)
        square = {"height": side, "width": side}
        size, crop = dict(image_processor.size), dict(image_processor.crop_size or {})
        faults: list[str] = []
        patch = int(config.vision_config.patch_size)
        if side % patch:
            faults.append(f"tiles of {side} pixels are no whole number of patches of {patch}")
        if size not in ({"shortest_edge": side}, square):
            faults.append(f"size: {size}, the tower reads {side} x {side}")
        if crop != square:
            faults.append(f"crop_size: {crop}, the tower reads {side} x {side}")
        if not image_processor.do_pad:
            faults.append("do_pad: off; images with unequal numbers of tiles could not be stacked")
        pinpoints = [list(size) for size in image_processor.image_grid_pinpoints]
        if pinpoints != [list(size) for size in config.image_grid_pinpoints]:
            faults.append(
                f"image_grid_pinpoints: {pinpoints}, the model has {config.image_grid_pinpoints}"
            )
        faults += [
            f"image_grid_pinpoints: {size} is no whole number of tiles of {side} x {side}"
            for size in pinpoints
            if size[0] % side or size[1] % side
        ]
        if faults:
            raise ConfigError("the image processor does not fit the model", faults)
        return cls(image_processor, side, patch)

    def prepare(self, images: Sequence[Image.Image]) -> PreparedImages:
        """Prepare RGB images; see `ImagePreparer`.

        Raises:
            MediaError: An image is so long and narrow that the model would keep no fine cell.
        """
        if not images:
            return PreparedImages({}, (), ())
        geometries = tuple(self._geometry(image) for image in images)
        prepared = self.image_processor(images=list(images), return_tensors="pt")
        base = (self.side // self.patch) ** 2
        return PreparedImages(
            tensors={name: prepared[name] for name in ("pixel_values", "image_sizes")},
            geometries=geometries,
            token_counts=tuple(base + grid.count + grid.rows for grid in geometries),
        )

    def _geometry(self, image: Image.Image) -> ImageGeometry:
        original = (image.height, image.width)
        canvas = select_best_resolution(original, self.image_processor.image_grid_pinpoints)
        height, width = get_patch_output_size(
            torch.empty((3, *original), device="meta"), canvas, ChannelDimension.FIRST
        )
        rows, columns = canvas[0] // self.patch, canvas[1] // self.patch
        left = unpad_image(torch.arange(columns).expand(1, rows, columns), original)
        top = unpad_image(torch.arange(rows)[:, None].expand(1, rows, columns), original)
        if not left.numel():
            raise MediaError(
                f"an image of {image.width} x {image.height} pixels is less than half a cell high "
                f"or wide in the best grid of this host, {columns} x {rows} cells, and the host "
                "would keep none of them; crop it to a shape less long and narrow"
            )
        return ImageGeometry(
            original_height=image.height,
            original_width=image.width,
            scale_x=width / image.width,
            scale_y=height / image.height,
            offset_x=float((canvas[1] - width) // 2 - int(left[0, 0, 0]) * self.patch),
            offset_y=float((canvas[0] - height) // 2 - int(top[0, 0, 0]) * self.patch),
            cell_height=float(self.patch),
            cell_width=float(self.patch),
            rows=top.shape[1],
            columns=left.shape[2],
        )
