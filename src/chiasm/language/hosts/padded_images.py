"""Images for DeepSeek-VL and Janus: the longer side resized to the tower's, the rest padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from chiasm.core.errors import ConfigError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import PreparedImages


@dataclass(frozen=True)
class PaddedImages:
    """Prepares images through the library's own processor and follows its resize and padding.

    Attributes:
        image_processor: The checkpoint's image processor.
        side: Height and width of the tower's input, in pixels.
        patch: Side of a patch, which is one cell, in pixels.
        fitted: Side of the square that an image is fitted into; where it is not `side`, the padded
            square is then resized to that.
    """

    image_processor: Any
    side: int
    patch: int
    fitted: int

    @classmethod
    def from_config(
        cls, vision: Any, image_processor: Any, high_resolution: Any = None
    ) -> PaddedImages:
        """Take the sizes from the model and check that the processor gives them.

        Args:
            vision: Configuration of the tower whose patches are the cells.
            image_processor: The checkpoint's image processor.
            high_resolution: Configuration of a second tower, for which the processor makes a
                larger square first.

        Raises:
            ConfigError: Processor and model disagree, or a step is off.
        """
        side = int(vision.image_size)
        wanted = {"size": side}
        if high_resolution is not None:
            wanted["high_res_size"] = int(high_resolution.image_size)
        given = {
            "size": image_processor.size,
            "high_res_size": image_processor.high_res_size if high_resolution is not None else None,
        }
        faults = [
            f"{name}: {dict(given[name])}, the tower reads {length} x {length}"
            for name, length in wanted.items()
            if dict(given[name]) != {"height": length, "width": length}
        ]
        steps = {"do_resize": image_processor.do_resize, "do_pad": image_processor.do_pad}
        faults += [
            f"{name}: off; the tower reads one size only"
            for name, done in steps.items()
            if not done
        ]
        if faults:
            raise ConfigError("the image processor does not fit the model", faults)
        return cls(image_processor, side, int(vision.patch_size), [*wanted.values()][-1])

    def prepare(self, images: Sequence[Image.Image]) -> PreparedImages:
        """Prepare RGB images; see `ImagePreparer`."""
        if not images:
            return PreparedImages({}, (), ())
        prepared = self.image_processor(images=list(images), return_tensors="pt")
        geometries = tuple(self._geometry(image) for image in images)
        return PreparedImages(
            tensors=dict(prepared),
            geometries=geometries,
            token_counts=tuple(geometry.count for geometry in geometries),
        )

    def _geometry(self, image: Image.Image) -> ImageGeometry:
        # A side that would become less than the processor's least is stretched to that.
        factor = self.fitted / max(image.height, image.width)
        height, width = (
            max(round(length * factor), self.image_processor.min_size)
            for length in (image.height, image.width)
        )
        again = self.side / self.fitted
        return ImageGeometry(
            original_height=image.height,
            original_width=image.width,
            scale_x=width / image.width * again,
            scale_y=height / image.height * again,
            offset_x=(self.fitted - width) // 2 * again,
            offset_y=(self.fitted - height) // 2 * again,
            cell_height=float(self.patch),
            cell_width=float(self.patch),
            rows=self.side // self.patch,
            columns=self.side // self.patch,
        )
